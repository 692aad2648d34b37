//! `redleaf`, the one command. Exit status: 0 well; 1 the job failed; 2 usage or manifest; 3 the machine lacks something.

use clap::{Parser, Subcommand};
use image_builder::build::{BuildError, build};
use image_builder::manifest::{CheckError, check};
use image_builder::test::{self, Tier};
use image_builder::workspace::Workspace;
use std::path::PathBuf;
use std::process::ExitCode;

/// A network appliance of isolated domains: build it, run it, flash it.
#[derive(Parser)]
#[command(name = "redleaf", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    job: Job,
}

#[derive(Subcommand)]
enum Job {
    /// Check a manifest: every error at once, with what was probably meant
    Check {
        /// The manifest, such as configs/maglev.toml
        manifest: PathBuf,
    },
    /// Build the kernel and the signed bundle of domains, or a disk image of both
    Build {
        /// The manifest, such as configs/maglev.toml
        manifest: PathBuf,
    },
    /// Run the tests: one tier, or the suite
    Test {
        #[arg(value_enum)]
        tier: Option<Tier>,
    },
}

/// Why the command didn't do what it was asked, by exit status.
enum Failure {
    Job(String),
    Manifest(String),
    Lack(String),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Failure::Job(_) => 1,
            Failure::Manifest(_) => 2,
            Failure::Lack(_) => 3,
        }
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        match error {
            BuildError::Program { .. } => Failure::Lack(error.to_string()),
            _ => Failure::Job(error.to_string()),
        }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Failure {
        match error {
            CheckError::Build(error) => error.into(),
            CheckError::Manifest { .. } => Failure::Manifest(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    // clap itself exits with 2 on wrong usage.
    let arguments = Arguments::parse();
    match run(arguments.job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (Failure::Job(text) | Failure::Manifest(text) | Failure::Lack(text)) = &failure;
            // The tests have said what failed; their summary is the last line.
            if !text.is_empty() {
                eprintln!("{text}");
            }
            ExitCode::from(failure.status())
        }
    }
}

fn run(job: Job) -> Result<(), Failure> {
    let workspace = Workspace::find();
    match job {
        Job::Check { manifest } => {
            let checked = check(&workspace, &manifest)?;
            println!(
                "{}: well, {} domains",
                manifest.display(),
                checked.appliance.domains.len()
            );
        }
        Job::Build { manifest } => {
            let checked = check(&workspace, &manifest)?;
            let artifacts = build(
                &workspace,
                &checked.name,
                &checked.appliance,
                &checked.inquiry,
            )?;
            println!(
                "kernel {}\nbundle {}",
                artifacts.kernel_elf.display(),
                artifacts.bundle.display()
            );
        }
        Job::Test { tier } => {
            if !test::run(&workspace, tier) {
                return Err(Failure::Job(String::new()));
            }
        }
    }
    Ok(())
}
