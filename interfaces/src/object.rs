//! The head in front of each object on the exchange heap, and the hierarchies that nested objects make.
//!
//! Heads are written by the kernel alone (and by the host's table, for tests of domains). What is nested in an object hangs on its *head*, not on what stands
//! in the object, which a domain may have left half written when it died. So a hierarchy has one owner, that of its root; it is moved by one store, and
//! taken apart along the links, without knowing a type and without recursion.

use core::{
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed},
};

use crate::title::Title;

/// One cache line in front of each object.
#[repr(C, align(64))]
pub struct ObjectHead {
    /// Of a root: whose it is, in the kernel's numbers. Otherwise free, nested, or orphaned.
    pub title: Title,
    pub kind: AtomicU32,
    /// The allocator's own.
    pub class: AtomicU32,
    /// What this object is nested in.
    parent: AtomicPtr<ObjectHead>,
    /// The address of the [`Nested`](crate::Nested) in the parent that holds it; 0 for roots.
    place: AtomicUsize,
    /// What is nested in this object, in a list.
    first: AtomicPtr<ObjectHead>,
    next: AtomicPtr<ObjectHead>,
    previous: AtomicPtr<ObjectHead>,
    /// Bytes of this object and of all that is nested in it, heads and rounding included.
    bytes: AtomicU32,
    /// Of the put by which the object came to its place: no two are alike.
    ticket: AtomicU32,
}

const _: () = assert!(size_of::<ObjectHead>() == 64);

impl ObjectHead {
    pub const fn new(owner: u32, class: u32) -> Self {
        ObjectHead {
            title: Title::new(owner),
            kind: AtomicU32::new(0),
            class: AtomicU32::new(class),
            parent: AtomicPtr::new(null_mut()),
            place: AtomicUsize::new(0),
            first: AtomicPtr::new(null_mut()),
            next: AtomicPtr::new(null_mut()),
            previous: AtomicPtr::new(null_mut()),
            bytes: AtomicU32::new(0),
            ticket: AtomicU32::new(0),
        }
    }

    /// Whether the object was put by `ticket` at `place`, and is there still.
    #[inline]
    pub fn is_at(&self, place: usize, ticket: u32) -> bool {
        self.place.load(Relaxed) == place && self.ticket.load(Relaxed) == ticket
    }

    /// A root of `bytes` of its own, with nothing in it.
    pub fn begin(&self, kind: u32, bytes: u32) {
        self.kind.store(kind, Relaxed);
        self.title.begin();
        self.parent.store(null_mut(), Relaxed);
        self.place.store(0, Relaxed);
        self.first.store(null_mut(), Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.ticket.store(0, Relaxed);
    }

    #[inline]
    pub fn bytes(&self) -> u32 {
        self.bytes.load(Relaxed)
    }

    pub fn parent(&self) -> *mut ObjectHead {
        self.parent.load(Relaxed)
    }
}

/// The root of the hierarchy that an object is in.
///
/// # Safety
/// `head` and all above it are live, and nobody changes the hierarchy meanwhile.
pub unsafe fn root(mut head: *mut ObjectHead) -> *mut ObjectHead {
    // SAFETY: this function's contract. Each link is read once, so that who only counts objects while others nest and take may be wrong, but stays on heads.
    while let Some(above) = NonNull::new(unsafe { (*head).parent() }) {
        head = above.as_ptr();
    }
    head
}

/// Hangs `child` into `parent`.
///
/// # Safety
/// Both are live and different; `child` is a root, which `parent` isn't in; nobody else uses either hierarchy.
pub unsafe fn nest(parent: *mut ObjectHead, child: *mut ObjectHead, place: usize, ticket: u32) {
    // SAFETY: this function's contract; the links lead to live heads.
    unsafe {
        let first = (*parent).first.load(Relaxed);
        (*child).previous.store(null_mut(), Relaxed);
        (*child).next.store(first, Relaxed);
        if let Some(first) = first.as_ref() {
            first.previous.store(child, Relaxed);
        }
        (*parent).first.store(child, Relaxed);
        (*child).parent.store(parent, Relaxed);
        (*child).place.store(place, Relaxed);
        (*child).ticket.store(ticket, Relaxed);
        let bytes = (*child).bytes();
        let mut above = parent;
        while let Some(head) = above.as_ref() {
            head.bytes.store(head.bytes().wrapping_add(bytes), Relaxed);
            above = head.parent();
        }
    }
}

/// Makes a nested object a root again.
///
/// # Safety
/// `child` is live and nested; nobody else uses the hierarchy.
pub unsafe fn unnest(child: *mut ObjectHead) {
    // SAFETY: this function's contract; the links lead to live heads.
    unsafe {
        let (next, previous, parent) =
            ((*child).next.load(Relaxed), (*child).previous.load(Relaxed), (*child).parent());
        match previous.as_ref() {
            Some(previous) => previous.next.store(next, Relaxed),
            None => (*parent).first.store(next, Relaxed),
        }
        if let Some(next) = next.as_ref() {
            next.previous.store(previous, Relaxed);
        }
        (*child).parent.store(null_mut(), Relaxed);
        (*child).place.store(0, Relaxed);
        let bytes = (*child).bytes();
        let mut above = parent;
        while let Some(head) = above.as_ref() {
            head.bytes.store(head.bytes().wrapping_sub(bytes), Relaxed);
            above = head.parent();
        }
    }
}

/// Whether anything in a hierarchy is lent.
///
/// # Safety
/// As for [`root`].
pub unsafe fn is_lent(root: *mut ObjectHead) -> bool {
    let mut at = root;
    // SAFETY: this function's contract; each object is visited once, before what is in it.
    unsafe {
        while !(*at).title.is_lent() {
            let mut next = (*at).first.load(Relaxed);
            while next.is_null() {
                if at == root {
                    return false;
                }
                next = (*at).next.load(Relaxed);
                if next.is_null() {
                    at = (*at).parent();
                }
            }
            at = next;
        }
    }
    true
}

/// Takes a hierarchy apart from its leaves to its root, freeing each object. One for which `spared` says so, once it has been made a root, is left out with
/// all that is in it.
///
/// # Safety
/// `root` is live, and nobody else uses the hierarchy (but those to whom spared objects are lent). `free` frees what it is given, whose links it doesn't use.
pub unsafe fn dismantle(
    root: *mut ObjectHead,
    mut spared: impl FnMut(*mut ObjectHead) -> bool,
    mut free: impl FnMut(*mut ObjectHead),
) {
    let mut at = root;
    // SAFETY: this function's contract; each round goes down one link, or frees a leaf and goes up.
    unsafe {
        loop {
            let child = (*at).first.load(Relaxed);
            if child.is_null() {
                let parent = (*at).parent();
                if at == root {
                    return free(at);
                }
                unnest(at);
                free(at);
                at = parent;
            } else if (*child).title.is_lent() {
                let (place, ticket) = ((*child).place.load(Relaxed), (*child).ticket.load(Relaxed));
                unnest(child);
                if !spared(child) {
                    // It was given back just now.
                    nest(at, child, place, ticket);
                    at = child;
                }
            } else {
                at = child;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{boxed::Box, vec, vec::Vec};
    use proptest::prelude::*;

    fn head(bytes: u32) -> *mut ObjectHead {
        let head = Box::leak(Box::new(ObjectHead::new(1, 0)));
        head.begin(2, bytes);
        head
    }

    /// Heads by their number; each in the parent that the model says.
    fn check(heads: &[*mut ObjectHead], parents: &[Option<usize>]) {
        for (number, head) in heads.iter().enumerate() {
            let below = |mut at: usize| loop {
                if at == number {
                    break true;
                }
                match parents[at] {
                    Some(parent) => at = parent,
                    None => break false,
                }
            };
            let bytes: u32 = (0..heads.len()).filter(|other| below(*other)).map(|other| 1 << other).sum();
            // SAFETY: the heads are leaked boxes.
            unsafe {
                assert_eq!((**head).bytes(), bytes, "bytes of {number}");
                assert_eq!((**head).parent(), parents[number].map_or(null_mut(), |parent| heads[parent]));
            }
        }
    }

    proptest! {
        /// Whatever is put and taken, in whatever order: the bytes of each object are those of all that is in it, and what is taken apart is every object
        /// below, once, each after what was in it.
        #[test]
        fn hierarchies_are_what_was_put(steps in proptest::collection::vec((0usize..12, 0usize..12), 0..80), apart in 0usize..12) {
            let heads: Vec<_> = (0..12).map(|number| head(1 << number)).collect();
            let mut parents = vec![None; 12];
            for (child, parent) in steps {
                // SAFETY: the heads live, are roots or nested as `parents` says, and are used by this thread alone.
                unsafe {
                    if parents[child].is_some() {
                        unnest(heads[child]);
                        parents[child] = None;
                    } else if root(heads[parent]) != heads[child] {
                        nest(heads[parent], heads[child], 8 * child + 8, 7);
                        parents[child] = Some(parent);
                        prop_assert!((*heads[child]).is_at(8 * child + 8, 7));
                        prop_assert!(!(*heads[child]).is_at(8 * child + 8, 6) && !(*heads[child]).is_at(8, 7) | (child == 0));
                    }
                }
                check(&heads, &parents);
            }
            // SAFETY: as above.
            unsafe {
                if parents[apart].is_some() {
                    unnest(heads[apart]);
                    parents[apart] = None;
                }
                let expected = (*heads[apart]).bytes();
                let mut freed = Vec::new();
                dismantle(heads[apart], |_| unreachable!("nothing is lent"), |head| freed.push(head));
                let numbers: Vec<usize> = freed.iter().map(|freed| heads.iter().position(|head| head == freed).unwrap()).collect();
                prop_assert_eq!(numbers.iter().map(|number| 1u32 << number).sum::<u32>(), expected);
                for (when, number) in numbers.iter().enumerate() {
                    let parent = parents[*number].and_then(|parent| numbers.iter().position(|other| *other == parent));
                    prop_assert!(parent.is_none_or(|parent| parent > when));
                }
            }
        }
    }

    /// What is lent to somebody stays whole when the rest is freed.
    #[test]
    fn what_is_lent_is_spared_with_all_that_is_in_it() {
        let [a, b, c, d] = [head(1), head(2), head(4), head(8)];
        // SAFETY: the heads live and are used here alone.
        unsafe {
            nest(a, b, 8, 1);
            nest(b, c, 8, 2);
            nest(a, d, 16, 3);
            assert!(![a, b, c, d].into_iter().any(|head| is_lent(head)));
            (*c).title.lend();
            assert_eq!([a, b, c, d].map(|head| is_lent(head)), [true, true, true, false]);
            (*c).title.give_back();
            (*b).title.lend();
            assert_eq!([a, b, c, d].map(|head| is_lent(head)), [true, true, false, false]);
            let mut freed = Vec::new();
            dismantle(a, |head| head == b, |head| freed.push(head));
            assert_eq!(freed, [d, a]);
            assert_eq!(((*b).bytes(), (*b).parent(), (*c).parent()), (6, null_mut(), b));
            // Given back at the last moment: freed like the rest.
            nest(d, b, 8, 4);
            freed.clear();
            dismantle(d, |_| false, |head| freed.push(head));
            assert_eq!(freed, [c, b, d]);
        }
    }
}
