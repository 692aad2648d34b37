//! What all parts of the driver share: the device, what it is, and the state of its link.

use alloc::{format, string::String};
use core::sync::atomic::{AtomicU32, Ordering};

use interfaces::{
    Port,
    config::Configuration,
    device::ixgbe::{DeviceError, IxgbeDevice, LeaseState},
    net::{Link, MacAddress},
};
use runtime::{env::StartError, thread::sleep_until, time::now};

use crate::{
    config::{Config, HEADER},
    family::Variant,
    initialise, link,
    registers::*,
    statistics::Statistics,
};

/// Queue pairs that RSS can spread to (82599 §7.1.2.8).
const MAX_QUEUES: usize = 16;
/// How long the rings of the generation before may take to be closed.
const HANDOVER_LIMIT: u64 = 200_000_000;

pub struct Card {
    pub device: Port<dyn IxgbeDevice>,
    pub variant: &'static Variant,
    pub config: Config,
    pub mac: MacAddress,
    pub queues: u16,
    /// Whether there is an MSI-X vector for each queue and one for the rest.
    pub interrupts: bool,
    /// Mb/s; 0 while it is down.
    link: AtomicU32,
    pub statistics: Statistics,
}

impl Card {
    /// Finds out what the device is, then adopts or initialises it.
    pub fn take_charge(device: Port<dyn IxgbeDevice>, config: &Config, cpus: usize) -> Result<Self, StartError> {
        let identity = device.identity();
        let variant =
            Variant::find(identity.vendor, identity.device).ok_or_else(|| unknown(identity.vendor, identity.device))?;
        fits(config, device.buffer_bytes())?;
        let queues = if config.rss { cpus.clamp(1, MAX_QUEUES) as u16 } else { 1 };
        let interrupts = identity.vectors > queues;
        let state = device.lease();
        let adopted = state == LeaseState::Live { rx_queues: queues, tx_queues: queues };
        if adopted {
            log::info!("{}: adopting {queues} live queue pairs", variant.name);
        } else {
            let before = device.losses();
            reset(device).map_err(|error| failed("reset", error))?;
            if state != LeaseState::Fresh {
                let after = device.losses();
                let (received, unsent) = (after.received - before.received, after.unsent - before.unsent);
                log::warn!(
                    "{}: was {state:?}, has been reset: {received} received frames lost, {unsent} not sent",
                    variant.name
                );
            }
            initialise::initialise(device, variant, config, queues).map_err(|error| failed("initialisation", error))?;
            device.set_live(queues, queues).map_err(|error| failed("initialisation", error))?;
        }
        let mac = initialise::address(device).map_err(|error| failed("reading the address", error))?;
        let card = Card {
            device,
            variant,
            config: config.clone(),
            mac,
            queues,
            interrupts,
            link: AtomicU32::new(0),
            statistics: Statistics::new(queues),
        };
        card.read_link().map_err(|error| failed("reading the link", error))?;
        log::info!("{}: {}, {queues} queue pairs, link {}", variant.name, Shown(mac), card.link_words());
        Ok(card)
    }

    /// The link as it was last read.
    pub fn link(&self) -> Link {
        match self.link.load(Ordering::Relaxed) {
            0 => Link::Down,
            mbps => Link::Up { mbps },
        }
    }

    /// Reads the link's state; true if it has changed.
    pub fn read_link(&self) -> Result<bool, DeviceError> {
        let mbps = match link::decode(self.device.read(LINKS)?, self.variant.mac) {
            Link::Down => 0,
            Link::Up { mbps } => mbps,
        };
        Ok(self.link.swap(mbps, Ordering::Relaxed) != mbps)
    }

    /// Whether the device has used descriptors of a receive ring whose packets nobody has taken. (All places of a ring but one are posted, so its tail tells what has been taken; but not
    /// while the pool is short of buffers, which is counted.)
    pub fn is_ahead(&self, queue: u16) -> Result<bool, DeviceError> {
        let next = self.device.read(rdt(queue))?.wrapping_add(1) % u32::from(self.config.rx_ring);
        Ok(self.device.read(rdh(queue))? != next)
    }

    pub fn link_words(&self) -> String {
        match self.link() {
            Link::Down => "down".into(),
            Link::Up { mbps } => format!("up, {mbps} Mb/s"),
        }
    }

    /// The longest frame, without tag and check sequence.
    pub fn max_frame(&self) -> u16 {
        self.config.mtu + HEADER
    }

    /// The device is not to be trusted any more: the next generation resets it.
    pub fn give_up(&self, what: &str, why: DeviceError) -> ! {
        // If even that can't be said, the lease knows: what it refuses is what it has seen itself.
        let _ = self.device.set_suspect();
        panic!("{what}: {why}")
    }
}

/// A MAC address as people write it.
pub struct Shown(pub MacAddress);

impl core::fmt::Display for Shown {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Resets the device, as soon as the handles of the generation before are closed.
fn reset(device: Port<dyn IxgbeDevice>) -> Result<(), DeviceError> {
    let limit = now() + HANDOVER_LIMIT;
    loop {
        match device.reset_lease() {
            Err(DeviceError::Busy) if now() < limit => pause(1_000_000)?,
            result => return result,
        }
    }
}

/// Sleeps for `nanos`.
pub fn pause(nanos: u64) -> Result<(), DeviceError> {
    sleep_until(now() + nanos).map_err(|_| DeviceError::Call(interfaces::CallError::Cancelled))
}

/// A builder makes a box's buffers as large as its drivers want them; a device of whose frames some are dropped unheard isn't taken into service.
fn fits(config: &Config, buffer: u16) -> Result<(), StartError> {
    let longest = config.longest_frame();
    if longest <= buffer {
        return Ok(());
    }
    let mtu = config.mtu;
    Err(StartError(format!(
        "frames of mtu = {mtu} have up to {longest} bytes, and the box's packet buffers room for {buffer}: build its image anew"
    )))
}

fn failed(step: &str, error: DeviceError) -> StartError {
    StartError(format!("{step} failed: {error}"))
}

fn unknown(vendor: u16, device: u16) -> StartError {
    let known: alloc::vec::Vec<String> =
        crate::VARIANTS.iter().map(|variant| format!("8086:{:04x} ({})", variant.device, variant.name)).collect();
    StartError(format!("{vendor:04x}:{device:04x} is no device of this driver, which knows {}", known.join(", ")))
}
