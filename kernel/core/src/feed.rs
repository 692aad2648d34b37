//! The feed: what happens, as JSON lines on the second serial port, for the lab.

use alloc::{format, string::String};
use core::fmt::Write;

use interfaces::abi::Reason;

use crate::{
    domain::Domain,
    incarnation::{Death, Incarnation},
    machine, supervisor,
};

/// A text as a JSON string.
struct Json<'a>(&'a str);

impl core::fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_char('"')?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                control if (control as u32) < 0x20 => write!(f, "\\u{:04x}", control as u32)?,
                other => f.write_char(other)?,
            }
        }
        f.write_char('"')
    }
}

fn emit(line: String) {
    machine().feed_write(line.as_bytes());
    machine().feed_write(b"\n");
}

/// All domains have been started.
pub(crate) fn booted() {
    let now = machine().now();
    emit(format!(r#"{{"event":"booted","at_ns":{now},"boot_ms":{}}}"#, now / 1_000_000));
}

/// A domain has changed its state.
pub(crate) fn domain(domain: &Domain) {
    let status = domain.status();
    emit(format!(
        r#"{{"event":"domain","at_ns":{},"name":{},"state":"{}","generation":{},"restarts":{},"pages":{}}}"#,
        machine().now(),
        Json(&domain.name),
        status.state,
        status.generation,
        status.restarts,
        status.pages
    ));
}

pub(crate) fn crash(domain: &Domain, incarnation: &Incarnation, death: &Death, reason: Reason) {
    let mut chain = String::new();
    for (at, name) in supervisor::chain(death).iter().enumerate() {
        let _ = write!(chain, "{}{}", if at == 0 { "" } else { "," }, Json(name));
    }
    emit(format!(
        r#"{{"event":"crash","domain":{},"reason":"{}","generation":{},"at_ns":{},"cpu":{},"chain":[{chain}],"last_words":{},"pages_before":{}}}"#,
        Json(&domain.name),
        reason.name(),
        incarnation.generation(),
        death.at,
        death.cpu,
        Json(&String::from_utf8_lossy(&death.words[..death.words_len])),
        incarnation.pages()
    ));
}

/// The first generation after a crash is live.
pub(crate) fn recovered(domain: &Domain) {
    let status = domain.status();
    emit(format!(
        r#"{{"event":"recovered","domain":{},"generation":{},"at_ns":{},"pages_after":{}}}"#,
        Json(&domain.name),
        status.generation,
        machine().now(),
        status.pages
    ));
}
