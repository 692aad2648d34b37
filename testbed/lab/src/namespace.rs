//! Network namespaces: each a host of the lab, held by a file descriptor, gone with the process.

use crate::error::Error;
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::thread;

/// A network namespace with a name for messages.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<OwnedFd>,
}

impl Namespace {
    /// A fresh namespace, with nothing in it but a loopback that is down.
    pub fn create(name: &str) -> Result<Self, Error> {
        // In a thread of its own: the calling thread stays where it is.
        let file = thread::spawn(|| -> io::Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .expect("the thread only makes two system calls")
        .map_err(Error::io(format!("namespace {name}")))?;
        Ok(Self { name: name.into(), file: Arc::new(file.into()) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> io::Result<()> {
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        Ok(())
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Sockets made there stay in this namespace wherever they are used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter().map_err(Error::io(format!("namespace {}", self.name)))?;
                    work()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a long-lived thread inside.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, Error> {
        let here = self.clone();
        let (entered, outcome) = std::sync::mpsc::channel();
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let done = here.enter();
                let inside = done.is_ok();
                // The receiver waits right below.
                let _ = entered.send(done);
                inside.then(work)
            })
            .map_err(Error::io(format!("thread {name}")))?;
        outcome
            .recv()
            .map_err(|_| io::Error::other("ended at once"))
            .and_then(|entered| entered)
            .map_err(Error::io(format!("namespace {}", self.name)))?;
        let wait = thread::spawn(move || match thread.join() {
            Ok(Some(value)) => value,
            Ok(None) => unreachable!("entered, as it said"),
            Err(panic) => std::panic::resume_unwind(panic),
        });
        Ok(wait)
    }

    /// Makes the process to be started by `command` live inside.
    pub fn adopt(&self, command: &mut Command) {
        let file = self.file.clone();
        // SAFETY: between fork and exec the closure only makes one system call on a descriptor that it owns; it allocates nothing and takes
        // no lock.
        unsafe {
            command.pre_exec(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
    }
}
