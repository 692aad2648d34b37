//! Threads for the tests. Blocks and stacks are kept and used again, since the tests start hundreds.

use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use core::{
    ptr,
    sync::atomic::{AtomicBool, Ordering},
};

use kernel_core::{
    platform::{Priority, ThreadStart},
    thread::ThreadBlock,
};

use crate::{
    clock,
    lock::SpinLock,
    memory::{Owner, PAGE, window},
    scheduler,
};

const STACK_PAGES: usize = 8;
/// How long a test waits for its threads.
const PATIENCE: u64 = 60_000_000_000;

type Body = Box<dyn FnOnce() + Send>;

struct Member {
    block: &'static ThreadBlock,
    stack: u64,
}

struct Job {
    block: &'static ThreadBlock,
    body: Body,
    done: Arc<AtomicBool>,
}

static IDLE: SpinLock<Vec<Member>> = SpinLock::new(Vec::new());
static JOBS: SpinLock<Vec<Job>> = SpinLock::new(Vec::new());

/// A running test thread.
pub struct Worker {
    member: Option<Member>,
    pub block: &'static ThreadBlock,
    /// The stack's first byte and the one behind its last.
    pub stack: (u64, u64),
    done: Arc<AtomicBool>,
}

/// Starts `body` on a thread of `cpu`.
pub fn spawn(cpu: usize, priority: Priority, body: impl FnOnce() + Send + 'static) -> Worker {
    let spare = IDLE.lock().pop();
    let member = spare.unwrap_or_else(|| Member {
        block: ThreadBlock::resident(cpu),
        stack: window::map(STACK_PAGES, Owner::Test).expect("no memory for a test's stack"),
    });
    let done = Arc::new(AtomicBool::new(false));
    JOBS.lock().push(Job { block: member.block, body: Box::new(body), done: done.clone() });
    let top = member.stack + STACK_PAGES as u64 * PAGE;
    let (block, stack) = (member.block, (member.stack, top));
    scheduler::start(ThreadStart { block, cpu, priority, stack_top: top as usize, entry })
        .expect("no memory for a test's thread");
    Worker { member: Some(member), block, stack, done }
}

extern "C" fn entry(block: &'static ThreadBlock) -> ! {
    let mut jobs = JOBS.lock();
    let mine = jobs.iter().position(|job| ptr::eq(job.block, block)).expect("a test thread has a job");
    let Job { body, done, .. } = jobs.swap_remove(mine);
    drop(jobs);
    body();
    done.store(true, Ordering::SeqCst);
    drop(done);
    scheduler::exit()
}

impl Worker {
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::SeqCst)
    }

    /// Waits until the thread has ended and its record is free.
    pub fn join(mut self) -> Result<(), String> {
        let until = clock::now() + PATIENCE;
        while !self.is_done() || !self.block.platform.load(Ordering::SeqCst).is_null() {
            if clock::now() > until {
                return Err("a thread doesn't end".into());
            }
            sleep(200_000);
        }
        IDLE.lock().extend(self.member.take());
        Ok(())
    }
}

/// Blocks the calling thread for a time.
pub fn sleep(nanoseconds: u64) {
    let until = clock::now() + nanoseconds;
    while clock::now() < until {
        scheduler::park(until);
    }
}

/// Waits, blocking, until `condition` holds.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) -> Result<(), String> {
    let until = clock::now() + PATIENCE;
    while !condition() {
        if clock::now() > until {
            return Err(alloc::format!("{what}: not within a minute"));
        }
        sleep(200_000);
    }
    Ok(())
}
