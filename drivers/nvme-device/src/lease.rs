//! The lease: a controller's queues and commands in flight, which outlive the generations of its driver.

use alloc::sync::Arc;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
};

use interfaces::{
    block::InFlight,
    device::nvme::{AdminCommand, DATA_BYTES, DeviceError, LeaseState},
};

use crate::{
    admin::{Admin, ENTRIES, Formats},
    hardware::Hardware,
    io::Io,
    registers::*,
};

/// I/O queues that a driver may have.
pub const MAX_QUEUES: u16 = 16;
/// The longest that a step of the controller is waited for at once, whatever it says of itself; a driver that has more patience calls again.
const PATIENCE_MICROS: u32 = 5_000_000;
const STEP_MICROS: u32 = 100;

/// A place for a queue, used by whoever holds it.
struct Place<T> {
    held: AtomicBool,
    queue: UnsafeCell<T>,
}

// SAFETY: `queue` is reached only through `Held`, and `held` admits one at a time.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T> Place<T> {
    fn new(queue: T) -> Self {
        Place { held: AtomicBool::new(false), queue: UnsafeCell::new(queue) }
    }
}

/// The one access to a place; gives it up when dropped.
pub(crate) struct Held<H: Hardware, T> {
    pub lease: Arc<Lease<H>>,
    place: *const Place<T>,
}

// SAFETY: the place lies in the lease, which `lease` keeps; what is in it may go from thread to thread.
unsafe impl<H: Hardware, T: Send> Send for Held<H, T> {}

impl<H: Hardware, T> Held<H, T> {
    fn new(lease: &Arc<Lease<H>>, place: impl Fn(&Lease<H>) -> &Place<T>) -> Result<Self, DeviceError> {
        let place = place(lease);
        match place.held.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Held { lease: lease.clone(), place }),
            Err(_) => Err(DeviceError::Busy),
        }
    }

    /// The queue, with the lease that it belongs to.
    #[inline]
    pub fn parts(&mut self) -> (&mut T, &Lease<H>) {
        // SAFETY: as for `deref_mut`; nothing in `Lease` but `Held` reaches the place's queue.
        (unsafe { &mut *(*self.place).queue.get() }, &*self.lease)
    }
}

impl<H: Hardware, T> Deref for Held<H, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place is in the lease; `held` is ours, so nobody else touches `queue`.
        unsafe { &*(*self.place).queue.get() }
    }
}

impl<H: Hardware, T> DerefMut for Held<H, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` is unique.
        unsafe { &mut *(*self.place).queue.get() }
    }
}

impl<H: Hardware, T> Drop for Held<H, T> {
    fn drop(&mut self) {
        // SAFETY: the place is in the lease.
        unsafe { &*self.place }.held.store(false, Ordering::Release);
    }
}

/// One function's lease. Made when the kernel gives the device to a domain; kept while that domain is in the manifest.
pub struct Lease<H: Hardware> {
    pub(crate) hardware: H,
    admin: Place<Option<Admin>>,
    io: [Place<Io>; MAX_QUEUES as usize],
    /// A bit for each I/O queue that the device has made.
    made: AtomicU16,
    pub(crate) formats: Formats,
    /// Queues that the last generation declared live in the upper half, their depth in the lower. 0: none, the lease is fresh.
    live: AtomicU32,
    suspect: AtomicBool,
    enabled: AtomicBool,
}

impl<H: Hardware> Lease<H> {
    /// The device is cut off from the bus until it is enabled: firmware may have left it running.
    pub fn new(hardware: H) -> Arc<Self> {
        hardware.set_bus_master(false);
        Arc::new(Lease {
            hardware,
            admin: Place::new(None),
            io: core::array::from_fn(|_| Place::new(Io::default())),
            made: AtomicU16::new(0),
            formats: Formats::new(),
            live: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
            enabled: AtomicBool::new(false),
        })
    }

    pub fn state(&self) -> LeaseState {
        match (self.suspect.load(Ordering::Acquire), self.live.load(Ordering::Acquire)) {
            (true, _) => LeaseState::Suspect,
            (false, 0) => LeaseState::Fresh,
            (false, live) => LeaseState::Live { queues: (live >> 16) as u16, depth: live as u16 },
        }
    }

    pub(crate) fn set_live(&self, queues: u16, depth: u16) {
        self.live.store(u32::from(queues) << 16 | u32::from(depth), Ordering::Release);
    }

    pub(crate) fn set_suspect(&self) {
        self.suspect.store(true, Ordering::Release);
    }

    /// Notes what a queue's answer says of the device.
    #[inline]
    pub(crate) fn judge<T>(&self, answer: Result<T, DeviceError>) -> Result<T, DeviceError> {
        if matches!(answer, Err(DeviceError::Lied | DeviceError::Vanished)) {
            self.set_suspect();
        }
        answer
    }

    /// A register's value; a device that reads all ones has gone, and is suspect.
    pub(crate) fn read(&self, offset: u32) -> Result<u32, DeviceError> {
        let value = self.hardware.read(offset);
        // No register but CAP's halves may be all ones, and those aren't in a controller that suits.
        self.judge(if value == GONE { Err(DeviceError::Vanished) } else { Ok(value) })
    }

    pub(crate) fn capabilities(&self) -> Result<Capabilities, DeviceError> {
        Ok(Capabilities(u64::from(self.read(CAP)?) | u64::from(self.read(CAP + 4)?) << 32))
    }

    /// Waits until `CSTS & mask == value`.
    fn wait_for(&self, mask: u32, value: u32, limit_micros: u32) -> Result<(), DeviceError> {
        let limit = self.hardware.now() + u64::from(limit_micros.min(PATIENCE_MICROS)) * 1_000;
        while self.read(CSTS)? & mask != value {
            if self.hardware.now() > limit {
                return Err(DeviceError::TimedOut);
            }
            self.hardware.delay_micros(STEP_MICROS);
        }
        Ok(())
    }

    pub(crate) fn hold_admin(self: &Arc<Self>) -> Result<Held<H, Option<Admin>>, DeviceError> {
        let held = Held::new(self, |lease| &lease.admin)?;
        if held.is_some() && self.enabled.load(Ordering::Acquire) { Ok(held) } else { Err(DeviceError::NotReset) }
    }

    /// Holds an I/O queue that the device has made.
    pub(crate) fn hold_io(self: &Arc<Self>, queue: u16) -> Result<Held<H, Io>, DeviceError> {
        if queue >= MAX_QUEUES || self.made.load(Ordering::Acquire) & 1 << queue == 0 {
            return Err(DeviceError::NoSuchQueue);
        }
        Held::new(self, |lease| &lease.io[usize::from(queue)])
    }

    /// The place of an I/O queue that is being made; `entries` of it, if it has no memory yet.
    pub(crate) fn place(self: &Arc<Self>, queue: u16, entries: Option<u16>) -> Result<(u64, u64, u16), DeviceError> {
        if queue >= MAX_QUEUES {
            return Err(DeviceError::NoSuchQueue);
        }
        let mut held = Held::new(self, |lease| &lease.io[usize::from(queue)])?;
        if let Some(entries) = entries {
            let capabilities = self.capabilities()?;
            let most = capabilities.entries().min(InFlight::CAPACITY as u32 + 1);
            let doorbells_end = DOORBELLS + (2 * u32::from(queue) + 4) * capabilities.doorbell_stride();
            if entries < 2 || u32::from(entries) > most || doorbells_end > self.hardware.bar_bytes() {
                return Err(DeviceError::WrongLength);
            }
            held.make(&self.hardware, queue + 1, entries, capabilities.doorbell_stride())?;
        }
        held.place().ok_or(DeviceError::NoSuchQueue)
    }

    pub(crate) fn set_made(&self, queue: u16) {
        self.made.fetch_or(1 << queue, Ordering::AcqRel);
    }

    /// Disables the controller, cuts it off from the bus, and only then takes all requests back and frees the queues. Returns the requests that were in flight: they come
    /// to an end as `Lost`. `TimedOut` or `Vanished`: all that has happened too (the device is cut off), but the controller can't be used; try again.
    pub fn reset(self: &Arc<Self>) -> Result<u32, DeviceError> {
        let mut admin = Held::new(self, |lease| &lease.admin)?;
        let mut io = [const { None }; MAX_QUEUES as usize];
        for (at, held) in io.iter_mut().enumerate() {
            *held = Some(Held::new(self, |lease| &lease.io[at])?);
        }
        self.set_live(0, 0);
        self.set_suspect();
        self.made.store(0, Ordering::Release);
        self.enabled.store(false, Ordering::Release);
        self.formats.forget();
        let disabled = self.disable();
        self.hardware.set_bus_master(false);
        let mut lost = 0;
        for held in io.iter_mut().flatten() {
            // SAFETY: the device is no longer master of the bus, so it reaches no memory at all.
            lost += unsafe { held.dissolve(&self.hardware) };
        }
        if let Some(admin) = admin.take() {
            // SAFETY: as above.
            unsafe { admin.free(&self.hardware) };
        }
        disabled?;
        self.suspect.store(false, Ordering::Release);
        Ok(lost)
    }

    /// Controller reset (§3.7.2). Its obedience saves nothing that depends on it: what frees memory is the cut from the bus.
    fn disable(&self) -> Result<(), DeviceError> {
        let capabilities = self.capabilities()?;
        let configuration = self.read(CC)?;
        // SAFETY: a disabled controller processes no commands.
        unsafe { self.hardware.write(CC, configuration & !(CC_ENABLE | CC_SHUTDOWN)) };
        self.wait_for(CSTS_READY, 0, capabilities.time_out_micros())
    }

    /// Makes the admin queue and enables the controller (§3.5.1).
    pub(crate) fn enable(self: &Arc<Self>) -> Result<(), DeviceError> {
        let mut held = Held::new(self, |lease| &lease.admin)?;
        if self.suspect.load(Ordering::Acquire) || self.enabled.load(Ordering::Acquire) || held.is_some() {
            return Err(DeviceError::NotReset);
        }
        let capabilities = self.capabilities()?;
        let stride = capabilities.doorbell_stride();
        if !capabilities.suits() || DOORBELLS + 2 * stride > self.hardware.bar_bytes() {
            return Err(DeviceError::Unsuitable);
        }
        // Its queues must not be changed while it runs.
        self.disable()?;
        let admin = Admin::new(&self.hardware, stride).ok_or(DeviceError::NoMemory)?;
        let (submission, completion) = (admin.submission_bus(), admin.completion_bus());
        // From here on the queue is the lease's, whatever happens: only a reset takes it back.
        *held = Some(admin);
        let entries = u32::from(ENTRIES - 1);
        self.hardware.set_bus_master(true);
        // SAFETY: addresses and lengths are those of the admin queue, which has no command in it; CC's settings are those that this crate builds entries by.
        unsafe {
            self.hardware.write(AQA, entries | entries << 16);
            self.hardware.write(ASQ, submission as u32);
            self.hardware.write(ASQ + 4, (submission >> 32) as u32);
            self.hardware.write(ACQ, completion as u32);
            self.hardware.write(ACQ + 4, (completion >> 32) as u32);
            self.hardware.write(CC, CC_SETTINGS);
            self.hardware.write(CC, CC_SETTINGS | CC_ENABLE);
        }
        let ready = self.wait_for(CSTS_READY | CSTS_FATAL, CSTS_READY, capabilities.time_out_micros());
        if ready.is_err() {
            self.set_suspect();
        }
        ready?;
        self.enabled.store(true, Ordering::Release);
        Ok(())
    }

    /// Normal shutdown (§3.6.1). From then on only a reset brings the controller back.
    pub(crate) fn shut_down(&self) -> Result<(), DeviceError> {
        let configuration = self.read(CC)? & !CC_SHUTDOWN;
        // SAFETY: a controller that shuts down ends memory accesses, it starts none.
        unsafe { self.hardware.write(CC, configuration | CC_SHUTDOWN_NORMAL) };
        let done = self.wait_for(CSTS_SHUTDOWN, CSTS_SHUTDOWN_COMPLETE, PATIENCE_MICROS);
        self.set_suspect();
        done
    }

    /// What a manifest may name a device by: enables the controller, asks it, and resets it. `None` if somebody drives it, or it doesn't answer.
    pub fn serial(self: &Arc<Self>) -> Option<[u8; 20]> {
        if self.state() != LeaseState::Fresh {
            return None;
        }
        self.reset().ok()?;
        self.enable().ok()?;
        let serial = self.ask_serial();
        self.reset().ok()?;
        serial
    }

    fn ask_serial(self: &Arc<Self>) -> Option<[u8; 20]> {
        let mut held = self.hold_admin().ok()?;
        let (admin, lease) = held.parts();
        let admin = admin.as_mut()?;
        let identify = AdminCommand::Identify { structure: 1, namespace: 0 };
        admin.submit(&lease.hardware, identify, None).ok()?;
        let mut data = [0; DATA_BYTES];
        let limit = lease.hardware.now() + u64::from(PATIENCE_MICROS) * 1_000;
        while lease.hardware.now() < limit {
            match lease.judge(admin.poll(&lease.hardware, &lease.formats, &mut data)).ok()? {
                // Identify Controller (§5.17.2.1): bytes 4 to 23.
                Some(done) if done.status == 0 => return data[4..24].try_into().ok(),
                Some(_) => return None,
                None => lease.hardware.delay_micros(STEP_MICROS),
            }
        }
        None
    }
}
