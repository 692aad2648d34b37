//! A storm: threads on both CPUs call up and down a chain, moving objects and handles, while its domains are killed and crash at random moments. Nobody hears
//! anything but what the interface allows, and in the end everything is as it was before.
//!
//! `STORM_SECONDS` and `STORM_SEED` make a campaign of it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Port, RRef,
    abi::Reason,
    probe::{Deed, Probe, Relayed, Word},
};
use kernel_core::supervisor::Command;
use rig::{Rig, Settings};

static RIG: LazyLock<Rig> = LazyLock::new(|| Rig::start(Settings::chain(|_| {})));

const NAMES: [&str; 3] = ["a", "b", "c"];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One call of some kind; what came of it.
fn call(probes: &[Port<dyn Probe>; 3], random: &mut Random) -> Result<(), CallError> {
    let probe = probes[random.below(3) as usize];
    match random.below(8) {
        0 | 1 => probe.next(5).map(|word| assert_eq!(word, 6)),
        2 | 3 => {
            let word = RRef::new(Word(5)).expect("the kernel has no quota");
            probe.pass(word).map(|word| assert_eq!(word.0, 6))
        }
        4 => {
            let mut handle = probe.handle()?;
            handle.next(5).map(|word| assert_eq!(word, 6))
        }
        5 => match probes[0].relay(random.below(3) as u32, Deed::Sleep(random.below(200_000)))? {
            Relayed::Done => Ok(()),
            Relayed::Failed(error) => Err(error),
        },
        6 => match probes[0].relay(random.below(3) as u32, Deed::Keep(1))? {
            Relayed::Done => Ok(()),
            Relayed::Failed(error) => Err(error),
        },
        _ if random.below(200) == 0 => probe.act(Deed::Panic),
        _ if random.below(200) == 0 => probe.act(Deed::StackOverflow),
        _ => probe.act(Deed::KeepHandle).or_else(|error| if error == CallError::Gone { Ok(()) } else { Err(error) }),
    }
}

#[test]
fn nothing_is_lost_in_a_storm() {
    let _turn = RIG.turn();
    let before = RIG.baseline();
    let seed = setting("STORM_SEED", 0x5eed);
    println!("seed {seed:#x}");
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let outcomes = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let callers: Vec<_> = (0..6u64)
        .map(|number| {
            let (over, calls, outcomes) = (over.clone(), calls.clone(), outcomes.clone());
            let probes = NAMES.map(|name| RIG.port::<dyn Probe>(name, "probe"));
            RIG.spawn(number as usize % 2, move || {
                let mut random = Random(seed ^ number << 32);
                let mut mine = BTreeMap::<String, u64>::new();
                while !over.load(Relaxed) {
                    let outcome = call(&probes, &mut random);
                    *mine.entry(outcome.map_or_else(|error| format!("{error:?}"), |()| "Ok".into())).or_default() += 1;
                    calls.fetch_add(1, Relaxed);
                }
                for (outcome, count) in mine {
                    *outcomes.lock().unwrap().entry(outcome).or_default() += count;
                }
            })
        })
        .collect();
    let mut random = Random(seed);
    let begun = Instant::now();
    let mut ends = 0;
    while begun.elapsed() < Duration::from_secs(setting("STORM_SECONDS", 8)) {
        let name = NAMES[random.below(3) as usize];
        match random.below(4) {
            0 => RIG.order(|domain| Command::Inject(domain, Reason::ALL[random.below(5) as usize]), name),
            1 => RIG.order(Command::Restart, name),
            _ => RIG.order(Command::Kill, name),
        }
        ends += 1;
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
    }
    over.store(true, Relaxed);
    for caller in callers {
        caller.join();
    }
    let outcomes = outcomes.lock().unwrap().clone();
    println!("{} calls, {ends} orders to end a domain: {outcomes:?}", calls.load(Relaxed));
    for name in NAMES {
        let status = RIG.status(name);
        println!("{name}: generation {}", status.generation);
    }
    assert!(outcomes["Ok"] > 1_000 && outcomes["Crashed"] > 10, "{outcomes:?}");
    for outcome in outcomes.keys() {
        assert!(
            ["Ok", "Crashed", "Restarting", "Stopped", "Gone", "Overloaded"].contains(&outcome.as_str()),
            "{outcome}"
        );
    }
    // What they kept goes with a last restart of each.
    for name in NAMES {
        RIG.until("it lives", || RIG.status(name).state == "live");
        let generation = RIG.status(name).generation;
        RIG.order(Command::Restart, name);
        RIG.until_restarted(name, generation);
    }
    RIG.until_as_before(&before);
}
