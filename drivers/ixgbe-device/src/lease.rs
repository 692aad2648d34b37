//! The lease: a device's rings, buffers and cursors, which outlive the generations of its driver.

use alloc::sync::Arc;
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

use interfaces::device::ixgbe::{DeviceError, LeaseState, Losses};

use crate::{
    family::has_link_reset,
    hardware::Hardware,
    receive::Receive,
    registers::*,
    ring::{MAX_LENGTH, Ring},
    transmit::Transmit,
};

/// Queue pairs that RSS can spread to (82599 §7.1.2.8: 4 bits in the redirection table).
pub const MAX_QUEUES: u16 = 16;

/// All ones: what a read of a device that has left the bus gives.
const GONE: u32 = u32::MAX;

/// Between two looks at a register that the device will change.
const FIRST_STEP_MICROS: u32 = 10;
const LONGEST_STEP_MICROS: u32 = 1_000;

/// A place for a ring, used by whoever holds it.
struct Place<T> {
    held: AtomicBool,
    /// Buffers in the ring, as its holder last said.
    buffers: AtomicU32,
    ring: UnsafeCell<Option<T>>,
}

// SAFETY: `ring` is reached only through `Held`, and `held` admits one at a time.
unsafe impl<T: Send> Sync for Place<T> {}

impl<T> Place<T> {
    const fn new() -> Self {
        Place { held: AtomicBool::new(false), buffers: AtomicU32::new(0), ring: UnsafeCell::new(None) }
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
}

impl<H: Hardware, T> Held<H, T> {
    /// The ring, with the lease that it belongs to.
    #[inline]
    pub fn parts(&mut self) -> Option<(&mut T, &Lease<H>)> {
        // SAFETY: as for `deref_mut`; nothing in `Lease` but `Held` reaches the place's ring.
        let ring = unsafe { &mut *(*self.place).ring.get() };
        ring.as_mut().map(|ring| (ring, &*self.lease))
    }
}

impl<H: Hardware, T> Held<H, T> {
    /// Tells the lease how many buffers are in the ring.
    #[inline]
    pub fn say_buffers(&self, buffers: usize) {
        // SAFETY: the place is in the lease.
        unsafe { &*self.place }.buffers.store(buffers as u32, Ordering::Relaxed);
    }
}

impl<H: Hardware, T> Deref for Held<H, T> {
    type Target = Option<T>;
    #[inline]
    fn deref(&self) -> &Option<T> {
        // SAFETY: the place is in the lease; `held` is ours, so nobody else touches `ring`.
        unsafe { &*(*self.place).ring.get() }
    }
}

impl<H: Hardware, T> DerefMut for Held<H, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Option<T> {
        // SAFETY: as above, and `&mut self` is unique.
        unsafe { &mut *(*self.place).ring.get() }
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
    rx: [Place<Receive>; MAX_QUEUES as usize],
    tx: [Place<Transmit>; MAX_QUEUES as usize],
    /// Queues that the last generation declared live: RX in the upper half, TX in the lower. 0: none, the lease is fresh.
    live: AtomicU32,
    suspect: AtomicBool,
    /// The device has been reset under this lease: no queue is on but those that were enabled here.
    was_reset: AtomicBool,
    /// The generation that held the lease has died, and the next one hasn't come yet.
    abandoned: AtomicBool,
    /// The cells of `Losses`.
    resets: AtomicU64,
    received: AtomicU64,
    unsent: AtomicU64,
}

impl<H: Hardware> Lease<H> {
    /// The device is cut off from the bus until a ring is made: firmware may have left it receiving.
    pub fn new(hardware: H) -> Arc<Self> {
        hardware.set_bus_master(false);
        Arc::new(Lease {
            hardware,
            rx: [const { Place::new() }; MAX_QUEUES as usize],
            tx: [const { Place::new() }; MAX_QUEUES as usize],
            live: AtomicU32::new(0),
            suspect: AtomicBool::new(false),
            was_reset: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            received: AtomicU64::new(0),
            unsent: AtomicU64::new(0),
        })
    }

    pub fn state(&self) -> LeaseState {
        match (self.suspect.load(Ordering::Acquire), self.live.load(Ordering::Acquire)) {
            (true, _) => LeaseState::Suspect,
            (false, 0) => LeaseState::Fresh,
            (false, live) => LeaseState::Live { rx_queues: (live >> 16) as u16, tx_queues: live as u16 },
        }
    }

    pub(crate) fn losses(&self) -> Losses {
        let value = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        Losses { resets: value(&self.resets), received: value(&self.received), unsent: value(&self.unsent) }
    }

    /// Packet buffers in the rings of this lease.
    pub fn buffers(&self) -> usize {
        let rx = self.rx.iter().map(|place| place.buffers.load(Ordering::Relaxed));
        let tx = self.tx.iter().map(|place| place.buffers.load(Ordering::Relaxed));
        rx.chain(tx).sum::<u32>() as usize
    }

    pub(crate) fn set_live(&self, rx_queues: u16, tx_queues: u16) {
        self.live.store(u32::from(rx_queues) << 16 | u32::from(tx_queues), Ordering::Release);
    }

    /// Whether RSS spreads frames over more than one queue.
    pub(crate) fn has_other_queues(&self) -> bool {
        self.live.load(Ordering::Acquire) >> 16 > 1
    }

    pub(crate) fn set_suspect(&self) {
        self.suspect.store(true, Ordering::Release);
    }

    /// Whether the device is still there; a device that isn't is suspect.
    pub(crate) fn present(&self) -> bool {
        let present = self.hardware.read(STATUS) != GONE;
        if !present {
            self.set_suspect();
        }
        present
    }

    pub(crate) fn read(&self, offset: u32) -> Result<u32, DeviceError> {
        if offset >= BAR_BYTES || !offset.is_multiple_of(4) {
            return Err(DeviceError::ForbiddenRegister);
        }
        match self.hardware.read(offset) {
            GONE if !self.present() => Err(DeviceError::Vanished),
            value => Ok(value),
        }
    }

    pub(crate) fn write(&self, offset: u32, value: u32) -> Result<(), DeviceError> {
        if !driver_may_write(offset, value) {
            return Err(DeviceError::ForbiddenRegister);
        }
        // SAFETY: the registers of that list steer no memory access.
        unsafe { self.hardware.write(offset, value) };
        Ok(())
    }

    /// Nobody receives, for now: what finds no descriptor waits in the packet buffer. (Registers only, so it may be called in a trap, and while handles are in use.)
    pub fn hold_frames(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        (0..MAX_QUEUES).for_each(|queue| self.write_split(RxQueue(queue), false));
    }

    /// A generation has come that will receive.
    pub(crate) fn take_over(&self) {
        self.abandoned.store(false, Ordering::SeqCst);
    }

    /// Whether the device is to drop what finds no descriptor on this queue. Never while nobody receives: a thread of the generation that has died may still be on its way here.
    pub(crate) fn set_drop(&self, queue: RxQueue, drop: bool) {
        self.write_split(queue, drop);
        if drop {
            fence(Ordering::SeqCst);
            // Either we see that, or `hold_frames` writes after us.
            if self.abandoned.load(Ordering::SeqCst) {
                self.write_split(queue, false);
            }
        }
    }

    fn write_split(&self, queue: RxQueue, drop: bool) {
        let drop = if drop { SRRCTL_DROP_EN } else { 0 };
        // SAFETY: the buffers' size stays what it is; a queue without ring stays disabled.
        unsafe { self.hardware.write(queue.split(), srrctl_one_buffer(self.hardware.buffer_bytes()) | drop) };
    }

    /// Waits until `register & mask == value`: what takes the device microseconds is seen at once, and what takes it longer is looked at every millisecond, as Linux and DPDK do, so
    /// that the CPU is others' meanwhile.
    fn wait_for(&self, register: u32, mask: u32, value: u32, limit_micros: u32) -> bool {
        let (mut waited, mut step) = (0, FIRST_STEP_MICROS);
        while self.hardware.read(register) & mask != value {
            if waited >= limit_micros {
                return false;
            }
            self.hardware.delay_micros(step);
            waited += step;
            step = (2 * step).min(LONGEST_STEP_MICROS);
        }
        true
    }

    /// Whether a ring of this length can be made.
    fn check_new_ring(&self, length: u16) -> Result<(), DeviceError> {
        if self.suspect.load(Ordering::Acquire) || !self.was_reset.load(Ordering::Acquire) {
            Err(DeviceError::NotReset)
        } else if length == 0 || length > MAX_LENGTH || !length.is_multiple_of(8) {
            Err(DeviceError::WrongLength)
        } else if !self.present() {
            Err(DeviceError::Vanished)
        } else {
            Ok(())
        }
    }

    /// Enables a queue by its RXDCTL or TXDCTL, whose other bits are `rest`.
    fn enable(&self, control: u32, rest: u32) -> Result<(), DeviceError> {
        self.hardware.set_bus_master(true);
        // SAFETY: the queue's base and length are a ring of this lease, all of whose descriptors (none, so far) are posted.
        unsafe { self.hardware.write(control, rest | QUEUE_ENABLE) };
        if self.wait_for(control, QUEUE_ENABLE, QUEUE_ENABLE, 100_000) {
            return Ok(());
        }
        self.set_suspect();
        Err(DeviceError::TimedOut)
    }

    /// Holds RX ring `queue`, making it if the lease has none (82599 §4.6.7).
    pub(crate) fn hold_rx(
        self: &Arc<Self>,
        queue: u16,
        length: u16,
        vlan: Option<u16>,
    ) -> Result<Held<H, Receive>, DeviceError> {
        let at = usize::from(queue);
        if queue >= MAX_QUEUES {
            return Err(DeviceError::NoSuchQueue);
        }
        let mut held = Held::new(self, |lease| &lease.rx[at])?;
        if held.is_some() {
            return Ok(held);
        }
        self.check_new_ring(length)?;
        let ring = Ring::new(&self.hardware, length).ok_or(DeviceError::NoMemory)?;
        let (registers, hardware) = (RxQueue(queue), &self.hardware);
        let cache = hardware.read(registers.cache()) & !DCA_RXCTRL_RELAXED;
        let bytes = hardware.buffer_bytes();
        // SAFETY: base and length are the ring's; head = tail, so the device owns no descriptor; all buffers will have that many bytes (`Hardware`).
        unsafe {
            hardware.write(registers.base_low(), ring.bus() as u32);
            hardware.write(registers.base_high(), (ring.bus() >> 32) as u32);
            hardware.write(registers.length(), ring.bytes());
            hardware.write(registers.head(), 0);
            hardware.write(registers.tail(), 0);
            hardware.write(registers.split(), srrctl_one_buffer(bytes));
            hardware.write(registers.coalescing(), 0);
            hardware.write(registers.cache(), cache);
        }
        // From here on the ring is the lease's, whatever happens: only a reset takes it back.
        let receive = held.insert(Receive::new(ring, bytes, vlan, hardware.grants_buffers()));
        self.enable(registers.control(), if vlan.is_some() { RXDCTL_TAKE_TAGS } else { 0 })?;
        let tail = receive.refill(hardware).ok_or(DeviceError::NoMemory)?;
        let posted = receive.posted();
        held.say_buffers(posted);
        // SAFETY: the descriptors up to the tail are posted (`Receive`'s invariant).
        unsafe { hardware.write(registers.tail(), u32::from(tail)) };
        Ok(held)
    }

    /// Holds TX ring `queue`, making it if the lease has none (82599 §4.6.8).
    pub(crate) fn hold_tx(
        self: &Arc<Self>,
        queue: u16,
        length: u16,
        vlan: Option<u16>,
    ) -> Result<Held<H, Transmit>, DeviceError> {
        let at = usize::from(queue);
        if queue >= MAX_QUEUES {
            return Err(DeviceError::NoSuchQueue);
        }
        let mut held = Held::new(self, |lease| &lease.tx[at])?;
        if held.is_some() {
            return Ok(held);
        }
        self.check_new_ring(length)?;
        let ring = Ring::new(&self.hardware, length).ok_or(DeviceError::NoMemory)?;
        let (registers, hardware) = (TxQueue(queue), &self.hardware);
        let cache = hardware.read(registers.cache()) & !DCA_TXCTRL_RELAXED;
        // SAFETY: base and length are the ring's; head = tail, so the device owns no descriptor; no head write-back.
        unsafe {
            hardware.write(registers.base_low(), ring.bus() as u32);
            hardware.write(registers.base_high(), (ring.bus() >> 32) as u32);
            hardware.write(registers.length(), ring.bytes());
            hardware.write(registers.head_write_back_low(), 0);
            hardware.write(registers.head_write_back_high(), 0);
            hardware.write(registers.head(), 0);
            hardware.write(registers.tail(), 0);
            hardware.write(registers.cache(), cache);
        }
        *held = Some(Transmit::new(ring, vlan, hardware.grants_buffers()));
        self.enable(registers.control(), TXDCTL_THRESHOLDS)?;
        Ok(held)
    }

    /// Routes what arrives at `queue` to `vector` (82599 §7.3.4). Nobody waits for what has been sent, so the pair's other half is left out.
    pub(crate) fn route_queue(&self, queue: u16, vector: u16) {
        let (register, shift) = ivar(queue);
        let route = u32::from(vector) | IVAR_VALID;
        let value = self.hardware.read(register) & !(0xFFFF << shift) | route << shift;
        // SAFETY: the vector is one that `Hardware::interrupt` has attached for this domain.
        unsafe { self.hardware.write(register, value) };
    }

    /// Routes all causes but queues' to `vector`.
    pub(crate) fn route_others(&self, vector: u16) {
        // SAFETY: as above.
        unsafe { self.hardware.write(IVAR_MISC, (u32::from(vector) | IVAR_VALID) << 8) };
    }

    /// Stops the device, waits, cuts it off, resets it, and only then gives all buffers and rings back. `TimedOut` or `Vanished`: the buffers are back (the device is cut off), but it can't be used; try again.
    pub fn reset(self: &Arc<Self>) -> Result<(), DeviceError> {
        let mut rx = [const { None }; MAX_QUEUES as usize];
        let mut tx = [const { None }; MAX_QUEUES as usize];
        for at in 0..usize::from(MAX_QUEUES) {
            rx[at] = Some(Held::new(self, |lease| &lease.rx[at])?);
            tx[at] = Some(Held::new(self, |lease| &lease.tx[at])?);
        }
        self.set_live(0, 0);
        self.set_suspect();
        self.was_reset.store(false, Ordering::Release);
        if self.present() {
            self.stop();
        }
        self.count_losses(&rx, &tx);
        self.hardware.set_bus_master(false);
        for held in rx.iter_mut().flatten() {
            if let Some(receive) = held.take() {
                // SAFETY: the device is no longer master of the bus, so it reaches no memory at all.
                unsafe { receive.dissolve(&self.hardware) };
                held.say_buffers(0);
            }
        }
        for held in tx.iter_mut().flatten() {
            if let Some(transmit) = held.take() {
                // SAFETY: as above.
                unsafe { transmit.dissolve(&self.hardware) };
                held.say_buffers(0);
            }
        }
        self.reset_device()?;
        self.was_reset.store(true, Ordering::Release);
        self.suspect.store(false, Ordering::Release);
        Ok(())
    }

    /// Counts what is in the rings of a device that has stopped, for the last time.
    fn count_losses(&self, rx: &[Option<Held<H, Receive>>], tx: &[Option<Held<H, Transmit>>]) {
        let rings =
            |at: usize| (rx[at].as_deref().and_then(Option::as_ref), tx[at].as_deref().and_then(Option::as_ref));
        let mut had_rings = false;
        for (at, queue) in (0..MAX_QUEUES).enumerate() {
            let (receive, transmit) = rings(at);
            had_rings |= receive.is_some() || transmit.is_some();
            let received = receive.map_or(0, |ring| ring.waiting(self.hardware.read(RxQueue(queue).head())));
            let unsent = transmit.map_or(0, |ring| ring.unsent(self.hardware.read(TxQueue(queue).head())));
            self.received.fetch_add(u64::from(received), Ordering::Relaxed);
            self.unsent.fetch_add(u64::from(unsent), Ordering::Relaxed);
        }
        self.resets.fetch_add(u64::from(had_rings), Ordering::Relaxed);
    }

    /// Brings RX and TX to an end as far as the device obeys. Its obedience saves packets, nothing depends on it.
    fn stop(&self) {
        let hardware = &self.hardware;
        // SAFETY: this and all writes below mask interrupts, disable the receiver and queues, stop requests: they end memory accesses, start none.
        unsafe {
            hardware.write(EIMC, u32::MAX);
            hardware.write(EIMC_EX[0], u32::MAX);
            hardware.write(EIMC_EX[1], u32::MAX);
            // Receiver: the security block first, or RX DMA can hang (§4.6.7; Linux's ixgbe_enable_rx_dma_82599).
            hardware.write(SECRXCTRL, hardware.read(SECRXCTRL) | SECRXCTRL_RX_DIS);
        }
        self.wait_for(SECRXSTAT, SECRXSTAT_SECRX_RDY, SECRXSTAT_SECRX_RDY, 4_000);
        let queues = 0..MAX_QUEUES;
        let on = |control: u32| hardware.read(control) & QUEUE_ENABLE != 0;
        // What is queued for sending goes out first, for a bounded time (§4.6.8.1).
        for queue in queues.clone().map(TxQueue).filter(|queue| on(queue.control())) {
            let mut patience = 200;
            while patience > 0 && hardware.read(queue.head()) != hardware.read(queue.tail()) {
                hardware.delay_micros(50);
                patience -= 1;
            }
        }
        // SAFETY: see above.
        unsafe { hardware.write(RXCTRL, hardware.read(RXCTRL) & !RXCTRL_RXEN) };
        for control in queues.clone().flat_map(|queue| [RxQueue(queue).control(), TxQueue(queue).control()]) {
            if on(control) {
                // SAFETY: see above.
                unsafe { hardware.write(control, hardware.read(control) & !QUEUE_ENABLE) };
                self.wait_for(control, QUEUE_ENABLE, 0, 10_000);
            }
        }
        // §4.6.7.1: at least 100 µs more before the memory may be freed.
        hardware.delay_micros(200);
        // SAFETY: see above. §5.2.5.3.2, master disable.
        unsafe { hardware.write(CTRL, hardware.read(CTRL) | CTRL_GIO_MASTER_DISABLE) };
        self.wait_for(STATUS, STATUS_GIO_MASTER_ENABLE, 0, 80_000);
    }

    /// Software and link reset (82599 §4.2.1.6, §4.6.3.2).
    fn reset_device(&self) -> Result<(), DeviceError> {
        let hardware = &self.hardware;
        if !self.present() {
            // Nothing to wait for.
            return Err(DeviceError::Vanished);
        }
        // The 82599's link is reset with it; later members leave theirs to the PHY (Linux's ixgbe_reset_hw_X540).
        let reset = if has_link_reset(hardware.identity().device) { CTRL_RST | CTRL_LRST } else { CTRL_RST };
        // SAFETY: a reset ends all activity of the device, and it isn't master of the bus.
        unsafe { hardware.write(CTRL, hardware.read(CTRL) | reset) };
        hardware.delay_micros(1_000);
        if !self.wait_for(CTRL, reset, 0, 500_000) {
            return Err(if self.present() { DeviceError::TimedOut } else { DeviceError::Vanished });
        }
        // §4.6.3.2: at least 10 ms before anything else is touched.
        hardware.delay_micros(10_000);
        // SAFETY: masks interrupts, lets requests out again once the bus admits them, and keeps the device's writes in order.
        unsafe {
            hardware.write(EIMC, u32::MAX);
            hardware.write(CTRL, hardware.read(CTRL) & !CTRL_GIO_MASTER_DISABLE);
            hardware.write(CTRL_EXT, hardware.read(CTRL_EXT) | CTRL_EXT_NS_DIS | CTRL_EXT_RO_DIS);
        }
        Ok(())
    }
}
