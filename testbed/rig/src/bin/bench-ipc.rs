//! What a call between domains costs, natively, in cycles of the time-stamp counter: medians of 2,001 runs of 1,000 calls.
//!
//! `bench-ipc [--report FILE]` prints a table, and writes a JSON list of `{"row", "metric", "median", "unit"}`.

use std::{arch::x86_64::_rdtsc, fs, hint::black_box, time::Duration};

use interfaces::{
    CallError, Interface, Port, RRef,
    probe::{Deed, Probe, Word},
};
use kernel_core::domain;
use rig::{Rig, Settings};

const RUNS: usize = 2_001;
const CALLS: usize = 1_000;

struct Row {
    name: &'static str,
    median: f64,
}

fn main() {
    let rig = Rig::start(Settings::chain(|_| {}));
    let c: Port<dyn Probe> = rig.port("c", "probe");
    let bare = domain::by_name("c").and_then(|domain| domain.bare_object("probe")).expect("c lives");
    // SAFETY: the domain's own object, of this interface; nothing ends c while this is used.
    let plain: Port<dyn Probe> = Port::new(unsafe { &*<dyn Probe as Interface>::from_raw(bare) });
    let mut rows = rig.run(1, move || {
        let mut handle = c.handle().expect("c lives");
        vec![
            cycles("call.plain", || _ = black_box(plain.next(black_box(1)))),
            cycles("call.proxied", || _ = black_box(c.next(black_box(1)))),
            cycles("call.handle", || _ = black_box(handle.next(black_box(1)))),
            passing(c),
            cycles("linux.syscall", || {
                // SAFETY: no arguments, no effects.
                unsafe { libc::syscall(libc::SYS_getppid) };
            }),
        ]
    });
    rows.extend(crashes(&rig, c));
    for row in &rows {
        println!("{:<20} {:>12.1} cycles", row.name, row.median);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, file] = &arguments[..]
        && flag == "--report"
    {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| serde_json::json!({ "row": row.name, "metric": "cost", "median": row.median, "unit": "cycles" }))
            .collect();
        fs::write(file, serde_json::to_string_pretty(&rows).expect("plain data")).expect("the report can be written");
    }
    std::process::exit(0);
}

fn stamp() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { _rdtsc() }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Cycles per call.
fn cycles(name: &'static str, mut call: impl FnMut()) -> Row {
    let run = || {
        let begun = stamp();
        for _ in 0..CALLS {
            call();
        }
        (stamp() - begun) as f64 / CALLS as f64
    };
    Row { name, median: median(std::iter::repeat_with(run).take(RUNS).collect()) }
}

/// One object there and back.
fn passing(c: Port<dyn Probe>) -> Row {
    let mut word = Some(RRef::new(Word(0)).expect("the kernel has no quota"));
    cycles("call.rref", || word = c.pass(word.take().expect("it came back")).ok())
}

/// From the crash to the caller's error, and to the next generation's first answer.
fn crashes(rig: &Rig, c: Port<dyn Probe>) -> [Row; 2] {
    let (mut errors, mut restarts) = (Vec::new(), Vec::new());
    for _ in 0..201 {
        let (to_error, to_answer) = rig.run(1, move || {
            let begun = stamp();
            assert_eq!(c.act(Deed::Panic), Err(CallError::Crashed));
            let to_error = stamp() - begun;
            while c.next(1).is_err() {
                std::thread::sleep(Duration::from_micros(5));
            }
            (to_error, stamp() - begun)
        });
        errors.push(to_error as f64);
        restarts.push(to_answer as f64);
    }
    [
        Row { name: "crash.to-error", median: median(errors) },
        Row { name: "crash.to-restarted", median: median(restarts) },
    ]
}
