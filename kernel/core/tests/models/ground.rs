//! What the kernel's files stand on here: a machine that can park and unpark, threads that know themselves, and a lock.

pub mod platform {
    pub const NEVER: u64 = u64::MAX;
}

/// The machine. It is always the same time: before every deadline but 0.
pub fn machine() -> Machine {
    Machine
}

pub struct Machine;

impl Machine {
    pub fn now(&self) -> u64 {
        1
    }

    pub fn unpark(&self, block: &thread::ThreadBlock) {
        block.unpark();
    }
}

pub mod thread {
    use std::{cell::Cell, sync::atomic::Ordering::SeqCst};

    use loom::sync::{Condvar, Mutex};

    use crate::atomic::AtomicU32;

    pub struct ThreadBlock {
        permit: Mutex<bool>,
        permitted: Condvar,
        cancelled: AtomicU32,
    }

    loom::thread_local! {
        static CURRENT: Cell<Option<&'static ThreadBlock>> = Cell::new(None);
    }

    impl ThreadBlock {
        /// Gives the calling thread a block.
        pub fn enter() {
            let block =
                ThreadBlock { permit: Mutex::new(false), permitted: Condvar::new(), cancelled: AtomicU32::new(0) };
            assert!(!block.is_cancelled());
            CURRENT.with(|current| current.set(Some(Box::leak(Box::new(block)))));
        }

        pub fn sign_of_life(&self) {}

        pub fn is_cancelled(&self) -> bool {
            self.cancelled.load(SeqCst) != 0
        }

        /// The thread's domain dies.
        pub fn cancel(&self) {
            self.cancelled.store(1, SeqCst);
        }

        pub fn unpark(&self) {
            *self.permit.lock().expect("nobody panics with it") = true;
            self.permitted.notify_one();
        }
    }

    pub fn current() -> &'static ThreadBlock {
        CURRENT.with(Cell::get).expect("the thread has entered")
    }

    /// Until there is a permit, which is used up. Deadlines don't come.
    pub fn park(_deadline: u64) {
        let block = current();
        let mut permit = block.permit.lock().expect("nobody panics with it");
        while !*permit {
            permit = block.permitted.wait(permit).expect("nobody panics with it");
        }
        *permit = false;
    }
}

pub mod lock {
    use std::{
        cell::UnsafeCell,
        ops::{Deref, DerefMut},
    };

    use loom::sync::{Mutex, MutexGuard};

    loom::lazy_static! {
        /// All locks are one: fewer orders to look at, and none hidden, since nobody holds two.
        static ref TURN: Mutex<()> = Mutex::new(());
    }

    pub struct Lock<T>(UnsafeCell<T>);

    // SAFETY: reached by who has the turn.
    unsafe impl<T: Send> Sync for Lock<T> {}

    pub struct Guard<'a, T>(&'a UnsafeCell<T>, #[allow(dead_code, reason = "kept for its drop")] MutexGuard<'a, ()>);

    impl<T> Lock<T> {
        pub const fn new(value: T) -> Self {
            Lock(UnsafeCell::new(value))
        }

        pub fn lock(&self) -> Guard<'_, T> {
            Guard(&self.0, TURN.lock().expect("nobody panics with it"))
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            // SAFETY: the guard has the turn.
            unsafe { &*self.0.get() }
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the guard has the turn.
            unsafe { &mut *self.0.get() }
        }
    }
}
