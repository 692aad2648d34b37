//! Our side: the 82599's model on shared memory, the driver, the stack and the service as the box has them, on CPU 0 of a rig. The generator's thread is the card's, too.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use bundle::manifest::{Bytes, DeviceMatch, Import, Source};
use model::{NicConfig, Wire};
use rig::{Card, DomainSpec, Rig, Settings, Start, bench::cpu_time, clock};
use serde::Serialize;

use crate::{Service, link::Link};

const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };
const STACK: Start = Start { name: "netstack", package: "netstack", path: "netstack::start" };

/// Frames on their way, both ways.
#[derive(Default)]
pub struct Cable {
    to_box: VecDeque<Vec<u8>>,
    from_box: Vec<Vec<u8>>,
    /// The one that the card is reading.
    current: Vec<u8>,
}

impl Wire for Cable {
    fn send(&mut self, frame: &[u8]) {
        self.from_box.push(frame.to_vec());
    }

    fn receive(&mut self) -> Option<&[u8]> {
        self.current = self.to_box.pop_front()?;
        Some(&self.current)
    }
}

/// A box that runs.
pub struct Appliance {
    card: &'static Card<Cable>,
    /// Of the box's threads.
    clocks: Vec<libc::clockid_t>,
    _rig: Rig,
}

/// The clocks of all threads of this process but the calling one, which is no part of the box.
fn clocks() -> Vec<libc::clockid_t> {
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux shows a process its threads");
    // SAFETY: no arguments, no failure.
    let own = unsafe { libc::gettid() };
    let names = threads.flatten().filter_map(|thread| thread.file_name().to_str()?.parse::<i32>().ok());
    // linux/posix-timers_types.h: the clock of a thread's time on CPUs, by its number.
    names.filter(|thread| *thread != own).map(|thread| !thread << 3 | 2 | 4).collect()
}

/// Where the network stack is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a domain of its own, as in `configs/kv.toml` and `configs/httpd.toml`.
    OwnDomain,
    /// In the service's, as in `configs/kv-library.toml`.
    Library,
}

/// The stack's config, in either place.
pub fn stack_config(service: Service) -> netstack::Config {
    let table = match service {
        Service::Kv => "address = '10.0.1.3/24'",
        Service::Httpd => "address = '10.0.1.3/24'\nsend-buffer = '64KiB'",
    };
    toml::from_str(table).expect("a good table")
}

/// Builds and starts a box with this service, wired as it is in `configs`, but with one CPU. The config has the stack's, if that is in the service's domain.
pub fn start(image: Start, name: &str, config: &impl Serialize, stack: netstack::Config, place: Place) -> Appliance {
    let card = Card::new(0, NicConfig::default(), Cable::default());
    let compiled = |config: &dyn Fn() -> postcard::Result<Vec<u8>>| config().expect("plain data");
    let driver = DomainSpec::new("ixgbe0", IXGBE).export("net", "Net").export("control", "Control").with(|spec| {
        spec.device = Some(DeviceMatch::Id { vendor: 0x8086, device: NicConfig::default().device });
        let (port, interface) = ("device".into(), "IxgbeDevice".into());
        spec.imports.push(Import { port, from: Source::Device, interface });
        spec.config = compiled(&|| postcard::to_allocvec(&ixgbe::Config::default()));
    });
    let stack = DomainSpec::new("stack", STACK)
        .export("stack", "NetStack")
        .export("control", "Control")
        .import("net", "Net", 0, "net")
        .with(|spec| {
            spec.memory = Bytes(96 << 20);
            spec.config = compiled(&|| postcard::to_allocvec(&stack));
        });
    let service = DomainSpec::new(name, image).export("control", "Control").with(|spec| {
        spec.memory = Bytes(224 << 20);
        spec.config = compiled(&|| postcard::to_allocvec(config));
    });
    let mut domains = match place {
        Place::OwnDomain => vec![driver, stack, service.import("stack", "NetStack", 1, "stack")],
        Place::Library => vec![driver, service.import("net", "Net", 0, "net")],
    };
    for domain in &mut domains {
        domain.spec.cpus = vec![0];
        domain.spec.exchange = Bytes(8 << 20);
    }
    let names: Vec<String> = domains.iter().map(|domain| domain.spec.name.clone()).collect();
    let settings = Settings {
        cpus: 1,
        pages: 96 << 10,
        domains,
        functions: vec![card],
        devices: devices::CLASSES,
        packet_buffers: 8192,
        ..Settings::default()
    };
    // The card must work for the driver to start; afterwards it does so in turns.
    let started = AtomicBool::new(false);
    let rig = thread::scope(|scope| {
        scope.spawn(|| {
            while !started.load(SeqCst) {
                look(card);
                thread::yield_now();
            }
        });
        let rig = Rig::start(settings);
        rig.until("the service lives", || names.iter().all(|name| rig.status(name).state == "live"));
        started.store(true, SeqCst);
        rig
    });
    Appliance { card, clocks: clocks(), _rig: rig }
}

fn look(card: &Card<Cable>) {
    card.with(|device| {
        device.nic().set_time(clock());
        device.look();
    });
}

impl Link for Appliance {
    const POLLS: bool = true;

    fn send(&mut self, frames: &mut VecDeque<Vec<u8>>) {
        self.card.with(|device| device.nic().wire_mut().to_box.append(frames));
        look(self.card);
    }

    fn receive(&mut self, into: &mut Vec<Vec<u8>>) {
        self.card.with(|device| {
            device.nic().set_time(clock());
            device.look();
            into.append(&mut device.nic().wire_mut().from_box);
        });
    }

    /// A process's clock would lag behind its running threads, by as much as a tick; a thread's doesn't.
    fn busy(&self) -> u64 {
        self.clocks.iter().map(|clock| cpu_time(*clock)).sum()
    }

    /// The card is no part of what is measured.
    fn receiving(&self) -> u64 {
        0
    }
}
