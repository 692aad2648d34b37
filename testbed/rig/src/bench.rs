//! What the benchmarks have in common: stamps and CPU time, medians, and the rows that they report.

use std::{
    arch::x86_64::_rdtsc,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde::Serialize;

/// One figure, as it stands in a report: a JSON list of these.
#[derive(Serialize)]
pub struct Row {
    /// What was measured, in words between dots: `net.forward.own-domain.batch-32`.
    pub row: String,
    pub metric: String,
    pub median: f64,
    pub unit: &'static str,
}

impl Row {
    pub fn new(row: impl Into<String>, metric: impl Into<String>, median: f64, unit: &'static str) -> Row {
        Row { row: row.into(), metric: metric.into(), median, unit }
    }
}

/// The file that the command line asks for; ends the program if it asks for anything else.
pub fn report_file(program: &str) -> Option<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => None,
        [flag, file] if flag == "--report" => Some(file.into()),
        _ => {
            eprintln!("{program} [--report FILE]");
            std::process::exit(2)
        }
    }
}

/// Prints the rows, and writes them to a file where one was asked for; false if that failed, of which it has said why.
pub fn report(rows: &[Row], file: Option<&Path>) -> bool {
    for Row { row, metric, median, unit } in rows {
        println!("{row:<44} {metric:<24} {median:>14.1} {unit}");
    }
    let Some(file) = file else { return true };
    let text = serde_json::to_string_pretty(rows).expect("plain data");
    let written = fs::write(file, text);
    if let Err(error) = &written {
        eprintln!("{}: {error}", file.display());
    }
    written.is_ok()
}

/// The time-stamp counter.
pub fn stamp() -> u64 {
    // SAFETY: every x86-64 has it.
    unsafe { _rdtsc() }
}

/// Cycles of the time-stamp counter in a nanosecond.
pub fn rate() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let (begun, cycles) = (Instant::now(), stamp());
        std::thread::sleep(Duration::from_millis(50));
        (stamp() - cycles) as f64 / begun.elapsed().as_nanos() as f64
    })
}

/// CPU time in nanoseconds by one of the system's clocks.
pub fn cpu_time(clock: libc::clockid_t) -> u64 {
    // SAFETY: a place for the answer.
    let time = unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &mut time);
        time
    };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub fn median(samples: Vec<f64>) -> f64 {
    percentile(samples, 50)
}

/// The sample below which so many of a hundred are; 0 without samples.
pub fn percentile(mut samples: Vec<f64>, percent: usize) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get((samples.len() * percent / 100).min(samples.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A median is the sample in the middle, whatever their order, and the hundredth percentile the largest.
    #[test]
    fn a_percentile_is_one_of_the_samples() {
        let samples = || vec![9.0, 1.0, 5.0, 3.0, 7.0];
        assert_eq!(median(samples()), 5.0);
        assert_eq!([0, 99, 100].map(|percent| percentile(samples(), percent)), [1.0, 9.0, 9.0]);
        assert_eq!(median(vec![]), 0.0);
    }
}
