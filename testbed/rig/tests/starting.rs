//! Boot: domains are started one after the other, and none of them is the box's.

use std::sync::LazyLock;

use bundle::manifest::RestartPolicy;
use kernel_core::supervisor::{self, Command};
use rig::{DomainSpec, PROBE, Rig, Settings, Start};

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let unfit = |name, path| DomainSpec::new(name, Start { name, package: "unfit", path });
    let probe = |name| DomainSpec::new(name, PROBE).export("probe", "Probe");
    let domains = vec![
        probe("first"),
        unfit("held", "unfit::start_waiting").with(|domain| domain.restart.policy = RestartPolicy::Never),
        probe("unwanted"),
        probe("last"),
    ];
    Rig::boot(Settings { domains, ..Settings::default() })
});

/// What the operator says of a domain before its turn has come holds: it isn't started, and the others are; until it is asked for.
#[test]
fn a_domain_may_be_stopped_before_it_has_begun() {
    let _turn = RIG.turn();
    RIG.until("the start that waits has begun", || RIG.status("held").state == "starting");
    assert_eq!(RIG.status("unwanted").state, "waiting");
    RIG.order(Command::Stop, "unwanted");
    RIG.until("it is stopped", || RIG.status("unwanted").state == "stopped");
    RIG.order(Command::Kill, "held");
    RIG.until("the others are started", || supervisor::booted_at().is_some());
    let states = ["held", "unwanted", "last"].map(|name| (RIG.status(name).state, RIG.status(name).generation));
    assert_eq!(states, [("crashed", 1), ("stopped", 0), ("live", 1)]);
    RIG.order(Command::Start, "unwanted");
    RIG.until_restarted("unwanted", 0);
}
