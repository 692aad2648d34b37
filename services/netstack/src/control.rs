//! What the operator sees of this domain: the sums of its instances' counters, and each one's connections.

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};
use netstack_library::Services;

/// The domain's `control` port.
pub struct Console {
    pub services: Services,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        self.services.counters().skip(first as usize).all(|(name, value)| page.push(&name, value));
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
