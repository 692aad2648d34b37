//! What is lent and what is nested, across crashes: a loan outlives its lender, a hierarchy has the owner of its root, and neither leaves anything behind.

use std::{
    sync::{LazyLock, mpsc},
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Nested, Port, RRef,
    collections::{Bytes, Deque},
    packet::Batch,
    probe::{Deed, Parcel, Probe, Word},
    want_back,
};
use kernel_core::{exchange, incarnation::Cause, supervisor::Command, thread};
use rig::{Counts, Rig, Settings};

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(Settings::chain(|_| {})));

const MILLISECOND: u64 = 1_000_000;
/// Index of the kernel, which is charged for what is lent while its owner is dead.
const KERNEL: usize = 0;

fn probe(name: &str) -> Port<dyn Probe> {
    RIG.port::<dyn Probe>(name, "probe")
}

/// Objects that nobody but the kernel has.
fn orphans() -> usize {
    RIG.counts();
    exchange::objects(KERNEL).0
}

fn after_a_restart_of(names: &[&str], before: &Counts) {
    for name in names {
        let generation = RIG.status(name).generation;
        RIG.order(Command::Restart, name);
        RIG.until_restarted(name, generation);
    }
    RIG.until_as_before(before);
}

/// Parcels as the kernel's own threads make them.
fn parcel(number: u64) -> RRef<Parcel> {
    let empty = Parcel { number, word: Nested::empty(), batch: Some(Nested::empty()), texts: Deque::default() };
    let mut parcel = RRef::new(empty).unwrap();
    parcel.word.put(RRef::new(Word(number)).unwrap()).unwrap();
    let mut batch = Batch::allocate().unwrap();
    batch.fill(2);
    parcel.batch.as_mut().unwrap().put(batch).unwrap();
    for text in ["first", "second"] {
        parcel.texts.push_back(Bytes::copy_of(text.as_bytes()).unwrap()).unwrap();
    }
    parcel
}

#[test]
fn what_is_lent_is_seen_and_stays_the_lenders() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let (a, c) = (probe("a"), probe("c"));
    RIG.run(0, move || {
        let mut word = RRef::new(Word(5)).unwrap();
        assert_eq!(c.look(word.lend(), 0), Ok(5));
        word.0 = 6;
        // Lent on through three domains.
        assert_eq!(a.look_on(word.lend(), 2, 0), Ok(6));
        let parcel = parcel(7);
        assert_eq!(c.look(parcel.word.lend().unwrap(), 0), Ok(7));
        assert_eq!((word.0, parcel.number), (6, 7));
    });
    RIG.until_as_before(&before);
}

/// The lender dies while its thread is away with what it lent: it is reclaimed at once and started again, the object lasts until the call is over, unchanged,
/// and is freed then (invariant 3: a borrowed object outlives its borrow).
#[test]
fn a_loan_outlives_its_lender() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for (deed, lent) in [(Deed::Lend(2_000 * MILLISECOND), 1), (Deed::LendNested(2_000 * MILLISECOND), 1)] {
        let (generation, nobodys) = (RIG.status("b").generation, orphans());
        let b = probe("b");
        let caller = RIG.spawn(0, move || b.act(deed));
        RIG.until_inside("c", 1);
        RIG.order(Command::Kill, "b");
        RIG.until_restarted("b", generation);
        RIG.until("the dead lender is reclaimed but for what is lent", || orphans() == nobodys + lent);
        assert!(caller.try_join().is_none(), "the call to which it is lent goes on");
        assert_eq!(RIG.counts().domains[RIG.index("b") - 1].objects, 0);
        assert_eq!(caller.join(), Err(CallError::Crashed));
        RIG.until("the loan is over", || orphans() == nobodys);
        let c = RIG.status("c");
        assert!(c.last_death.is_none() || c.state == "live", "the borrower saw nothing of it");
        RIG.until_as_before(&before);
    }
}

/// The borrower dies, of itself or killed: the loan is over, and the object is still the lender's.
#[test]
fn a_borrowers_death_ends_the_loan() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for deed in [Deed::Panic, Deed::StackOverflow, Deed::Hoard] {
        let generation = RIG.status("c").generation;
        let c = probe("c");
        let kept = RIG.run(0, move || {
            let word = RRef::new(Word(5)).unwrap();
            let answer = c.look_and_act(word.lend(), deed);
            (answer, word.0)
        });
        assert_eq!(kept, (Err(CallError::Crashed), 5), "{deed:?}");
        RIG.until_restarted("c", generation);
        RIG.until_as_before(&before);
    }
}

/// A caller gets back what it moved into a call that failed, but not what the dead callee has lent on meanwhile, from another thread: whoever has borrowed it goes
/// on reading it while the caller would write (invariant 3).
#[test]
fn what_the_dead_has_lent_on_is_not_given_back() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let nobodys = orphans();
    for lends in [false, true] {
        let generation = RIG.status("b").generation;
        let b = probe("b");
        let caller = RIG.spawn(0, move || {
            want_back();
            let answer = b.keep_and_act(RRef::new(Word(3)).unwrap(), Deed::WaitForever);
            (answer, RRef::<Word>::given_back().map(|word| word.0))
        });
        RIG.until_inside("b", 1);
        if lends {
            RIG.run(0, move || b.act(Deed::SpawnLender(1_500 * MILLISECOND))).unwrap();
            let borrower = RIG.index("c");
            RIG.until("the borrower has it", || {
                thread::all().any(|thread| thread.name() == "deed" && thread.innermost_domain() == borrower)
            });
        }
        RIG.order(Command::Kill, "b");
        let answer = caller.join();
        assert_eq!(answer, (Err(CallError::Crashed), (!lends).then_some(3)));
        RIG.until_restarted("b", generation);
        assert_eq!(orphans(), nobodys + usize::from(lends), "it lasts until its loan is over");
        RIG.until("the loan is over", || orphans() == nobodys);
        RIG.until_as_before(&before);
    }
}

/// A caller that has died and been reclaimed while its thread was away gets nothing back when its callee crashes, too: nobody would find it.
#[test]
fn the_dead_get_nothing_back() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generations = ["b", "c"].map(|name| RIG.status(name).generation);
    let b = probe("b");
    let (crashed, go) = (mpsc::channel(), mpsc::channel());
    let caller = RIG.spawn(0, move || {
        b.act(Deed::WantBack).unwrap();
        crashed.0.send(b.act(Deed::GiveAndWait)).unwrap();
        // A thread's end would clear its place away.
        go.1.recv().unwrap();
    });
    RIG.until_inside("c", 1);
    RIG.order(Command::Kill, "b");
    RIG.until_restarted("b", generations[0]);
    RIG.order(Command::Kill, "c");
    assert_eq!(crashed.1.recv().unwrap(), Err(CallError::Crashed));
    RIG.until_restarted("c", generations[1]);
    assert_eq!(["b", "c"].map(|name| RIG.counts().domains[RIG.index(name) - 1].objects), [0, 0]);
    go.0.send(()).unwrap();
    caller.join();
    RIG.until_as_before(&before);
}

/// Lender and borrower of a chain die together, while the innermost has it.
#[test]
fn a_whole_chain_of_lenders_dies() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let nobodys = orphans();
    let generations = ["a", "b"].map(|name| RIG.status(name).generation);
    let a = probe("a");
    let caller = RIG.spawn(0, move || {
        let word = RRef::new(Word(9)).unwrap();
        let answer = a.look_on(word.lend(), 2, 2_000 * MILLISECOND);
        (answer, word.0)
    });
    RIG.until_inside("c", 1);
    RIG.order(Command::Kill, "b");
    RIG.order(Command::Kill, "a");
    for (name, generation) in ["a", "b"].into_iter().zip(generations) {
        RIG.until_restarted(name, generation);
    }
    assert_eq!(caller.join(), (Err(CallError::Crashed), 9));
    assert_eq!(orphans(), nobodys);
    RIG.until_as_before(&before);
}

/// A loan ends with the crash of whom it was made to: whoever has the object next may die, too, and it is free.
#[test]
fn a_loan_ends_with_its_borrower() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let nobodys = orphans();
    let generation = RIG.status("a").generation;
    let (a, b) = (probe("a"), probe("b"));
    RIG.run(0, move || {
        let word = RRef::new(Word(7)).unwrap();
        assert_eq!(a.look_and_act(word.lend(), Deed::Panic), Err(CallError::Crashed));
        b.keep(word).unwrap();
    });
    RIG.until_restarted("a", generation);
    after_a_restart_of(&["b"], &before);
    assert_eq!(orphans(), nobodys);
}

/// A refused call lends nothing.
#[test]
fn a_call_that_does_not_begin_lends_nothing() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("c").generation;
    let c = probe("c");
    RIG.order(Command::Stop, "c");
    RIG.until("c has stopped", || RIG.status("c").state == "stopped");
    let word = RIG.run(0, move || {
        let word = RRef::new(Word(5)).unwrap();
        assert_eq!(c.look(word.lend(), 0), Err(CallError::Stopped));
        word
    });
    RIG.order(Command::Start, "c");
    RIG.until_restarted("c", generation);
    drop(word);
    RIG.until_as_before(&before);
}

/// One move carries everything: the receiver owns each nested object, changes it, and what it takes out is its own.
#[test]
fn a_hierarchy_moves_as_one() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let c = probe("c");
    let place = RIG.index("c") - 1;
    RIG.run(0, move || {
        let mut back = c.repack(parcel(5)).unwrap();
        assert_eq!((back.number, back.word.get().map(|word| word.0), back.texts.len()), (6, Some(6), 1));
        assert_eq!(back.texts.pop_front().unwrap().as_slice(), b"first");
        assert_eq!(back.batch.as_mut().and_then(Nested::take).unwrap().len(), 2);
        c.post(parcel(1)).unwrap();
        c.post(parcel(2)).unwrap();
        assert_eq!(c.weigh(), Ok((3, 2)));
    });
    let held = &RIG.counts().domains[place];
    assert_eq!((held.objects, held.buffers), (10, 4), "roots and what is nested in them");
    assert!(held.bytes > 10 * 128);
    after_a_restart_of(&["c"], &before);
}

/// A sender that has taken, put or posted something and dies at once: what had been moved is the receiver's, all else is reclaimed, to the last byte.
#[test]
fn take_put_or_post_and_crash() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    for (deed, kept, weight) in
        [(Deed::TakeAndPanic, 1, (0, 0)), (Deed::PutAndPanic, 0, (0, 0)), (Deed::PostAndPanic, 6, (5, 1))]
    {
        let generation = RIG.status("b").generation;
        let (b, c) = (probe("b"), probe("c"));
        assert_eq!(RIG.run(1, move || b.act(deed)), Err(CallError::Crashed), "{deed:?}");
        RIG.until_restarted("b", generation);
        assert!(matches!(RIG.status("b").last_death.unwrap().1.cause, Cause::Crash(_)));
        let counts = RIG.counts();
        assert_eq!(counts.domains[RIG.index("b") - 1].objects, 0, "{deed:?}");
        assert_eq!(counts.domains[RIG.index("c") - 1].objects, kept, "{deed:?}");
        assert_eq!(RIG.run(0, move || c.weigh()), Ok(weight), "{deed:?}");
        after_a_restart_of(&["c"], &before);
    }
}

/// Kept hierarchies go with their owner, whatever kills it.
#[test]
fn kept_hierarchies_are_reclaimed() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let generation = RIG.status("b").generation;
    let b = probe("b");
    assert_eq!(RIG.run(0, move || b.act(Deed::KeepParcels(20))), Ok(()));
    let held = RIG.counts();
    assert_eq!((held.domains[1].objects, held.domains[1].buffers), (120, 40));
    RIG.order(Command::Kill, "b");
    RIG.until_restarted("b", generation);
    RIG.until_as_before(&before);
}

/// Lenders and movers on both CPUs while their domains are killed: nothing is lost, nothing freed twice (a count below nothing would show as millions).
#[test]
fn nothing_is_lost_among_killed_lenders() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let nobodys = orphans();
    let probes = ["a", "b", "c"].map(probe);
    let until = Instant::now() + Duration::from_secs(3);
    let callers: Vec<_> = (0..4usize)
        .map(|number| {
            RIG.spawn(number % 2, move || {
                let word = RRef::new(Word(77)).unwrap();
                let mut done = 0u64;
                while Instant::now() < until {
                    let probe = probes[(done % 3) as usize];
                    match done % 5 {
                        0 => _ = probe.look(word.lend(), 10_000),
                        1 => _ = probes[0].look_on(word.lend(), 2, 20_000),
                        2 => _ = probe.repack(parcel(done)).map(|parcel| assert_eq!(parcel.number, done + 1)),
                        3 => _ = probe.act(Deed::Lend(30_000)),
                        _ => _ = probe.act(Deed::LendNested(30_000)),
                    }
                    assert_eq!(word.0, 77);
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut kills = 0usize;
    while Instant::now() < until {
        RIG.order(Command::Kill, ["a", "b", "c"][kills % 3]);
        kills += 1;
        std::thread::sleep(Duration::from_millis(3));
    }
    let done: u64 = callers.into_iter().map(|caller| caller.join()).sum();
    println!("{done} calls, {kills} kills");
    after_a_restart_of(&["a", "b", "c"], &before);
    assert_eq!(orphans(), nobodys);
}
