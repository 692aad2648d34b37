//! A bench for the trusted layer: a packet pool, the model as the device, and a checked bus between them.
//!
//! Bus addresses are addresses of this process. The bus lets the device touch only descriptor rings that are allocated and buffers that are not in the
//! pool, and counts every attempt to touch something else: [`Bench::violations`] must stay 0 whatever a test does.
#![allow(dead_code, reason = "each test file uses its part of the bench")]

mod bus;
mod pool;

use std::{
    collections::VecDeque,
    ptr::NonNull,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use interfaces::{
    device::ixgbe::{DeviceError, Identity, Interrupt},
    packet::{BufferHead, PacketFlags, USUAL_BUFFER},
};
use ixgbe_device::{Device, DmaMemory, Hardware, Lease};
use model::{Interrupts, Nic, NicConfig, Wire};

pub use bus::Bus;
pub use pool::Pool;

/// Queue pairs of the domain under test; there is one vector more.
pub const QUEUES: u16 = 2;

/// The cable's far end is the test.
#[derive(Default)]
pub struct Cable {
    to_nic: VecDeque<Vec<u8>>,
    from_nic: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Wire for Cable {
    fn send(&mut self, frame: &[u8]) {
        self.from_nic.push_back(frame.to_vec());
    }

    fn receive(&mut self) -> Option<&[u8]> {
        self.current = self.to_nic.pop_front()?;
        Some(&self.current)
    }
}

/// Vectors that have fired and whom nobody has waited for.
#[derive(Clone, Default)]
pub struct Messages(Arc<(Mutex<u32>, Condvar)>);

impl Interrupts for Messages {
    fn raise(&mut self, vector: u16) {
        *self.0.0.lock().unwrap() |= 1 << vector;
        self.0.1.notify_all();
    }
}

struct Event {
    messages: Messages,
    vector: u16,
}

impl Interrupt for Event {
    fn wait(&mut self, deadline: u64) -> Result<bool, DeviceError> {
        let (fired, changed) = &*self.messages.0;
        let mut fired = fired.lock().unwrap();
        loop {
            let bit = 1 << self.vector;
            if *fired & bit != 0 {
                *fired &= !bit;
                return Ok(true);
            }
            let left = deadline.saturating_sub((interfaces::abi::kernel().now)());
            if left == 0 {
                return Ok(false);
            }
            fired = changed.wait_timeout(fired, Duration::from_nanos(left)).unwrap().0;
        }
    }
}

pub type Card = Nic<Bus, Cable, Messages>;

/// The machine. Clones are the same one: one is the lease's, one the test's.
#[derive(Clone)]
pub struct Bench {
    nic: Arc<Mutex<Card>>,
    bus: Bus,
    messages: Messages,
    pub pool: &'static Pool,
    identity: Identity,
    began: Instant,
    /// Nanoseconds by which the card's clock is ahead, since nobody really waited for it.
    ahead: Arc<AtomicU64>,
    /// Writes to registers so far.
    writes: Arc<AtomicU64>,
    /// Calls by which buffers were granted and revoked.
    grants: Arc<AtomicU64>,
    revocations: Arc<AtomicU64>,
}

impl Bench {
    /// A bench with an 82599 SFP+ and `buffers` packet buffers. Connects this process to a kernel table whose pool is the bench's.
    pub fn new(buffers: usize) -> Self {
        Self::with_device(NicConfig::default().device, buffers)
    }

    /// The same with another member of the family.
    pub fn with_device(device: u16, buffers: usize) -> Self {
        Bench::with_buffers_of(USUAL_BUFFER, device, buffers)
    }

    /// The same, with an IOMMU by which the card reaches a buffer only while it is granted.
    pub fn strict(buffers: usize) -> Self {
        let bench = Self::new(buffers);
        bench.pool.grant_one_by_one();
        bench
    }

    /// The same with packet buffers that have `bytes` for a frame.
    pub fn with_buffers_of(bytes: u16, device: u16, buffers: usize) -> Self {
        pool::connect();
        let pool = Pool::new(buffers, bytes);
        let (bus, messages) = (Bus::new(pool), Messages::default());
        let config = NicConfig { device, ..NicConfig::default() };
        let identity = Identity { vendor: 0x8086, device: config.device, revision: 1, vectors: QUEUES + 1 };
        let nic = Nic::new(config, bus.clone(), Cable::default(), messages.clone());
        Bench {
            nic: Arc::new(Mutex::new(nic)),
            bus,
            messages,
            pool,
            identity,
            began: Instant::now(),
            ahead: Arc::default(),
            writes: Arc::default(),
            grants: Arc::default(),
            revocations: Arc::default(),
        }
    }

    /// The same with another identity, for what a driver does about it.
    pub fn with_identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    pub fn lease(&self) -> Arc<Lease<Bench>> {
        Lease::new(self.clone())
    }

    pub fn nic(&self) -> MutexGuard<'_, Card> {
        self.nic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A frame on its way to the card, which takes it at the next [`Bench::process`].
    pub fn peer_send(&self, frame: &[u8]) {
        self.nic().wire_mut().to_nic.push_back(frame.to_vec());
    }

    /// The next frame that the card has sent.
    pub fn peer_receive(&self) -> Option<Vec<u8>> {
        self.nic().wire_mut().from_nic.pop_front()
    }

    /// Lets the card take in all that is on the wire.
    pub fn process(&self) {
        let mut nic = self.nic();
        nic.set_time(self.began.elapsed().as_nanos() as u64 + self.ahead.load(SeqCst));
        while nic.process() {}
    }

    /// Memory accesses by the card that no honest trusted layer lets happen.
    pub fn violations(&self) -> usize {
        self.bus.violations()
    }

    pub fn is_bus_master(&self) -> bool {
        self.nic().pci().bus_master()
    }

    pub fn register_writes(&self) -> u64 {
        self.writes.load(SeqCst)
    }

    /// How often buffers were granted, and how often revoked, many at once or few.
    pub fn grants_and_revocations(&self) -> (u64, u64) {
        (self.grants.load(SeqCst), self.revocations.load(SeqCst))
    }

    /// The two words of the descriptor `index` of the ring whose base is at register `base_low`; and overwrites them, as a lying device does.
    pub fn descriptor(&self, base_low: u32, index: u64) -> [u64; 2] {
        let at = self.ring(base_low) + 16 * index;
        [self.bus.word(at), self.bus.word(at + 8)]
    }

    pub fn overwrite(&self, base_low: u32, index: u64, words: [u64; 2]) {
        let at = self.ring(base_low) + 16 * index;
        self.bus.set_word(at, words[0]);
        self.bus.set_word(at + 8, words[1]);
    }

    fn ring(&self, base_low: u32) -> u64 {
        let mut nic = self.nic();
        u64::from(nic.read32(base_low)) | u64::from(nic.read32(base_low + 4)) << 32
    }
}

// SAFETY: rings are allocated by the bus with their alignment and never twice; buffers come from the pool, with their own address as bus address; with
// bus mastering off the model touches nothing (and the bus would refuse it), nor at any time what the pool says it may not.
unsafe impl Hardware for Bench {
    fn identity(&self) -> Identity {
        self.identity
    }

    fn read(&self, offset: u32) -> u32 {
        self.nic().read32(offset)
    }

    unsafe fn write(&self, offset: u32, value: u32) {
        self.writes.fetch_add(1, SeqCst);
        self.nic().write32(offset, value);
    }

    fn set_bus_master(&self, on: bool) {
        // Command register: memory space and bus master (PCI 3.0 §6.2.2).
        self.nic().write_pci(4, &[if on { 0b110 } else { 0b010 }, 0]);
        self.bus.open(on);
    }

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        self.bus.allocate(bytes)
    }

    unsafe fn free(&self, memory: DmaMemory) {
        self.bus.free(memory);
    }

    fn buffer_bytes(&self) -> u16 {
        self.pool.bytes
    }

    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        self.pool.take(into)
    }

    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]) {
        from.iter_mut().filter_map(Option::take).for_each(|head| self.pool.give(head));
    }

    fn grants_buffers(&self) -> bool {
        self.pool.is_strict()
    }

    fn grant_buffers(&self, buffers: &[Option<NonNull<BufferHead>>]) -> bool {
        self.grants.fetch_add(1, SeqCst);
        self.pool.grant(buffers)
    }

    fn revoke_buffers(&self, buffers: &[Option<NonNull<BufferHead>>]) {
        self.revocations.fetch_add(1, SeqCst);
        self.pool.revoke(buffers);
    }

    fn interrupt(&self, vector: u16, _cpu: u16) -> Result<Box<dyn Interrupt>, DeviceError> {
        Ok(Box::new(Event { messages: self.messages.clone(), vector }))
    }

    fn delay_micros(&self, micros: u32) {
        self.ahead.fetch_add(u64::from(micros) * 1_000, SeqCst);
    }
}

/// A frame of `length` bytes to the card's own address from a UDP flow, with `number` at its end.
pub fn frame(flow: u16, number: u32, length: usize) -> Vec<u8> {
    assert!(length >= 60, "the model's wire carries no runts");
    let mut frame = vec![0; length];
    frame[..6].copy_from_slice(&NicConfig::default().mac);
    frame[6..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0x99]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    let ip = &mut frame[14..];
    ip[0] = 0x45;
    let total = (length - 14) as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8..10].copy_from_slice(&[64, 17]);
    ip[12..16].copy_from_slice(&[10, 0, 0, 1]);
    ip[16..20].copy_from_slice(&[10, 0, 1, 100]);
    let sum = ip[..20].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip[20..22].copy_from_slice(&(1024 + flow).to_be_bytes());
    ip[22..24].copy_from_slice(&[0, 53]);
    ip[24..26].copy_from_slice(&(total - 20).to_be_bytes());
    frame[length - 4..].copy_from_slice(&number.to_be_bytes());
    frame
}

/// All sorts of frames, by the checksums that are left to the device: by IPv4 and IPv6, with TCP, UDP and something else.
pub const SORTS: [PacketFlags; 6] = [
    PacketFlags::FILL_IP_CHECKSUM.union(PacketFlags::FILL_TCP_CHECKSUM),
    PacketFlags::FILL_IP_CHECKSUM.union(PacketFlags::FILL_UDP_CHECKSUM),
    PacketFlags::FILL_IP_CHECKSUM,
    PacketFlags::FILL_TCP_CHECKSUM,
    PacketFlags::FILL_UDP_CHECKSUM,
    PacketFlags::empty(),
];

/// A frame of such a sort with `number` at its end: as a client leaves it to the device, and as it is to leave the device.
pub fn unfinished(sort: PacketFlags, number: u32, length: usize) -> (Vec<u8>, Vec<u8>) {
    let mut left = frame(0, number, length);
    if sort.is_empty() {
        return (left.clone(), left);
    }
    let (ipv4, tcp) = (sort.contains(PacketFlags::FILL_IP_CHECKSUM), sort.contains(PacketFlags::FILL_TCP_CHECKSUM));
    let protocol = if tcp { 6 } else { 17 };
    let (addresses, start) = if ipv4 { (26..34, 34) } else { (22..54, 54) };
    if ipv4 {
        left[23] = protocol;
        left[24..26].fill(0);
    } else {
        left[12..15].copy_from_slice(&[0x86, 0xDD, 0x60]);
        (left[18], left[19], left[20]) = (((length - start) >> 8) as u8, (length - start) as u8, protocol);
    }
    let mut filled = left.clone();
    if ipv4 {
        let header = sum(&filled[14..34]);
        filled[24..26].copy_from_slice(&(!header).to_be_bytes());
    }
    if sort != PacketFlags::FILL_IP_CHECKSUM {
        let pseudo = [&left[addresses], &[0, protocol], &((length - start) as u16).to_be_bytes()].concat();
        let at = start + if tcp { 16 } else { 6 };
        left[at..at + 2].fill(0);
        let whole = match !sum(&[&pseudo[..], &left[start..]].concat()) {
            // None, says RFC 768.
            0 if !tcp => 0xFFFF,
            whole => whole,
        };
        left[at..at + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
        filled[at..at + 2].copy_from_slice(&whole.to_be_bytes());
    }
    (left, filled)
}

/// The Internet checksum's sum (RFC 1071), not inverted.
fn sum(bytes: &[u8]) -> u16 {
    let word = |word: &[u8]| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let sum = (sum >> 16) + (sum & 0xFFFF);
    (sum + (sum >> 16)) as u16
}

/// The number at a frame's end.
pub fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(*frame.last_chunk().expect("four bytes"))
}

pub fn device(lease: &Arc<Lease<Bench>>) -> Device<Bench> {
    Device::new(lease)
}
