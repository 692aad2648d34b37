//! `redleaf bench`: measurements as programs of their own, built for speed and run natively.

mod peer;
mod plot;
mod rows;

use crate::build::{BuildError, host_cargo};
use crate::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rows::Row;

/// The program of `bench net` and `bench maglev` (`testbed/rig/src/bin/bench-net`).
const PROGRAM: &str = "bench-net";

/// Where results go.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Output {
    /// Write the rows to this file: a JSON list of row, metric, median, unit
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Draw the cycles a packet into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Runs the benchmark of calls; false if it failed or its run is invalid, of which it has said why.
pub fn ipc(workspace: &Workspace, report: Option<&Path>) -> Result<bool, BuildError> {
    run(workspace, "bench-ipc", report)
}

/// Runs the benchmark of the NVMe driver.
pub fn nvme(workspace: &Workspace, report: Option<&Path>) -> Result<bool, BuildError> {
    run(workspace, "bench-nvme", report)
}

fn run(workspace: &Workspace, program: &str, report: Option<&Path>) -> Result<bool, BuildError> {
    let mut command = host_cargo(workspace);
    command.args(["run", "--quiet", "--locked", "--profile", "box", "-p", "rig", "--bin", program, "--"]);
    if let Some(report) = report {
        // It runs in the clone's root.
        let report = std::path::absolute(report).map_err(BuildError::file("finding", report))?;
        command.arg("--report").arg(report);
    }
    succeeds(&mut command, "cargo")
}

/// The benchmark of the 82599's driver, and DPDK's beside it; false if it failed, of which it has said why.
pub fn net(workspace: &Workspace, crashes: Option<u64>, output: &Output) -> Result<bool, BuildError> {
    let crashes = crashes.map(|crashes| ["--crashes".to_owned(), crashes.to_string()]);
    beside_dpdk(workspace, "net", crashes.as_ref().map_or(&[], |flags| flags.as_slice()), "dpdk", output)
}

/// The benchmark of forwarding by Maglev, and of a C program on DPDK beside it.
pub fn maglev(workspace: &Workspace, output: &Output) -> Result<bool, BuildError> {
    beside_dpdk(workspace, "maglev", &[], "dpdk-maglev", output)
}

fn beside_dpdk(
    workspace: &Workspace,
    ours: &str,
    flags: &[String],
    theirs: &str,
    output: &Output,
) -> Result<bool, BuildError> {
    let Some(program) = program(workspace)? else { return Ok(false) };
    let scratch = tempfile::tempdir().map_err(BuildError::file("creating a folder in", std::env::temp_dir()))?;
    let file = scratch.path().join("ours.json");
    let mut command = Command::new(&program);
    command.arg(ours).args(flags).arg("--report").arg(&file).current_dir(workspace.root()).stdout(Stdio::null());
    let mut well = succeeds(&mut command, PROGRAM)?;
    let mut rows = rows::read(&file)?;
    match peer::Peer::prepare(workspace, &program, scratch.path()) {
        Ok(peer) => {
            for scalar in [false, true] {
                well &= peer.measure(theirs, scalar, &mut rows)?;
            }
        }
        // What the machine lacks for it is said; our own rows are worth something alone.
        Err(lack) => eprintln!("without DPDK beside it: {lack}"),
    }
    show(&rows, output)?;
    Ok(well)
}

/// Builds the program.
fn program(workspace: &Workspace) -> Result<Option<PathBuf>, BuildError> {
    eprintln!("building the benchmark");
    let mut command = host_cargo(workspace);
    command.args(["build", "--quiet", "--locked", "--profile", "box", "-p", "rig", "--bin", PROGRAM]);
    Ok(succeeds(&mut command, "cargo")?.then(|| workspace.target().join("box").join(PROGRAM)))
}

fn succeeds(command: &mut Command, program: &'static str) -> Result<bool, BuildError> {
    let status = command.status().map_err(|source| BuildError::Program { program, source })?;
    Ok(status.success())
}

/// Prints the tables, and writes what was asked for.
fn show(rows: &[Row], output: &Output) -> Result<(), BuildError> {
    println!("{}", rows::table(rows));
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> String| match file {
        Some(file) => std::fs::write(file, text()).map_err(BuildError::file("writing", file)),
        None => Ok(()),
    };
    write(&output.report, &|| rows::json(rows))?;
    write(&output.plot, &|| plot::svg(rows))
}
