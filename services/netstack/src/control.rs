//! What the operator sees of this domain: the sums of its instances' counters, and each one's connections.

use alloc::{format, sync::Arc, vec::Vec};

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::{instance::Instances, statistics::Statistics};

/// The domain's `control` port.
pub struct Console {
    pub instances: Arc<Instances>,
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let each: Vec<Option<Arc<Statistics>>> =
            (0..self.instances.count()).map(|index| self.instances.statistics(index)).collect();
        let mut at = 0;
        let mut show = |name: &str, value| {
            if at >= first {
                page.push(name, value);
            }
            at += 1;
        };
        for (i, (name, _)) in Statistics::default().all().enumerate() {
            let sum =
                each.iter().flatten().filter_map(|statistics| statistics.all().nth(i)).map(|(_, value)| value).sum();
            show(name, sum);
        }
        for (i, statistics) in each.iter().enumerate() {
            show(&format!("instance.{i}.live"), statistics.as_ref().map_or(0, |statistics| statistics.live.get()));
        }
        Ok(page)
    }

    fn command(&self, _line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        Err(ControlError::UnknownCommand)
    }
}
