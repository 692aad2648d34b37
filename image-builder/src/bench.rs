//! `redleaf bench`: measurements as programs of their own, built for speed and run natively.

pub mod disk;
pub mod in_qemu;
mod peer;
mod plot;
mod rows;

use crate::build::{BuildError, host_cargo};
use crate::workspace::Workspace;
use prefix::{Prefix, Tool};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rows::Row;

/// The program of `bench net` and `bench maglev` (`testbed/rig/src/bin/bench-net`).
const PROGRAM: &str = "bench-net";
/// The program of `bench kv` and `bench httpd`.
const SERVICES: &str = "bench-services";
/// With this exit status it says that the machine lacks something.
const LACK: i32 = 3;

/// Where results go.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Output {
    /// Write the rows to this file: a JSON list of row, metric, median, unit
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Draw what each call, packet, I/O or request costs into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// The benchmark of calls, and of Linux's own ways beside them; false if it failed or its run is invalid, of which it has said why.
pub fn ipc(workspace: &Workspace, output: &Output) -> Result<bool, BuildError> {
    alone(workspace, "bench-ipc", output)
}

/// The benchmark of the NVMe driver.
pub fn nvme(workspace: &Workspace, output: &Output) -> Result<bool, BuildError> {
    alone(workspace, "bench-nvme", output)
}

/// Has malloc ask the host for large pages. On the metal all memory is mapped by such, and DPDK's usually is; so large tables of ours and of the C program's lie in them here, too.
const LARGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

/// A benchmark that is one program.
fn alone(workspace: &Workspace, name: &'static str, output: &Output) -> Result<bool, BuildError> {
    let Some(program) = program(workspace, name)? else { return Ok(false) };
    let (rows, well) = measure(workspace, name, &mut Command::new(program))?;
    show(&rows, output)?;
    Ok(well)
}

/// Runs a program of the rig; its rows, and whether all went well.
fn measure(workspace: &Workspace, name: &'static str, command: &mut Command) -> Result<(Vec<Row>, bool), BuildError> {
    let scratch = scratch()?;
    let file = scratch.path().join("rows.json");
    command.arg("--report").arg(&file).current_dir(workspace.root()).stdout(Stdio::null());
    let well = succeeds(command, name)?;
    Ok((rows::read(&file)?, well))
}

fn scratch() -> Result<tempfile::TempDir, BuildError> {
    tempfile::tempdir().map_err(BuildError::file("creating a folder in", std::env::temp_dir()))
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
    let Some(program) = program(workspace, PROGRAM)? else { return Ok(false) };
    let mut command = Command::new(&program);
    command.arg(ours).args(flags).env(LARGE_PAGES.0, LARGE_PAGES.1);
    let (mut rows, mut well) = measure(workspace, PROGRAM, &mut command)?;
    let scratch = scratch()?;
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

/// A service that is measured beside a server that we did not write.
#[derive(Clone, Copy, Debug)]
pub enum Service {
    Kv,
    Httpd,
}

impl Service {
    /// Its name, and its peer.
    fn names(self) -> (&'static str, &'static str, Tool) {
        match self {
            Service::Kv => ("kv", "memcached", Tool::Memcached),
            Service::Httpd => ("httpd", "nginx", Tool::Nginx),
        }
    }
}

/// The benchmark of a service, and its peer's on Linux beside it; false if it failed, of which it has said why.
pub fn service(
    workspace: &Workspace,
    service: Service,
    requests: Option<u64>,
    output: &Output,
) -> Result<bool, BuildError> {
    let Some(program) = program(workspace, SERVICES)? else { return Ok(false) };
    let (name, peer, tool) = service.names();
    let scratch = scratch()?;
    let flags: Vec<String> = requests.into_iter().flat_map(|count| ["--requests".into(), count.to_string()]).collect();
    let measure = |side: &str, program_of_peer: Option<Command>| -> Result<(Vec<Row>, Option<i32>), BuildError> {
        let file = scratch.path().join(side);
        let mut command = Command::new(&program);
        command.args([name, side]).args(&flags).arg("--report").arg(&file);
        command.current_dir(workspace.root()).stdout(Stdio::null());
        if let Some(peer) = program_of_peer {
            command.arg("--").arg(peer.get_program()).args(peer.get_args());
        }
        let status = command.status().map_err(|source| BuildError::Program { program: SERVICES, source })?;
        Ok((rows::read(&file)?, status.code()))
    };
    let (mut rows, own_domain) = measure("ours", None)?;
    let (more, library) = measure("ours-library", None)?;
    rows.extend(more);
    let theirs = match Prefix::ensure(&[tool]).and_then(|prefix| prefix.command(peer)) {
        Ok(command) => {
            let (more, status) = measure("peer", Some(command))?;
            rows.extend(more);
            status
        }
        Err(error) => {
            eprintln!("{error}");
            Some(LACK)
        }
    };
    if theirs == Some(LACK) {
        // What the machine lacks for it has been said; our own rows are worth something alone.
        eprintln!("so {name} is measured without {peer} beside it");
    }
    show(&rows, output)?;
    Ok([own_domain, library] == [Some(0); 2] && matches!(theirs, Some(0 | LACK)))
}

/// Builds a program of the rig.
fn program(workspace: &Workspace, name: &str) -> Result<Option<PathBuf>, BuildError> {
    eprintln!("building the benchmark");
    let mut command = host_cargo(workspace);
    command.args(["build", "--quiet", "--locked", "--profile", "box", "-p", "rig", "--bin", name]);
    Ok(succeeds(&mut command, "cargo")?.then(|| workspace.target().join("box").join(name)))
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
