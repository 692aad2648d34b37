//! Limits and who is charged: exchange quota, stack, watchdog; starts that fail; giving up.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use bundle::manifest::{self, Nanos};
use interfaces::{
    CallError, Nested, Port, RRef,
    abi::Reason,
    collections::{Bytes, Deque},
    probe::{Deed, Parcel, Probe, Relayed, Word},
};
use kernel_core::{
    incarnation::{Cause, LAST_GENERATION},
    supervisor::Command,
    thread,
};
use rig::{Counts, DomainSpec, PROBE, RELAY, Rig, Settings, Start};

const MILLISECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * MILLISECOND;
/// Domains that never get as far as serving.
const UNFIT: [&str; 6] = ["crashing", "refusing", "hanging", "misnamed", "mistyped", "demanding"];

static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let mut settings = Settings::chain(|domain| {
        domain.watchdog = Nanos(80 * MILLISECOND);
        domain.exchange = manifest::Bytes(128 << 10);
    });
    let unfit = |name: &'static str, path| {
        let image = Start { name, package: "unfit", path };
        DomainSpec::new(name, image).with(|domain| {
            domain.watchdog = Nanos(20 * MILLISECOND);
            domain.restart.limit_burst = 3;
            domain.restart.limit_interval = Nanos(3_600_000 * MILLISECOND);
        })
    };
    settings.domains.push(DomainSpec::new("patient", PROBE).export("probe", "Probe").with(|domain| {
        domain.restart.delay = Nanos(10 * MILLISECOND);
        domain.restart.max_delay = Nanos(40 * MILLISECOND);
    }));
    // Each has little of one thing.
    let relay = |name| DomainSpec::new(name, RELAY).export("probe", "Probe").import("next", "Probe", 0, "probe");
    settings.domains.push(relay("crowded").with(|domain| domain.threads = 2));
    settings.domains.push(relay("grasping").with(|domain| domain.handles = 4));
    settings.domains.push(relay("greedy").with(|domain| domain.packet_buffers = 64));
    settings.domains.push(DomainSpec::new("old", PROBE).export("probe", "Probe"));
    settings.domains.push(unfit("crashing", "unfit::start"));
    settings.domains.push(unfit("refusing", "unfit::start_refusing"));
    settings.domains.push(unfit("hanging", "unfit::start_hanging"));
    // Manifests that lie about an image's ports, as no builder would write them.
    let misfit = |name: &'static str| DomainSpec::new(name, PROBE).with(|domain| domain.restart.limit_burst = 3);
    settings.domains.push(misfit("misnamed").export("prober", "Probe"));
    settings.domains.push(misfit("mistyped").export("probe", "Control"));
    // More than any thread has.
    settings.domains.push(misfit("demanding").export("probe", "Probe").with(|domain| domain.min_stack.0 = 1 << 20));
    Rig::start(settings)
});

fn probe(name: &str) -> Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

fn last_cause(name: &str) -> Cause {
    RIG.status(name).last_death.expect("it has died").1.cause
}

/// What there is when those that can't start have been given up, and the others live.
fn settled() -> Counts {
    RIG.until("the unfit are given up", || UNFIT.iter().all(|name| RIG.status(name).state == "given-up"));
    // A thread of a dead generation that was away elsewhere has its stack until it comes back.
    RIG.until("threads of earlier tests have ended", || !thread::names().iter().any(|name| name == "deed"));
    RIG.baseline_of(&["a", "b", "c", "patient"])
}

/// The rest of the box has started in spite of them; each was tried as often as the manifest says.
#[test]
fn a_domain_that_cannot_start_is_given_up() {
    let _turn = RIG.turn();
    for (name, cause) in [
        ("crashing", Cause::Crash(Reason::Panic)),
        ("refusing", Cause::Refused),
        ("hanging", Cause::Crash(Reason::Watchdog)),
    ] {
        RIG.until("it is given up", || RIG.status(name).state == "given-up");
        let status = RIG.status(name);
        assert_eq!((status.generation, status.restarts, status.pages, status.threads), (4, 3, 0, 0), "{name}");
        assert_eq!(last_cause(name), cause);
    }
    let c = probe("c");
    assert_eq!(RIG.run(0, move || c.next(1)), Ok(2));
}

/// A port is wired by its name and its interface, or its domain doesn't start: a proxy of one interface over an object of another would be a wild jump.
#[test]
fn a_domain_whose_ports_are_not_the_manifests_does_not_start() {
    let _turn = RIG.turn();
    for (name, words) in [
        (
            "misnamed",
            "the manifest wires an export port `prober`, which the domain doesn't have; export port `probe` (Probe) of the domain isn't wired",
        ),
        ("mistyped", "export port `probe` is wired as Control, the domain has it as Probe"),
    ] {
        RIG.until("it is given up", || RIG.status(name).state == "given-up");
        assert_eq!(last_cause(name), Cause::Refused);
        assert!(RIG.log().contains(&format!("{name} did not start: {words}")), "{}", RIG.log());
    }
    let c = probe("c");
    assert_eq!(RIG.run(0, move || c.next(1)), Ok(2));
}

/// A domain that no thread has enough stack for doesn't start, and says why: nobody waits for it for ever.
#[test]
fn a_domain_that_wants_more_stack_than_there_is_does_not_start() {
    let _turn = RIG.turn();
    RIG.until("it is given up", || RIG.status("demanding").state == "given-up");
    assert_eq!(last_cause("demanding"), Cause::Refused);
    assert!(RIG.log().contains("demanding did not start: its start can't be called"), "{}", RIG.log());
}

#[test]
fn a_visit_that_never_ends_is_charged_to_the_domain_that_it_is_in() {
    let _turn = RIG.turn();
    for deed in [Deed::Spin, Deed::SpawnSpinner] {
        let generations = ["a", "b", "c"].map(|name| RIG.status(name).generation);
        let a = probe("a");
        let answer = RIG.run(0, move || a.relay(2, deed));
        if deed == Deed::Spin {
            assert_eq!(answer, Ok(Relayed::Failed(CallError::Crashed)));
        }
        RIG.until_restarted("c", generations[2]);
        assert_eq!(last_cause("c"), Cause::Crash(Reason::Watchdog), "{deed:?}");
        assert_eq!(
            ["a", "b"].map(|name| RIG.status(name).generation),
            generations[..2],
            "only the innermost is charged"
        );
    }
}

/// A loop of short calls is still one visit of the domain that loops.
#[test]
fn a_loop_of_short_calls_is_one_visit() {
    let _turn = RIG.turn();
    let generations = ["b", "c"].map(|name| RIG.status(name).generation);
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::SpinWithCalls)), Err(CallError::Crashed));
    RIG.until_restarted("b", generations[0]);
    assert_eq!(last_cause("b"), Cause::Crash(Reason::Watchdog));
    assert_eq!(RIG.status("c").generation, generations[1]);
}

/// A domain's own thread that calls others is alive; so is one that sleeps, and a visit that waits for long.
#[test]
fn who_shows_signs_of_life_is_left_alone() {
    let _turn = RIG.turn();
    let generation = RIG.status("b").generation;
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::SpawnCaller)), Ok(()));
    assert_eq!(RIG.run(0, move || b.act(Deed::SpawnSleeper)), Ok(()));
    assert_eq!(RIG.run(0, move || b.act(Deed::Sleep(300 * MILLISECOND))), Ok(()));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(RIG.status("b").generation, generation);
    RIG.order(Command::Restart, "b");
    RIG.until_restarted("b", generation);
}

/// A flood of objects fails in the sender, and changes nothing for the receiver but that it is full.
#[test]
fn a_flood_fails_in_the_sender() {
    let _turn = RIG.turn();
    let before = settled();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    let sent = RIG.run(0, move || {
        for sent in 0..1_000_000 {
            match c.keep(RRef::new(Word(sent)).unwrap()) {
                Ok(()) => {}
                Err(CallError::Overloaded) => return sent,
                Err(error) => panic!("{error}"),
            }
        }
        u64::MAX
    });
    assert!((500..10_000).contains(&sent), "{sent} objects of 64 bytes went into 128 KiB");
    assert_eq!(RIG.run(0, move || c.next(1)), Ok(2), "calls that bring nothing go on");
    assert_eq!(RIG.status("c").generation, generation);
    RIG.order(Command::Restart, "c");
    RIG.until_restarted("c", generation);
    RIG.until_as_before(&before);
}

/// An object that is larger, with all that is in it, than what the receiver's quota has left fails in the sender, and is still its own: the receiver isn't left with a
/// quota that somebody else has used up (invariant 9).
#[test]
fn what_is_too_large_for_its_receiver_fails_in_the_sender() {
    let _turn = RIG.turn();
    let before = settled();
    let c = probe("c");
    RIG.run(0, move || {
        let parcel = |length: usize| {
            let mut parcel =
                RRef::new(Parcel { number: 1, word: Nested::empty(), batch: None, texts: Deque::default() }).unwrap();
            for _ in 0..4 {
                parcel.texts.push_back(Bytes::copy_of(&vec![7; length]).unwrap()).unwrap();
            }
            parcel
        };
        assert_eq!(c.post(parcel(60_000)), Err(CallError::Overloaded), "256 KiB don't go into 128");
        assert_eq!(c.weigh(), Ok((0, 0)));
        assert_eq!(c.act(Deed::Keep(100)), Ok(()), "what it needs itself it has");
        assert_eq!(c.post(parcel(10_000)), Ok(()), "64 KiB do");
    });
    let generation = RIG.status("c").generation;
    RIG.order(Command::Restart, "c");
    RIG.until_restarted("c", generation);
    RIG.until_as_before(&before);
}

/// A domain that takes all that its own exchange quota gives is refused more, and keeps running.
#[test]
fn the_exchange_quota_is_its_owners() {
    let _turn = RIG.turn();
    let before = settled();
    let generation = RIG.status("b").generation;
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::HoardExchange)), Ok(()));
    // More than a thread may have moved without yet having settled it: quotas are exact up to that.
    assert_eq!(RIG.run(0, move || b.act(Deed::Keep(1_000))), Err(CallError::Overloaded));
    RIG.order(Command::Kill, "b");
    RIG.until_restarted("b", generation);
    RIG.until_as_before(&before);
}

/// Too little stack for the callee is the caller's error, at every depth at which that begins; never the callee's crash.
#[test]
fn a_short_stack_is_the_callers_error() {
    let _turn = RIG.turn();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    let (went, refused) = RIG.run(0, move || {
        #[inline(never)]
        fn dig(c: Port<dyn Probe>, went: &mut u32) -> u32 {
            let room = std::hint::black_box([0u8; 200]);
            let refused = match c.next(1) {
                Ok(_) => {
                    *went += 1;
                    dig(c, went)
                }
                Err(CallError::StackShort) => 1,
                Err(error) => panic!("{error}"),
            };
            refused + u32::from(room[0])
        }
        let mut went = 0;
        let refused = dig(c, &mut went);
        (went, refused)
    });
    assert_eq!(refused, 1);
    assert!(went > 100, "{went}");
    assert_eq!(RIG.status("c").generation, generation, "the callee never crashed");
}

/// The delay before a restart is against crash loops: it grows from one short life to the next, up to the limit, and begins anew after a long one.
#[test]
fn the_delay_grows_in_a_crash_loop_only() {
    let _turn = RIG.turn();
    let patient = probe("patient");
    // The delay that it waits then, in milliseconds.
    let crash = || {
        let generation = RIG.status("patient").generation;
        assert_eq!(RIG.run(0, move || patient.act(Deed::Panic)), Err(CallError::Crashed));
        RIG.until_restarted("patient", generation);
        RIG.status("patient").delay.map(|delay| delay / MILLISECOND)
    };
    // Long beside any delay that it may have had.
    let live_long = || std::thread::sleep(Duration::from_millis(16 * 40 + 50));
    // A busy machine can make a life long that is meant to be short: only a loop that was one, by this thread's clock, shows anything. Two crashes
    // and what is between them last longer than the life between them.
    let crash_loop = || {
        live_long();
        let mut delays = Vec::new();
        let mut before = Instant::now();
        for _ in 0..5 {
            let begun = Instant::now();
            let delay = crash()?;
            let short = delays.last().is_none_or(|last| before.elapsed() < Duration::from_millis(16 * last));
            if !short {
                return None;
            }
            delays.push(delay);
            before = begun;
        }
        Some(delays)
    };
    let delays = (0..50).find_map(|_| crash_loop()).expect("one loop of fifty that the machine let be one");
    assert_eq!(delays, [10, 20, 40, 40, 40]);
    live_long();
    assert_eq!(crash(), Some(10), "a long life ends the loop");
}

/// A domain that goes on calling others down to the last byte of its stack dies of that alone, wherever the last byte is touched: the callee is not charged,
/// and the kernel, in whose image the calls are, does not take it for its own fault.
#[test]
fn calling_with_the_last_of_the_stack_is_the_callers_crash() {
    let _turn = RIG.turn();
    // What an earlier test has left in it goes.
    let earlier = RIG.status("b").generation;
    RIG.order(Command::Restart, "b");
    RIG.until_restarted("b", earlier);
    let before = settled();
    let (generation, callees) = (RIG.status("b").generation, RIG.status("c").generation);
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::StackOverflow)), Err(CallError::Crashed));
    RIG.until_restarted("b", generation);
    assert_eq!(last_cause("b"), Cause::Crash(Reason::StackOverflow));
    assert_eq!(RIG.status("c").generation, callees, "the callee lives");
    RIG.until_as_before(&before);
}

/// A domain has as many generations as there are ids for: after the last it is given up, rather than that a new one has the id of an old one, and with it what somebody
/// still keeps for that, or the id that marks what is nobody's.
#[test]
fn a_domain_that_has_had_all_generations_is_given_up() {
    let _turn = RIG.turn();
    let old = probe("old");
    RIG.domain("old").skip_generations(LAST_GENERATION - 2);
    RIG.order(Command::Restart, "old");
    RIG.until_restarted("old", LAST_GENERATION - 1);
    assert_eq!(RIG.status("old").generation, LAST_GENERATION);
    assert_eq!(RIG.run(0, move || old.act(Deed::Keep(10))), Ok(()));
    assert_eq!(RIG.counts().domains.iter().find(|domain| domain.name == "old").map(|old| old.objects), Some(10));
    for order in [Command::Kill, Command::Start] {
        RIG.order(order, "old");
        RIG.until("it is given up", || RIG.status("old").state == "given-up");
        assert_eq!(RIG.run(0, move || old.next(1)), Err(CallError::Gone));
    }
    assert_eq!(RIG.status("old").generation, LAST_GENERATION);
    assert_eq!(RIG.counts().domains.iter().find(|domain| domain.name == "old").map(|old| old.objects), Some(0));
}

/// A domain that asks on and on, and keeps what it gets, is refused more once it is beyond its quota: neither the memory of the box nor its callee's is what stops it. Calls that
/// bring nothing go on, and so do those that take as much as they bring.
#[test]
fn results_fail_in_a_caller_that_is_beyond_its_quota() {
    let _turn = RIG.turn();
    let before = settled();
    let generation = RIG.status("b").generation;
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::HoardResults)), Ok(()));
    let kept = RIG.counts().domains.into_iter().find(|domain| domain.name == "b").expect("it is there");
    assert!((64 << 10..150 << 10).contains(&kept.bytes), "{} bytes of 128 KiB", kept.bytes);
    assert_eq!(RIG.run(0, move || b.relay(1, Deed::Nothing)), Ok(Relayed::Done));
    assert_eq!(RIG.status("b").generation, generation);
    RIG.order(Command::Restart, "b");
    RIG.until_restarted("b", generation);
    RIG.until_as_before(&before);
}

/// A domain has as many threads as its manifest gives it, those of its dead generations among them that are still away in others: it can't have all of the box's, by crashing neither.
#[test]
fn a_domain_has_so_many_threads_and_no_more() {
    let _turn = RIG.turn();
    let before = settled();
    let crowded = probe("crowded");
    let (generation, callees) = (RIG.status("crowded").generation, RIG.status("c").generation);
    assert_eq!(RIG.run(0, move || crowded.act(Deed::Keep(1))), Ok(()));
    for _ in 0..2 {
        assert_eq!(RIG.run(0, move || crowded.act(Deed::SpawnSleeper)), Ok(()));
    }
    assert_eq!(RIG.run(0, move || crowded.act(Deed::SpawnSleeper)), Err(CallError::Overloaded));
    let c = probe("c");
    assert_eq!(RIG.run(0, move || c.act(Deed::SpawnSleeper)), Ok(()), "others have theirs");
    RIG.order(Command::Kill, "crowded");
    RIG.until_restarted("crowded", generation);
    starts_are_over();

    // One is away when its domain dies, and stays there.
    let index = RIG.index("c");
    assert_eq!(RIG.run(0, move || crowded.act(Deed::Keep(1))), Ok(()));
    assert_eq!(RIG.run(0, move || crowded.act(Deed::SpawnLender(HOUR))), Ok(()));
    let away = || thread::all().filter(|thread| thread.name() == "deed" && thread.innermost_domain() == index).count();
    // The other is c's own.
    RIG.until("it is away", || away() == 2);
    RIG.order(Command::Kill, "crowded");
    RIG.until_restarted("crowded", generation + 1);
    starts_are_over();
    assert_eq!(RIG.run(0, move || crowded.act(Deed::SpawnSleeper)), Ok(()));
    assert_eq!(RIG.run(0, move || crowded.act(Deed::SpawnSleeper)), Err(CallError::Overloaded));

    RIG.order(Command::Restart, "crowded");
    RIG.order(Command::Restart, "c");
    RIG.until_restarted("crowded", generation + 2);
    RIG.until_restarted("c", callees);
    settled();
    RIG.until_as_before(&before);
}

/// Waits until the threads that start domains have ended.
fn starts_are_over() {
    RIG.until("the start's thread has ended", || !thread::names().iter().any(|name| name.starts_with("start ")));
}

/// A domain holds as many handles as its manifest gives it: those that it asks for beyond that, and those that it is given, are refused, and cost nobody anything.
#[test]
fn a_domain_holds_so_many_handles_and_no_more() {
    let _turn = RIG.turn();
    let before = settled();
    let generation = RIG.status("grasping").generation;
    let (c, grasping) = (probe("c"), probe("grasping"));
    let made = move || RIG.run(0, move || c.census()).expect("it lives").1;
    let earlier = made();
    for _ in 0..4 {
        assert_eq!(RIG.run(0, move || grasping.act(Deed::KeepHandle)), Ok(()));
    }
    assert_eq!(RIG.run(0, move || grasping.act(Deed::KeepHandle)), Err(CallError::Overloaded));
    assert_eq!(made(), earlier + 4, "none is made for who may not have it");
    let given = RIG.run(0, move || grasping.hold(c.handle().expect("others get theirs")));
    assert_eq!(given, Err(CallError::Overloaded));
    RIG.until("the one that was refused is dropped", || made() == earlier + 4);
    assert_eq!(RIG.run(0, move || grasping.relay(1, Deed::Nothing)), Ok(Relayed::Done), "other calls go on");
    RIG.order(Command::Kill, "grasping");
    RIG.until_restarted("grasping", generation);
    RIG.until("its handles are dropped", || made() == earlier);
    let given = RIG.run(0, move || grasping.hold(c.handle().expect("others get theirs")));
    assert_eq!(given, Ok(()), "the next generation has room");
    RIG.order(Command::Restart, "grasping");
    RIG.until_restarted("grasping", generation + 1);
    RIG.until_as_before(&before);
}

/// A domain may keep more packet buffers than its own while there are enough. When others go short it dies of that, and they have them; who keeps less than its own is
/// left alone.
#[test]
fn who_keeps_more_buffers_than_its_own_dies_when_others_go_short() {
    let _turn = RIG.turn();
    let before = settled();
    let generations = ["greedy", "b", "c"].map(|name| RIG.status(name).generation);
    let (greedy, b, c) = (probe("greedy"), probe("b"), probe("c"));
    assert_eq!(RIG.run(0, move || greedy.act(Deed::KeepPackets(100))), Ok(()));
    assert_eq!(RIG.run(0, move || c.act(Deed::KeepPackets(50))), Ok(()));
    assert_eq!(RIG.status("greedy").generation, generations[0]);
    // More than are left, so it goes short; what it gets in the end depends on how soon that is seen.
    let answer = RIG.run(0, move || b.act(Deed::KeepPackets(120)));
    assert!(matches!(answer, Ok(()) | Err(CallError::Overloaded)), "{answer:?}");
    RIG.until_restarted("greedy", generations[0]);
    assert_eq!(last_cause("greedy"), Cause::Crash(Reason::Quota));
    assert_eq!(RIG.run(0, move || c.act(Deed::KeepPackets(20))), Ok(()), "they are there again");
    assert_eq!(["b", "c"].map(|name| RIG.status(name).generation), generations[1..]);
    for (name, generation) in ["b", "c"].into_iter().zip(&generations[1..]) {
        RIG.order(Command::Restart, name);
        RIG.until_restarted(name, *generation);
    }
    RIG.until_as_before(&before);
}
