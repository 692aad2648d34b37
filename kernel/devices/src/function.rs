//! A PCI function in the hands of a trusted device crate: its registers, its memory, its interrupts. What all families have in common.

use alloc::{boxed::Box, format, string::String, vec::Vec};
use core::ptr::NonNull;

use interfaces::CallError;
use kernel_core::{
    interrupt::{Vector, Waited},
    log::{self, Level},
    machine,
    platform::{Bar, DmaMemory, PAGE, PciFunction, PciIdentity},
    thread,
};

/// What a register reads as when nobody answers.
pub(crate) const GONE: u32 = 0xffff_ffff;

/// The command register (PCI 3.0 §6.2.2), with memory decoding and bus mastering. Decoding stays on: a reset needs the registers.
const COMMAND: u16 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_BUS_MASTER: u32 = 1 << 2;
const COMMAND_NO_INTX: u32 = 1 << 10;

/// Waits below this are spent spinning, longer ones sleeping.
const SPIN_LIMIT_NANOS: u64 = 50_000;

/// Lets a device to the pool whose buffers it is given (`kernel_core::packets`, `kernel_core::blocks`); false if that can't be.
pub(crate) type OpenPool = fn(&'static dyn PciFunction) -> bool;

/// Registers lie in BAR 0.
pub(crate) struct Function {
    function: &'static dyn PciFunction,
    bar: Bar,
    /// The domain's CPUs.
    cpus: Vec<usize>,
    vectors: Vec<&'static Vector>,
    open_pool: OpenPool,
}

impl Function {
    /// `what` names it where its BAR has not `least_bytes`.
    pub(crate) fn take(
        function: &'static dyn PciFunction,
        cpus: &[usize],
        what: &str,
        least_bytes: u32,
        open_pool: OpenPool,
    ) -> Result<Function, String> {
        let PciIdentity { vendor_id, device_id, .. } = function.identity();
        let bar = function.bar(0).filter(|bar| bar.len >= least_bytes as usize).ok_or_else(|| {
            format!("{what} {vendor_id:04x}:{device_id:04x} has no BAR 0 of {least_bytes} bytes: the firmware hasn't placed it")
        })?;
        // One vector for each CPU of the domain, and one for everything else. With fewer, the driver polls.
        let wanted = cpus.len() as u16 + 1;
        let vectors = if function.vectors() >= wanted { wanted } else { 0 };
        let vectors = (0..vectors).map(|_| &*Box::leak(Box::new(Vector::new()))).collect();
        Ok(Function { function, bar, cpus: cpus.to_vec(), vectors, open_pool })
    }

    pub(crate) fn identity(&self) -> PciIdentity {
        self.function.identity()
    }

    /// Whom a pool's pieces are granted to.
    pub(crate) fn pci(&self) -> &'static dyn PciFunction {
        self.function
    }

    pub(crate) fn vectors(&self) -> u16 {
        self.vectors.len() as u16
    }

    pub(crate) fn bar_bytes(&self) -> u32 {
        u32::try_from(self.bar.len).unwrap_or(u32::MAX)
    }

    fn register(&self, offset: u32) -> Option<NonNull<u32>> {
        let is_inside = offset.is_multiple_of(4) && offset < self.bar_bytes();
        // SAFETY: inside the BAR, whose length is a multiple of four.
        is_inside.then(|| unsafe { self.bar.address.add(offset as usize).cast() })
    }

    pub(crate) fn read(&self, offset: u32) -> u32 {
        // SAFETY: a register of the device; reading one touches no memory.
        self.register(offset).map_or(GONE, |register| unsafe { register.read_volatile() })
    }

    /// # Safety
    /// The value makes the device touch no memory but its lease's and its pool's.
    pub(crate) unsafe fn write(&self, offset: u32, value: u32) {
        if let Some(register) = self.register(offset) {
            // SAFETY: a register of the device; what it does with the value is this function's contract.
            unsafe { register.write_volatile(value) }
        }
    }

    fn reaches_its_pool(&self) -> bool {
        let reaches = (self.open_pool)(self.function);
        if !reaches {
            let PciIdentity { bus, device, function, .. } = self.identity();
            let place = format_args!("{bus:02x}:{device:02x}.{function}");
            log::kernel(Level::Error, format_args!("{place} stays off the bus: the IOMMU can't let it to its pool"));
        }
        reaches
    }

    /// A device that doesn't reach its pool doesn't become master of the bus.
    pub(crate) fn set_bus_master(&self, on: bool) {
        let on = on && self.reaches_its_pool();
        let command = self.function.config_read(COMMAND) & 0xffff & !COMMAND_BUS_MASTER;
        let command = command | COMMAND_MEMORY | COMMAND_NO_INTX | if on { COMMAND_BUS_MASTER } else { 0 };
        // The upper half is the status register, in which zeroes change nothing.
        self.function.config_write(COMMAND, command);
        // The answer to a read comes behind whatever the device has sent before (PCIe 3.0 §2.4.1): all its writes are in memory.
        self.function.config_read(COMMAND);
    }

    /// Zeroed pages of nobody else's, within the device's reach.
    pub(crate) fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        let memory = machine().dma_map(bytes.div_ceil(PAGE))?;
        if !self.function.grant(&[memory]) {
            // SAFETY: just mapped, and not granted.
            unsafe { machine().dma_unmap(memory) };
            return None;
        }
        Some(memory)
    }

    /// # Safety
    /// What `allocate` gave; nobody uses it, and the device has been told to use it no more.
    pub(crate) unsafe fn free(&self, memory: DmaMemory) {
        self.function.revoke(&[memory]);
        // SAFETY: by this function's contract.
        unsafe { machine().dma_unmap(memory) }
    }

    /// Routes a vector to one of the domain's CPUs. `None`: there is no such vector or CPU.
    pub(crate) fn event(&self, vector: u16, cpu: u16) -> Option<Event> {
        let event = *self.vectors.get(usize::from(vector))?;
        let cpu = *self.cpus.get(usize::from(cpu))?;
        self.function.attach(vector, cpu, event).then_some(Event(event))
    }
}

/// A vector as the driver waits for it.
pub(crate) struct Event(&'static Vector);

impl Event {
    /// True if it has fired, false at the deadline.
    pub(crate) fn wait(&self, deadline: u64) -> Result<bool, CallError> {
        match self.0.wait(deadline) {
            Waited::Fired => Ok(true),
            Waited::TimedOut => Ok(false),
            Waited::Cancelled => Err(CallError::Cancelled),
        }
    }
}

/// A driver whose device takes long isn't hung: what is slept is not its visit's time.
pub(crate) fn delay(micros: u32) {
    let nanos = u64::from(micros) * 1_000;
    let until = machine().now() + nanos;
    if nanos >= SPIN_LIMIT_NANOS {
        return thread::sleep(until);
    }
    while machine().now() < until {
        core::hint::spin_loop();
    }
}
