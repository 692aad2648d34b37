//! Boot: domains are started one after the other, and none of them is the box's.

use std::sync::LazyLock;

use bundle::manifest::{Nanos, RestartPolicy};
use interfaces::abi::Reason;
use kernel_core::{
    incarnation::Cause,
    supervisor::{self, Command},
    thread,
};
use rig::{DomainSpec, PROBE, Rig, Settings, Start};

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let unfit = |name, path| DomainSpec::new(name, Start { name, package: "unfit", path });
    let probe = |name| DomainSpec::new(name, PROBE).export("probe", "Probe");
    let soon = |name, path| {
        unfit(name, path).with(|domain| {
            domain.start_timeout = Nanos(100_000_000);
            domain.restart.limit_burst = 2;
            domain.restart.limit_interval = Nanos(3_600_000_000_000);
        })
    };
    let domains = vec![
        probe("first"),
        unfit("held", "unfit::start_waiting").with(|domain| domain.restart.policy = RestartPolicy::Never),
        probe("unwanted"),
        soon("waiting", "unfit::start_waiting"),
        soon("asking", "unfit::start_asking").import("next", "Probe", 0, "probe"),
        probe("last"),
    ];
    let rig = Rig::boot(Settings { domains, ..Settings::default() });
    rig.until("the start that waits has begun", || rig.status("held").state == "starting");
    assert_eq!(rig.status("unwanted").state, "waiting");
    rig.order(Command::Stop, "unwanted");
    rig.until("it is stopped", || rig.status("unwanted").state == "stopped");
    rig.order(Command::Kill, "held");
    rig.until("the others are started", || supervisor::booted_at().is_some());
    rig
});

/// What the operator says of a domain before its turn has come holds: it isn't started, and the others are; until it is asked for.
#[test]
fn a_domain_may_be_stopped_before_it_has_begun() {
    let _turn = RIG.turn();
    let states = ["held", "unwanted", "last"].map(|name| (RIG.status(name).state, RIG.status(name).generation));
    assert_eq!(states, [("crashed", 1), ("stopped", 0), ("live", 1)]);
    RIG.order(Command::Start, "unwanted");
    RIG.until_restarted("unwanted", 0);
}

/// A start that waits for ever, in the domain itself or in one that it has asked, is a crash of the domain that starts, in the time that the manifest gives: those that
/// come after it at boot are started, whom it has asked is charged nothing, and all of it is reclaimed though its thread is still away.
#[test]
fn a_start_that_waits_for_ever_is_a_crash() {
    let _turn = RIG.turn();
    for name in ["waiting", "asking"] {
        RIG.until("it is given up", || RIG.status(name).state == "given-up");
        let status = RIG.status(name);
        assert_eq!((status.generation, status.restarts, status.pages, status.threads), (3, 2, 0, 0), "{name}");
        assert_eq!(status.last_death.expect("it has died").1.cause, Cause::Crash(Reason::Watchdog), "{name}");
    }
    assert_eq!(RIG.status("last").state, "live");
    assert_eq!(RIG.status("first").generation, 1, "whom it has asked lives on");
    let away = || thread::names().iter().filter(|name| *name == "start asking").count();
    assert_eq!(away(), 3);
    RIG.order(Command::Restart, "first");
    RIG.until_restarted("first", 1);
    RIG.until("threads that were away have ended", || away() == 0);
}
