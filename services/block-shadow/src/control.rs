//! What the operator sees of this domain.

use alloc::sync::Arc;

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::statistics::Statistics;

/// The domain's `control` port.
pub struct Console {
    pub statistics: Arc<Statistics>,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        for (name, value) in self.statistics.all().into_iter().skip(first as usize) {
            if !page.push(name, value) {
                break;
            }
        }
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
