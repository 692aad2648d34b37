//! A crash in a callee is an error in its caller, whatever kind of crash; and the next generation answers.

use std::sync::LazyLock;

use interfaces::{
    CallError,
    abi::Reason,
    probe::{Deed, Probe},
};
use kernel_core::incarnation::Cause;
use rig::{DomainSpec, Rig, Settings, Start};

const LAST: Start = Start { name: "probe", package: "probe", path: "probe::start" };
const MIDDLE: Start = Start { name: "relay", package: "relay", path: "relay::start" };

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let probe = |name: &str, image| DomainSpec::new(name, image).export("probe", "Probe");
    Rig::start(Settings {
        domains: vec![probe("c", LAST), probe("b", MIDDLE).import("next", "Probe", 0, "probe"), probe("a", MIDDLE).import("next", "Probe", 1, "probe")],
        ..Settings::default()
    })
});

fn probe(name: &str) -> interfaces::Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

#[test]
fn a_call_comes_back_with_its_result() {
    let _turn = RIG.turn();
    let c = probe("c");
    assert_eq!(RIG.run(0, move || c.next(41)), Ok(42));
}

#[test]
fn every_kind_of_crash_is_an_error_in_the_caller() {
    let _turn = RIG.turn();
    for (deed, reason) in [
        (Deed::Panic, Reason::Panic),
        (Deed::IndexOutOfBounds, Reason::Panic),
        (Deed::Unwrap, Reason::Panic),
        (Deed::Overflow, Reason::Panic),
        (Deed::DivideByZero, Reason::Panic),
        (Deed::StackOverflow, Reason::StackOverflow),
        (Deed::Hoard, Reason::Quota),
    ] {
        let before = RIG.status("c").generation;
        let c = probe("c");
        assert_eq!(RIG.run(1, move || c.act(deed)), Err(CallError::Crashed), "{deed:?}");
        RIG.until_restarted("c", before);
        let (generation, death) = RIG.status("c").last_death.expect("it died");
        assert_eq!((generation, death.cause), (before, Cause::Crash(reason)), "{deed:?}");
        assert_eq!(RIG.run(0, move || c.next(1)), Ok(2), "after {deed:?}");
    }
}
