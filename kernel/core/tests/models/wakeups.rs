//! No wake-up is lost: an interrupt's vector (`src/interrupt.rs`) and waiting for a word (`src/wait.rs`), those very files, above a machine that knows only how to
//! park and unpark. A lost wake-up is a deadlock to Loom.

#[allow(dead_code, reason = "not all of it is of interest here")]
#[path = "../../src/interrupt.rs"]
mod interrupt;
#[allow(dead_code, reason = "not all of it is of interest here")]
#[path = "../../src/wait.rs"]
mod wait;

use std::{ptr, sync::atomic::Ordering::SeqCst};

use interfaces::CallError;
use interrupt::{Vector, Waited};
use loom::{sync::Arc, thread::spawn};

use crate::{atomic::AtomicU32, explore, machine, platform::NEVER, thread::ThreadBlock};

/// A vector, made by the thread that makes all others.
fn vector() -> Arc<Vector> {
    ThreadBlock::enter();
    let vector = Arc::new(Vector::new());
    assert_eq!(vector.wait(0), Waited::TimedOut);
    vector
}

/// Whatever the moment at which an interrupt comes, who waits for it goes on; and it isn't seen twice.
#[test]
fn an_interrupt_is_seen_once() {
    explore(4, || {
        let vector = vector();
        let device = spawn({
            let vector = vector.clone();
            move || vector.fire()
        });
        assert_eq!(vector.wait(NEVER), Waited::Fired);
        device.join().expect("the device ends");
        assert_eq!(vector.wait(0), Waited::TimedOut);
    });
}

/// Two interrupts may be one wake-up, but not none: after both, whoever looks knows of them.
#[test]
fn two_interrupts_are_one_at_least() {
    explore(3, || {
        let vector = vector();
        let devices = [0, 1].map(|_| {
            let vector = vector.clone();
            spawn(move || vector.fire())
        });
        assert_eq!(vector.wait(NEVER), Waited::Fired);
        devices.into_iter().for_each(|device| device.join().expect("the device ends"));
        vector.wait(0);
        assert!(!vector.is_pending());
    });
}

/// A death ends a wait, whatever its moment: mark, then unpark, as the supervisor does.
#[test]
fn a_wait_is_cancelled() {
    explore(4, || {
        let vector = vector();
        let block = crate::thread::current();
        let killer = spawn(move || {
            block.cancel();
            machine().unpark(block);
        });
        assert_eq!(vector.wait(NEVER), Waited::Cancelled);
        killer.join().expect("the killer ends");
    });
}

/// A word that the threads of one execution share; the kernel's table of waiters knows it by its address.
fn word() -> Arc<AtomicU32> {
    ThreadBlock::enter();
    let word = Arc::new(AtomicU32::new(0));
    assert_eq!(word.load(SeqCst), 0);
    word
}

/// Who changes a word and then wakes finds whoever waits for the change, or the waiter finds the word changed.
#[test]
fn a_changed_word_wakes() {
    explore(4, || {
        let word = word();
        let waker = spawn({
            let word = word.clone();
            move || {
                word.store(1, SeqCst);
                wait::wake(ptr::from_ref(&*word), 1);
            }
        });
        // SAFETY: the word lives until the end.
        let ended = unsafe { wait::wait(ptr::from_ref(&*word), 0, NEVER) };
        assert_eq!(ended, 0);
        waker.join().expect("the waker ends");
        assert_eq!(word.load(SeqCst), 1);
    });
}

/// Two who wait and one who wakes both.
#[test]
fn all_are_woken() {
    explore(2, || {
        let word = word();
        let waiters = [0, 1].map(|_| {
            let word = word.clone();
            spawn(move || {
                ThreadBlock::enter();
                // SAFETY: the word lives until the end.
                unsafe { wait::wait(ptr::from_ref(&*word), 0, NEVER) }
            })
        });
        word.store(1, SeqCst);
        wait::wake(ptr::from_ref(&*word), 2);
        assert_eq!(waiters.map(|waiter| waiter.join().expect("a waiter ends")), [0, 0]);
    });
}

/// A death ends this wait too, and leaves no entry behind.
#[test]
fn a_wait_for_a_word_is_cancelled() {
    explore(4, || {
        let word = word();
        let block = crate::thread::current();
        let killer = spawn(move || {
            block.cancel();
            machine().unpark(block);
        });
        // SAFETY: the word lives until the end.
        let ended = unsafe { wait::wait(ptr::from_ref(&*word), 0, NEVER) };
        assert_eq!(ended, CallError::Cancelled as u32);
        killer.join().expect("the killer ends");
    });
}
