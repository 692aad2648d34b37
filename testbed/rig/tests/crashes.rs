//! A crash in a callee is an error in its caller, whatever kind of crash and wherever in the call; the next generation answers; everything else is as before.

use std::sync::{LazyLock, atomic::Ordering::Relaxed};

use interfaces::{
    CallError, Port, RRef,
    abi::Reason,
    probe::{Deed, Probe, Relayed, Word},
};
use kernel_core::{incarnation::Cause, supervisor::Command};
use rig::{Rig, Settings};

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(Settings::chain(|_| {})));

fn probe(name: &str) -> Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

/// How a domain's last generation ended.
fn last_death(name: &str) -> (u32, Cause) {
    let (generation, death) = RIG.status(name).last_death.expect("it has died");
    (generation, death.cause)
}

#[test]
fn a_call_comes_back_with_its_result() {
    let _turn = RIG.turn();
    let c = probe("c");
    assert_eq!(RIG.run(0, move || c.next(41)), Ok(42));
    let passed = RIG.run(0, move || c.pass(RRef::new(Word(1)).unwrap()).map(|word| word.0));
    assert_eq!(passed, Ok(2));
}

/// Invariants 1 and 2, for each kind of fault that safe code can commit.
#[test]
fn every_kind_of_crash_is_an_error_in_the_caller() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for (deed, reason) in [
        (Deed::Panic, Reason::Panic),
        (Deed::IndexOutOfBounds, Reason::Panic),
        (Deed::Unwrap, Reason::Panic),
        (Deed::Overflow, Reason::Panic),
        (Deed::DivideByZero, Reason::Panic),
        (Deed::StackOverflow, Reason::StackOverflow),
        (Deed::Hoard, Reason::Quota),
    ] {
        let generation = RIG.status("c").generation;
        let c = probe("c");
        assert_eq!(RIG.run(1, move || c.act(deed)), Err(CallError::Crashed), "{deed:?}");
        RIG.until_restarted("c", generation);
        assert_eq!(last_death("c"), (generation, Cause::Crash(reason)), "{deed:?}");
        assert_eq!(RIG.run(0, move || c.next(1)), Ok(2), "after {deed:?}");
        RIG.until_as_before(&before);
    }
}

/// The console's fault injection commits each kind for real, at the domain's next visit.
#[test]
fn an_injected_fault_is_a_real_one() {
    let _turn = RIG.turn();
    for reason in [Reason::Panic, Reason::StackOverflow, Reason::PageFault, Reason::CpuException, Reason::Quota] {
        let generation = RIG.status("b").generation;
        let b = probe("b");
        RIG.order(|domain| Command::Inject(domain, reason), "b");
        let mut answer = Ok(0);
        RIG.until("the fault is committed", || {
            answer = RIG.run(0, move || b.next(1));
            answer.is_err()
        });
        assert_eq!(answer, Err(CallError::Crashed), "{reason:?}");
        RIG.until_restarted("b", generation);
        assert_eq!(last_death("b"), (generation, Cause::Crash(reason)));
    }
}

/// Caller and callee die at once while the callee commits a fault in a call that was to bring it objects: those are the caller's reclaim's or the thread's own, not
/// both's (invariants 2 and 3).
#[test]
fn an_injected_fault_finds_nothing_on_its_way() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for _ in 0..20 {
        let generations = ["a", "b", "c"].map(|name| RIG.status(name).generation);
        RIG.order(|domain| Command::Inject(domain, Reason::Watchdog), "c");
        // Orders are carried out one after the other.
        RIG.order(Command::Restart, "a");
        RIG.until_restarted("a", generations[0]);
        let b = probe("b");
        let caller = RIG.spawn(1, move || b.act(Deed::PostAndPanic));
        RIG.until_inside("c", 1);
        RIG.order(Command::Kill, "c");
        RIG.order(Command::Kill, "b");
        assert_eq!(caller.join(), Err(CallError::Crashed));
        RIG.until_restarted("b", generations[1]);
        RIG.until_restarted("c", generations[2]);
        RIG.until_as_before(&before);
    }
}

/// Only the innermost domain dies; the ones between see an error and go on.
#[test]
fn a_crash_in_a_nested_callee_is_its_own() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generations = ["a", "b", "c"].map(|name| RIG.status(name).generation);
    let a = probe("a");
    assert_eq!(RIG.run(0, move || a.relay(2, Deed::StackOverflow)), Ok(Relayed::Failed(CallError::Crashed)));
    RIG.until_restarted("c", generations[2]);
    assert_eq!(last_death("c"), (generations[2], Cause::Crash(Reason::StackOverflow)));
    let (_, death) = RIG.status("c").last_death.unwrap();
    let chain: Vec<_> = death.chain[..death.chain_len].iter().map(|index| usize::from(*index)).collect();
    assert_eq!(chain, [0, RIG.index("a"), RIG.index("b"), RIG.index("c")], "the call chain of domains");
    assert_eq!(["a", "b"].map(|name| RIG.status(name).generation), generations[..2]);
    RIG.until_as_before(&before);
}

/// A thread that is away in another domain when its own dies never returns into it, and holds nobody up (invariant 4).
#[test]
fn a_thread_away_in_another_domain_does_not_return_into_a_dead_one() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("b").generation;
    let a = probe("a");
    let caller = RIG.spawn(0, move || a.relay(2, Deed::Sleep(2_000_000_000)));
    RIG.until_inside("c", 1);
    RIG.order(Command::Kill, "b");
    // The next generation lives before the thread has come back.
    RIG.until_restarted("b", generation);
    assert!(caller.try_join().is_none(), "the thread is still away");
    assert_eq!(caller.join(), Ok(Relayed::Failed(CallError::Crashed)));
    RIG.until_as_before(&before);
}

/// A barrier interrupts every CPU: while a thread is away, what it still names doesn't cost one at every turn of the supervisor. (On a busy host
/// each took an emulated box tens of milliseconds, and restarts took seconds.)
#[test]
fn what_is_still_in_use_costs_no_barriers() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("b").generation;
    let (a, c) = (probe("a"), probe("c"));
    let away = RIG.spawn(0, move || a.relay(2, Deed::Sleep(2_000_000_000)));
    RIG.until_inside("c", 1);
    RIG.order(Command::Kill, "b");
    RIG.until_restarted("b", generation);
    let barriers = RIG.machine.barriers.load(Relaxed);
    // A thread that ends is a turn of the supervisor.
    for _ in 0..40 {
        assert_eq!(RIG.run(1, move || c.next(1)), Ok(2));
    }
    assert!(away.try_join().is_none(), "the thread is still away");
    let barriers = RIG.machine.barriers.load(Relaxed) - barriers;
    assert!(barriers < 5, "{barriers} barriers");
    assert_eq!(away.join(), Ok(Relayed::Failed(CallError::Crashed)));
    RIG.until_as_before(&before);
}

/// A kill reaches a thread that computes, one that is blocked, and those of the domain's own; on both CPUs at once.
#[test]
fn a_kill_diverts_whoever_is_inside() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for deed in [Deed::Spin, Deed::WaitForever, Deed::Sleep(u64::MAX / 2), Deed::SpinWithCalls] {
        let generation = RIG.status("b").generation;
        let b = probe("b");
        assert_eq!(RIG.run(0, move || b.act(Deed::SpawnSpinner)), Ok(()));
        assert_eq!(RIG.run(0, move || b.act(Deed::SpawnSleeper)), Ok(()));
        assert_eq!(RIG.run(0, move || b.act(Deed::SpawnCaller)), Ok(()));
        let inside = [0, 1].map(|cpu| RIG.spawn(cpu, move || b.act(deed)));
        RIG.until_inside("b", 2);
        RIG.order(Command::Kill, "b");
        for thread in inside {
            assert_eq!(thread.join(), Err(CallError::Crashed), "{deed:?}");
        }
        RIG.until_restarted("b", generation);
        assert_eq!(last_death("b"), (generation, Cause::Crash(Reason::Killed)));
        RIG.until_as_before(&before);
    }
}

/// A crash with other threads inside on other CPUs: nobody goes on before all have stopped.
#[test]
fn a_crash_with_others_inside_takes_them_along() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    let spinning = RIG.spawn(1, move || c.act(Deed::Spin));
    let waiting = RIG.spawn(0, move || c.act(Deed::WaitForever));
    RIG.until_inside("c", 2);
    assert_eq!(RIG.run(0, move || c.act(Deed::Panic)), Err(CallError::Crashed));
    assert_eq!(spinning.join(), Err(CallError::Crashed));
    assert_eq!(waiting.join(), Err(CallError::Crashed));
    RIG.until_restarted("c", generation);
    RIG.until_as_before(&before);
}

/// What a domain kept is freed with it: exchange objects, packets, handles, threads (invariant 2).
#[test]
fn what_a_domain_held_is_reclaimed() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("b").generation;
    let (b, c) = (probe("b"), probe("c"));
    for deed in [Deed::Keep(100), Deed::KeepPackets(50), Deed::KeepHandle, Deed::KeepHandle, Deed::SpawnSleeper] {
        assert_eq!(RIG.run(0, move || b.act(deed)), Ok(()), "{deed:?}");
    }
    assert_eq!(RIG.run(0, move || b.keep(RRef::new(Word(3)).unwrap())), Ok(()));
    assert_eq!(RIG.run(0, move || c.census()).unwrap().1, 2, "two handles of c are alive");
    let held = RIG.counts();
    assert_eq!(held.domains[1].objects, 101 + 2, "words and batches");
    assert_eq!(held.buffers, before.buffers - 50);
    assert_eq!(held.handles, before.handles + 2);
    assert_eq!(RIG.run(1, move || b.act(Deed::Panic)), Err(CallError::Crashed));
    RIG.until_restarted("b", generation);
    RIG.until("the maker has dropped the handles", || RIG.run(0, move || c.census()).unwrap().1 == 0);
    RIG.until_as_before(&before);
}

/// A stopped domain says so to its callers; started again, it answers.
#[test]
fn stop_and_start() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let (generation, restarts) = (RIG.status("c").generation, RIG.status("c").restarts);
    let c = probe("c");
    RIG.order(Command::Stop, "c");
    RIG.until("c has stopped", || RIG.status("c").state == "stopped");
    assert_eq!(RIG.run(0, move || c.next(1)), Err(CallError::Stopped));
    assert_eq!(RIG.status("c").pages, 0);
    RIG.order(Command::Start, "c");
    RIG.until_restarted("c", generation);
    assert_eq!(RIG.run(0, move || c.next(1)), Ok(2));
    assert_eq!(RIG.status("c").restarts, restarts, "a start by hand is no restart");
    RIG.until_as_before(&before);
}

/// Restarting a domain leaves the box as it was, however often (invariant 8); `RESTARTS` makes a campaign of it.
#[test]
fn a_thousand_restarts_leave_everything_as_it_was() {
    let _turn = RIG.turn();
    let restarts: u32 = std::env::var("RESTARTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let (b, mut made) = (probe("b"), (0, 0));
    let before = RIG.baseline();
    for restart in 0..restarts {
        let generation = RIG.status("b").generation;
        for deed in [Deed::Keep(3), Deed::KeepPackets(3), Deed::KeepHandle, Deed::SpawnSleeper] {
            assert_eq!(RIG.run(0, move || b.act(deed)), Ok(()));
        }
        let deed = [Deed::Panic, Deed::StackOverflow, Deed::DivideByZero][restart as usize % 3];
        assert_eq!(RIG.run(1, move || b.act(deed)), Err(CallError::Crashed));
        RIG.until_restarted("b", generation);
        if restart == 50 {
            made = (kernel_core::record::records_made(), kernel_core::thread::blocks_made());
        }
    }
    RIG.until_as_before(&before);
    let now = (kernel_core::record::records_made(), kernel_core::thread::blocks_made());
    assert!(
        now.0 <= made.0 + 16 && now.1 <= made.1 + 8,
        "records and thread blocks: {made:?} after 50 restarts, {now:?} after all"
    );
}

/// A kill that comes while a restart is under way doesn't turn it into a stop.
#[test]
fn a_kill_amid_a_restart_is_a_restart() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for _ in 0..20 {
        let generation = RIG.status("c").generation;
        RIG.order(Command::Restart, "c");
        RIG.order(Command::Kill, "c");
        RIG.until_restarted("c", generation);
    }
    RIG.until_as_before(&before);
}
