//! Progress on a terminal; elsewhere one line.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// A bar that counts bytes.
pub fn bytes(what: &str, length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{what} {length} bytes");
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:10} {bar:40} {bytes} of {total_bytes}, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or(ProgressStyle::default_bar())).with_message(what.to_owned())
}
