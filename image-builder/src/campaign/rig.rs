//! Campaigns in the rig: a program of its own (`testbed/rig/src/bin/campaign.rs`), built and run natively.

use std::{path::PathBuf, time::Duration};

use crate::{
    build::{BuildError, host_cargo},
    run::parse_time,
    workspace::Workspace,
};

/// How much, and where the record stands.
#[derive(Clone, Debug, clap::Args)]
pub struct Question {
    /// Trials in all
    #[arg(long)]
    count: Option<u64>,
    /// No new leg after this time
    #[arg(long = "for", value_name = "TIME", value_parser = parse_time)]
    time: Option<Duration>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The record: made, or gone on with
    #[arg(long, value_name = "FILE", alias = "resume")]
    report: Option<PathBuf>,
}

/// The same, and what is restarted.
#[derive(Clone, Debug, clap::Args)]
pub struct Restarts {
    #[command(flatten)]
    pub question: Question,
    /// A domain of a box with all services (driver, shadow, balancer ...), or `all`; without it, probes with their hands full
    #[arg(long = "domain", value_name = "DOMAIN")]
    pub domains: Vec<String>,
}

/// Runs it; false if something wasn't as promised, of which it has said what.
pub fn run(workspace: &Workspace, name: &str, question: &Question, domains: &[String]) -> Result<bool, BuildError> {
    let mut command = host_cargo(workspace);
    command.args(["run", "--quiet", "--locked", "-p", "rig", "--bin", "campaign"]);
    if name == "points" {
        // Its times are to be those of the kernel as it is shipped.
        command.args(["--profile", "box"]);
    }
    command.args(["--", name]);
    command.args(domains.iter().flat_map(|domain| ["--domain", domain]));
    command.args(["--seed", &question.seed.to_string()]);
    if let Some(count) = question.count {
        command.args(["--count", &count.to_string()]);
    }
    if let Some(time) = question.time {
        command.args(["--for", &time.as_secs().to_string()]);
    }
    if let Some(record) = &question.report {
        // It runs in the clone's root.
        command.arg("--report").arg(std::path::absolute(record).map_err(BuildError::file("finding", record))?);
    }
    let status = command.status().map_err(|source| BuildError::Program { program: "cargo", source })?;
    Ok(status.success())
}
