//! A box in this process, and what a test wants to do with it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::{Duration, Instant},
};

use bundle::{
    Hash, Trust,
    format::{HEADER_BYTES, PAGE, RECORD_BYTES},
    manifest::{
        Bytes, Console, Domain, Export, Import, Iommu, Machine as MachineSpec, Manifest, Nanos, PanicAction, Restart,
        RestartPolicy, SCHEMA, Source,
    },
    write::{ImageSource, SigningKey, bundle},
};
use interfaces::{Interface, Port, packet::buffer_for};
use kernel_core::{
    boot::{Boot, boot},
    capability,
    device::DeviceClass,
    domain::{self, Status},
    exchange, packets,
    platform::PciFunction,
    supervisor::{self, Command},
    thread::{self, ThreadBlock},
};

use crate::{
    images::{self, Start},
    machine::Machine,
    signals, threads,
};

/// One domain of a rig's manifest.
pub struct DomainSpec {
    pub spec: Domain,
    pub image: Start,
}

impl DomainSpec {
    /// A domain with generous quotas that is restarted at once, however often it crashes.
    pub fn new(name: &str, image: Start) -> Self {
        DomainSpec {
            spec: Domain {
                name: name.into(),
                image: 0,
                device: None,
                memory: Bytes(16 << 20),
                exchange: Bytes(1 << 20),
                threads: 16,
                handles: 256,
                packet_buffers: u32::MAX,
                cpus: vec![0, 1],
                watchdog: Nanos(0),
                start_timeout: Nanos(0),
                min_stack: Bytes(32 << 10),
                restart: Restart {
                    policy: RestartPolicy::OnFailure,
                    delay: Nanos(0),
                    max_delay: Nanos(0),
                    limit_burst: u32::MAX,
                    limit_interval: Nanos(1_000_000_000),
                },
                imports: vec![],
                exports: vec![],
                config: vec![],
            },
            image,
        }
    }

    pub fn export(mut self, port: &str, interface: &str) -> Self {
        self.spec.exports.push(Export { port: port.into(), interface: interface.into() });
        self
    }

    /// Wires an import to a domain that stands earlier, by its place.
    pub fn import(mut self, port: &str, interface: &str, from: u32, from_port: &str) -> Self {
        let from = Source::Domain { index: from, port: from_port.into() };
        self.spec.imports.push(Import { port: port.into(), from, interface: interface.into() });
        self
    }

    /// Changes the manifest's entry.
    pub fn with(mut self, change: impl FnOnce(&mut Domain)) -> Self {
        change(&mut self.spec);
        self
    }
}

/// What may happen to an image between its linker and the kernel.
#[derive(Clone, Copy)]
pub enum Damage {
    /// A byte in its middle changes after it was signed.
    Altered,
    /// It is signed by another key.
    ForeignKey,
    /// It was compiled for another ABI.
    OtherCompiler,
    /// What was signed is not what a linker makes.
    Malformed(fn(&mut Vec<u8>)),
}

/// What a rig is made of.
pub struct Settings {
    pub cpus: usize,
    /// The machine's memory.
    pub pages: usize,
    pub packet_buffers: u32,
    /// The longest that a packet buffer is to hold.
    pub longest_frame: u16,
    /// The machine has an IOMMU if the manifest insists on one.
    pub iommu: Iommu,
    pub domains: Vec<DomainSpec>,
    /// What has happened to which image, by its name.
    pub damage: Vec<(&'static str, Damage)>,
    pub functions: Vec<&'static dyn PciFunction>,
    pub devices: &'static [&'static dyn DeviceClass],
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cpus: 2,
            pages: 64 << 10,
            packet_buffers: 256,
            longest_frame: 0,
            iommu: Iommu::Use,
            domains: vec![],
            damage: vec![],
            functions: vec![],
            devices: &[],
        }
    }
}

/// The image of a probe with no other behind it, and of one that has.
pub const PROBE: Start = Start { name: "probe", package: "probe", path: "probe::start" };
pub const RELAY: Start = Start { name: "relay", package: "relay", path: "relay::start" };

impl Settings {
    /// Three probes, `a` → `b` → `c`, each changed by `change`.
    pub fn chain(change: impl Fn(&mut Domain)) -> Settings {
        let probe = |name: &str, image| DomainSpec::new(name, image).export("probe", "Probe").with(&change);
        let domains = vec![
            probe("c", PROBE),
            probe("b", RELAY).import("next", "Probe", 0, "probe"),
            probe("a", RELAY).import("next", "Probe", 1, "probe"),
        ];
        Settings { domains, ..Settings::default() }
    }
}

/// What there is in the box, for "as it was before".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Pages of the machine, without the slabs of the exchange heap, which stay.
    pub pages: usize,
    pub domains: Vec<DomainCounts>,
    /// Packet buffers that are free, or in devices' rings.
    pub buffers: usize,
    /// Handles in the box.
    pub handles: usize,
}

/// What a domain has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainCounts {
    pub name: String,
    pub state: &'static str,
    /// Private heap, image, stacks.
    pub pages: usize,
    pub threads: usize,
    /// Objects on the exchange heap, their bytes, and the packet buffers in them.
    pub objects: usize,
    pub bytes: i64,
    pub buffers: usize,
    /// Handles that it holds.
    pub handles: usize,
}

/// After so long what hasn't come is taken for what doesn't come. It measures nothing: however busy the machine is, a test that passes ends before.
const PATIENCE: Duration = Duration::from_secs(120);

/// The box of this process.
pub struct Rig {
    pub machine: &'static Machine,
    /// The ELF of each domain's image.
    images: BTreeMap<String, Arc<[u8]>>,
    turn: Mutex<()>,
}

impl Rig {
    /// Builds the images, boots, and waits until all domains have been started. Once per process.
    pub fn start(settings: Settings) -> Rig {
        let rig = Rig::boot(settings);
        rig.until("the domains are started", || supervisor::booted_at().is_some());
        rig
    }

    /// The same, without waiting.
    pub fn boot(settings: Settings) -> Rig {
        let Settings { cpus, pages, packet_buffers, longest_frame, iommu, mut domains, damage, functions, devices } =
            settings;
        let mut starts: Vec<Start> = Vec::new();
        for domain in &mut domains {
            let place = starts.iter().position(|start| *start == domain.image);
            domain.spec.image = place.unwrap_or(starts.len()) as u32;
            if place.is_none() {
                starts.push(domain.image);
            }
        }
        let mut elves = images::build(&starts);
        let shared: Vec<Arc<[u8]>> = elves.iter().map(|elf| elf.as_slice().into()).collect();
        let image = |domain: &DomainSpec| (domain.spec.name.clone(), shared[domain.spec.image as usize].clone());
        let images = domains.iter().map(image).collect();
        let (abi, build) = (Hash::of(b"abi of the rig"), Hash::of(b"build"));
        let damage_of =
            |start: &Start| damage.iter().find(|(image, _)| *image == start.name).map(|(_, damage)| *damage);
        for (start, elf) in starts.iter().zip(&mut elves) {
            if let Some(Damage::Malformed(spoil)) = damage_of(start) {
                spoil(elf);
            }
        }
        let sources: Vec<ImageSource<'_>> = starts
            .iter()
            .zip(&elves)
            .map(|(start, elf)| {
                let other = matches!(damage_of(start), Some(Damage::OtherCompiler));
                let abi = if other { Hash::of(b"another compiler's abi") } else { abi };
                ImageSource { name: start.name, elf, abi, build }
            })
            .collect();
        let manifest = Manifest {
            schema: SCHEMA,
            name: "rig".into(),
            machine: MachineSpec {
                memory: Bytes(pages as u64 * 4096),
                cpus: cpus as u32,
                packet_buffers,
                packet_bytes: buffer_for(longest_frame),
                on_panic: PanicAction::Halt,
                iommu,
            },
            console: Console { fault_injection: true, feed: true },
            images: sources.iter().map(ImageSource::reference).collect(),
            domains: domains.into_iter().map(|domain| domain.spec).collect(),
        };
        let key = SigningKey::from_seed([7; 32]);
        let mut bytes = bundle(&manifest, &sources, &key, abi, build).expect("a bundle of a good manifest");
        let mut behind = 0;
        for (place, (start, elf)) in starts.iter().zip(&elves).enumerate() {
            // Payloads lie one after the other, each on pages of its own.
            let mut pages = (behind..bytes.len()).step_by(PAGE);
            let at = pages.find(|at| bytes[*at..].starts_with(elf)).expect("the bundle has the image");
            behind = (at + elf.len()).next_multiple_of(PAGE);
            match damage_of(start) {
                Some(Damage::Altered) => bytes[at + elf.len() / 2] ^= 1,
                Some(Damage::ForeignKey) => {
                    let foreign = SigningKey::from_seed([8; 32]);
                    let foreign = bundle(&manifest, &sources, &foreign, abi, build).expect("as good as the other");
                    let record = HEADER_BYTES + (place + 1) * RECORD_BYTES;
                    bytes[record..record + RECORD_BYTES].copy_from_slice(&foreign[record..record + RECORD_BYTES]);
                }
                _ => {}
            }
        }
        let machine: &'static Machine =
            Box::leak(Box::new(Machine::new(cpus, pages, functions, matches!(iommu, Iommu::Require | Iommu::Strict))));
        signals::install();
        // SAFETY: the first call into the core in this process but for blocks; this is the only thread of the core.
        unsafe { kernel_core::install(machine) };
        let rig = Rig { machine, images, turn: Mutex::new(()) };
        enter();
        let trust = Trust { key: key.public(), abi };
        boot(Boot { bundle: bytes.leak(), trust, devices }).expect("the box starts");
        rig
    }

    /// The tests of one process take turns.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` on a thread of the core on `cpu`, with a stack of the kernel's, and gives its result.
    pub fn run<R: Send + 'static>(&self, cpu: usize, work: impl FnOnce() -> R + Send + 'static) -> R {
        self.spawn(cpu, work).join()
    }

    /// The same, without waiting.
    pub fn spawn<R: Send + 'static>(&self, cpu: usize, work: impl FnOnce() -> R + Send + 'static) -> Running<R> {
        enter();
        let (sender, receiver) = mpsc::channel();
        let job = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            let _ = sender.send(result);
        };
        assert!(thread::spawn_kernel_thread("test", cpu, 128, Box::new(job)), "no memory for a test's thread");
        Running(receiver)
    }

    /// A domain's export port, as an importer has it.
    pub fn port<I: ?Sized + Interface>(&self, domain: &str, port: &str) -> Port<I> {
        enter();
        let object =
            domain::by_name(domain).and_then(|domain| domain.proxy(port, I::NAME)).expect("the rig has such a port");
        // SAFETY: a proxy of this interface, which lives as long as the process.
        Port::new(unsafe { &*I::from_raw(object) })
    }

    /// The ELF of a domain's image.
    pub fn image(&self, domain: &str) -> &[u8] {
        self.images.get(domain).expect("the rig has such a domain")
    }

    pub fn domain(&self, domain: &str) -> &'static domain::Domain {
        enter();
        domain::by_name(domain).expect("the rig has such a domain")
    }

    pub fn status(&self, domain: &str) -> Status {
        self.domain(domain).status()
    }

    pub fn index(&self, domain: &str) -> usize {
        self.domain(domain).index
    }

    /// Waits until the domain is live in a generation after `generation`.
    pub fn until_restarted(&self, domain: &str, generation: u32) {
        self.until(&format!("{domain} lives again"), || {
            let status = self.status(domain);
            status.state == "live" && status.generation > generation
        });
    }

    /// Waits until so many of the tests' threads are inside the domain, so that what is then done to it happens to them.
    pub fn until_inside(&self, domain: &str, threads: usize) {
        let index = self.index(domain);
        self.until(&format!("{threads} of the tests' threads are inside {domain}"), || {
            let inside = |thread: &&ThreadBlock| thread.name() == "test" && thread.innermost_domain() == index;
            thread::all().filter(inside).count() == threads
        });
    }

    /// What there is when all that earlier tests began has come to an end, and every domain lives.
    pub fn baseline(&self) -> Counts {
        enter();
        let names: Vec<String> = domain::all().iter().map(|domain| domain.name.clone()).collect();
        self.baseline_of(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The same where only these domains need live.
    pub fn baseline_of(&self, live: &[&str]) -> Counts {
        enter();
        let passing = |name: &str| name.is_empty() || name == "test" || name.starts_with("start ");
        self.until("earlier threads have ended", || !thread::names().iter().any(|name| passing(name)));
        self.until("the domains live", || live.iter().all(|name| self.status(name).state == "live"));
        self.counts()
    }

    /// What there is now. Meaningful while nothing runs.
    pub fn counts(&self) -> Counts {
        enter();
        let domains = domain::all().into_iter().map(|domain| {
            let status = domain.status();
            let (objects, buffers) = exchange::objects(domain.index);
            DomainCounts {
                name: domain.name.clone(),
                state: status.state,
                pages: status.pages,
                threads: status.threads,
                objects,
                bytes: exchange::bytes(domain.index),
                buffers,
                handles: capability::counts(domain.index).0,
            }
        });
        Counts {
            domains: domains.collect(),
            pages: kernel_core::machine().pages().used - exchange::slab_pages(),
            buffers: packets::counts().1 + domain::all().iter().map(|domain| domain.buffers_in_rings()).sum::<usize>(),
            handles: capability::counts(0).1,
        }
    }

    /// Waits until everything is as it was.
    pub fn until_as_before(&self, before: &Counts) {
        let begun = Instant::now();
        while self.counts() != *before {
            assert!(begun.elapsed() < PATIENCE, "before {before:#?}\nnow {:#?}\nlog:\n{}", self.counts(), self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Gives an order to the supervisor, as the console does.
    pub fn order(&self, order: impl FnOnce(&'static domain::Domain) -> Command, domain: &str) {
        supervisor::order(order(self.domain(domain)));
    }

    /// Waits for something that must come soon.
    pub fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !condition() {
            if begun.elapsed() > PATIENCE {
                let states: Vec<String> =
                    domain::all().iter().map(|domain| format!("{} {}", domain.name, domain.status().state)).collect();
                panic!("waited too long until {what}; domains: {states:?}; log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.log_since(0).0
    }

    /// The log from line number `first` on, as far as it is still there, and the number of the line that comes next.
    pub fn log_since(&self, first: u64) -> (String, u64) {
        enter();
        let (lines, next) = kernel_core::log::read(first, None);
        let shown = lines
            .iter()
            .map(|line| format!("{} {}: {}\n", line.level.name(), domain::name_of(line.domain), line.text()))
            .collect();
        (shown, next)
    }
}

/// A thread that works for a test.
pub struct Running<R>(mpsc::Receiver<std::thread::Result<R>>);

impl<R> Running<R> {
    /// Waits for it.
    pub fn join(self) -> R {
        self.wait(Duration::from_secs(30))
    }

    /// Waits for it, at most so long.
    pub fn wait(self, limit: Duration) -> R {
        match self.0.recv_timeout(limit) {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => panic!("a test's thread has not come back"),
        }
    }

    /// Whether it has come to its end.
    pub fn try_join(&self) -> Option<R> {
        self.0.try_recv().ok().map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

/// Makes the calling thread one that may use the core.
fn enter() {
    thread_local! {
        static ENTERED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    // Threads of the core are so already: their `gs` is set.
    if !ENTERED.get() && !threads::is_of_the_core() {
        threads::adopt(ThreadBlock::resident(0));
    }
    ENTERED.set(true);
}
