//! The kernel objects that the driver domain calls: the device, its queues' handles.

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Cap, RRef,
    block::{InFlight, Requests, trusted},
    device::nvme::{
        AdminCommand, AdminDone, DATA_BYTES, DeviceError, Identity, LeaseState, NvmeAdmin, NvmeDevice, NvmeQueue,
        NvmeVector, Oldest, QueueCounts, Register,
    },
};

use crate::{
    admin::Admin,
    commands::QueuePlace,
    hardware::Hardware,
    io::Io,
    lease::{Held, Lease, MAX_QUEUES},
    registers::{CSTS, VS},
};

/// A domain's access to the lease. All of them are alike; a generation's is dropped with it.
pub struct Device<H: Hardware> {
    lease: Arc<Lease<H>>,
}

impl<H: Hardware> Device<H> {
    pub fn new(lease: &Arc<Lease<H>>) -> Self {
        Device { lease: lease.clone() }
    }
}

impl<H: Hardware> NvmeDevice for Device<H> {
    fn identity(&self) -> Identity {
        self.lease.hardware.identity()
    }

    fn read(&self, register: Register) -> Result<u64, DeviceError> {
        match register {
            Register::Capabilities => self.lease.capabilities().map(|capabilities| capabilities.0),
            Register::Version => self.lease.read(VS).map(u64::from),
            Register::Status => self.lease.read(CSTS).map(u64::from),
        }
    }

    fn lease(&self) -> LeaseState {
        self.lease.state()
    }

    fn set_live(&self, queues: u16, depth: u16) -> Result<(), DeviceError> {
        self.lease.set_live(queues, depth);
        Ok(())
    }

    fn set_suspect(&self) -> Result<(), DeviceError> {
        self.lease.set_suspect();
        Ok(())
    }

    fn reset_lease(&self) -> Result<u32, DeviceError> {
        self.lease.reset()
    }

    fn enable(&self) -> Result<(), DeviceError> {
        self.lease.enable()
    }

    fn shut_down(&self) -> Result<(), DeviceError> {
        self.lease.shut_down()
    }

    fn admin(&self) -> Result<Cap<dyn NvmeAdmin>, DeviceError> {
        Ok(Cap::new(Box::new(AdminHandle { admin: self.lease.hold_admin()? })))
    }

    fn queue(&self, queue: u16) -> Result<Cap<dyn NvmeQueue>, DeviceError> {
        Ok(Cap::new(Box::new(QueueHandle { io: self.lease.hold_io(queue)? })))
    }

    fn queue_vector(&self, queue: u16) -> Result<Cap<dyn NvmeVector>, DeviceError> {
        let vector = vector_of(self.identity(), queue).ok_or(DeviceError::NoSuchQueue)?;
        Ok(Cap::new(self.lease.hardware.vector(vector, queue)?))
    }

    fn admin_vector(&self) -> Result<Cap<dyn NvmeVector>, DeviceError> {
        Ok(Cap::new(self.lease.hardware.vector(0, 0)?))
    }
}

/// Vector 0 is the admin queue's.
fn vector_of(identity: Identity, queue: u16) -> Option<u16> {
    (queue < MAX_QUEUES && queue + 1 < identity.vectors).then_some(queue + 1)
}

/// The handle of the admin queue.
struct AdminHandle<H: Hardware> {
    admin: Held<H, Option<Admin>>,
}

impl<H: Hardware> AdminHandle<H> {
    /// Where the queue lies that a command makes.
    fn place(&self, command: AdminCommand) -> Result<Option<QueuePlace>, DeviceError> {
        let lease = &self.admin.lease;
        let (queue, place) = match command {
            AdminCommand::CreateCompletionQueue { queue, entries } => {
                let (_, bus, entries) = lease.place(queue, Some(entries))?;
                (queue, (bus, entries))
            }
            AdminCommand::CreateSubmissionQueue { queue } => {
                let (bus, _, entries) = lease.place(queue, None)?;
                (queue, (bus, entries))
            }
            _ => return Ok(None),
        };
        let vector = vector_of(lease.hardware.identity(), queue);
        Ok(Some(QueuePlace { bus: place.0, id: queue + 1, entries: place.1, vector }))
    }
}

impl<H: Hardware> NvmeAdmin for AdminHandle<H> {
    fn submit(&mut self, command: AdminCommand) -> Result<(), DeviceError> {
        if !self.admin.as_ref().is_some_and(Admin::has_place) {
            return Err(DeviceError::Full);
        }
        let place = self.place(command)?;
        let (admin, lease) = self.admin.parts();
        admin.as_mut().ok_or(DeviceError::NotReset)?.submit(&lease.hardware, command, place)
    }

    fn poll(&mut self, data: &mut [u8; DATA_BYTES]) -> Result<Option<AdminDone>, DeviceError> {
        let (admin, lease) = self.admin.parts();
        let admin = admin.as_mut().ok_or(DeviceError::NotReset)?;
        let done = lease.judge(admin.poll(&lease.hardware, &lease.formats, data))?;
        if let Some(AdminDone { command: AdminCommand::CreateSubmissionQueue { queue }, status: 0, .. }) = done {
            lease.set_made(queue);
        }
        Ok(done)
    }

    fn is_in_flight(&self, command: AdminCommand) -> bool {
        self.admin.as_ref().is_some_and(|admin| admin.is_in_flight(command))
    }
}

/// The handle of an I/O queue.
struct QueueHandle<H: Hardware> {
    io: Held<H, Io>,
}

impl<H: Hardware> NvmeQueue for QueueHandle<H> {
    fn submit(&mut self, batch: &mut RRef<Requests>) -> Result<usize, DeviceError> {
        let (io, lease) = self.io.parts();
        // SAFETY: we are the kernel's image; `submit` moves holds by `take` alone.
        lease.judge(io.submit(&lease.hardware, &lease.formats, unsafe { trusted::batch(batch) }))
    }

    fn poll(&mut self, batch: &mut RRef<Requests>) -> Result<usize, DeviceError> {
        let (io, lease) = self.io.parts();
        // SAFETY: as above; `poll` moves holds by `push` alone.
        lease.judge(io.poll(&lease.hardware, unsafe { trusted::batch(batch) }))
    }

    fn ready(&self) -> bool {
        self.io.ready()
    }

    fn in_flight(&self) -> usize {
        self.io.in_flight()
    }

    fn list(&self, list: &mut RRef<InFlight>) -> Result<(), DeviceError> {
        list.clear();
        self.io.list(list);
        Ok(())
    }

    fn oldest(&self) -> Option<Oldest> {
        self.io.oldest()
    }

    fn counts(&self) -> QueueCounts {
        self.io.counts
    }
}
