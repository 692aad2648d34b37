//! The driver's own thread: follows the link, adds up statistics, and sees whether the device is still there.

use alloc::{format, sync::Arc};

use interfaces::{
    CallError, Cap,
    device::ixgbe::{DeviceError, Interrupt},
};
use runtime::{env::StartError, time::now};

use crate::{
    card::{Card, pause},
    registers::{CAUSE_LINK, EICR, EICS, EIMS},
};

/// How often it looks, if nothing calls it earlier.
const PERIOD: u64 = 100_000_000;

pub struct Keeper {
    card: Arc<Card>,
    interrupt: Option<Cap<dyn Interrupt>>,
}

impl Keeper {
    pub fn new(card: Arc<Card>) -> Result<Self, StartError> {
        let interrupt = card.interrupts.then(|| card.device.misc_interrupt()).transpose();
        let interrupt = interrupt.map_err(|error| StartError(format!("no interrupt for the link: {error}")))?;
        Ok(Keeper { card, interrupt })
    }

    /// Until the domain ends.
    pub fn run(&mut self) {
        loop {
            match self.look().and_then(|()| self.wait()) {
                Ok(()) => {}
                Err(DeviceError::Call(CallError::Cancelled)) => return,
                Err(DeviceError::Call(error)) => return log::error!("the keeper ends: {error}"),
                Err(error) => self.card.give_up("the device", error),
            }
        }
    }

    /// One round of looking after the device.
    pub fn look(&mut self) -> Result<(), DeviceError> {
        let card = &*self.card;
        if card.read_link()? {
            log::info!("{}: link {}", card.model.name, card.link_words());
        }
        card.statistics.collect(card.device)
    }

    fn wait(&mut self) -> Result<(), DeviceError> {
        let Some(interrupt) = &mut self.interrupt else { return pause(PERIOD) };
        let device = self.card.device;
        device.write(EIMS, CAUSE_LINK)?;
        if interrupt.wait(now() + PERIOD)? {
            // The causes are read from EICS and cleared by writing: clearing by reading loses some (Linux's ixgbe_msix_other, an erratum).
            let causes = device.read(EICS)?;
            device.write(EICR, causes & CAUSE_LINK)?;
        }
        Ok(())
    }
}
