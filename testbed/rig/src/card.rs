//! A network card in the rig: the 82599 model behind a shared BAR, as a PCI function of the machine.
//!
//! A thread of the rig's looks at the BAR for it ([`Card::serve`]); a test or bench that wants to decide when the device works pauses that thread, and looks itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::SeqCst},
    },
    thread,
};

use kernel_core::{
    interrupt::Vector,
    platform::{Bar, DmaMemory, PciFunction, PciIdentity},
};
use model::{
    Interrupts, Nic, NicConfig, Wire,
    registers::{BAR_SIZE, VECTORS},
    shared_memory::{Poller, SharedBar},
};

use crate::{
    dma::{self, Reach},
    machine::clock,
};

/// The vectors that drivers have attached.
#[derive(Clone)]
pub struct Messages(Arc<[AtomicPtr<Vector>]>);

impl Interrupts for Messages {
    fn raise(&mut self, vector: u16) {
        // SAFETY: null, or the `'static` vector that `attach` was given.
        if let Some(vector) = self.0.get(usize::from(vector)).and_then(|place| unsafe { place.load(SeqCst).as_ref() }) {
            vector.fire();
        }
    }
}

pub type Device<W> = Poller<Reach, W, Messages>;

pub struct Card<W: Wire + Send> {
    identity: PciIdentity,
    device: Mutex<Device<W>>,
    bar: Bar,
    messages: Messages,
    /// Others who want the device: the serving thread lets them.
    wanted: AtomicU32,
    paused: AtomicBool,
}

impl<W: Wire + Send + 'static> Card<W> {
    /// A card in slot `slot` of the bus, or that of its functions which the configuration's port says, with `wire` as its cable. It lives as long as the process.
    pub fn new(slot: u8, config: NicConfig, wire: W) -> &'static Card<W> {
        Self::behind(SharedBar::anonymous().expect("memory for a BAR"), slot, config, wire)
    }

    /// The same behind a BAR that somebody else maps too.
    pub fn behind(bar: SharedBar, slot: u8, config: NicConfig, wire: W) -> &'static Card<W> {
        let messages = Messages((0..VECTORS).map(|_| AtomicPtr::default()).collect());
        let identity = PciIdentity {
            segment: 0,
            bus: 1,
            device: slot,
            function: config.port,
            vendor_id: 0x8086,
            device_id: config.device,
            revision: 1,
            class: 0x02_0000,
        };
        let shown = Bar { address: bar.address(), len: BAR_SIZE as usize };
        let nic = Nic::new(config, Reach::default(), wire, messages.clone());
        Box::leak(Box::new(Card {
            identity,
            device: Mutex::new(Poller::new(nic, bar)),
            bar: shown,
            messages,
            wanted: AtomicU32::new(0),
            paused: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Device<W>> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, which does nothing meanwhile.
    pub fn with<R>(&self, work: impl FnOnce(&mut Device<W>) -> R) -> R {
        self.wanted.fetch_add(1, SeqCst);
        let result = work(&mut self.lock());
        self.wanted.fetch_sub(1, SeqCst);
        result
    }

    /// Has a thread look at the registers for ever, by the rig's clock if `clocked`, else by the clock that others set.
    pub fn serve(&'static self, clocked: bool) {
        thread::spawn(move || {
            loop {
                if self.wanted.load(SeqCst) > 0 || self.paused.load(SeqCst) {
                    thread::yield_now();
                    continue;
                }
                let mut device = self.lock();
                if clocked {
                    device.nic().set_time(clock());
                }
                let more = device.look();
                drop(device);
                if !more {
                    // Two CPUs are few: whoever drives the device must not wait for whoever looks at it.
                    thread::yield_now();
                }
            }
        });
    }

    /// Stops the serving thread, or lets it go on.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, SeqCst);
        // Whoever was looking has finished.
        drop(self.lock());
    }
}

impl<W: Wire + Send + 'static> PciFunction for Card<W> {
    fn identity(&self) -> PciIdentity {
        self.identity
    }

    fn config_read(&self, offset: u16) -> u32 {
        let mut bytes = [0; 4];
        self.with(|device| device.nic().pci().read(usize::from(offset), &mut bytes));
        u32::from_le_bytes(bytes)
    }

    fn config_write(&self, offset: u16, value: u32) {
        self.with(|device| device.nic().write_pci(usize::from(offset), &value.to_le_bytes()));
    }

    fn bar(&self, index: u8) -> Option<Bar> {
        (index == 0).then_some(self.bar)
    }

    fn set_bus_master(&self, on: bool) {
        let command = self.config_read(4) & 0xFFFF & !4 | 2;
        self.config_write(4, command | u32::from(on) << 2);
    }

    fn grant(&self, memory: &[DmaMemory]) -> bool {
        dma::grant(memory);
        true
    }

    fn revoke(&self, memory: &[DmaMemory]) {
        if dma::revoke(memory) {
            // What was under way ends before the device is ours.
            self.with(|_| ());
        }
    }

    fn vectors(&self) -> u16 {
        VECTORS as u16
    }

    fn attach(&self, index: u16, _cpu: usize, vector: &'static Vector) -> bool {
        let place = self.messages.0.get(usize::from(index));
        place.map(|place| place.store(std::ptr::from_ref(vector).cast_mut(), SeqCst)).is_some()
    }

    fn detach(&self, index: u16) {
        if let Some(place) = self.messages.0.get(usize::from(index)) {
            place.store(std::ptr::null_mut(), SeqCst);
        }
    }
}
