//! What a domain says when it panics: formatted here, inside the domain, into a bounded buffer on its own stack, and handed to the kernel as bytes.
//!
//! What it promises: nothing is allocated, and a panic while the words are formatted (a `Display` that panics itself) ends the domain at once with
//! words that run none of its code.

use core::{
    fmt::{self, Write},
    panic::PanicInfo,
    sync::atomic::{AtomicBool, Ordering},
};

use interfaces::abi::{Reason, kernel};

/// Bytes of last words that are kept.
pub const CAPACITY: usize = 400;

/// UTF-8 text of bounded length; what doesn't fit is cut off at a character's boundary.
pub struct Words {
    len: usize,
    bytes: [u8; CAPACITY],
}

impl Words {
    pub const fn new() -> Self {
        Words { len: 0, bytes: [0; CAPACITY] }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).unwrap_or("")
    }
}

impl Default for Words {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Words {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.floor_char_boundary(CAPACITY - self.len);
        self.bytes[self.len..self.len + end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// Set while some thread formats the domain's last words. Never cleared: the domain is at its end.
static SPEAKING: AtomicBool = AtomicBool::new(false);

/// What the `#[panic_handler]` of a domain's image does.
pub fn panic(info: &PanicInfo) -> ! {
    let mut words = Words::new();
    if SPEAKING.swap(true, Ordering::Relaxed) {
        // Either the message's own `Display` panicked, or another thread of the domain panicked in the meantime. The place is enough, and is
        // formatted by `core` alone.
        let _ = match info.location() {
            Some(place) => write!(words, "panicked at {place} while the words of a panic were being formatted"),
            None => words.write_str("panicked while the words of a panic were being formatted"),
        };
        crash(Reason::Panic, &words)
    }
    // An error here means that the words were cut off.
    let _ = write!(words, "{info}");
    crash(reason(&words, crate::heap::quota_refused()), &words)
}

/// `alloc`'s own panic after a failed allocation, and the heap's word that the kernel refused it, are the quota; everything else is a panic.
fn reason(words: &Words, refused: bool) -> Reason {
    let allocation_failed = words.as_str().lines().any(|line| line.starts_with("memory allocation of "));
    if allocation_failed && refused { Reason::Quota } else { Reason::Panic }
}

fn crash(reason: Reason, words: &Words) -> ! {
    let words = words.as_bytes();
    // SAFETY: the words are valid for the call (SOUNDNESS: ABI between images).
    unsafe { (kernel().crash)(reason as u32, words.as_ptr(), words.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_at_a_characters_boundary() {
        let mut words = Words::new();
        for _ in 0..CAPACITY / 4 - 1 {
            words.write_str("four").unwrap();
        }
        words.write_str("é").unwrap();
        assert!(words.write_str("€").is_err(), "two of its three bytes would fit");
        assert_eq!(words.as_bytes().len(), CAPACITY - 2);
        assert!(words.as_str().ends_with("fouré"));
    }

    #[test]
    fn only_an_allocation_that_the_kernel_refused_is_the_quota() {
        let mut words = Words::new();
        write!(words, "panicked at a.rs:1:2:\nmemory allocation of 64 bytes failed").unwrap();
        assert_eq!(reason(&words, true), Reason::Quota);
        assert_eq!(reason(&words, false), Reason::Panic);
        let mut words = Words::new();
        write!(words, "panicked at a.rs:1:2:\nno such backend").unwrap();
        assert_eq!(reason(&words, true), Reason::Panic);
    }
}
