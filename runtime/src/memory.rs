//! `memcpy` and its kind for a freestanding image: the compiler calls them by name, and there is no C library to have them.
//!
//! Written with string instructions, straight-line loads and stores, and loops over volatile reads, so that the compiler can't recognise them as what they are and turn them
//! into calls of themselves. [`entry!`](crate::entry!) exports them under their C names. And [`prefetch`], for domains.

use core::{
    arch::{
        asm,
        x86_64::{_MM_HINT_T0, _mm_prefetch},
    },
    ptr,
};

/// From here on the string instructions' start-up (about 30 cycles) is worth it.
const LONG: usize = 64;

/// Has the CPU fetch the cache line in which `place` begins, without waiting for it. A hint: nothing changes by it but how long what follows takes.
#[inline(always)]
pub fn prefetch<T>(place: &T) {
    // SAFETY: of a place that is there; and a prefetch never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(ptr::from_ref(place).cast()) }
}

/// Copies between regions that don't overlap.
///
/// # Safety
/// As for C's `memcpy`.
#[inline(always)]
pub unsafe fn copy_apart(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the caller's regions, all offsets below `len`. Short copies are two loads and stores that may overlap each other: all loads of a step come
    // before its stores, and there is no loop for the compiler to recognise. DF is clear in all Rust code (x86-64 psABI §3.2.1).
    unsafe {
        match len {
            0 => {}
            1..4 => {
                let (first, middle, last) = (from.read(), from.add(len / 2).read(), from.add(len - 1).read());
                to.write(first);
                to.add(len / 2).write(middle);
                to.add(len - 1).write(last);
            }
            4..8 => ends::<u32>(to, from, len),
            8..16 => ends::<u64>(to, from, len),
            16..=32 => ends::<[u64; 2]>(to, from, len),
            33..=LONG => ends::<[u64; 4]>(to, from, len),
            _ => {
                asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _, options(nostack, preserves_flags))
            }
        }
    }
}

/// Copies the first and the last `size_of::<T>()` of `len` bytes.
///
/// # Safety
/// `len` is at least the size of `T`.
#[inline(always)]
unsafe fn ends<T: Copy>(to: *mut u8, from: *const u8, len: usize) {
    let last = len - size_of::<T>();
    // SAFETY: the caller's.
    unsafe {
        let (head, tail) = (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
        to.cast::<T>().write_unaligned(head);
        to.add(last).cast::<T>().write_unaligned(tail);
    }
}

/// Copies between regions that may overlap.
///
/// # Safety
/// As for C's `memmove`.
#[inline(always)]
pub unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: no byte of `from` is overwritten before it is read: `to` is below `from`, or beyond its end, and this goes forward. Short copies
        // read all before they write.
        unsafe { copy_apart(to, from, len) }
    } else if len <= LONG {
        // SAFETY: reads all before it writes.
        unsafe { copy_apart(to, from, len) }
    } else {
        // Backwards, eight bytes a step while there are eight: `std; rep movsb` is microcoded a byte at a time and slower than this loop.
        let mut left = len;
        // SAFETY: all offsets are below `len`; volatile, so that this isn't recognised as a memmove.
        unsafe {
            while left >= 8 {
                left -= 8;
                let word = from.add(left).cast::<u64>().read_unaligned();
                asm!("mov [{}], {}", in(reg) to.add(left), in(reg) word, options(nostack, preserves_flags));
            }
            while left > 0 {
                left -= 1;
                to.add(left).write_volatile(from.add(left).read_volatile());
            }
        }
    }
}

/// Fills a region.
///
/// # Safety
/// As for C's `memset`.
#[inline(always)]
pub unsafe fn fill(to: *mut u8, byte: u8, len: usize) {
    // SAFETY: the caller's region; DF is clear.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte, options(nostack, preserves_flags))
    }
}

/// Compares two regions as C's `memcmp` does.
///
/// # Safety
/// Both regions are readable.
#[inline(always)]
pub unsafe fn compare(a: *const u8, b: *const u8, len: usize) -> i32 {
    let mut at = 0;
    // SAFETY: all offsets are below `len`; volatile, so that this isn't recognised as a memcmp or bcmp.
    unsafe {
        while at + 8 <= len && a.add(at).cast::<u64>().read_unaligned() == b.add(at).cast::<u64>().read_unaligned() {
            at += 8;
        }
        while at < len {
            let (x, y) = (a.add(at).read_volatile(), b.add(at).read_volatile());
            if x != y {
                return i32::from(x) - i32::from(y);
            }
            at += 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + 3) as u8).collect()
    }

    #[test]
    fn copies_are_what_copy_within_does_for_all_overlaps() {
        for len in 0..140 {
            for (from, to) in (0..24).flat_map(|from| (0..24).map(move |to| (from, to))) {
                let (mut ours, mut reference) = (bytes(164), bytes(164));
                reference.copy_within(from..from + len, to);
                // SAFETY: both ranges lie in the 164 bytes.
                unsafe { copy(ours.as_mut_ptr().add(to), ours.as_ptr().add(from), len) };
                assert_eq!(ours, reference, "{len} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn copies_apart_are_exact_for_all_lengths() {
        for len in 0..200 {
            let (from, mut to) = (bytes(len), alloc::vec![0xee; 220]);
            // SAFETY: 10 + len is at most 210.
            unsafe { copy_apart(to.as_mut_ptr().add(10), from.as_ptr(), len) };
            assert_eq!(&to[10..10 + len], &from[..]);
            assert!(
                to[..10].iter().chain(&to[10 + len..]).all(|byte| *byte == 0xee),
                "{len} bytes touched their neighbours"
            );
        }
    }

    #[test]
    fn fill_touches_its_region_only() {
        for len in 0..40 {
            let mut ours = bytes(64);
            // SAFETY: 8 + len is at most 48.
            unsafe { fill(ours.as_mut_ptr().add(8), 0xee, len) };
            assert!(ours[8..8 + len].iter().all(|byte| *byte == 0xee));
            assert_eq!((&ours[..8], &ours[8 + len..]), (&bytes(64)[..8], &bytes(64)[8 + len..]));
        }
    }

    #[test]
    fn compare_finds_each_difference_and_its_sign() {
        let a = bytes(40);
        for at in 0..40 {
            let mut b = a.clone();
            b[at] = b[at].wrapping_add(1);
            // SAFETY: 40 readable bytes each.
            let found = unsafe { compare(a.as_ptr(), b.as_ptr(), 40) };
            assert_eq!(found.signum(), a[at].cmp(&b[at]) as i32, "at {at}");
        }
        // SAFETY: as above.
        assert_eq!(unsafe { compare(a.as_ptr(), a.clone().as_ptr(), 40) }, 0);
    }
}
