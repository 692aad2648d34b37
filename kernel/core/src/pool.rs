//! Memory that several devices share: what the packet pool and the block pool are made of. A device that is opened to a pool reaches all of it, also
//! what the pool grows by later; or, where pieces are granted one by one, none of it by that alone.

use alloc::vec::Vec;

use crate::{
    lock::Lock,
    platform::{DmaMemory, PciFunction},
};

pub(crate) struct Pool(Lock<Shared>);

impl Pool {
    pub(crate) const fn new() -> Self {
        Pool(Lock::new(Shared { runs: Vec::new(), devices: Vec::new(), one_by_one: false }))
    }

    /// From now on a device that is opened to the pool has room for all of it, and reaches what it is granted besides. Called before there is any.
    pub(crate) fn grant_one_by_one(&self) {
        self.0.lock().one_by_one = true;
    }

    /// Adds memory, for good. False: a device can't be let to it, and no device reaches it.
    pub(crate) fn add(&self, run: DmaMemory) -> bool {
        self.0.lock().add(run)
    }

    /// Lets a device to all of the pool; again for one that has it already is nothing new. False: it can't be, and reaches nothing of it.
    pub(crate) fn open_to(&self, device: &'static dyn PciFunction) -> bool {
        self.0.lock().open_to(device)
    }
}

struct Shared {
    runs: Vec<DmaMemory>,
    devices: Vec<&'static dyn PciFunction>,
    one_by_one: bool,
}

impl Shared {
    fn let_to(&self, device: &dyn PciFunction, runs: &[DmaMemory]) -> bool {
        if self.one_by_one { device.reserve(runs) } else { device.grant(runs) }
    }

    fn add(&mut self, run: DmaMemory) -> bool {
        let runs = &[run];
        let granted = self.devices.iter().take_while(|device| self.let_to(**device, runs)).count();
        if granted < self.devices.len() {
            self.devices[..granted].iter().for_each(|device| device.revoke(runs));
            return false;
        }
        self.runs.push(run);
        true
    }

    fn open_to(&mut self, device: &'static dyn PciFunction) -> bool {
        if self.devices.iter().any(|known| known.identity() == device.identity()) {
            return true;
        }
        let is_let = self.let_to(device, &self.runs);
        if is_let {
            self.devices.push(device);
        }
        is_let
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        interrupt::Vector,
        platform::{Bar, PciIdentity},
    };
    use core::ptr::NonNull;
    use std::{boxed::Box, sync::Mutex, vec};

    /// A device before which an IOMMU stands that has room for so many runs.
    struct Confined {
        number: u8,
        room: usize,
        reached: Mutex<Vec<u64>>,
    }

    impl PciFunction for Confined {
        fn identity(&self) -> PciIdentity {
            PciIdentity {
                segment: 0,
                bus: self.number,
                device: 0,
                function: 0,
                vendor_id: 1,
                device_id: 1,
                revision: 0,
                class: 0,
            }
        }
        fn config_read(&self, _: u16) -> u32 {
            0
        }
        fn config_write(&self, _: u16, _: u32) {}
        fn bar(&self, _: u8) -> Option<Bar> {
            None
        }
        fn set_bus_master(&self, _: bool) {}
        fn grant(&self, memory: &[DmaMemory]) -> bool {
            let fits = self.reserve(memory);
            if fits {
                self.reached.lock().unwrap().extend(memory.iter().map(|run| run.bus));
            }
            fits
        }
        fn revoke(&self, memory: &[DmaMemory]) {
            self.reached.lock().unwrap().retain(|bus| memory.iter().all(|run| run.bus != *bus));
        }
        fn reserve(&self, memory: &[DmaMemory]) -> bool {
            self.reached.lock().unwrap().len() + memory.len() <= self.room
        }
        fn vectors(&self) -> u16 {
            0
        }
        fn attach(&self, _: u16, _: usize, _: &'static Vector) -> bool {
            false
        }
        fn detach(&self, _: u16) {}
    }

    fn device(number: u8, room: usize) -> &'static Confined {
        Box::leak(Box::new(Confined { number, room, reached: Mutex::default() }))
    }

    fn run(bus: u64) -> DmaMemory {
        DmaMemory { address: NonNull::dangling(), bus, pages: 1 }
    }

    /// Every device of a pool reaches all of it, whichever came first; one that can't have all has nothing, and a run that one can't have nobody has.
    #[test]
    fn all_or_nothing() {
        let mut pool = Shared { runs: vec![], devices: vec![], one_by_one: false };
        let (wide, narrow, late) = (device(1, 9), device(2, 2), device(3, 9));
        assert!(pool.add(run(10)) && pool.open_to(wide) && pool.open_to(wide) && pool.open_to(narrow));
        assert!(pool.add(run(20)));
        assert!(!pool.add(run(30)), "the narrow one has no room for it");
        assert!(pool.open_to(late));
        let reached = |device: &Confined| device.reached.lock().unwrap().clone();
        assert_eq!([wide, narrow, late].map(reached), [(); 3].map(|()| vec![10, 20]));
        assert!(!pool.open_to(device(4, 1)));
        assert!(pool.open_to(device(4, 2)), "it has nothing yet, so it may try again");
    }

    /// Where pieces are granted one by one, being let to a pool puts nothing within a device's reach, and what has no room for all of it isn't let to it.
    #[test]
    fn room_is_not_reach() {
        let mut pool = Shared { runs: vec![run(10), run(20)], devices: vec![], one_by_one: true };
        let (wide, narrow) = (device(1, 9), device(2, 1));
        assert!(pool.open_to(wide) && !pool.open_to(narrow) && pool.add(run(30)));
        assert!(wide.reached.lock().unwrap().is_empty() && narrow.reached.lock().unwrap().is_empty());
    }
}
