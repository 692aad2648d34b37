//! The admin queue as this driver uses it: one command at a time, answered or timed out; events and other generations' commands are set aside.

use alloc::{boxed::Box, vec::Vec};

use interfaces::{
    Cap, Port,
    device::nvme::{AdminCommand, AdminDone, DATA_BYTES, DeviceError, NvmeAdmin, NvmeDevice, NvmeVector},
};
use runtime::{thread::sleep_until, time::now};

/// Without interrupts, and between two looks with them: how long it sleeps.
const LOOK_EVERY: u64 = 1_000_000;
/// No admin command that is sent here takes longer, on a device that works.
const TIME_OUT: u64 = 10_000_000_000;

pub struct Admin {
    handle: Cap<dyn NvmeAdmin>,
    vector: Option<Cap<dyn NvmeVector>>,
    data: Box<[u8; DATA_BYTES]>,
    /// Asynchronous events that have come, by dword 0 of their completion (§5.2).
    pub events: Vec<u32>,
}

/// How a command came out that the device has answered.
pub enum Answer<'a> {
    Done {
        result: u32,
        data: &'a [u8; DATA_BYTES],
    },
    /// Status code type and code.
    Refused(u16),
}

impl Admin {
    /// As soon as the handle of the generation before is closed.
    pub fn open(device: Port<dyn NvmeDevice>, interrupts: bool) -> Result<Self, DeviceError> {
        let limit = now() + TIME_OUT;
        let handle = loop {
            match device.admin() {
                Err(DeviceError::Busy) if now() < limit => pause(LOOK_EVERY)?,
                result => break result?,
            }
        };
        let vector = if interrupts { Some(device.admin_vector()?) } else { None };
        Ok(Admin { handle, vector, data: Box::new([0; DATA_BYTES]), events: Vec::new() })
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: AdminCommand) -> Result<Answer<'_>, DeviceError> {
        let limit = now() + TIME_OUT;
        // The same command of an earlier generation would be taken for this one.
        while self.handle.is_in_flight(command) {
            self.step(limit)?;
        }
        self.handle.submit(command)?;
        loop {
            match self.step(limit)? {
                Some(done) if done.command == command => {
                    return Ok(match done.status {
                        0 => Answer::Done { result: done.result, data: &self.data },
                        status => Answer::Refused(status),
                    });
                }
                _ => {}
            }
        }
    }

    /// As `ask`, for what a device that works can't refuse.
    pub fn require(&mut self, command: AdminCommand) -> Result<(u32, &[u8; DATA_BYTES]), DeviceError> {
        match self.ask(command)? {
            Answer::Done { result, data } => Ok((result, data)),
            Answer::Refused(status) => {
                log::error!("{command:?} was refused with status {status:#05x}");
                Err(DeviceError::Unsuitable)
            }
        }
    }

    /// Sends a command whose answer comes when it comes.
    pub fn send(&mut self, command: AdminCommand) -> Result<(), DeviceError> {
        self.handle.submit(command)
    }

    pub fn is_in_flight(&self, command: AdminCommand) -> bool {
        self.handle.is_in_flight(command)
    }

    /// Takes what has come; sleeps a little if nothing has.
    fn step(&mut self, limit: u64) -> Result<Option<AdminDone>, DeviceError> {
        let done = self.take()?;
        if done.is_none() {
            if now() > limit {
                return Err(DeviceError::TimedOut);
            }
            self.wait(now() + LOOK_EVERY)?;
        }
        Ok(done)
    }

    /// Takes what has come.
    pub fn take(&mut self) -> Result<Option<AdminDone>, DeviceError> {
        let done = self.handle.poll(&mut self.data)?;
        if let Some(AdminDone { command: AdminCommand::AsynchronousEvent, status, result }) = done
            && status == 0
        {
            self.events.push(result);
        }
        Ok(done)
    }

    /// Sleeps until something may have come.
    pub fn wait(&mut self, deadline: u64) -> Result<(), DeviceError> {
        match &mut self.vector {
            Some(vector) => vector.wait(deadline).map(drop),
            None => pause(deadline.saturating_sub(now()).min(LOOK_EVERY)),
        }
    }
}

/// Sleeps for `nanos`.
pub fn pause(nanos: u64) -> Result<(), DeviceError> {
    sleep_until(now() + nanos).map_err(|_| DeviceError::Call(interfaces::CallError::Cancelled))
}
