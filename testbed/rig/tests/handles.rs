//! Capabilities: a handle errs for ever after its maker's death, and its maker's object is dropped when its holder lets go or dies.

use std::sync::LazyLock;

use interfaces::{
    CallError, Port,
    abi::Reason,
    probe::{Deed, Probe},
};
use kernel_core::{incarnation::Cause, supervisor::Command};
use rig::{Rig, Settings};

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(Settings::chain(|_| {})));

fn probe(name: &str) -> Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

fn alive(name: &str) -> u64 {
    let probe = probe(name);
    RIG.run(0, move || probe.census()).unwrap().1
}

#[test]
fn letting_go_of_a_handle_drops_its_object() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let c = probe("c");
    let answer = RIG.run(0, move || {
        let mut handle = c.handle().unwrap();
        (handle.next(1), c.census().unwrap().1)
    });
    assert_eq!(answer, (Ok(2), 1));
    RIG.until("the object is dropped", || alive("c") == 0);
    RIG.until_as_before(&before);
}

#[test]
fn after_its_makers_death_a_handle_errs_for_ever() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    let handle = RIG.run(0, move || c.handle().unwrap());
    assert_eq!(RIG.run(0, move || c.act(Deed::Panic)), Err(CallError::Crashed));
    RIG.until_restarted("c", generation);
    assert_eq!(RIG.run(0, move || c.next(1)), Ok(2), "the port has recovered");
    RIG.run(0, move || {
        let mut handle = handle;
        assert_eq!(handle.next(1), Err(CallError::Gone));
        assert_eq!(handle.next(1), Err(CallError::Gone));
    });
    assert_eq!(alive("c"), 0, "the new generation has nothing to do with it");
    RIG.until_as_before(&before);
}

/// The crash happens inside a handle's own method.
#[test]
fn a_crash_inside_a_handle_is_an_error_to_its_holder() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    let answers = RIG.run(0, move || {
        let mut handle = c.handle().unwrap();
        [handle.act(Deed::Panic), handle.act(Deed::Nothing)]
    });
    assert_eq!(answers, [Err(CallError::Crashed), Err(CallError::Gone)]);
    RIG.until_restarted("c", generation);
    RIG.until_as_before(&before);
}

/// The holder dies; its thread may still be inside the maker by that handle, and the object isn't dropped under it.
#[test]
fn a_dead_holders_handle_is_dropped_when_nobody_is_inside() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("b").generation;
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::KeepHandle)), Ok(()));
    assert_eq!(alive("c"), 1);
    assert_eq!(RIG.run(0, move || b.act(Deed::Panic)), Err(CallError::Crashed));
    RIG.until_restarted("b", generation);
    RIG.until("the maker has dropped the object", || alive("c") == 0);
    RIG.until_as_before(&before);
}

/// A maker whose drop waits for what never comes is ended in time: the drops of all makers are one thread's work, and the next one's is done (invariants 1 and 9).
#[test]
fn a_drop_that_waits_for_ever_holds_nobody_up() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("c").generation;
    let (b, c) = (probe("b"), probe("c"));
    RIG.run(0, move || {
        c.act(Deed::Cling).unwrap();
        drop(c.handle().unwrap());
    });
    RIG.run(0, move || drop(b.handle().unwrap()));
    RIG.until("the other maker has dropped its object", || alive("b") == 0);
    RIG.until_restarted("c", generation);
    assert_eq!(RIG.status("c").last_death.unwrap().1.cause, Cause::Crash(Reason::Watchdog));
    RIG.until_as_before(&before);
}

/// Whoever asked for a handle is dead when it comes: nobody ever holds it, and its object is dropped all the same.
#[test]
fn a_handle_that_comes_too_late_is_dropped() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let (b, c) = (probe("b"), probe("c"));
    let generation = RIG.status("b").generation;
    // While somebody sleeps in it, c makes no handle.
    let sleeper = RIG.spawn(0, move || c.act(Deed::Sleep(2_000_000_000)));
    RIG.until_inside("c", 1);
    let asker = RIG.spawn(1, move || b.act(Deed::KeepHandle));
    // It has come through b.
    RIG.until_inside("c", 2);
    RIG.order(Command::Kill, "b");
    assert_eq!(asker.join(), Err(CallError::Crashed));
    assert_eq!(sleeper.join(), Ok(()));
    RIG.until_restarted("b", generation);
    RIG.until_as_before(&before);
}
