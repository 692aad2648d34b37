//! What the trusted layer costs per packet, natively, without a device: this bench plays an infinitely fast one, which writes back at once whatever is
//! posted. `cargo bench -p ixgbe-device`; cycles are of the time-stamp counter.

use std::{
    alloc::{Layout, alloc_zeroed},
    arch::x86_64::_rdtsc,
    cell::{Cell, UnsafeCell},
    ptr::NonNull,
    sync::Arc,
};

use interfaces::{
    Cap,
    abi::KernelTable,
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice, RxRing, TxRing},
    packet::{Batch, BufferHead, HEADROOM, PacketFlags, USUAL_BUFFER, trusted},
};
use ixgbe_device::{Device, DmaMemory, Hardware, Lease};

const RING: u16 = 512;
const BUFFERS: usize = 4096;
const ROUNDS: usize = 2001;
const BATCHES: usize = 100;

/// A register file without effects, and a free list without a lock.
struct Instant {
    registers: UnsafeCell<Vec<u32>>,
    free: UnsafeCell<Vec<NonNull<BufferHead>>>,
    rings: UnsafeCell<Vec<DmaMemory>>,
}

// SAFETY: the bench has one thread.
unsafe impl Send for Instant {}
// SAFETY: as above.
unsafe impl Sync for Instant {}

#[derive(Clone)]
struct Fast(Arc<Instant>);

impl Fast {
    fn new() -> Self {
        let stride = size_of::<BufferHead>() + HEADROOM + usize::from(USUAL_BUFFER);
        // SAFETY: the size isn't 0.
        let memory = unsafe { alloc_zeroed(Layout::from_size_align(stride * BUFFERS, 4096).unwrap()) };
        let buffer = |index: usize| {
            // SAFETY: inside the allocation.
            let head = unsafe { memory.add(index * stride) }.cast::<BufferHead>();
            // SAFETY: as above, aligned since the stride is a multiple of the head's alignment.
            unsafe { head.write(BufferHead { bus: head.addr() as u64 + 64, index: index as u32 }) };
            NonNull::new(head).unwrap()
        };
        Fast(Arc::new(Instant {
            registers: UnsafeCell::new(vec![0; 0x2_0000 / 4]),
            free: UnsafeCell::new((0..BUFFERS).map(buffer).collect()),
            rings: UnsafeCell::default(),
        }))
    }

    /// Writes back descriptors `from..from + count` of a ring as the device would.
    fn write_back(&self, ring: usize, from: usize, count: usize, first: u64, second: u64) {
        // SAFETY: one thread, and the ring is never freed.
        let base = unsafe { (&*self.0.rings.get())[ring] }.address.cast::<u64>();
        for at in from..from + count {
            let at = 2 * (at % usize::from(RING));
            // SAFETY: inside the ring.
            unsafe { base.add(at).write_volatile(first) };
            // SAFETY: as above.
            unsafe { base.add(at + 1).write_volatile(second) };
        }
    }
}

// SAFETY: memory and buffers are real and never freed; there is no device.
unsafe impl Hardware for Fast {
    fn identity(&self) -> Identity {
        Identity { vendor: 0x8086, device: 0x10FB, revision: 1, vectors: 0 }
    }

    fn read(&self, offset: u32) -> u32 {
        // SAFETY: one thread.
        let value = unsafe { (&*self.0.registers.get())[offset as usize / 4] };
        // CTRL's reset bits clear themselves; RX security is always ready.
        if offset == 0 {
            0
        } else if offset == 0x8D04 {
            1
        } else {
            value
        }
    }

    unsafe fn write(&self, offset: u32, value: u32) {
        // SAFETY: one thread. Volatile, as the real one is.
        unsafe { (&raw mut (&mut *self.0.registers.get())[offset as usize / 4]).write_volatile(value) };
    }

    fn set_bus_master(&self, _: bool) {}

    fn allocate(&self, bytes: usize) -> Option<DmaMemory> {
        // SAFETY: the size isn't 0.
        let address = NonNull::new(unsafe { alloc_zeroed(Layout::from_size_align(bytes, 4096).ok()?) })?;
        let memory = DmaMemory { address, bus: address.as_ptr().addr() as u64, bytes };
        // SAFETY: one thread.
        unsafe { &mut *self.0.rings.get() }.push(memory);
        Some(memory)
    }

    unsafe fn free(&self, _: DmaMemory) {}

    fn buffer_bytes(&self) -> u16 {
        USUAL_BUFFER
    }

    fn take_buffers(&self, into: &mut [Option<NonNull<BufferHead>>]) -> usize {
        // SAFETY: one thread.
        let free = unsafe { &mut *self.0.free.get() };
        let count = into.len().min(free.len());
        for (place, head) in into.iter_mut().zip(free.drain(free.len() - count..)) {
            *place = Some(head);
        }
        count
    }

    unsafe fn give_buffers(&self, from: &mut [Option<NonNull<BufferHead>>]) {
        // SAFETY: one thread.
        unsafe { &mut *self.0.free.get() }.extend(from.iter_mut().filter_map(Option::take));
    }

    fn interrupt(&self, _: u16, _: u16) -> Result<Box<dyn Interrupt>, DeviceError> {
        Err(DeviceError::NoSuchQueue)
    }

    fn delay_micros(&self, _: u32) {}
}

thread_local! {
    static FAST: Cell<Option<&'static Fast>> = const { Cell::new(None) };
}

unsafe extern "C" fn packets_release(batch: *mut Batch, mask: u32) {
    // SAFETY: the caller's batch.
    unsafe {
        trusted::take(&mut *batch, mask, |head, _, _, _| {
            FAST.get().unwrap().give_buffers(&mut [Some(head)]);
            true
        });
    }
}

fn cycles() -> u64 {
    // SAFETY: reads a counter.
    unsafe { _rdtsc() }
}

/// Median cycles per packet of `work`, which does one batch of `packets`.
fn measure(name: &str, packets: usize, mut work: impl FnMut()) {
    let mut samples: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let before = cycles();
            (0..BATCHES).for_each(|_| work());
            cycles() - before
        })
        .collect();
    samples.sort_unstable();
    let per_packet = samples[ROUNDS / 2] as f64 / (BATCHES * packets) as f64;
    println!("{name:<44} batch {packets:>2}  {per_packet:>6.1} cycles a packet");
}

fn main() {
    static TABLE: KernelTable = KernelTable { packets_release, ..interfaces::host::table() };
    // SAFETY: a static that keeps to `KernelTable`'s documentation.
    unsafe { interfaces::abi::connect(&TABLE) };
    let fast: &'static Fast = Box::leak(Box::new(Fast::new()));
    FAST.set(Some(fast));
    let device = Device::new(&Lease::new(fast.clone()));
    device.reset_lease().expect("the register file obeys");
    let (mut rx, mut tx): (Cap<dyn RxRing>, Cap<dyn TxRing>) =
        (device.rx_ring(0, RING, None).unwrap(), device.tx_ring(0, RING, None).unwrap());
    let mut batch = Batch::allocate().unwrap();
    for _ in 0..32 {
        // The pile is gone (device.rs): from here on no SRRCTL write is due.
        rx.receive(&mut batch, 32).unwrap();
    }
    const RECEIVED: u64 = 60 << 32 | 0b110_0011;
    const SENT: u64 = 1 << 32;
    let (mut received, mut sent) = (0, 0);
    for packets in [1, 8, 32] {
        measure("device's part: writing back, both rings", packets, || {
            fast.write_back(0, received, 0, 0, 0);
            std::hint::black_box(&fast);
        });
        measure("receive and drop", packets, || {
            fast.write_back(0, received, packets, 1, RECEIVED);
            received += packets;
            assert_eq!(rx.receive(&mut batch, packets), Ok(packets));
            batch.clear();
        });
        measure("receive and send (forward)", packets, || {
            fast.write_back(0, received, packets, 1, RECEIVED);
            received += packets;
            assert_eq!(rx.receive(&mut batch, packets), Ok(packets));
            assert_eq!(tx.send(&mut batch), Ok(packets));
            sent += packets;
            fast.write_back(1, sent - 1, 1, 0, SENT);
        });
    }
    measure("empty poll", 1, || assert_eq!(rx.receive(&mut batch, 32), Ok(0)));
    // Keeps the types of the frame's flags honest: what was written back reads as checked and good.
    fast.write_back(0, received, 1, 1, RECEIVED);
    rx.receive(&mut batch, 1).unwrap();
    assert!(batch.packets()[0].flags.contains(PacketFlags::HASHED | PacketFlags::IP_CHECKSUM_GOOD));
}
