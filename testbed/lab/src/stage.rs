//! How a run gets into namespaces of its own, and why nothing of it can stay behind.
//!
//! The command starts its own program twice over:
//!
//! 1. *outer* makes the user, mount, network, IPC, UTS and PID namespaces, and waits;
//! 2. *inner* is PID 1 in them, mounts a tmpfs for the run's files, and does the work.
//!
//! When the command dies, however it dies, outer is killed (parent-death signal) and inner sees its control socket close; when inner dies
//! the kernel kills every process in its PID namespace; with the last process go the network namespaces, and with the mount namespace the tmpfs. A
//! new session keeps the terminal's Ctrl-C for the command alone.

use crate::control::{News, Order, hear, tell};
use crate::error::Error;
use crate::options::RunOptions;
use crate::session;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid, getppid, setsid};
use std::fs;
use std::io::{BufReader, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

/// Says which stage a process is; the value of outer also names its parent.
const STAGE: &str = "REDLEAF_LAB_STAGE";
const INNER: &str = "inner";

/// Where the run's files live: a tmpfs that only this run's mount namespace has.
pub const RUN_DIR: &str = "/run/lab";

/// Must be the first call in `main` of a program that calls [`crate::run`]. Returns at once in an ordinary process, and never in one that the lab
/// started.
pub fn stage() {
    match std::env::var(STAGE) {
        Ok(stage) if stage == INNER => inner(),
        Ok(parent) => outer(&parent),
        Err(_) => {}
    }
}

/// Starts the outer process. Its parent-death signal is bound to the calling thread, which must live as long as the run.
pub fn start() -> Result<(Child, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().map_err(Error::io("control socket"))?;
    let program = std::env::current_exe().map_err(Error::io("own program"))?;
    let child = Command::new("/proc/self/exe")
        .env(STAGE, std::process::id().to_string())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| Error::Start { what: "the lab", program, source })?;
    Ok((child, ours))
}

fn outer(parent: &str) -> ! {
    let mut control = control_socket();
    let fail = |control: &mut UnixStream, error: Error| -> ! {
        // Nobody is left to tell if this fails.
        let _ = tell(control, &News::Failed { message: error.to_string(), lack: error.is_lack() });
        exit(1)
    };
    // Only a session leader fails, and a child is none.
    let _ = setsid();
    if let Err(error) = make_namespaces() {
        fail(&mut control, error);
    }
    // After the namespaces: a change of credentials clears it.
    let bound = prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
    if !bound || getppid().to_string() != parent {
        exit(1);
    }
    let mut command = Command::new("/proc/self/exe");
    command.env(STAGE, INNER).stdout(Stdio::null());
    die_with_parent(&mut command);
    let child =
        command.spawn().map_err(|source| Error::Start { what: "the lab", program: "/proc/self/exe".into(), source });
    match child.and_then(|mut child| child.wait().map_err(Error::io("inner process"))) {
        Ok(status) => exit(status.code().unwrap_or(1)),
        Err(error) => fail(&mut control, error),
    }
}

/// Has the kernel kill the process to be started by `command` when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure makes one system call; it allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(|| {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
}

fn make_namespaces() -> Result<(), Error> {
    let (uid, gid) = (geteuid(), getegid());
    let rest = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    let lacking = |error: &dyn std::fmt::Display| Error::Namespaces(error.to_string());
    if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER | rest) {
        // Root where user namespaces are switched off needs none.
        return if uid.is_root() { unshare(rest).map_err(|error| lacking(&error)) } else { Err(lacking(&error)) };
    }
    let write = |file: &str, text: &str| fs::write(format!("/proc/self/{file}"), text);
    // Root keeps every id that it has, so that it reads what it could read before; anybody else is root here with its own id only.
    let everything = "0 0 4294967295";
    let mapped_all = uid.is_root() && write("uid_map", everything).is_ok() && write("gid_map", everything).is_ok();
    if !mapped_all {
        write("setgroups", "deny").map_err(|error| lacking(&error))?;
        write("uid_map", &format!("0 {uid} 1")).map_err(|error| lacking(&error))?;
        write("gid_map", &format!("0 {gid} 1")).map_err(|error| lacking(&error))?;
    }
    Ok(())
}

/// The stages' standard input is the control socket.
fn control_socket() -> UnixStream {
    // SAFETY: descriptor 0 was made the control socket by `start`, and nothing in a stage reads the standard input.
    let socket = unsafe { OwnedFd::from_raw_fd(0) };
    UnixStream::from(socket)
}

fn inner() -> ! {
    let control = control_socket();
    let outcome = mount_private().and_then(|()| serve(&control));
    let ok = outcome.is_ok();
    if let Err(error) = outcome {
        // The command also sees the socket close.
        let _ = tell(&mut &control, &News::Failed { message: error.to_string(), lack: error.is_lack() });
    }
    exit(i32::from(!ok))
}

fn mount_private() -> Result<(), Error> {
    let none = None::<&str>;
    let step = |what: &'static str| move |error: nix::Error| Error::io(what)(error.into());
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(step("private mounts"))?;
    // Where part of /proc is masked (in a container) a fresh one is refused; then the old one serves, since the kernel answers
    // by the asking process's namespaces.
    let _ = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .map_err(step("tmpfs"))?;
    fs::create_dir(Path::new(RUN_DIR)).map_err(Error::io("run folder"))?;
    Ok(())
}

fn serve(control: &UnixStream) -> Result<(), Error> {
    let mut input = BufReader::new(control.try_clone().map_err(Error::io("control socket"))?);
    let options: Box<RunOptions> = match hear(&mut input).map_err(Error::io("control socket"))? {
        Some(Order::Run(options)) => options,
        _ => return Err(Error::Options("the command gave no options".into())),
    };
    let (orders, ordered) = mpsc::channel();
    thread::spawn(move || {
        while let Ok(Some(order)) = hear::<Order>(&mut input) {
            // A session that has ended takes no more orders.
            let _ = orders.send(order);
        }
        // The command is gone: so is this process, and with it every other in its PID namespace.
        exit(1);
    });
    let output = Arc::new(Mutex::new(control.try_clone().map_err(Error::io("control socket"))?));
    let say = |news: News| {
        let mut output = output.lock().expect("nobody panics while writing");
        // If the command is gone the reader above ends this process.
        let _ = tell(&mut *output, &news);
    };
    let report = session::conduct(*options, ordered, &say)?;
    say(News::Report(Box::new(report)));
    output.lock().expect("nobody panics while writing").flush().map_err(Error::io("control socket"))
}
