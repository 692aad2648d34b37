//! Every kind of crash at every place, alone and in a crowd: the caller hears an error, the death is told as what it was and charged to whom it belongs, nobody else dies, the same
//! proxy answers again, and everything is as it was before.

use std::{
    ptr,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bundle::manifest::Nanos;
use interfaces::{
    CallError, Port, RRef,
    abi::Reason,
    collections::Deque,
    probe::{Deed, Parcel, Place, Probe, Relayed, Word},
};
use kernel_core::{
    incarnation::Cause,
    supervisor::Command,
    thread::{self, KERNEL_RESERVE, ThreadBlock},
};
use rig::{
    DomainSpec, Rig, Running, Settings, Start,
    stops::{self, Fault},
};

const MILLISECOND: u64 = 1_000_000;
const STUMBLING: Start = Start { name: "stumbling", package: "probe", path: "probe::start_stumbling" };

/// Two chains of three, `a` → `b` → `c` with no watchdog and `x` → `y` → `z` with one, and one that stumbles.
static RIG: LazyLock<Rig> = LazyLock::new(|| {
    let mut settings = Settings::chain(|_| {});
    let watched = Settings::chain(|domain| domain.watchdog = Nanos(40 * MILLISECOND));
    for (mut domain, name) in watched.domains.into_iter().zip(["z", "y", "x"]) {
        domain.spec.name = name.into();
        for import in &mut domain.spec.imports {
            if let bundle::manifest::Source::Domain { index, .. } = &mut import.from {
                *index += 3;
            }
        }
        settings.domains.push(domain);
    }
    settings.domains.push(DomainSpec::new("stumbling", STUMBLING).export("probe", "Probe"));
    stops::prepare().expect("this process's memory can be written to");
    Rig::start(settings)
});

const ALL: [&str; 7] = ["c", "b", "a", "z", "y", "x", "stumbling"];

fn probe(name: &str) -> Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

/// A way to die.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// By the domain's own code.
    Deed(Deed),
    /// By an exception of the CPU, or the operator, while it computes.
    Fault(Fault),
    /// Of the watchdog.
    Watchdog(Deed),
}

impl Kind {
    fn all() -> impl Iterator<Item = Kind> {
        let faults = [
            Fault::Breakpoint,
            Fault::GeneralProtection,
            Fault::InvalidOpcode,
            Fault::PageFault,
            Fault::DivideError,
            Fault::Kill,
        ];
        let watchdog = [Deed::Spin, Deed::SpinWithCalls];
        Deed::DEADLY
            .into_iter()
            .map(Kind::Deed)
            .chain(faults.into_iter().map(Kind::Fault))
            .chain(watchdog.into_iter().map(Kind::Watchdog))
    }

    fn deed(self) -> Deed {
        match self {
            Kind::Deed(deed) | Kind::Watchdog(deed) => deed,
            Kind::Fault(_) => Deed::Stay,
        }
    }

    fn reason(self, place: Place) -> Reason {
        match self {
            Kind::Deed(Deed::StackOverflow | Deed::OverflowInLibrary | Deed::OverflowAtWork) => Reason::StackOverflow,
            // It panics amid a panic, and that is all that can be said.
            Kind::Deed(Deed::Hoard) if place != Place::LastWords => Reason::Quota,
            Kind::Deed(_) => Reason::Panic,
            Kind::Fault(Fault::Kill) => Reason::Killed,
            Kind::Fault(Fault::PageFault) => Reason::PageFault,
            Kind::Fault(_) => Reason::CpuException,
            Kind::Watchdog(_) => Reason::Watchdog,
        }
    }

    /// Last, middle and first of the chain that it is tried on.
    fn chain(self) -> [&'static str; 3] {
        if matches!(self, Kind::Watchdog(_)) { ["z", "y", "x"] } else { ["c", "b", "a"] }
    }
}

/// The threads that are inside the domain now and execute, but for those of the crowd.
fn acting(domain: &str, crowd: &[&'static ThreadBlock]) -> Option<&'static ThreadBlock> {
    let index = RIG.index(domain);
    thread::all().find(|block| {
        block.innermost_domain() == index && !block.is_blocked() && !crowd.iter().any(|other| ptr::eq(*other, *block))
    })
}

/// Brings a fault about in the domain, where a thread of it stays.
fn strike(domain: &str, fault: Fault, crowd: &[&'static ThreadBlock]) {
    let (victim, index, generation) = (probe(domain), RIG.index(domain), RIG.status(domain).generation);
    RIG.until("somebody stays there", || victim.is_staying() == Ok(true));
    RIG.until("it is struck", || {
        let Some(block) = acting(domain, crowd) else { return RIG.status(domain).generation > generation };
        stops::step(block, index, 3, fault);
        RIG.until("the step is over", || !stops::is_stepping(block));
        stops::step_no_more(block).is_some()
    });
}

/// Those inside, and the one away.
type Crowd = (Vec<Running<Result<(), CallError>>>, Running<Result<Relayed, CallError>>);

/// Others in the domain when it dies: one blocked, one that computes, one in and out of the kernel, and one that is away.
fn crowd([below, domain, _]: [&'static str; 3], with_spinner: bool) -> Crowd {
    let victim = probe(domain);
    let mut deeds = vec![Deed::WaitForever, Deed::SpinWithCalls];
    if with_spinner {
        deeds.push(Deed::Spin);
    }
    let inside: Vec<_> = deeds
        .iter()
        .enumerate()
        .map(|(cpu, deed)| {
            RIG.spawn(cpu % 2, {
                let deed = *deed;
                move || victim.act(deed)
            })
        })
        .collect();
    let away = RIG.spawn(0, move || victim.relay(1, Deed::WaitForever));
    RIG.until("they are all inside, or further on", || {
        let places = [RIG.index(domain), RIG.index(below)];
        let tests = || thread::all().filter(|block| block.name() == "test");
        let away = tests().any(|block| block.innermost_domain() == places[1] && block.is_blocked());
        away && tests().filter(|block| places.contains(&block.innermost_domain())).count() == deeds.len() + 1
    });
    (inside, away)
}

/// One crash, and everything that must hold after it.
fn crash(kind: Kind, place: Place, in_a_crowd: bool) {
    let what = format!("{kind:?}, {place:?}{}", if in_a_crowd { ", in a crowd" } else { "" });
    // Shown when a case doesn't come to its end.
    println!("{what}");
    let [below, victim, first] = kind.chain();
    let before = RIG.baseline();
    let generations = ALL.map(|name| RIG.status(name).generation);
    let generation = RIG.status(victim).generation;
    // A crowd that computes would be charged by the watchdog instead.
    let others = in_a_crowd.then(|| crowd(kind.chain(), !matches!(kind, Kind::Watchdog(_))));
    let crowding: Vec<&'static ThreadBlock> =
        thread::all().filter(|block| in_a_crowd && block.name() == "test").collect();
    let deed = kind.deed();
    // Alone it is called by the kernel, in a crowd by a domain.
    let caller = RIG.spawn(1, move || {
        if in_a_crowd { probe(first).act_at(1, place, deed) } else { probe(victim).act_at(0, place, deed) }
    });
    if let Kind::Fault(fault) = kind {
        strike(victim, fault, &crowding);
    }
    let expected = if in_a_crowd { Ok(Relayed::Failed(CallError::Crashed)) } else { Err(CallError::Crashed) };
    assert_eq!(caller.join(), expected, "{what}");
    let mut away_one = None;
    if let Some((inside, away)) = others {
        for other in inside {
            assert_eq!(other.join(), Err(CallError::Crashed), "{what}: who was inside");
        }
        away_one = Some(away);
    }
    RIG.until_restarted(victim, generation);
    let (died, death) = RIG.status(victim).last_death.expect("it has died");
    let words = String::from_utf8_lossy(&death.words[..death.words_len]).into_owned();
    assert_eq!((died, death.cause), (generation, Cause::Crash(kind.reason(place))), "{what}: {words}");
    if death.chain_len > 0 {
        let charged = usize::from(death.chain[death.chain_len - 1]);
        assert_eq!(charged, RIG.index(victim), "{what}: who is charged");
    }
    let answers = probe(victim);
    assert_eq!(RIG.run(0, move || answers.next(1)), Ok(2), "{what}: the same proxy");
    for (name, generation) in ALL.into_iter().zip(generations) {
        let now = RIG.status(name).generation;
        assert_eq!(now, generation + u32::from(name == victim), "{what}: {name}");
    }
    if let Some(away) = away_one {
        assert!(away.try_join().is_none(), "{what}: who was away still is, and has held nobody up");
        let generation = RIG.status(below).generation;
        RIG.order(Command::Restart, below);
        assert_eq!(away.join(), Err(CallError::Crashed), "{what}: who was away");
        RIG.until_restarted(below, generation);
    }
    RIG.until_as_before(&before);
}

/// A domain's own thread that calls others gives a sign of life by that.
fn places(kind: Kind) -> impl Iterator<Item = Place> {
    let alive = move |place: &Place| *place == Place::InAThread && kind == Kind::Watchdog(Deed::SpinWithCalls);
    Place::ALL.into_iter().filter(move |place| !alive(place))
}

/// Invariants 1, 2 and 9 for each.
#[test]
fn every_kind_of_crash_at_every_place() {
    let _turn = RIG.turn();
    for kind in Kind::all() {
        places(kind).for_each(|place| crash(kind, place, false));
    }
}

/// The same while others are inside on both CPUs, blocked, computing, in kernel calls, and away in another domain; and with domains below the caller's own.
#[test]
fn every_kind_of_crash_at_every_place_in_a_crowd() {
    let _turn = RIG.turn();
    for kind in Kind::all() {
        places(kind).for_each(|place| crash(kind, place, true));
    }
}

/// What was moved to it is freed with it, and what was lent to it is the lender's again.
#[test]
fn every_kind_of_crash_with_what_is_others() {
    let _turn = RIG.turn();
    for kind in Kind::all() {
        let [_, victim, _] = kind.chain();
        let (before, generation) = (RIG.baseline(), RIG.status(victim).generation);
        let (port, deed) = (probe(victim), kind.deed());
        let caller = RIG.spawn(1, move || {
            let parcel = Parcel {
                number: 1,
                word: interfaces::Nested::empty(),
                batch: Some(interfaces::Nested::empty()),
                texts: Deque::default(),
            };
            let mut parcel = RRef::new(parcel).unwrap();
            parcel.word.put(RRef::new(Word(2)).unwrap()).unwrap();
            port.act_with(RRef::new(Word(1)).unwrap(), parcel, deed).map(drop)
        });
        if let Kind::Fault(fault) = kind {
            strike(victim, fault, &[]);
        }
        assert_eq!(caller.join(), Err(CallError::Crashed), "{kind:?} with what was moved");
        RIG.until_restarted(victim, generation);
        RIG.until_as_before(&before);
        let lender = RIG.spawn(0, move || {
            let word = RRef::new(Word(7)).unwrap();
            let heard = port.look_and_act(word.lend(), deed);
            (heard, word.0)
        });
        if let Kind::Fault(fault) = kind {
            strike(victim, fault, &[]);
        }
        assert_eq!(lender.join(), (Err(CallError::Crashed), 7), "{kind:?} with what was lent");
        RIG.until_restarted(victim, generation + 1);
        RIG.until_as_before(&before);
    }
}

/// Each kind on the way of a start: that generation is told as crashed, the next one lives, and nothing of the one between is left.
#[test]
fn every_kind_of_crash_in_a_start() {
    let _turn = RIG.turn();
    let mut kinds = vec![Kind::Fault(Fault::Kill)];
    kinds.extend(Kind::all().filter(|kind| matches!(kind, Kind::Fault(_))));
    let before = RIG.baseline();
    let mut faults = kinds.into_iter().cycle();
    for _ in 0..6 * (Deed::DEADLY.len() + 1) {
        let generation = RIG.status("stumbling").generation;
        assert!(!generation.is_multiple_of(2), "the odd ones live");
        RIG.order(Command::Restart, "stumbling");
        let next = generation as usize + 1;
        let kind = match Deed::DEADLY.get(next / 2 % (Deed::DEADLY.len() + 1)) {
            Some(deed) => Kind::Deed(*deed),
            None => faults.next().expect("endless"),
        };
        if let Kind::Fault(fault) = kind {
            let index = RIG.index("stumbling");
            RIG.until("its start is struck", || {
                let starting =
                    thread::all().find(|block| block.name() == "start stumbling" && block.innermost_domain() == index);
                let Some(block) = starting else { return false };
                stops::step(block, index, 3, fault);
                RIG.until("the step is over", || !stops::is_stepping(block));
                stops::step_no_more(block).is_some()
            });
        }
        RIG.until_restarted("stumbling", generation + 1);
        let (died, death) = RIG.status("stumbling").last_death.expect("it has died");
        assert_eq!((died, death.cause), (generation + 1, Cause::Crash(kind.reason(Place::Method))), "{kind:?}");
        let port = probe("stumbling");
        assert_eq!(RIG.run(0, move || port.next(1)), Ok(2), "{kind:?}");
        RIG.until_as_before(&before);
    }
}

/// Each kind while another domain of the chain is just being restarted, and two at once on two CPUs.
#[test]
fn every_kind_of_crash_amid_anothers_restart() {
    let _turn = RIG.turn();
    for kind in Deed::DEADLY.map(Kind::Deed) {
        for other in ["a", "c"] {
            let (before, generations) = (RIG.baseline(), ["b", other].map(|name| RIG.status(name).generation));
            let (b, second, deed) = (probe("b"), probe(other), kind.deed());
            RIG.order(Command::Restart, other);
            let callers = [
                RIG.spawn(0, move || b.act(deed)),
                // It may find that one dead, dying or alive.
                RIG.spawn(1, move || second.act(Deed::Panic)),
            ];
            let heard = callers.map(Running::join);
            assert_eq!(heard[0], Err(CallError::Crashed), "{kind:?} amid the restart of {other}");
            assert!(heard[1].is_err(), "{kind:?}: {other} heard {:?}", heard[1]);
            RIG.until_restarted("b", generations[0]);
            RIG.until_restarted(other, generations[1]);
            let (died, death) = RIG.status("b").last_death.expect("it has died");
            assert_eq!((died, death.cause), (generations[0], Cause::Crash(kind.reason(Place::Method))), "{kind:?}");
            assert_eq!(RIG.run(0, move || b.forward(1)).or(RIG.run(0, move || b.next(1))), Ok(2));
            RIG.until_as_before(&before);
        }
    }
}

/// Called just when it dies: an answer, or an error that says so; never a hang, and never a crash of the caller's.
#[test]
fn a_call_just_before_the_end() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for round in 0..200 {
        let generation = RIG.status("b").generation;
        let b = probe("b");
        let caller = RIG.spawn(round % 2, move || (0..100).map(|word| b.next(word)).collect::<Vec<_>>());
        RIG.order(Command::Kill, "b");
        for heard in caller.join() {
            assert!(matches!(heard, Ok(_) | Err(CallError::Crashed | CallError::Restarting)), "{heard:?}");
        }
        RIG.until_restarted("b", generation);
    }
    RIG.until_as_before(&before);
}

/// Calls `work` with the stack pointer so many bytes above the stack's limit.
fn with_room(bytes: usize, work: &mut dyn FnMut()) {
    extern "C" fn call(work: *mut &mut dyn FnMut()) {
        // SAFETY: `with_room` waits for us.
        unsafe { (*work)() }
    }
    let here = ptr::from_ref(&bytes).addr();
    let limit = thread::current().stack_limit();
    assert!(limit + bytes + 4096 < here, "there is so much room");
    let mut work = work;
    // SAFETY: that far down the stack is unused; the callee keeps what a callee keeps, and we come back to where we were.
    unsafe {
        std::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {room}",
            "call {call}",
            "mov rsp, r12",
            room = in(reg) (limit + bytes) & !15,
            call = sym call,
            in("rdi") &raw mut work,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}

/// Whatever is left of a caller's stack, to the least step that a stack pointer makes: the callee gets what it needs, or the caller hears that its stack is short. The callee never dies of it.
#[test]
fn too_little_stack_at_every_offset() {
    let _turn = RIG.turn();
    let (before, generation) = (RIG.baseline(), RIG.status("c").generation);
    let c = probe("c");
    // From less than the callee needs to more; but what the kernel itself needs is there, since this caller is the kernel's.
    let heard = RIG.run(0, move || {
        let mut heard = Vec::new();
        for room in (KERNEL_RESERVE + (4 << 10)..KERNEL_RESERVE + (40 << 10)).step_by(16) {
            with_room(room, &mut || heard.push(c.next(1)));
        }
        heard
    });
    let short = heard.iter().take_while(|heard| **heard == Err(CallError::StackShort)).count();
    assert!(short > 100 && heard.len() - short > 100, "{short} of {}", heard.len());
    assert!(heard[short..].iter().all(|heard| *heard == Ok(2)), "from some point on there is enough");
    assert_eq!(RIG.status("c").generation, generation, "the callee lives");
    RIG.until_as_before(&before);
}

/// A domain that calls on down to the end of its stack, begun at every offset, dies of that itself: whether its last step is in its own code, in a proxy, in the library's or in the kernel's
/// entries.
#[test]
fn the_end_of_the_stack_at_every_offset() {
    static AT: AtomicUsize = AtomicUsize::new(0);
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for deed in [Deed::StackOverflow, Deed::OverflowInLibrary, Deed::OverflowAtWork] {
        for offset in (0..512).step_by(16) {
            let generations = ["b", "c"].map(|name| RIG.status(name).generation);
            let b = probe("b");
            AT.store(offset, SeqCst);
            let heard = RIG.run(1, move || {
                let mut heard = Ok(());
                with_room(KERNEL_RESERVE + (48 << 10) + AT.load(SeqCst), &mut || heard = b.act(deed));
                heard
            });
            assert_eq!(heard, Err(CallError::Crashed), "{deed:?} at {offset}");
            RIG.until_restarted("b", generations[0]);
            let (died, death) = RIG.status("b").last_death.expect("it has died");
            assert_eq!(
                (died, death.cause),
                (generations[0], Cause::Crash(Reason::StackOverflow)),
                "{deed:?} at {offset}"
            );
            assert_eq!(RIG.status("c").generation, generations[1], "{deed:?} at {offset}: the callee lives");
        }
    }
    RIG.until_as_before(&before);
}
