//! The two words of an object's title, as they are in `interfaces/src/title.rs`: that very file, over Loom's atomics.

#[allow(dead_code, reason = "not all of it is of interest here")]
#[path = "../../../../interfaces/src/title.rs"]
mod title;

use loom::{cell::UnsafeCell, sync::Arc, thread};
use title::{ORPHANED, Title};

use crate::explore;

const KERNEL: u32 = 0;
const LENDER: u32 = 0x101;
const CALLER: u32 = 0x102;

/// An object and its title. Freeing it twice, or while somebody looks at it, is a data race.
struct Object {
    title: Title,
    freed: UnsafeCell<u32>,
}

impl Object {
    fn of(owner: u32, loans: u32) -> Arc<Object> {
        let object = Arc::new(Object { title: Title::new(owner), freed: UnsafeCell::new(0) });
        // Made by the thread that makes all others.
        object.title.begin();
        object.title.give_to(owner);
        (0..loans).for_each(|_| object.title.lend());
        object
    }

    fn look(&self) {
        self.freed.with(|freed| {
            // SAFETY: what Loom checks.
            assert_eq!(unsafe { *freed }, 0, "somebody has it who may still look, and it is freed");
        });
    }

    fn free(&self) {
        self.freed.with_mut(|freed| {
            // SAFETY: what Loom checks.
            unsafe { *freed += 1 }
        });
    }

    fn times_freed(&self) -> u32 {
        // SAFETY: what Loom checks.
        self.freed.with(|freed| unsafe { *freed })
    }

    /// `exchange::give_back`.
    fn give_back(&self) {
        if self.title.give_back() && self.title.claim(ORPHANED, KERNEL) {
            self.free();
        }
    }

    /// `exchange::reclaim`, of a dead `owner`.
    fn reclaim(&self, owner: u32) {
        if self.title.claim(owner, KERNEL) {
            self.abandon();
        }
    }

    /// `exchange::abandon`.
    fn abandon(&self) {
        if !(self.title.is_lent() && self.title.orphan(KERNEL)) {
            self.free();
        }
    }

    /// `exchange::inherit`, by the caller, who writes to what it has got.
    fn inherit(&self, from: u32) -> bool {
        if !self.title.claim(from, KERNEL) {
            return false;
        }
        if self.title.is_lent() {
            self.abandon();
            return false;
        }
        self.title.give_to(CALLER);
        self.freed.with_mut(|_| {});
        true
    }
}

/// An object that is lent to two calls when its owner dies is freed once, by whoever is the last of the three, and by nobody while a call still looks at it.
#[test]
fn what_is_lent_by_the_dead_is_freed_once() {
    explore(4, || {
        let object = Object::of(LENDER, 2);
        let borrowers: Vec<_> = (0..2)
            .map(|_| {
                let object = object.clone();
                thread::spawn(move || {
                    object.look();
                    object.give_back();
                })
            })
            .collect();
        object.reclaim(LENDER);
        borrowers.into_iter().for_each(|borrower| borrower.join().expect("a borrower ends"));
        assert_eq!(object.times_freed(), 1);
    });
}

/// What a call moved to a callee that has died is had by one: by the caller who fetches it, or by the reclaim that frees it.
#[test]
fn what_two_claim_one_has() {
    explore(4, || {
        let object = Object::of(LENDER, 0);
        let caller = thread::spawn({
            let object = object.clone();
            move || object.inherit(LENDER)
        });
        object.reclaim(LENDER);
        let had = caller.join().expect("the caller ends");
        assert_eq!(object.times_freed(), u32::from(!had));
        assert_eq!(object.title.owner(), if had { CALLER } else { KERNEL });
    });
}

/// What the dead callee had lent on the caller doesn't get while somebody may look at it; then it is freed with the loan.
#[test]
fn what_is_lent_nobody_inherits() {
    explore(4, || {
        let object = Object::of(LENDER, 1);
        let borrower = thread::spawn({
            let object = object.clone();
            move || {
                object.look();
                object.give_back();
            }
        });
        let had = object.inherit(LENDER);
        borrower.join().expect("the borrower ends");
        assert_eq!(object.times_freed(), u32::from(!had));
    });
}

/// Who lends on what it was lent keeps it alive for the one it lent it to.
#[test]
fn what_is_lent_on_is_kept() {
    explore(4, || {
        let object = Object::of(LENDER, 1);
        let borrower = thread::spawn({
            let object = object.clone();
            move || {
                object.title.lend();
                object.look();
                object.give_back();
                object.look();
                object.give_back();
            }
        });
        object.reclaim(LENDER);
        borrower.join().expect("the borrower ends");
        assert_eq!(object.times_freed(), 1);
    });
}

/// The order that `orphan` keeps is needed: looking at the count first loses the object.
#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn count_then_claim_is_wrong() {
    explore(4, || {
        let object = Object::of(LENDER, 1);
        let borrower = thread::spawn({
            let object = object.clone();
            move || object.give_back()
        });
        if object.title.claim(LENDER, KERNEL) {
            if object.title.is_lent() {
                object.title.claim(KERNEL, ORPHANED);
            } else {
                object.free();
            }
        }
        borrower.join().expect("the borrower ends");
        assert_eq!(object.times_freed(), 1);
    });
}
