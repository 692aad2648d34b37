//! Objects inside objects: a place in an exchangeable object that may hold another one.
//!
//! Only the root of a hierarchy has an owner, so moving it moves all that is in it at the cost of one. `put` and `take` are functions in the kernel's image:
//! they hang the one object into the other and make the nested one ownerless, or give it back its owner.

use core::{fmt, marker::PhantomData, ptr::NonNull};

use crate::{Exchangeable, RRef, abi::kernel, borrowed::Borrowed, object::ObjectHead, rref::Plain, shape};

/// A place for one object, in another. Empty at first: put into it what it shall hold when its own object is on the exchange heap.
///
/// It belongs where it is. Moved by hand (`mem::swap`, or out of its object) it leads nowhere: looking into it panics, until it is back. What it held is
/// not lost but is freed with the object that it was put into.
pub struct Nested<T: Exchangeable> {
    object: *mut T,
    ticket: u32,
    holds: PhantomData<T>,
}

// SAFETY: it is reached through the object that it is in, and leads to one that is reached in no other way.
unsafe impl<T: Exchangeable> Send for Nested<T> {}
// SAFETY: as above; shared access gives only `&T`.
unsafe impl<T: Exchangeable + Sync> Sync for Nested<T> {}

// SAFETY: the address in it is of the exchange heap, means the same in every image, and is followed only where the head of what it leads to says that it
// may be (SOUNDNESS: nested objects).
#[diagnostic::do_not_recommend]
unsafe impl<T: Exchangeable> Exchangeable for Nested<T> {
    const KIND: u32 = 0x23;
    const SHAPE: u64 = shape::mix(&[shape::of::<Self>(0x23), T::SHAPE]);
}
// SAFETY: what is nested hangs on the objects' heads. Whatever bytes are left here, they are not looked at when it is reclaimed.
#[diagnostic::do_not_recommend]
unsafe impl<T: Exchangeable> Plain for Nested<T> {}

impl<T: Exchangeable> Default for Nested<T> {
    fn default() -> Self {
        Nested { object: core::ptr::null_mut(), ticket: 0, holds: PhantomData }
    }
}

/// Why an object couldn't be put into a place; it comes back.
pub struct PutError<T: Exchangeable> {
    pub why: Unplaceable,
    pub object: RRef<T>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unplaceable {
    /// Something is there already: take it first.
    Occupied,
    /// The place is not (yet) in an object on the exchange heap that this domain owns: move that there first.
    NotInAnObject,
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unplaceable::Occupied => "the place holds an object already",
            Unplaceable::NotInAnObject => "the place is in no object on the exchange heap that this domain owns",
        })
    }
}

impl<T: Exchangeable> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PutError({:?})", self.why)
    }
}

impl<T: Exchangeable> Nested<T> {
    /// A place that holds nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.object.is_null()
    }

    /// Where this is.
    fn place(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// What is here, seen to be here.
    pub(crate) fn object(&self) -> Option<NonNull<T>> {
        let object = NonNull::new(self.object)?;
        // SAFETY: heads of the exchange heap are never unmapped: one is in front of whatever has ever been an object.
        let head = unsafe { &*object.as_ptr().cast::<ObjectHead>().sub(1) };
        assert!(head.is_at(self.place(), self.ticket), "a nested object's place was moved by hand");
        Some(object)
    }

    /// What is here.
    pub fn get(&self) -> Option<&T> {
        // SAFETY: the object was put at this very place, as a `T`, and not taken since; whoever has us owns or borrows the root.
        self.object().map(|object| unsafe { object.as_ref() })
    }

    /// What is here, to be lent to another domain.
    pub fn lend(&self) -> Option<Borrowed<'_, T>> {
        // SAFETY: as for `get`; the borrow keeps it here.
        self.object().map(|object| unsafe { Borrowed::from_raw(object) })
    }

    /// Puts an object here.
    pub fn put(&mut self, object: RRef<T>) -> Result<(), PutError<T>> {
        if !self.is_empty() {
            return Err(PutError { why: Unplaceable::Occupied, object });
        }
        let place = core::ptr::from_mut(self).cast::<u8>();
        // SAFETY: the object is ours, and its `RRef` is not used again if it goes.
        let ticket = unsafe { (kernel().exchange_put)(place, object.address().as_ptr().cast()) };
        if ticket == 0 {
            return Err(PutError { why: Unplaceable::NotInAnObject, object });
        }
        // Should the domain die here, the object is where the kernel has put it.
        self.ticket = ticket;
        self.object = object.into_raw().as_ptr();
        Ok(())
    }

    /// Takes out what is here.
    pub fn take(&mut self) -> Option<RRef<T>> {
        let object = self.object()?;
        // SAFETY: it is here, and we are borrowed uniquely.
        unsafe { (kernel().exchange_take)(object.as_ptr().cast()) };
        self.object = core::ptr::null_mut();
        // SAFETY: it is a root now, this domain's, and nobody else has it.
        Some(unsafe { RRef::from_raw(object) })
    }
}

impl<T: Plain> Nested<T> {
    pub fn get_mut(&mut self) -> Option<&mut T> {
        // SAFETY: as for `get`, and we are borrowed uniquely.
        self.object().map(|mut object| unsafe { object.as_mut() })
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::{collections::Deque, host, packet::Batch};

    #[derive(Exchangeable)]
    struct Inner {
        word: u64,
        batch: Nested<Batch>,
    }

    #[derive(Exchangeable)]
    struct Outer {
        word: u64,
        inner: Option<Nested<Inner>>,
        more: Deque<Nested<Inner>, 2>,
    }

    fn outer() -> RRef<Outer> {
        host::connect();
        RRef::new(Outer { word: 1, inner: Some(Nested::empty()), more: Deque::default() }).unwrap()
    }

    fn inner(word: u64) -> RRef<Inner> {
        let mut inner = RRef::new(Inner { word, batch: Nested::empty() }).unwrap();
        let mut batch = Batch::allocate().unwrap();
        batch.fill(3);
        inner.batch.put(batch).unwrap();
        inner
    }

    #[test]
    fn what_is_put_is_there_and_comes_out_again() {
        let mut outer = outer();
        let place = outer.inner.as_mut().unwrap();
        assert!(place.get().is_none() && place.take().is_none());
        place.put(inner(5)).unwrap();
        assert_eq!(place.put(inner(6)).unwrap_err().why, Unplaceable::Occupied);
        place.get_mut().unwrap().word += 1;
        assert_eq!(place.get().unwrap().batch.get().unwrap().len(), 3);
        let mut out = place.take().unwrap();
        assert!(place.is_empty());
        assert_eq!((out.word, out.batch.take().unwrap().len()), (6, 3));
    }

    /// A hierarchy is freed with its root, buffers of batches included.
    #[test]
    fn a_hierarchy_goes_with_its_root() {
        let mut outer = outer();
        outer.inner.as_mut().unwrap().put(inner(1)).unwrap();
        outer.more.push_back(inner(2)).unwrap();
        outer.more.push_back(inner(3)).unwrap();
        assert_eq!(outer.more.push_back(inner(4)).unwrap_err().why, Unplaceable::Occupied);
        assert_eq!((host::live_objects(), host::buffers_out()), (7, 9));
        assert_eq!(outer.more.pop_front().unwrap().word, 2);
        assert_eq!((host::live_objects(), host::buffers_out(), outer.word), (5, 6, 1));
        drop(outer);
        assert_eq!((host::live_objects(), host::buffers_out()), (0, 0));
    }

    #[test]
    fn a_place_on_the_stack_takes_nothing() {
        host::connect();
        let mut place = Nested::<u64>::empty();
        let error = place.put(RRef::new(5).unwrap()).unwrap_err();
        assert_eq!((error.why, *error.object), (Unplaceable::NotInAnObject, 5));
    }

    /// Nobody reaches an object through a place that has been moved away from where it was put, be it to another object; and back there, it is there again.
    #[test]
    fn a_place_moved_by_hand_leads_nowhere() {
        let (mut one, mut two) = (outer(), outer());
        one.inner.as_mut().unwrap().put(inner(1)).unwrap();
        core::mem::swap(&mut one.inner, &mut two.inner);
        assert!(one.inner.as_ref().unwrap().is_empty());
        let looked = std::panic::catch_unwind(|| two.inner.as_ref().unwrap().get().is_some());
        assert!(looked.is_err());
        core::mem::swap(&mut one.inner, &mut two.inner);
        assert_eq!(one.inner.as_ref().unwrap().get().unwrap().word, 1);
        drop((one, two));
        assert_eq!(host::live_objects(), 0);
    }
}
