//! Domains: what the manifest says of each, its ports, and where it is in its life.

use alloc::{
    boxed::Box,
    collections::VecDeque,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use bundle::manifest;
use interfaces::{CallError, InterfaceId, abi::RawObject};

use crate::{
    call::SlotGate,
    capability,
    device::Lease,
    exchange,
    incarnation::{Death, Incarnation},
    lock::Lock,
    record::PortRecord,
    registry,
    thread::MAX_DOMAINS,
};

/// One domain of the box: as long as the box runs.
pub struct Domain {
    /// 1 for the first; 0 is the kernel.
    pub index: usize,
    pub name: String,
    pub(crate) spec: manifest::Domain,
    pub(crate) exports: Vec<ExportPort>,
    /// The ELF, or why there is none.
    pub(crate) image: Result<&'static [u8], String>,
    pub(crate) lease: Option<Arc<dyn Lease>>,
    pub(crate) life: Lock<Life>,
    /// Threads of all its generations: those that start them, too, and those of dead ones that are away in others.
    threads: AtomicU32,
}

pub(crate) struct ExportPort {
    pub interface: InterfaceId,
    pub port: String,
    pub gate: &'static SlotGate,
    pub proxy: RawObject,
}

// SAFETY: a proxy in the kernel's memory, used through its interface, which is `Sync` for ports.
unsafe impl Send for ExportPort {}
// SAFETY: as above.
unsafe impl Sync for ExportPort {}

/// How the start of a generation goes: posted by the thread that starts it.
pub(crate) enum Started {
    /// The thread maps and writes memory that is the generation's.
    Loading,
    /// From here on the thread has nothing of the generation but its visit.
    Visiting,
    /// The objects of the export ports, in order.
    Running(Exported),
    /// With words for the operator.
    Refused(String),
    /// There is nothing more to learn: it crashed on the way (the incarnation knows how), or the supervisor has taken note of how it went.
    Over,
}

pub(crate) struct Exported(pub Vec<RawObject>);

// SAFETY: addresses in the domain, used only through its records.
unsafe impl Send for Exported {}

/// Where a domain is in its life. The supervisor's alone to change.
pub(crate) struct Life {
    pub phase: Phase,
    /// The last generation that was begun; 0 before the first.
    pub generation: u32,
    /// The one that lives, or is being started or reclaimed.
    pub incarnation: Option<Arc<Incarnation>>,
    /// The records that the slots lead to.
    pub records: Vec<&'static PortRecord>,
    /// Restarts since boot.
    pub restarts: u32,
    /// When restarts happened, within the limit's interval.
    pub recent: VecDeque<u64>,
    /// When the last generation was begun, and the delay before it, if it was a restart.
    pub began: u64,
    pub delay: Option<u64>,
    pub last_death: Option<(u32, Death)>,
    /// Pages of the generation that died last, when it did.
    pub pages_before: usize,
    /// The generation that starts follows a crash: its first success is a recovery.
    pub recovering: bool,
    /// What the operator wants after the present generation has been reclaimed.
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// What the manifest's policy says.
    Policy,
    Stay,
    StartAgain,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not yet started.
    Fresh,
    Starting,
    Live,
    /// Dead, and threads may be inside. `since` is when the barrier was last run.
    Dying,
    /// To be started at this time.
    Waiting(u64),
    Stopped,
    /// Crashed, and the policy is not to start again.
    Crashed,
    /// Crashed too often.
    GivenUp,
}

impl Phase {
    /// As the console and the feed call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Phase::Fresh => "waiting",
            Phase::Starting => "starting",
            Phase::Live => "live",
            Phase::Dying => "dying",
            Phase::Waiting(_) => "restarting",
            Phase::Stopped => "stopped",
            Phase::Crashed => "crashed",
            Phase::GivenUp => "given-up",
        }
    }
}

/// The records that slots lead to while there is no live generation, by what callers hear.
static ABSENT: [AtomicPtr<PortRecord>; 3] = [const { AtomicPtr::new(ptr::null_mut()) }; 3];

fn absent_index(answer: CallError) -> usize {
    match answer {
        CallError::Stopped => 1,
        CallError::Gone => 2,
        _ => 0,
    }
}

/// Makes the records of absence. Once, at boot.
pub(crate) fn make_absent() {
    for answer in [CallError::Restarting, CallError::Stopped, CallError::Gone] {
        let record = PortRecord::new(Incarnation::absent(answer), RawObject::NULL);
        ABSENT[absent_index(answer)].store(ptr::from_ref(record).cast_mut(), Ordering::Release);
    }
}

/// The record that makes callers hear `answer`.
fn absent(answer: CallError) -> *mut PortRecord {
    ABSENT[absent_index(answer)].load(Ordering::Acquire)
}

impl Domain {
    /// `Err`: an interface that this kernel doesn't know.
    pub(crate) fn new(
        index: usize,
        spec: manifest::Domain,
        image: Result<&'static [u8], String>,
        lease: Option<Arc<dyn Lease>>,
    ) -> Result<&'static Domain, String> {
        assert!(index < MAX_DOMAINS, "the manifest is checked for the number of domains");
        // SAFETY: `make_absent` stored a record; records are never unmapped.
        let nobody = unsafe { &*absent(CallError::Restarting) };
        let exports = spec
            .exports
            .iter()
            .map(|export| {
                let gate = registry::gate(nobody);
                let (proxy, interface) = registry::proxy(&export.interface, gate)
                    .ok_or_else(|| alloc::format!("this kernel knows no interface {}", export.interface))?;
                Ok(ExportPort { interface, port: export.port.clone(), gate, proxy })
            })
            .collect::<Result<Vec<_>, String>>()?;
        exchange::set_quota(index, spec.exchange.0);
        capability::set_limit(index, spec.handles);
        Ok(Box::leak(Box::new(Domain {
            index,
            name: spec.name.clone(),
            spec,
            exports,
            image,
            lease,
            life: Lock::new(Life {
                phase: Phase::Fresh,
                generation: 0,
                incarnation: None,
                records: Vec::new(),
                restarts: 0,
                recent: VecDeque::new(),
                began: 0,
                delay: None,
                last_death: None,
                pages_before: 0,
                recovering: false,
                then: Then::Policy,
            }),
            threads: AtomicU32::new(0),
        })))
    }

    /// Makes callers through the domain's ports hear `answer`. Takes no lock: also called in traps.
    pub(crate) fn point_away(&self, answer: CallError) {
        for export in &self.exports {
            export.gate.slot.store(absent(answer), Ordering::SeqCst);
        }
    }

    /// Counts a thread; false if the manifest admits no more.
    pub(crate) fn admit_thread(&self) -> bool {
        let fits = |threads: u32| (threads < self.spec.threads).then_some(threads + 1);
        self.threads.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
    }

    pub(crate) fn dismiss_thread(&self) {
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    /// The proxy of an export port.
    pub(crate) fn export(&self, port: &str) -> Option<&ExportPort> {
        self.exports.iter().find(|export| export.port == port)
    }

    /// The proxy of an export port, if it has this interface.
    pub fn proxy(&self, port: &str, interface: &str) -> Option<RawObject> {
        self.export(port).filter(|export| export.interface.name == interface).map(|export| export.proxy)
    }

    /// The domain's own object behind an export port, without any proxy: what the benchmark of calls compares with. It is the caller's to make sure that the
    /// domain lives on.
    pub fn bare_object(&self, port: &str) -> Option<RawObject> {
        let place = self.exports.iter().position(|export| export.port == port)?;
        self.life.lock().records.get(place).map(|record| record.object())
    }

    /// Counts so many generations as if they had been: for the test of the last one, which nobody waits for.
    pub fn skip_generations(&self, generations: u32) {
        self.life.lock().generation += generations;
    }

    /// Packet buffers that are in the rings of the domain's device now.
    pub fn buffers_in_rings(&self) -> usize {
        self.lease.as_ref().map_or(0, |lease| lease.buffers())
    }

    /// The generation that lives, or is being started or reclaimed.
    pub(crate) fn incarnation(&self) -> Option<Arc<Incarnation>> {
        self.life.lock().incarnation.clone()
    }

    /// Whether the generation of this number is there, and neither has crashed nor is ended.
    pub fn lives(&self, generation: u32) -> bool {
        let life = self.life.lock();
        life.generation == generation && life.incarnation.as_ref().is_some_and(|incarnation| incarnation.is_live())
    }

    /// What `domains`, the feed and the tests show.
    pub fn status(&self) -> Status {
        let life = self.life.lock();
        let incarnation = life.incarnation.as_ref();
        Status {
            state: life.phase.name(),
            generation: life.generation,
            restarts: life.restarts,
            pages: incarnation.map_or(0, |incarnation| incarnation.pages()),
            threads: incarnation.map_or(0, |incarnation| incarnation.threads.load(Ordering::Relaxed)),
            delay: life.delay,
            last_death: life.last_death,
        }
    }
}

/// A domain at a glance.
#[derive(Clone, Copy)]
pub struct Status {
    pub state: &'static str,
    pub generation: u32,
    pub restarts: u32,
    pub pages: usize,
    pub threads: usize,
    /// Nanoseconds that the supervisor waited before it started this generation, if it was a restart by policy.
    pub delay: Option<u64>,
    /// Generation and circumstances of the last death.
    pub last_death: Option<(u32, Death)>,
}

static DOMAINS: Lock<Vec<&'static Domain>> = Lock::new(Vec::new());

pub(crate) fn enlist(domain: &'static Domain) {
    DOMAINS.lock().push(domain);
}

/// All domains, in the order of the manifest.
pub fn all() -> Vec<&'static Domain> {
    DOMAINS.lock().clone()
}

/// The domain of that name.
pub fn by_name(name: &str) -> Option<&'static Domain> {
    DOMAINS.lock().iter().find(|domain| domain.name == name).copied()
}

/// A domain's name by its index; the kernel's is 0.
pub fn name_of(index: usize) -> String {
    match index {
        0 => "kernel".to_string(),
        index => DOMAINS.lock().get(index - 1).map_or_else(|| "?".to_string(), |domain| domain.name.clone()),
    }
}
