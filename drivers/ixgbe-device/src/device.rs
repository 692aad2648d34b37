//! The kernel objects that the driver domain calls: the device, its rings' handles.

use alloc::{boxed::Box, sync::Arc};
use core::sync::atomic::{Ordering, fence};

use interfaces::{
    Cap, RRef,
    device::ixgbe::{DeviceError, Identity, Interrupt, IxgbeDevice, LeaseState, Losses, RingCounts, RxRing, TxRing},
    packet::{Batch, trusted},
};

use crate::{
    hardware::Hardware,
    lease::{Held, Lease, MAX_QUEUES},
    receive::Receive,
    registers::{RxQueue, TxQueue},
    transmit::Transmit,
};

/// A domain's access to the lease. All of them are alike; a generation's is dropped with it.
pub struct Device<H: Hardware> {
    lease: Arc<Lease<H>>,
}

impl<H: Hardware> Device<H> {
    pub fn new(lease: &Arc<Lease<H>>) -> Self {
        lease.take_over();
        Device { lease: lease.clone() }
    }
}

impl<H: Hardware> IxgbeDevice for Device<H> {
    fn identity(&self) -> Identity {
        self.lease.hardware.identity()
    }

    fn buffer_bytes(&self) -> u16 {
        self.lease.hardware.buffer_bytes()
    }

    fn read(&self, offset: u32) -> Result<u32, DeviceError> {
        self.lease.read(offset)
    }

    fn write(&self, offset: u32, value: u32) -> Result<(), DeviceError> {
        self.lease.write(offset, value)
    }

    fn lease(&self) -> LeaseState {
        self.lease.state()
    }

    fn set_live(&self, rx_queues: u16, tx_queues: u16) -> Result<(), DeviceError> {
        self.lease.set_live(rx_queues, tx_queues);
        Ok(())
    }

    fn set_suspect(&self) -> Result<(), DeviceError> {
        self.lease.set_suspect();
        Ok(())
    }

    fn reset_lease(&self) -> Result<(), DeviceError> {
        self.lease.reset()
    }

    fn losses(&self) -> Losses {
        self.lease.losses()
    }

    fn rx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn RxRing>, DeviceError> {
        let ring = self.lease.hold_rx(queue, length, vlan)?;
        Ok(Cap::new(Box::new(RxHandle {
            ring,
            queue: RxQueue(queue),
            drained: false,
            opened_at: cycles(),
            received: 0,
        })))
    }

    fn tx_ring(&self, queue: u16, length: u16, vlan: Option<u16>) -> Result<Cap<dyn TxRing>, DeviceError> {
        let ring = self.lease.hold_tx(queue, length, vlan)?;
        Ok(Cap::new(Box::new(TxHandle { ring, queue: TxQueue(queue) })))
    }

    fn queue_interrupt(&self, queue: u16) -> Result<Cap<dyn Interrupt>, DeviceError> {
        // The last vector is for everything else.
        if queue >= MAX_QUEUES || queue + 1 >= self.identity().vectors {
            return Err(DeviceError::NoSuchQueue);
        }
        let interrupt = self.lease.hardware.interrupt(queue, queue)?;
        self.lease.route_queue(queue, queue);
        Ok(Cap::new(interrupt))
    }

    fn misc_interrupt(&self) -> Result<Cap<dyn Interrupt>, DeviceError> {
        let vector = self.identity().vectors.checked_sub(1).ok_or(DeviceError::NoSuchQueue)?;
        let interrupt = self.lease.hardware.interrupt(vector, 0)?;
        self.lease.route_others(vector);
        Ok(Cap::new(interrupt))
    }
}

/// What piled up before somebody began to receive is gone when, some time later, nothing is there: about 1.6 s. (The time is for the device, which may be slow to use descriptors that
/// it has just been given; a thread that has slept through it finds the pile.)
const PILE_CYCLES: u64 = 1 << 32;
/// Under load there is always more; but a driver at 99 % of its speed has received, after so many packets, what a packet buffer holds of the smallest frames. A slower one holds the other
/// queues up no longer.
const PILE_PACKETS: u64 = 1 << 20;

/// The handle of a receive ring.
struct RxHandle<H: Hardware> {
    ring: Held<H, Receive>,
    queue: RxQueue,
    /// What piled up has been received, and somebody goes on receiving: from now on the device is to drop what finds no descriptor, for the other
    /// queues' sake. (Any earlier, and it would drop the pile.)
    drained: bool,
    /// The time-stamp counter when the ring was opened, and what has been received since.
    opened_at: u64,
    received: u64,
}

fn cycles() -> u64 {
    // SAFETY: every x86-64 has it, and it changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl<H: Hardware> RxHandle<H> {
    #[cold]
    fn watch_the_pile(&mut self) {
        let later = cycles().wrapping_sub(self.opened_at) >= PILE_CYCLES;
        if later && !self.ready() || self.received >= PILE_PACKETS {
            self.drained = true;
            // With one queue nobody is kept waiting: the device holds what it can, always.
            let lease = &*self.ring.lease;
            lease.set_drop(self.queue, lease.has_other_queues());
        }
    }
}

impl<H: Hardware> Drop for RxHandle<H> {
    /// Nobody receives any more, for now: frames are to wait for the next generation.
    fn drop(&mut self) {
        if self.drained {
            self.ring.lease.set_drop(self.queue, false);
        }
    }
}

impl<H: Hardware> RxRing for RxHandle<H> {
    fn receive(&mut self, batch: &mut RRef<Batch>, limit: usize) -> Result<usize, DeviceError> {
        let tail = self.queue.tail();
        let Some((ring, lease)) = self.ring.parts() else { return Err(DeviceError::NotReset) };
        // SAFETY: we are the kernel's image; `receive` moves buffers by `push` alone.
        let batch = unsafe { trusted::batch(batch) };
        let moved = ring.receive(&lease.hardware, batch, limit);
        if moved.is_err() {
            lease.set_suspect();
        } else if let Some(end) = ring.refill(&lease.hardware) {
            // The descriptors are in memory before the device hears of them.
            fence(Ordering::Release);
            // SAFETY: the descriptors up to the tail are posted (`Receive`'s invariant).
            unsafe { lease.hardware.write(tail, u32::from(end)) };
        }
        let posted = ring.posted();
        self.ring.say_buffers(posted);
        let moved = moved?;
        if !self.drained {
            self.received += moved as u64;
            self.watch_the_pile();
        }
        Ok(moved)
    }

    fn ready(&self) -> bool {
        self.ring.as_ref().is_some_and(Receive::ready)
    }

    fn counts(&self) -> RingCounts {
        self.ring.as_ref().map_or_else(RingCounts::default, |ring| ring.counts)
    }
}

/// The handle of a transmit ring.
struct TxHandle<H: Hardware> {
    ring: Held<H, Transmit>,
    queue: TxQueue,
}

impl<H: Hardware> TxRing for TxHandle<H> {
    fn send(&mut self, batch: &mut RRef<Batch>) -> Result<usize, DeviceError> {
        let tail = self.queue.tail();
        let Some((ring, lease)) = self.ring.parts() else { return Err(DeviceError::NotReset) };
        ring.reclaim(&lease.hardware);
        // SAFETY: we are the kernel's image; `send` moves buffers by `take` alone.
        let (taken, end) = ring.send(&lease.hardware, unsafe { trusted::batch(batch) });
        if let Some(end) = end {
            // SAFETY: the descriptors up to the tail name buffers in the ring (`Transmit`'s invariant).
            unsafe { lease.hardware.write(tail, u32::from(end)) };
        }
        let in_flight = ring.in_flight();
        self.ring.say_buffers(in_flight);
        Ok(taken)
    }

    fn reclaim(&mut self) -> Result<usize, DeviceError> {
        let Some((ring, lease)) = self.ring.parts() else { return Err(DeviceError::NotReset) };
        ring.reclaim(&lease.hardware);
        let in_flight = ring.in_flight();
        self.ring.say_buffers(in_flight);
        Ok(in_flight)
    }

    fn counts(&self) -> RingCounts {
        self.ring.as_ref().map_or_else(RingCounts::default, |ring| ring.counts)
    }
}
