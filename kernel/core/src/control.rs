//! The kernel's own visits to domains that export `Control`: their counters, and commands that the console does not know itself.

use alloc::{string::String, vec::Vec};

use interfaces::{
    Interface, InterfaceId, RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::domain::{self, Domain};

/// More pages of counters than this, and a domain is talking nonsense.
const MAX_PAGES: u32 = 64;

/// The domain's control port, if it has one.
fn port(domain: &Domain) -> Option<&'static dyn Control> {
    let export = domain.exports.iter().find(|export| export.interface == InterfaceId::of::<dyn Control>())?;
    // SAFETY: a proxy of this interface, which is never freed.
    Some(unsafe { &*<dyn Control as Interface>::from_raw(export.proxy) })
}

/// All counters of a domain; none if it has no control port or doesn't answer.
pub(crate) fn counters(domain: &Domain) -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    let Some(port) = port(domain) else { return counters };
    for _ in 0..MAX_PAGES {
        let Ok(page) = RRef::new(Counters::default()) else { break };
        let Ok(page) = port.counters(counters.len() as u32, page) else { break };
        let entries = page.as_slice();
        counters.extend(entries.iter().map(|counter| (String::from(counter.name.as_str()), counter.value)));
        if !page.more || entries.is_empty() {
            break;
        }
    }
    counters
}

/// Hands a line to the domains that take commands, one after the other, until one knows it; its answer, with the domain's name.
pub(crate) fn command(line: &str) -> Option<(String, Result<String, ControlError>)> {
    for domain in domain::all() {
        let Some(port) = port(domain) else { continue };
        let Ok(text) = RRef::new(Text::new(line)) else { continue };
        match port.command(text) {
            Err(ControlError::UnknownCommand) => {}
            Ok(answer) => return Some((domain.name.clone(), Ok(answer.as_str().into()))),
            // One that doesn't answer now is no reason not to ask the others.
            Err(ControlError::Call(_)) => {}
        }
    }
    None
}
