//! The driver's own thread: takes asynchronous events, reads the health log, aborts what takes too long, and sees whether the device is still there.

use alloc::sync::Arc;

use interfaces::{
    CallError,
    device::nvme::{AdminCommand, DeviceError, Register},
};
use runtime::time::now;

use crate::{
    admin::{Admin, Answer},
    controller::Controller,
    identify::{Health, newest_error},
    initialise,
};

/// How often it looks, if nothing calls it earlier.
const PERIOD: u64 = 100_000_000;
/// CSTS.CFS (§3.1.3.6): the controller can't go on.
const STATUS_FATAL: u64 = 1 << 1;

/// Log pages (§5.16.1).
const ERROR_LOG: u8 = 0x01;
const HEALTH_LOG: u8 = 0x02;
/// Bytes that are read of them: one error entry, the whole health page.
const ERROR_BYTES: u16 = 64;
const HEALTH_BYTES: u16 = 512;
/// "All namespaces".
const EVERY_NAMESPACE: u32 = u32::MAX;

pub struct Keeper {
    controller: Arc<Controller>,
    admin: Admin,
    /// When the health log is read next.
    health_at: u64,
}

/// What an asynchronous event says (§5.2.1): its type, what it is, and the log page that has the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Notice {
    kind: u8,
    what: u8,
    page: u8,
}

impl Notice {
    fn from(result: u32) -> Self {
        Notice { kind: result as u8 & 7, what: (result >> 8) as u8, page: (result >> 16) as u8 }
    }

    /// The namespaces aren't what they were.
    fn is_of_namespaces(self) -> bool {
        (self.kind, self.what) == (2, 0)
    }
}

impl Keeper {
    pub fn new(controller: Arc<Controller>, admin: Admin) -> Self {
        Keeper { controller, admin, health_at: 0 }
    }

    /// Until the domain ends.
    pub fn run(&mut self) {
        loop {
            match self.look().and_then(|()| self.admin.wait(now() + PERIOD)) {
                Ok(()) => {}
                Err(DeviceError::Call(CallError::Cancelled)) => return,
                Err(DeviceError::Call(error)) => return log::error!("the keeper ends: {error}"),
                Err(error) => self.controller.give_up("the device", error),
            }
        }
    }

    /// One round of looking after the device.
    fn look(&mut self) -> Result<(), DeviceError> {
        let controller = self.controller.clone();
        if controller.device.read(Register::Status)? & STATUS_FATAL != 0 {
            log::error!("the controller says that it can't go on");
            return Err(DeviceError::TimedOut);
        }
        for (queue, command) in controller.to_abort() {
            log::warn!("queue {queue}: a request takes too long, asking the device to abort it");
            self.admin.ask(AdminCommand::Abort { queue, command })?;
        }
        while self.admin.take()?.is_some() {}
        while let Some(event) = self.admin.events.pop() {
            self.heed(Notice::from(event))?;
        }
        if !self.admin.is_in_flight(AdminCommand::AsynchronousEvent) {
            self.admin.send(AdminCommand::AsynchronousEvent)?;
        }
        if now() >= self.health_at {
            self.health_at = runtime::time::after(controller.config.health_interval);
            self.read_health()?;
        }
        Ok(())
    }

    /// Reading the event's log page is what lets the device send the next of its kind (§5.2).
    fn heed(&mut self, notice: Notice) -> Result<(), DeviceError> {
        self.controller.statistics.events.add(1);
        log::warn!("the device says: {notice:?}");
        match notice.page {
            HEALTH_LOG => self.read_health()?,
            ERROR_LOG => self.read_error()?,
            page => {
                let bytes = interfaces::device::nvme::DATA_BYTES as u16;
                self.admin.ask(AdminCommand::GetLog { page, namespace: EVERY_NAMESPACE, bytes })?;
            }
        }
        if notice.is_of_namespaces() {
            let namespaces = initialise::namespaces(&mut self.admin, &self.controller.data)?;
            *self.controller.namespaces.lock() = namespaces;
        }
        Ok(())
    }

    fn read_health(&mut self) -> Result<(), DeviceError> {
        let command = AdminCommand::GetLog { page: HEALTH_LOG, namespace: EVERY_NAMESPACE, bytes: HEALTH_BYTES };
        if let Answer::Done { data, .. } = self.admin.ask(command)? {
            let health = Health::parse(data);
            if health.critical_warning != 0 {
                log::warn!("the device warns of its health: {health:?}");
            }
            self.controller.statistics.set_health(&health);
        }
        Ok(())
    }

    fn read_error(&mut self) -> Result<(), DeviceError> {
        let command = AdminCommand::GetLog { page: ERROR_LOG, namespace: EVERY_NAMESPACE, bytes: ERROR_BYTES };
        if let Answer::Done { data, .. } = self.admin.ask(command)?
            && let Some((count, status, block)) = newest_error(data)
        {
            log::warn!("the device's error {count}: status {status:#05x} at block {block}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_read_as_the_specification_has_it() {
        assert_eq!(Notice::from(0x0004_0002), Notice { kind: 2, what: 0, page: 4 });
        assert!(Notice::from(0x0004_0002).is_of_namespaces());
        assert!(!Notice::from(0x0002_0101).is_of_namespaces(), "a temperature");
    }
}
