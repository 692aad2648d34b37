//! The `control` port: counters, and what the operator may ask.

use alloc::{format, sync::Arc};

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::card::{Card, Shown};

pub struct Console {
    card: Arc<Card>,
}

impl Console {
    pub fn new(card: Arc<Card>) -> Self {
        Console { card }
    }
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let mut number = 0;
        let mut show = |name: &str, value| {
            number += 1;
            number <= first || page.push(name, value)
        };
        let losses = self.card.device.losses();
        let lost =
            [("reset.times", losses.resets), ("reset.received", losses.received), ("reset.unsent", losses.unsent)];
        if lost.into_iter().all(|(name, value)| show(name, value)) {
            self.card.statistics.show(show);
        }
        Ok(page)
    }

    /// `link`, `device`.
    fn command(&self, line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        let card = &*self.card;
        let answer = match line.as_str().trim() {
            "link" => format!("link {}", card.link_words()),
            "device" => {
                format!(
                    "{} {}, {} queue pairs, frames up to {} bytes",
                    card.variant.name,
                    Shown(card.mac),
                    card.queues,
                    card.max_frame()
                )
            }
            _ => return Err(ControlError::UnknownCommand),
        };
        let mut line = line;
        *line = Text::new(&answer);
        Ok(line)
    }
}
