//! The `control` port: counters, and what the operator may ask.

use alloc::{format, sync::Arc};

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::controller::Controller;

pub struct Console {
    controller: Arc<Controller>,
}

impl Console {
    pub fn new(controller: Arc<Controller>) -> Self {
        Console { controller }
    }
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let mut number = 0;
        self.controller.statistics.show(|name, value| {
            number += 1;
            number <= first || page.push(name, value)
        });
        Ok(page)
    }

    /// `device`, `namespace N`, `shut-down`.
    fn command(&self, line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        let controller = &*self.controller;
        let mut words = line.as_str().split_whitespace();
        let answer = match (words.next(), words.next()) {
            (Some("device"), None) => format!(
                "{} serial {} firmware {}, {} queues of {} requests",
                controller.data.model,
                controller.data.serial,
                controller.data.firmware,
                controller.queues,
                controller.depth
            ),
            (Some("namespace"), Some(number)) => {
                // As the specification counts, from 1.
                let index = number.parse::<u16>().ok().and_then(|number| number.checked_sub(1));
                match index.and_then(|index| controller.info(index)) {
                    Some(info) => format!("{} blocks of {} bytes", info.blocks, info.block_size),
                    None => "there is no such namespace".into(),
                }
            }
            // Before power goes: from then on only a restart brings the device back.
            (Some("shut-down"), None) => match controller.device.shut_down() {
                Ok(()) => "the device has shut down".into(),
                Err(error) => format!("the device did not shut down: {error}"),
            },
            _ => return Err(ControlError::UnknownCommand),
        };
        let mut line = line;
        *line = Text::new(&answer);
        Ok(line)
    }
}
