//! Where a service's network stack is, which its manifest says by what it wires: in a domain of its own,
//!
//! ```toml
//! imports = { stack = "stack.stack" }
//! ```
//!
//! or in the service's own, at the card's driver or its shadow, with no domain between:
//!
//! ```toml
//! imports = { net = "ixgbe0.net" }
//! [domains.kv.config.stack]  # what a stack's own domain has as its `config`
//! address = "10.0.1.3/24"
//! ```
//!
//! Then the service's quotas are the stack's, too (memory for its connections, a thread for each CPU), its `control` port shows the stack's counters, and a crash of the one is
//! the other's: the next generation knows none of the connections, and answers their peers with RST.

use alloc::{boxed::Box, format, string::String};

use interfaces::{
    Port,
    config::{Configuration, Fault},
    net::Net,
    socket::NetStack,
};
use runtime::env::{Env, StartError};

use crate::{config::Config, handle::Services};

/// The stack that a service uses.
pub struct Placement {
    pub stack: Port<dyn NetStack>,
    /// If it is in this domain.
    own: Option<Services>,
}

impl Placement {
    /// As the manifest has it: of a service's imports, and of its config, those that are about the stack.
    pub fn new(
        env: &Env,
        stack: Option<Port<dyn NetStack>>,
        net: Option<Port<dyn Net>>,
        config: Option<Config>,
    ) -> Result<Placement, StartError> {
        if let Some(wrong) = miswired(stack.is_some(), net.is_some(), config.is_some()) {
            return Err(wrong.into());
        }
        match (stack, net, config) {
            (Some(stack), ..) => Ok(Placement { stack, own: None }),
            (None, Some(net), Some(config)) => {
                let own = Services::start(env, net, config)?;
                // As long as the domain: it goes with its heap.
                let stack: &'static dyn NetStack = Box::leak(Box::new(own.clone()));
                Ok(Placement { stack: Port::new(stack), own: Some(own) })
            }
            // Said above.
            (None, ..) => Err("there is no network stack".into()),
        }
    }

    /// The stack's counters, if it is in this domain.
    pub fn counters(&self) -> impl Iterator<Item = (String, u64)> {
        let own = self.own.iter().flat_map(Services::counters);
        own.map(|(name, value)| (format!("stack.{name}"), value))
    }
}

/// What is wrong with a service's imports, `wired` being the names of those that are, beside its config; in words for who wrote the manifest.
pub fn wiring_fault(wired: &[&str], config: Option<&Config>) -> Option<String> {
    let is_wired = |name| wired.contains(&name);
    miswired(is_wired("stack"), is_wired("net"), config.is_some()).map(String::from)
}

fn miswired(stack: bool, net: bool, config: bool) -> Option<&'static str> {
    match (stack, net, config) {
        (true, false, false) | (false, true, true) => None,
        (true, true, _) => Some(
            "imports `stack` and `net` are both wired: wire `stack` for a network stack in a domain of its own, or `net`, with a table `config.stack`, for one in this domain",
        ),
        (false, false, _) => Some(
            "there is no network stack: wire `stack = \"DOMAIN.stack\"` for one in a domain of its own, or `net = \"DOMAIN.net\"` to a card, with a table `config.stack`, for one in this domain",
        ),
        (true, false, true) => Some(
            "import `stack` is wired, to a network stack that has a config of its own: leave out the table `config.stack`, or wire `net` instead for a stack in this domain",
        ),
        (false, true, false) => Some(
            "import `net` is wired, for a network stack in this domain: it needs a table `config.stack` with the box's address, such as `address = \"10.0.1.3/24\"`",
        ),
    }
}

/// What is wrong with a service's table for the stack.
pub fn faults(config: Option<&Config>) -> impl Iterator<Item = Fault> {
    let faults = config.into_iter().flat_map(Configuration::validate);
    faults.map(|Fault { path, message }| Fault { path: format!("stack.{path}"), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One stack, in one place; whoever wires something else reads what to write.
    #[test]
    fn a_service_has_one_stack() {
        let config: Config = toml::from_str("address = '10.0.1.3/24'").unwrap();
        let fault = |wired: &[&str], config| wiring_fault(wired, config).unwrap_or_default();
        assert_eq!(fault(&["stack"], None), "");
        assert_eq!(fault(&["net", "block"], Some(&config)), "");
        assert!(fault(&["stack", "net"], None).contains("both wired"));
        assert!(fault(&["stack", "net"], Some(&config)).contains("both wired"));
        for config in [None, Some(&config)] {
            let neither = fault(&["block"], config);
            assert!(neither.contains("`stack = ") && neither.contains("`net = "), "{neither}");
        }
        assert!(fault(&["stack"], Some(&config)).contains("leave out the table `config.stack`"));
        assert!(fault(&["net"], None).contains("`address = "));
    }

    /// The table is held to what a stack's own domain is held to, and a fault is found where it was written.
    #[test]
    fn a_faulty_table_is_named_by_its_place() {
        let config: Config = toml::from_str("gateway = '10.0.1.1'").unwrap();
        let paths: alloc::vec::Vec<String> = faults(Some(&config)).map(|fault| fault.path).collect();
        assert_eq!(paths, ["stack.address", "stack.gateway"]);
        assert_eq!(faults(None).count(), 0);
    }
}
