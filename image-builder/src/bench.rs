//! `redleaf bench`: measurements as programs of their own, built for speed and run natively.

use crate::build::{BuildError, host_cargo};
use crate::workspace::Workspace;
use std::path::Path;

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
    let status = command.status().map_err(|source| BuildError::Program { program: "cargo", source })?;
    Ok(status.success())
}
