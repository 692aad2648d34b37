//! Counters. Each CPU has a set of its own, which only its worker writes, so counting is a plain addition; whoever shows them adds the sets
//! up.
//!
//! On each CPU, whenever no batch is in work: `received` = `forwarded` + `answered` + the sum of `drops` + `held`; and `held` is 0 half a
//! second after a start at the latest.

use alloc::{boxed::Box, sync::Arc};
use runtime::tally::Tally;

use crate::{config::Config, drops::DropReason};

/// What was directed through a VIP, or to a backend.
#[derive(Debug, Default)]
pub struct Traffic {
    pub packets: Tally,
    pub bytes: Tally,
    /// New connections.
    pub opened: Tally,
    /// Connections remembered now. Only of backends.
    pub live: Tally,
}

/// The counters of one CPU, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct CpuCounters {
    pub received: Tally,
    pub forwarded: Tally,
    pub answered: Tally,
    pub drops: [Tally; DropReason::COUNT],
    /// Packets kept until the box serves (`holding`).
    pub held: Tally,
    /// The box's own frames: ARP requests.
    pub originated: Tally,
    /// Connections that took the place of others in a full table (`connections`).
    pub replaced: Tally,
    /// Packets of connections that a full table didn't take.
    pub untracked: Tally,
    /// Connections given to another backend since theirs was gone.
    pub moved: Tally,
    /// How often the queue was opened anew after a crash below.
    pub reopened: Tally,
    pub vips: Box<[Traffic]>,
    pub backends: Box<[Traffic]>,
}

impl CpuCounters {
    pub fn new(vips: usize, backends: usize) -> CpuCounters {
        CpuCounters {
            received: Tally::default(),
            forwarded: Tally::default(),
            answered: Tally::default(),
            drops: [const { Tally::new() }; DropReason::COUNT],
            held: Tally::new(),
            originated: Tally::default(),
            replaced: Tally::default(),
            untracked: Tally::default(),
            moved: Tally::default(),
            reopened: Tally::default(),
            vips: (0..vips).map(|_| Traffic::default()).collect(),
            backends: (0..backends).map(|_| Traffic::default()).collect(),
        }
    }

    #[inline]
    pub fn count_drop(&self, reason: DropReason, packets: u64) {
        self.drops[reason as usize].add(packets);
    }

    /// Packets that have met their fate: what `received` must be.
    pub fn accounted(&self) -> u64 {
        self.forwarded.get() + self.answered.get() + self.drops.iter().map(Tally::get).sum::<u64>() + self.held.get()
    }
}

/// Calls `show` with every counter's name and value, over all CPUs; always in the same order.
pub fn show(config: &Config, cpus: &[Arc<CpuCounters>], mut show: impl FnMut(core::fmt::Arguments, u64)) {
    let sum = |of: fn(&CpuCounters) -> &Tally| cpus.iter().map(|cpu| of(cpu).get()).sum::<u64>();
    show(format_args!("received"), sum(|c| &c.received));
    show(format_args!("forwarded"), sum(|c| &c.forwarded));
    show(format_args!("answered"), sum(|c| &c.answered));
    for reason in DropReason::ALL {
        show(format_args!("{}", reason.name()), cpus.iter().map(|cpu| cpu.drops[reason as usize].get()).sum());
    }
    show(format_args!("held"), sum(|c| &c.held));
    show(format_args!("originated"), sum(|c| &c.originated));
    show(format_args!("connections.replaced"), sum(|c| &c.replaced));
    show(format_args!("connections.untracked"), sum(|c| &c.untracked));
    show(format_args!("connections.moved"), sum(|c| &c.moved));
    show(format_args!("queue.reopened"), sum(|c| &c.reopened));
    let mut traffic = |kind: &str, name: &str, of: &dyn Fn(&CpuCounters) -> [u64; 4], shown: &[(usize, &str)]| {
        let sums = cpus.iter().map(|cpu| of(cpu)).fold([0; 4], |a, b| core::array::from_fn(|i| a[i] + b[i]));
        for &(i, what) in shown {
            show(format_args!("{kind}.{name}.{what}"), sums[i]);
        }
    };
    let values = |t: &Traffic| [t.packets.get(), t.bytes.get(), t.opened.get(), t.live.get()];
    let flow = [(0, "packets"), (1, "bytes"), (2, "opened")];
    let flow_and_live = [(0, "packets"), (1, "bytes"), (2, "opened"), (3, "connections")];
    for (i, vip) in config.vips.iter().enumerate() {
        traffic("vip", &vip.name, &|cpu| values(&cpu.vips[i]), &flow);
    }
    for (i, backend) in config.backends.iter().enumerate() {
        traffic("backend", &backend.name, &|cpu| values(&cpu.backends[i]), &flow_and_live);
    }
    for (i, cpu) in cpus.iter().enumerate() {
        show(format_args!("cpu.{i}.received"), cpu.received.get());
        show(format_args!("cpu.{i}.forwarded"), cpu.forwarded.get());
        show(format_args!("cpu.{i}.opened"), cpu.vips.iter().map(|vip| vip.opened.get()).sum());
    }
}
