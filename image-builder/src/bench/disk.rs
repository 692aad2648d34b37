//! What an I/O costs the whole machine, in instructions of all its virtual CPUs: a box in QEMU with our driver of its NVMe drive, and Linux with its own in the box's place, loaded by fio.
//! Never a speed: QEMU's clock says nothing of silicon, but an instruction is one there, too.
//!
//! Either is asked at its console for a number of I/Os. What is asked for twice, for few and for many, differs by the I/Os alone: what beginning and ending cost is in both.

use super::rows::Row;
use super::{Output, scratch, show};
use crate::build::build;
use crate::machine::{Machine, Parts};
use crate::manifest::check;
use crate::run::RunError;
use crate::workspace::Workspace;
use counter::Counter;
use lab::guest::{self, Contents};
use prefix::{Prefix, Tool};
use std::path::Path;
use std::time::{Duration, Instant};

/// What ours is measured in: the driver in its own domain below its client, and with the shadow between.
const BOXES: [(&str, &str); 2] =
    [("own-domain", "testbed/disk/load.toml"), ("shadow", "testbed/disk/load-shadow.toml")];
const OPERATIONS: [&str; 2] = ["read", "write"];
/// In flight.
const DEPTHS: [usize; 2] = [32, 1];
/// I/Os of the two lengths.
const COUNTS: [u64; 2] = [1_000, 31_000];
/// Pairs of these, for each operation and depth.
const SAMPLES: usize = 3;
/// How long the machine is left alone, to see what it executes then.
const REST: Duration = Duration::from_secs(2);

/// A drive without a medium: what it takes for itself is no part of what is counted, and nothing waits for the host's disk.
const DRIVE: [&str; 4] = [
    "-blockdev",
    "driver=null-co,node-name=medium,size=1073741824,read-zeroes=on",
    "-device",
    "nvme,serial=RL0001,drive=medium",
];
/// Linux's own driver with what it depends on, in the order in which they must be loaded.
const MODULES: [&str; 3] = ["drivers/nvme/common/nvme-auth", "drivers/nvme/host/nvme-core", "drivers/nvme/host/nvme"];

/// What a side's machine has.
struct Kind {
    /// Bytes.
    memory: u64,
    arguments: &'static [&'static str],
}

const OURS: Kind = Kind { memory: 128 << 20, arguments: &[] };
/// Debian's kernel needs room to unpack its root; and everything that could make it slower is off, as in ours.
const LINUX: Kind = Kind {
    memory: 1 << 30,
    arguments: &["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"],
};

/// The benchmark of the NVMe driver in QEMU, and of Linux's beside it; false if it failed, of which it has said why.
pub fn beside_linux(workspace: &Workspace, output: &Output) -> Result<bool, RunError> {
    Prefix::ensure(&[Tool::Qemu])?;
    let scratch = scratch()?;
    let counter = Counter::prepare(scratch.path())?;
    let (mut rows, mut well) = (Vec::new(), true);
    let mut side = |path: &str, kernel: &Path, bundle: &Path, of: &Kind| {
        eprintln!("{path}: boots in QEMU, and is asked");
        match measure(&counter, path, kernel, bundle, of) {
            Ok(measured) => rows.extend(measured),
            Err(reason) => {
                eprintln!("{path}: {reason}");
                well = false;
            }
        }
    };
    for (path, manifest) in BOXES {
        let checked = check(workspace, &workspace.root().join(manifest))?;
        let made = build(workspace, &checked.name, &checked.appliance, &checked.inquiry)?;
        side(path, &made.kernel_elf, &made.bundle, &OURS);
    }
    let initramfs = scratch.path().join("initramfs");
    match linux(&initramfs) {
        Ok(kernel) => side("linux", &kernel, &initramfs, &LINUX),
        // What the machine lacks for it is said; our own rows are worth something alone.
        Err(lack) => eprintln!("without Linux beside it: {lack}"),
    }
    show(&rows, output)?;
    Ok(well)
}

/// Writes Linux's root with fio in it, and finds its kernel.
fn linux(initramfs: &Path) -> Result<std::path::PathBuf, String> {
    let prefix = Prefix::ensure(&[Tool::Linux, Tool::Fio]).map_err(|lack| lack.to_string())?;
    let init = include_str!("guest/disk.sh");
    let root = Contents { init, modules: MODULES.into(), programs: &["fio"], libraries: &[], files: Vec::new() };
    root.write_initramfs(&prefix, initramfs).map_err(|error| error.to_string())?;
    guest::kernel(&prefix).map_err(|error| error.to_string())
}

/// What was executed, and in what time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Counted {
    instructions: u64,
    /// Of these, in the lower half of the address space, where Linux has its programs.
    programs: u64,
    seconds: f64,
}

/// Few I/Os, and many.
struct Sample([Counted; 2]);

impl Sample {
    /// How much of something an I/O takes.
    fn each(&self, of: impl Fn(&Counted) -> f64) -> f64 {
        let Sample([few, many]) = self;
        (of(many) - of(few)) / (COUNTS[1] - COUNTS[0]) as f64
    }

    /// Whatever the machine did meanwhile.
    fn whole(&self) -> f64 {
        self.each(|counted| counted.instructions as f64)
    }

    /// Without what it would have executed in the same time at rest, so many a second.
    fn beyond_idle(&self, idle: f64) -> f64 {
        self.each(|counted| counted.instructions as f64 - idle * counted.seconds)
    }
}

/// Boots one side, and asks it.
fn measure(counter: &Counter, path: &str, kernel: &Path, bundle: &Path, of: &Kind) -> Result<Vec<Row>, String> {
    let plain = DRIVE.iter().chain(of.arguments).map(|word| word.to_string());
    let devices: Vec<String> = plain.chain(counter.arguments()).collect();
    let mut machine = Machine::boot(&Parts { kernel, bundle, memory: of.memory, devices: &devices }, "")?;
    let rest = counted(counter, || {
        std::thread::sleep(REST);
        Ok(())
    })?;
    let idle = rest.instructions as f64 / rest.seconds;
    let mut rows = vec![row(&format!("nvme.idle.{path}"), "instructions_idle", idle, "instructions/s")];
    for operation in OPERATIONS {
        for depth in DEPTHS {
            let mut samples = Vec::new();
            for _ in 0..SAMPLES {
                let mut run = |count| counted(counter, || load(&mut machine, operation, depth, count));
                samples.push(Sample([run(COUNTS[0])?, run(COUNTS[1])?]));
            }
            let name = format!("nvme.{operation}.{path}.batch-{depth}");
            let median_of = |value: &dyn Fn(&Sample) -> f64| median(samples.iter().map(value).collect());
            rows.push(row(&name, "instructions", median_of(&Sample::whole), "instructions/IO"));
            let beyond = median_of(&|sample| sample.beyond_idle(idle));
            rows.push(row(&name, "instructions_beyond_idle", beyond, "instructions/IO"));
            let programs = median_of(&|sample| sample.each(|counted| counted.programs as f64));
            if programs > 0.0 {
                rows.push(row(&name, "instructions_programs", programs, "instructions/IO"));
            }
        }
    }
    Ok(rows)
}

fn counted(counter: &Counter, work: impl FnOnce() -> Result<(), String>) -> Result<Counted, String> {
    let read = || {
        let cpus = counter.read_halves().map_err(|error| error.to_string())?;
        let of = |half: usize| cpus.iter().map(|halves| halves[half]).sum::<u64>();
        Ok::<_, String>((of(0), of(0) + of(1)))
    };
    let ((programs, all), begun) = (read()?, Instant::now());
    work()?;
    let seconds = begun.elapsed().as_secs_f64();
    let now = read()?;
    Ok(Counted { instructions: now.1 - all, programs: now.0 - programs, seconds })
}

/// Asks for so many I/Os; it must have made so many.
fn load(machine: &mut Machine, operation: &str, depth: usize, count: u64) -> Result<(), String> {
    let before = machine.said().len();
    machine.say(&format!("load {operation} {depth} {count}"))?;
    match machine.said()[before..].lines().any(|line| line.trim() == format!("load: {count} done")) {
        true => Ok(()),
        false => Err(format!("{count} I/Os were asked for; it said:\n{}", &machine.said()[before..])),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, metric: &str, median: f64, unit: &str) -> Row {
    Row { row: name.into(), metric: metric.into(), median, unit: unit.into() }
}

#[cfg(test)]
mod tests {
    use super::super::rows::Grid;
    use super::*;

    /// What was counted in QEMU stands in the picture as instructions, not as cycles, and only what the whole machine executed.
    #[test]
    fn the_picture_is_of_instructions() {
        let name = "nvme.read.linux.batch-32";
        let of = |metric, value| row(name, metric, value, "instructions/IO");
        let grid = Grid::new(&[of("instructions", 9.0), of("instructions_programs", 2.0)]);
        assert!(grid.title.starts_with("instructions an I/O"), "{}", grid.title);
        assert_eq!((grid.paths.len(), grid.cell("linux", "read × 32")), (1, Some(9.0)));
    }

    /// What a run costs to begin and to end is in neither figure, and what idling costs in the second one isn't either.
    #[test]
    fn an_io_costs_what_more_of_them_cost_more() {
        // A millisecond each, and ten thousand a second whether there are any or not.
        let sample = Sample(COUNTS.map(|count| Counted {
            instructions: 5_000_000 + 700 * count + 10 * count,
            programs: 4_000_000 + 250 * count,
            seconds: count as f64 / 1e3,
        }));
        assert_eq!(sample.whole(), 710.0);
        assert_eq!(sample.beyond_idle(10_000.0), 700.0);
        assert_eq!(sample.each(|counted| counted.programs as f64), 250.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }
}
