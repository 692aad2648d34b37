//! A domain's log: crate `log`'s macros, into the kernel's log ring, which adds time and the domain's name.

use core::fmt::Write;

use interfaces::abi::kernel;
use log::{LevelFilter, Log, Metadata, Record};

/// What is not worth formatting at all. The operator filters further by the console.
const LEVEL: LevelFilter = LevelFilter::Debug;

struct Ring;

impl Log for Ring {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut words = crate::last_words::Words::new();
        // An error means that the line was cut off.
        let _ = words.write_fmt(*record.args());
        let words = words.as_bytes();
        // SAFETY: the words are valid for the call (SOUNDNESS: ABI between images).
        unsafe { (kernel().log)(record.level() as u32, words.as_ptr(), words.len()) }
    }

    fn flush(&self) {}
}

/// Makes crate `log`'s macros of this image write to the kernel's ring. Tests of domains may call it too.
pub fn install() {
    // A second call, as tests do, changes nothing.
    if log::set_logger(&Ring).is_ok() {
        log::set_max_level(LEVEL);
    }
}

/// Formats and passes on what is at least as important as `level`.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}
