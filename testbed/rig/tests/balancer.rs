//! The load balancer behind two filters and a shadow, all as the box runs them, above a segment whose clients never stop: whichever of the five crashes, segments
//! reach the backends again, each connection at the backend that it had. Who crashes below the shadow isn't noticed above it.

use std::{
    collections::BTreeMap,
    sync::LazyLock,
    time::{Duration, Instant},
};

use interfaces::{
    RRef,
    abi::Reason,
    control::{Control, Counters, Text},
};
use kernel_core::{incarnation::Cause, supervisor::Command};
use rig::{
    Rig, Settings, graphs,
    stops::{self, Fault},
};

const CHAIN: [&str; 5] = ["segment", "shadow", "outer", "inner", "lb"];

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let settings = Settings { domains: graphs::balancer(0), packet_buffers: 1024, ..Settings::default() };
    let rig = Rig::start(settings);
    until_delivered(&rig);
    rig
});

/// A domain's counters, by name; none while it is away.
fn counters(rig: &Rig, domain: &str) -> BTreeMap<String, u64> {
    let control = rig.port::<dyn Control>(domain, "control");
    rig.run(0, move || {
        let mut all = BTreeMap::new();
        loop {
            let Ok(page) = control.counters(all.len() as u32, RRef::new(Counters::default()).unwrap()) else {
                return BTreeMap::new();
            };
            all.extend(page.as_slice().iter().map(|counter| (counter.name.as_str().to_owned(), counter.value)));
            if !page.more {
                return all;
            }
        }
    })
}

fn counter(rig: &Rig, domain: &str, name: &str) -> u64 {
    counters(rig, domain).get(name).copied().unwrap_or_default()
}

/// Waits until segments of all connections have reached backends, as of the segment's own generation.
fn until_delivered(rig: &Rig) {
    rig.until("all connections' segments are delivered", || counters(rig, "segment").get("missing") == Some(&0));
}

/// How long nothing is delivered from now on.
fn until_delivered_again(rig: &Rig) -> Duration {
    let (begun, before) = (Instant::now(), counter(rig, "segment", "delivered"));
    rig.until("segments are delivered again", || {
        let now = counter(rig, "segment", "delivered");
        now > before || (now > 0 && now < before)
    });
    begun.elapsed()
}

/// The equation of the load balancer, in a moment when its queues rest; both sides are read while packets flow, so it may take some tries.
fn until_accounted_for(rig: &Rig) {
    rig.until("received = forwarded + answered + drops", || {
        let lb = counters(rig, "lb");
        let value = |name: &str| lb.get(name).copied().unwrap_or_default();
        let drops: u64 = lb.iter().filter(|(name, _)| name.starts_with("drop.")).map(|(_, value)| value).sum();
        value("received") > 0 && value("received") == value("forwarded") + value("answered") + value("held") + drops
    });
}

#[test]
fn segments_pass_the_chain_on_both_queues() {
    let _turn = RIG.turn();
    let segment = counters(&RIG, "segment");
    assert_eq!((segment["moved"], segment["strange"]), (0, 0), "{segment:?}");
    // Tests run in any order, and in others the counting domains are restarted.
    let until_counted = |domain: &str, name: &str, least: u64| {
        RIG.until(&format!("{domain} has counted {least} {name}"), || counter(&RIG, domain, name) >= least);
    };
    for queue in ["cpu.0.forwarded", "cpu.1.forwarded"] {
        until_counted("lb", queue, 1_000);
    }
    for backend in ["backend.b1.connections", "backend.b2.connections", "backend.b3.connections"] {
        until_counted("lb", backend, 250);
    }
    until_counted("inner", "rule.web.packets", 1_000);
    until_counted("outer", "receive.passed", 1_000);
    until_counted("outer", "send.passed", 1_000);
    until_accounted_for(&RIG);
}

/// With the set of backends unchanged no connection is moved, whoever crashes and however; the balancer's memory of connections lost or not.
#[test]
fn any_domain_of_the_chain_may_crash() {
    let _turn = RIG.turn();
    until_delivered(&RIG);
    let digest = counter(&RIG, "segment", "digest");
    for domain in CHAIN {
        for reason in [Reason::Panic, Reason::StackOverflow, Reason::PageFault] {
            let generation = RIG.status(domain).generation;
            RIG.order(|domain| Command::Inject(domain, reason), domain);
            RIG.until_restarted(domain, generation);
            let (died, death) = RIG.status(domain).last_death.expect("it has died");
            assert_eq!((died, death.cause), (generation, Cause::Crash(reason)), "{domain}");
            let blocked = until_delivered_again(&RIG);
            assert!(blocked < Duration::from_secs(5), "{domain}, {reason:?}: {blocked:?}");
            until_delivered(&RIG);
            let segment = counters(&RIG, "segment");
            assert_eq!(
                (segment["moved"], segment["strange"], segment["digest"]),
                (0, 0, digest),
                "{domain}, {reason:?}: {segment:?}"
            );
            until_accounted_for(&RIG);
        }
    }
    assert_eq!(counter(&RIG, "lb", "connections.moved"), 0);
}

/// The segment, as a driver, ends in every way amid traffic, and amid its work on a batch too: neither filter nor balancer opens a queue anew, no batch is lost in its
/// hands, and the box is as it was.
#[test]
fn what_crashes_below_the_shadow_is_not_noticed_above() {
    let _turn = RIG.turn();
    until_delivered(&RIG);
    let above = |rig: &Rig| {
        let (inner, outer, lb) = (counters(rig, "inner"), counters(rig, "outer"), counters(rig, "lb"));
        (inner["queue.reopened"], outer["queue.reopened"], lb["queue.reopened"], lb["drop.driver-lost"])
    };
    let (before, digest) = (above(&RIG), counter(&RIG, "segment", "digest"));
    let reasons = [Reason::Panic, Reason::StackOverflow, Reason::PageFault, Reason::CpuException, Reason::Quota];
    stops::prepare().expect("this process's memory can be written to");
    let index = RIG.index("segment");
    for round in 0..200 {
        let generation = RIG.status("segment").generation;
        match reasons.get(round % (reasons.len() + 2)) {
            // In the midst of its code, which is mostly work on a batch.
            _ if round % 30 == 29 => RIG.until("it is struck at work", || stops::strike(index, Fault::InvalidOpcode)),
            Some(&reason) => RIG.order(|domain| Command::Inject(domain, reason), "segment"),
            None => RIG.order(Command::Kill, "segment"),
        }
        RIG.until_restarted("segment", generation);
        // So that the next end comes at another point of the traffic.
        std::thread::sleep(Duration::from_micros(37 * (round as u64 % 11)));
    }
    until_delivered(&RIG);
    assert_eq!(above(&RIG), before);
    let shadow = counters(&RIG, "shadow");
    assert!(shadow["absences"] >= 200, "{shadow:?}");
    assert!(shadow["batches.given-back"] > 0, "{shadow:?}");
    assert_eq!(shadow["packets.lost"], 0, "{shadow:?}");
    let segment = counters(&RIG, "segment");
    assert_eq!((segment["moved"], segment["strange"], segment["digest"]), (0, 0, digest), "{segment:?}");
    until_accounted_for(&RIG);
}

/// Killed by the operator while packets flow, in quick succession: nothing that a generation had is left behind.
#[test]
fn kills_leave_nothing_behind() {
    let _turn = RIG.turn();
    until_delivered(&RIG);
    let held = |rig: &Rig| {
        let counts = rig.counts();
        let domains: Vec<_> =
            counts.domains.into_iter().map(|had| (had.name, had.state, had.pages, had.threads, had.handles)).collect();
        (counts.handles, domains)
    };
    // Once round, so that each heap has grown to what it needs.
    let kill = |domain: &str| {
        let generation = RIG.status(domain).generation;
        RIG.order(Command::Kill, domain);
        RIG.until_restarted(domain, generation);
    };
    CHAIN.iter().for_each(|domain| kill(domain));
    until_delivered(&RIG);
    let before = held(&RIG);
    for _ in 0..10 {
        CHAIN.iter().for_each(|domain| kill(domain));
    }
    until_delivered(&RIG);
    let begun = Instant::now();
    while held(&RIG) != before {
        assert!(begun.elapsed() < Duration::from_secs(10), "before {before:?}\nnow {:?}", held(&RIG));
        std::thread::sleep(Duration::from_millis(1));
    }
    until_accounted_for(&RIG);
}

/// A drained backend keeps what it has; that holds across the box's own threads and the console's.
#[test]
fn the_operator_drains_a_backend() {
    let _turn = RIG.turn();
    until_delivered(&RIG);
    // Another test may have restarted the balancer: it must remember all of them before it is told to.
    RIG.until("all connections are remembered", || {
        let lb = counters(&RIG, "lb");
        ["b1", "b2", "b3"].iter().filter_map(|backend| lb.get(&format!("backend.{backend}.connections"))).sum::<u64>()
            == 1_000
    });
    let control = RIG.port::<dyn Control>("lb", "control");
    let say = move |line: &'static str| {
        let answer = RIG.run(1, move || {
            control.command(RRef::new(Text::new(line)).unwrap()).map(|answer| answer.as_str().to_owned())
        });
        answer.expect("the balancer knows this command")
    };
    assert!(say("backend b2 drain").contains("no new ones"));
    let (delivered, moved) = (counter(&RIG, "segment", "delivered"), counter(&RIG, "segment", "moved"));
    RIG.until("each connection has sent again", || counter(&RIG, "segment", "delivered") > delivered + 2_000);
    assert_eq!(counter(&RIG, "segment", "moved"), moved);
    assert!(say("backend b2 up").contains("takes new connections"));
}
