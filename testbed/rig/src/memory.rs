//! Pages by `mmap`, counted; a limit stands for the machine's memory.

use std::{
    ptr::{NonNull, null_mut},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use kernel_core::platform::{Mapping, PAGE, PageCount, Protection};

/// The machine's memory.
pub struct Memory {
    used: AtomicUsize,
    limit: usize,
}

impl Memory {
    pub fn new(limit: usize) -> Self {
        Memory { used: AtomicUsize::new(0), limit }
    }

    pub fn count(&self) -> PageCount {
        let used = self.used.load(Relaxed);
        PageCount { used, free: self.limit.saturating_sub(used) }
    }

    pub fn map(&self, pages: usize, kind: Mapping) -> Option<NonNull<u8>> {
        let fits = |used: usize| used.checked_add(pages).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Relaxed, Relaxed, fits).ok()?;
        let guard = guard(kind);
        let rights = if guard > 0 { libc::PROT_NONE } else { libc::PROT_READ | libc::PROT_WRITE };
        // SAFETY: fresh anonymous memory, at an address of the system's choice.
        let whole = unsafe {
            libc::mmap(null_mut(), (pages + 2 * guard) * PAGE, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if whole == libc::MAP_FAILED {
            self.used.fetch_sub(pages, Relaxed);
            return None;
        }
        let first = NonNull::new(whole.cast::<u8>().wrapping_add(guard * PAGE))?;
        if guard > 0 {
            // SAFETY: the middle of what was just mapped.
            unsafe { self.protect(first, pages, Protection::ReadWrite) };
        }
        Some(first)
    }

    /// # Safety
    /// As for `Platform::protect`.
    pub unsafe fn protect(&self, first: NonNull<u8>, pages: usize, protection: Protection) {
        let rights = match protection {
            Protection::ReadOnly => libc::PROT_READ,
            Protection::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Protection::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        };
        // SAFETY: this function's contract.
        let done = unsafe { libc::mprotect(first.as_ptr().cast(), pages * PAGE, rights) };
        assert_eq!(done, 0, "mprotect: {}", std::io::Error::last_os_error());
    }

    /// # Safety
    /// As for `Platform::unmap`.
    pub unsafe fn unmap(&self, first: NonNull<u8>, pages: usize, kind: Mapping) {
        let guard = guard(kind);
        // SAFETY: what `map` mapped, and this function's contract.
        let done =
            unsafe { libc::munmap(first.as_ptr().wrapping_sub(guard * PAGE).cast(), (pages + 2 * guard) * PAGE) };
        assert_eq!(done, 0, "munmap: {}", std::io::Error::last_os_error());
        self.used.fetch_sub(pages, Relaxed);
    }
}

/// Guard pages at each end.
fn guard(kind: Mapping) -> usize {
    match kind {
        Mapping::Heap => 0,
        Mapping::Image | Mapping::Stack => 1,
    }
}
