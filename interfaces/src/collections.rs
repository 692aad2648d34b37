//! Collections that may cross: a deque of fixed capacity, and bytes whose number is known only at run time. (Arrays, options and pairs may, too.)

use core::{ptr::NonNull, slice};

use crate::{
    Exchangeable, RRef,
    abi::kernel,
    borrowed::Borrowed,
    nested::{Nested, PutError, Unplaceable},
    rref::{ExchangeFull, Plain},
};

/// Up to `CAPACITY` values, added and taken at both ends; or as many places for objects.
#[derive(Clone, Copy, Debug, Exchangeable)]
pub struct Deque<T, const CAPACITY: usize> {
    first: u32,
    len: u32,
    items: [T; CAPACITY],
}

impl<T: Default, const CAPACITY: usize> Default for Deque<T, CAPACITY> {
    fn default() -> Self {
        Deque { first: 0, len: 0, items: core::array::from_fn(|_| T::default()) }
    }
}

impl<T, const CAPACITY: usize> Deque<T, CAPACITY> {
    /// How many there are. (At most `CAPACITY`, whatever a domain that died amid a change has left.)
    pub fn len(&self) -> usize {
        (self.len as usize).min(CAPACITY)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn is_full(&self) -> bool {
        self.len() == CAPACITY
    }

    /// Where the `index`-th stands.
    fn at(&self, index: usize) -> usize {
        (self.first as usize % CAPACITY + index) % CAPACITY
    }

    pub fn get(&self, index: usize) -> Option<&T> {
        (index < self.len()).then(|| &self.items[self.at(index)])
    }

    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        let at = (index < self.len()).then(|| self.at(index))?;
        Some(&mut self.items[at])
    }

    /// From the front to the back.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        (0..self.len()).map(|index| &self.items[self.at(index)])
    }

    /// Makes place at the back.
    fn grow_back(&mut self) -> Option<usize> {
        let len = self.len();
        (len < CAPACITY).then(|| {
            self.len = len as u32 + 1;
            self.at(len)
        })
    }

    fn shrink_front(&mut self) -> Option<usize> {
        let len = self.len().checked_sub(1)?;
        let at = self.at(0);
        (self.len, self.first) = (len as u32, ((at + 1) % CAPACITY) as u32);
        Some(at)
    }

    fn shrink_back(&mut self) -> Option<usize> {
        let len = self.len().checked_sub(1)?;
        self.len = len as u32;
        Some(self.at(len))
    }
}

impl<T: Plain + Copy, const CAPACITY: usize> Deque<T, CAPACITY> {
    /// The value comes back if there is no place.
    pub fn push_back(&mut self, value: T) -> Result<(), T> {
        let at = self.grow_back().ok_or(value)?;
        self.items[at] = value;
        Ok(())
    }

    pub fn push_front(&mut self, value: T) -> Result<(), T> {
        let len = self.len();
        if len == CAPACITY {
            return Err(value);
        }
        let at = self.at(CAPACITY - 1);
        (self.len, self.first, self.items[at]) = (len as u32 + 1, at as u32, value);
        Ok(())
    }

    pub fn pop_front(&mut self) -> Option<T> {
        self.shrink_front().map(|at| self.items[at])
    }

    pub fn pop_back(&mut self) -> Option<T> {
        self.shrink_back().map(|at| self.items[at])
    }
}

impl<T: Exchangeable, const CAPACITY: usize> Deque<Nested<T>, CAPACITY> {
    /// The object comes back if there is no place.
    pub fn push_back(&mut self, object: RRef<T>) -> Result<(), PutError<T>> {
        let Some(at) = self.grow_back() else { return Err(PutError { why: Unplaceable::Occupied, object }) };
        let put = self.items[at].put(object);
        if put.is_err() {
            self.shrink_back();
        }
        put
    }

    pub fn pop_front(&mut self) -> Option<RRef<T>> {
        self.shrink_front().and_then(|at| self.items[at].take())
    }

    pub fn pop_back(&mut self) -> Option<RRef<T>> {
        self.shrink_back().and_then(|at| self.items[at].take())
    }
}

/// Bytes on the exchange heap, as many as were asked for when they were allocated. Only ever there: nobody has `Bytes` by value, or `&mut Bytes`.
#[repr(C)]
pub struct Bytes {
    len: u32,
    capacity: u32,
    // As many bytes follow as `capacity` says.
}

// SAFETY: bytes mean the same everywhere, and have no owner of their own.
#[diagnostic::do_not_recommend]
unsafe impl Exchangeable for Bytes {
    const KIND: u32 = 17;
}

/// The bytes in use, and all that there is place for.
///
/// # Safety
/// `object` came from [`Bytes::allocate`]; for the result's lifetime it is neither freed nor changed (`mut`: nor used otherwise).
unsafe fn start(object: NonNull<Bytes>) -> (NonNull<u8>, usize, usize) {
    // SAFETY: this function's contract. The bytes follow the two words, in the same object.
    unsafe {
        let Bytes { len, capacity } = *object.as_ptr();
        (object.add(1).cast(), (len as usize).min(capacity as usize), capacity as usize)
    }
}

unsafe fn slice<'a>(object: NonNull<Bytes>) -> &'a [u8] {
    // SAFETY: this function's contract is that of `start`; bytes up to `len` have been written.
    unsafe {
        let (start, len, _) = start(object);
        slice::from_raw_parts(start.as_ptr(), len)
    }
}

unsafe fn slice_mut<'a>(object: NonNull<Bytes>) -> &'a mut [u8] {
    // SAFETY: as above, and nobody else uses it.
    unsafe {
        let (start, len, _) = start(object);
        slice::from_raw_parts_mut(start.as_ptr(), len)
    }
}

impl Bytes {
    /// Place for `capacity` bytes (up to about 127 KiB), of which none is in use yet.
    pub fn allocate(capacity: usize) -> Result<RRef<Bytes>, ExchangeFull> {
        let size = size_of::<Bytes>().checked_add(capacity).ok_or(ExchangeFull)?;
        let capacity = u32::try_from(capacity).map_err(|_| ExchangeFull)?;
        let object = (kernel().exchange_allocate)(Self::KIND, size, align_of::<Bytes>()).cast::<Bytes>();
        let object = NonNull::new(object).ok_or(ExchangeFull)?;
        // SAFETY: fresh memory of this size; it is ours.
        unsafe {
            object.write(Bytes { len: 0, capacity });
            Ok(RRef::from_raw(object))
        }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Result<RRef<Bytes>, ExchangeFull> {
        let mut copy = Bytes::allocate(bytes.len())?;
        copy.append(bytes);
        Ok(copy)
    }

    pub fn len(&self) -> usize {
        self.len.min(self.capacity) as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }
}

impl RRef<Bytes> {
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: ours while we are borrowed.
        unsafe { slice(self.address()) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, uniquely.
        unsafe { slice_mut(self.address()) }
    }

    /// Adds as many of `bytes` as there is place for; returns how many.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        // SAFETY: ours, uniquely.
        let (start, len, capacity) = unsafe { start(self.address()) };
        let count = bytes.len().min(capacity - len);
        // SAFETY: from `len` on there is place for `capacity - len` bytes, which nobody else sees.
        unsafe { start.as_ptr().add(len).copy_from_nonoverlapping(bytes.as_ptr(), count) };
        self.object_mut().len = (len + count) as u32;
        count
    }

    /// Makes it `len` bytes long, at most its capacity: cut, or filled up with zeroes. Returns the length that it has now.
    pub fn resize(&mut self, len: usize) -> usize {
        // SAFETY: ours, uniquely.
        let (start, old, capacity) = unsafe { start(self.address()) };
        let len = len.min(capacity);
        if len > old {
            // SAFETY: inside the capacity. (What lies there is some domain's old bytes.)
            unsafe { start.as_ptr().add(old).write_bytes(0, len - old) };
        }
        self.object_mut().len = len as u32;
        len
    }
}

impl<'a> Borrowed<'a, Bytes> {
    pub fn as_slice(&self) -> &'a [u8] {
        // SAFETY: lent to us as long as we are.
        unsafe { slice(self.address()) }
    }
}

impl Nested<Bytes> {
    /// The bytes that are here.
    pub fn as_slice(&self) -> Option<&[u8]> {
        // SAFETY: as for `Nested::get`.
        self.object().map(|object| unsafe { slice(object) })
    }

    pub fn as_mut_slice(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as for `Nested::get_mut`.
        self.object().map(|object| unsafe { slice_mut(object) })
    }
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use crate::host;
    use alloc::{collections::VecDeque, vec::Vec};
    use proptest::prelude::*;

    proptest! {
        /// A deque is the standard library's, as far as it goes.
        #[test]
        fn a_deque_is_a_deque(steps in proptest::collection::vec((0u8..4, any::<u16>()), 0..60)) {
            let (mut deque, mut model) = (Deque::<u16, 5>::default(), VecDeque::new());
            for (step, value) in steps {
                let fits = model.len() < 5;
                match step {
                    0 => {
                        prop_assert_eq!(deque.push_back(value), if fits { Ok(()) } else { Err(value) });
                        if fits { model.push_back(value) }
                    }
                    1 => {
                        prop_assert_eq!(deque.push_front(value), if fits { Ok(()) } else { Err(value) });
                        if fits { model.push_front(value) }
                    }
                    2 => prop_assert_eq!(deque.pop_front(), model.pop_front()),
                    _ => prop_assert_eq!(deque.pop_back(), model.pop_back()),
                }
                prop_assert_eq!(deque.iter().collect::<Vec<_>>(), model.iter().collect::<Vec<_>>());
                prop_assert_eq!((deque.get(0), deque.is_full()), (model.front(), model.len() == 5));
            }
        }
    }

    #[test]
    fn bytes_are_as_many_as_were_asked_for() {
        host::connect();
        let mut bytes = Bytes::allocate(10).unwrap();
        assert!(bytes.as_slice().is_empty());
        assert_eq!((bytes.append(b"0123456"), bytes.append(b"789abc")), (7, 3));
        assert_eq!((bytes.as_slice(), bytes.len(), bytes.capacity()), (&b"0123456789"[..], 10, 10));
        assert_eq!((bytes.resize(2), bytes.resize(4)), (2, 4));
        assert_eq!(bytes.as_slice(), b"01\0\0");
        bytes.as_mut_slice()[3] = b'x';
        assert_eq!(bytes.lend().as_slice(), b"01\0x");
        assert_eq!(bytes.resize(99), 10);
        assert!(Bytes::allocate(0).unwrap().as_slice().is_empty());
        assert_eq!(Bytes::copy_of(b"copy").unwrap().as_slice(), b"copy");
        assert!(Bytes::allocate(usize::MAX).is_err());
    }
}
