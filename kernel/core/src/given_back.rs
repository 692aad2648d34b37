//! What a failed call gives back: the object that was moved into it, if its domain asks for such and the callee's death hasn't taken it.
//!
//! A shadow lives from this: the batch that it moved into its driver is, after the driver's crash, the driver's no more, but all that was in it still is.
//! Objects are never damaged by a crash (plain data may be, which is as sound as before; buffers of a batch are moved by the kernel alone), and a packet's buffer
//! is in exactly one place, so what has come back is what has neither been sent nor handed on: nothing is lost, nothing is done twice.
//!
//! All of it is off the way of a call that succeeds. Who has the object is settled by its owner's word alone: the caller's thread claims it from the dead
//! callee, or the callee's reclaim does (SOUNDNESS: exchange heap). So that the caller comes first, the reclaim waits for threads that were held in the callee.
//! One that was away in a third domain comes later, and too late.

use core::{
    ptr::{self, NonNull, null_mut},
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{Relaxed, SeqCst},
    },
};

use interfaces::{Cap, gate::Callable, gate::Passage};

use crate::{
    call, exchange,
    incarnation::{Incarnation, Owner},
    supervisor,
    thread::{self, ThreadBlock},
};

/// A thread's place for one object. Used by the thread itself; by the supervisor after its end.
pub(crate) struct Place {
    object: AtomicPtr<u8>,
    /// The domain for which it waits.
    owner: AtomicU32,
    /// The dead callee from which the thread is about to come back, and which isn't reclaimed before; 0 for none.
    expected: AtomicU32,
}

impl Place {
    /// For the supervisor, when `callee` is dead and all its threads are held: notes whether this one's caller there wants its arguments back.
    pub(crate) fn expect_from(&self, block: &ThreadBlock, callee: &Incarnation) {
        if let [.., caller, innermost] = block.published()
            && block.held.load(SeqCst) != 0
            // SAFETY: published frames of a thread that is held.
            && unsafe { ptr::eq(innermost.record().incarnation(), callee) && caller.record().incarnation().is_to_have_back() }
        {
            self.expected.store(callee.owner().0, SeqCst);
        }
    }

    pub(crate) fn is_expected_from(&self, callee: &Incarnation) -> bool {
        self.expected.load(SeqCst) == callee.owner().0
    }

    /// The thread has come back, and has what there is.
    pub(crate) fn came_back(&self) {
        if self.expected.swap(0, SeqCst) != 0 {
            supervisor::notice();
        }
    }

    fn put(&self, object: NonNull<u8>, owner: Owner) {
        self.clear();
        self.object.store(object.as_ptr(), Relaxed);
        self.owner.store(owner.0, Relaxed);
    }

    fn take(&self) -> Option<(NonNull<u8>, Owner)> {
        let object = NonNull::new(self.object.swap(null_mut(), Relaxed))?;
        Some((object, Owner(self.owner.load(Relaxed))))
    }

    /// Frees what nobody has fetched. If its domain has died meanwhile, that one's reclaim has freed it, and the claim fails.
    pub(crate) fn clear(&self) {
        if let Some((object, owner)) = self.take()
            && exchange::claim(object, owner, Owner::KERNEL)
        {
            // SAFETY: claimed for the kernel just now, out of a place that nobody else reaches.
            unsafe { exchange::free(object) };
        }
    }
}

/// Fetches the object of `kind` that the last failed call of the calling domain gave back.
pub(crate) fn fetch(kind: u32) -> Option<NonNull<u8>> {
    let (object, owner) = thread::current().given_back.take()?;
    if owner == call::acting_owner() && exchange::is(object, owner, kind) {
        return Some(object);
    }
    if exchange::claim(object, owner, Owner::KERNEL) {
        // SAFETY: as in `clear`.
        unsafe { exchange::free(object) };
    }
    None
}

/// A call's arguments on their way back to the caller: the first object waits in the thread's place, anything else is dropped.
pub(crate) struct Return<'a> {
    pub(crate) block: &'a ThreadBlock,
    pub(crate) caller: &'a Incarnation,
    /// Whose the arguments are now.
    pub(crate) holder: Owner,
}

impl Passage for Return<'_> {
    fn object(&self, object: NonNull<u8>) {
        let (place, owner) = (&self.block.given_back, self.caller.owner());
        // Freed by the callee, moved on by it, or reclaimed already: then it is somebody else's. Or lent by it, from another thread.
        if self.holder != owner && !exchange::inherit(object, self.holder, owner) {
            return;
        }
        if place.object.load(Relaxed).is_null() {
            place.put(object, owner);
        } else if exchange::claim(object, owner, Owner::KERNEL) {
            // SAFETY: claimed for the kernel just now; the caller has moved it away.
            unsafe { exchange::free(object) };
        }
    }

    /// Loans are ended by the call itself.
    fn lend(&self, _: NonNull<u8>) {}

    fn give_back(&self, _: NonNull<u8>) {}

    /// A capability that never left goes with the call; one that did is the dead callee's, and is reclaimed with it.
    fn capability<I: ?Sized + Callable>(&self, cap: &mut Cap<I>) {
        if self.holder == self.caller.owner() {
            call::drop_capability(cap, self.caller);
        }
    }
}
