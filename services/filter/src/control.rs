//! What the operator sees of this domain.

use alloc::{boxed::Box, string::String, sync::Arc};
use core::fmt::Write;

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::statistics::Statistics;

/// The domain's `control` port.
pub struct Console {
    /// Of the rules, in order.
    pub names: Box<[String]>,
    pub statistics: Arc<Statistics>,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let mut at = 0;
        self.statistics.show(&self.names, |name, value| {
            if at >= first {
                let mut text = Text::<54>::default();
                // A name that is too long is cut; `validate` sees to it that none is.
                let _ = text.write_fmt(name);
                page.push(text.as_str(), value);
            }
            at += 1;
        });
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
