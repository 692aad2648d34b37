//! `redleaf`, the one command. Exit status: 0 well; 1 the job failed; 2 usage or manifest; 3 the machine lacks something.

use clap::{Parser, Subcommand, ValueEnum};
use image_builder::bench::{self, in_qemu::Subject};
use image_builder::build::{BuildError, Flavour, build};
use image_builder::campaign::{self, Campaign, CampaignError, Question, crashes, power, restarts, rig};
use image_builder::flash::{self, Consent, FlashError};
use image_builder::graph;
use image_builder::image::{self, ImageError};
use image_builder::manifest::{CheckError, check};
use image_builder::run::{self, RunError};
use image_builder::scaffold::{self, ScaffoldError};
use image_builder::test::{self, Tier};
use image_builder::unsafe_lines;
use image_builder::workspace::Workspace;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
        /// The disk image to make: GPT, for BIOS and UEFI
        #[arg(short, long, value_name = "IMAGE")]
        output: Option<PathBuf>,
    },
    /// Run a box in the lab: from a manifest, or an image under firmware
    Run {
        /// The manifest, such as configs/maglev.toml, or an image
        target: PathBuf,
        /// How long the load runs once the box is up; without it, until Ctrl-C
        #[arg(long, value_name = "TIME", value_parser = run::parse_time)]
        duration: Option<Duration>,
        /// Crash a domain: DOMAIN[:KIND]@TIME, such as ixgbe0:stack-overflow@8s
        #[arg(long = "crash", value_name = "CRASH", value_parser = run::parse_crash)]
        crashes: Vec<lab::Crash>,
        /// Type a line at the console: LINE@TIME, such as 'stop lb@5s'
        #[arg(long = "console", value_name = "LINE", value_parser = run::parse_command)]
        commands: Vec<lab::Command>,
        /// Stop the whole box from outside for a while: LENGTH@TIME, such as 3s@10s
        #[arg(long = "pause", value_name = "PAUSE", value_parser = run::parse_pause)]
        pauses: Vec<lab::Pause>,
        /// Cut a backend off for a while: BACKEND:LENGTH@TIME, such as b2:6s@5s
        #[arg(long = "outage", value_name = "OUTAGE", value_parser = run::parse_outage)]
        outages: Vec<lab::Outage>,
        /// Have the network card misbehave: nic:FAULT@TIME, such as nic:tx-hang@5s
        #[arg(long = "fault", value_name = "FAULT", value_parser = run::parse_fault)]
        faults: Vec<lab::Fault>,
        /// Cut the box's power, and give it back at once: TIME, such as 8s
        #[arg(long = "power-loss", value_name = "TIME", value_parser = run::parse_time)]
        power_losses: Vec<Duration>,
        /// Put broken frames of every kind on the box's cable beside the load: RATE[:SEED[:SORT]], such as 2000:7, or 1000:1:syn for a flood
        #[arg(long, value_name = "RUBBISH", value_parser = run::parse_rubbish)]
        rubbish: Option<lab::Rubbish>,
        /// Run a line of the shell where the client is, with the box's addresses in BOX and BOX6: such as 'curl -s http://$BOX/'. It fails the run unless it ends with 0
        #[arg(long = "client", value_name = "LINE")]
        programs: Vec<String>,
        /// Build the kernel with its debug assertions, which also count the locks that threads take (`locks` at the console)
        #[arg(long)]
        debug_kernel: bool,
        /// Write the report to this file, as JSON
        #[arg(long, value_name = "FILE")]
        report: Option<PathBuf>,
        /// Keep the files of the box's NVMe drives in this folder, and begin with those that are there
        #[arg(long, value_name = "FOLDER")]
        keep_disks: Option<PathBuf>,
        /// How the result is printed
        #[arg(long, value_enum, default_value_t = ReportFormat::Human)]
        format: ReportFormat,
        /// What an image is booted by
        #[arg(long, value_enum, default_value_t = FirmwareName::Uefi)]
        firmware: FirmwareName,
    },
    /// Write an image to a disk, and compare
    Flash {
        image: PathBuf,
        /// A whole disk, or a file in its place
        target: PathBuf,
        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
    /// Draw the domain graph
    Graph {
        /// The manifest, such as configs/maglev.toml
        manifest: PathBuf,
        #[arg(long, value_enum, default_value_t = GraphFormat::Boxes)]
        format: GraphFormat,
    },
    /// Make something new
    New {
        #[command(subcommand)]
        kind: NewKind,
    },
    /// Run a long randomised test, or go on with it
    Campaign {
        #[command(subcommand)]
        kind: CampaignKind,
    },
    /// Measure, and compare with what is promised
    Bench {
        #[command(subcommand)]
        kind: BenchKind,
    },
    /// Count the lines that say `unsafe`, by tier of trust
    Unsafe {
        /// With the files that they are in
        #[arg(long)]
        files: bool,
    },
    /// Run the tests: one tier, or the suite
    Test {
        #[arg(value_enum)]
        tier: Option<Tier>,
        /// Only the checks of the tier with this in their names
        pattern: Option<String>,
    },
}

#[derive(Subcommand)]
enum CampaignKind {
    /// Crash domains of a box under load, at random moments in random ways
    Crashes {
        /// The manifest, such as configs/maglev.toml
        manifest: PathBuf,
        /// Crashes in all
        #[arg(long, default_value_t = 1000)]
        count: u32,
        /// Crashes in one life of a box; the record is written after each
        #[arg(long, default_value_t = 200)]
        leg: u32,
        /// Which domains crash, such as ixgbe0; without it, all
        #[arg(long = "domain", value_name = "DOMAIN")]
        domains: Vec<String>,
        /// Time between two crashes, on the average
        #[arg(long, value_name = "TIME", default_value = "1s", value_parser = run::parse_time)]
        gap: Duration,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The record: made, or gone on with
        #[arg(long, value_name = "FILE", default_value = "crashes.json")]
        report: PathBuf,
    },
    /// Cut the power of a box with a durable store under load, at random moments
    PowerLosses {
        /// The manifest, such as configs/kv-durable.toml
        manifest: PathBuf,
        /// Power losses in all
        #[arg(long, default_value_t = 100)]
        count: u32,
        /// Power losses that one disk goes through; the record is written after each
        #[arg(long, default_value_t = 10)]
        leg: u32,
        /// Time between two of them, on the average, the box's start in it
        #[arg(long, value_name = "TIME", default_value = "8s", value_parser = run::parse_time)]
        gap: Duration,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The record: made, or gone on with
        #[arg(long, value_name = "FILE", default_value = "power-losses.json")]
        report: PathBuf,
    },
    /// Restart domains of the rig with their hands full
    Restarts(rig::Restarts),
    /// Restart the domains of a box with all services, in QEMU, and compare every count
    RestartsInQemu {
        /// Restarts in all
        #[arg(long, default_value_t = 1000)]
        count: u32,
        /// Restarts in one life of a box; the record is written after each
        #[arg(long, default_value_t = 10_000)]
        leg: u32,
        /// Which domains, such as lb; without it, all
        #[arg(long = "domain", value_name = "DOMAIN")]
        domains: Vec<String>,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The record: made, or gone on with
        #[arg(long, value_name = "FILE", default_value = "restarts.json")]
        report: PathBuf,
    },
    /// Walk random graphs of domains in the rig beside a model of who owns what
    Graphs(rig::Question),
    /// Crash domains of the rig, under load, at every instruction that runs
    Points(rig::Question),
}

#[derive(Subcommand)]
enum BenchKind {
    /// What a call between domains costs, natively, and what a crash does; beside Linux's own ways
    Ipc {
        #[command(flatten)]
        output: bench::Output,
    },
    /// What an I/O costs in the NVMe driver, natively, alone and through a shadow
    Nvme {
        /// Count the guest's instructions in QEMU instead, beside Linux's driver under fio on the same device
        #[arg(long)]
        in_qemu: bool,
        #[command(flatten)]
        output: bench::Output,
    },
    /// What a packet costs in the network card's driver, natively, with DPDK's driver beside it; and what crashes of it cost
    Net {
        /// Crashes for each frame size
        #[arg(long, value_name = "N")]
        crashes: Option<u64>,
        #[command(flatten)]
        output: bench::Output,
    },
    /// What forwarding by Maglev costs a packet, natively, with a lean C program on DPDK beside it
    Maglev(ServiceBench),
    /// What a request costs in the key-value store, natively, with memcached on Linux beside it
    Kv(ServiceBench),
    /// What a request costs in the web server, natively, with nginx on Linux beside it
    Httpd(ServiceBench),
}

#[derive(clap::Args)]
struct ServiceBench {
    /// Requests of each sample
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    #[command(flatten)]
    load: bench::in_qemu::Load,
    #[command(flatten)]
    output: bench::Output,
}

impl ServiceBench {
    fn in_qemu(&self, workspace: &Workspace, subject: Subject) -> Result<bool, RunError> {
        bench::in_qemu::beside_linux(workspace, subject, self.load, self.requests, &self.output)
    }
}

#[derive(Subcommand)]
enum NewKind {
    /// A domain under services/, with its test and its manifest entry
    Service { name: String },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// For the terminal
    Boxes,
    /// For Graphviz
    Dot,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FirmwareName {
    Uefi,
    Bios,
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

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        match error {
            ImageError::Prefix(error) if error.is_lack() => Failure::Lack(error.to_string()),
            ImageError::Build(error) => error.into(),
            _ => Failure::Job(error.to_string()),
        }
    }
}

impl From<FlashError> for Failure {
    fn from(error: FlashError) -> Failure {
        match error {
            // What was asked for can't be asked for.
            FlashError::Refused { .. } => Failure::Manifest(error.to_string()),
            _ => Failure::Job(error.to_string()),
        }
    }
}

impl From<ScaffoldError> for Failure {
    fn from(error: ScaffoldError) -> Failure {
        match error {
            ScaffoldError::Name(_) | ScaffoldError::Taken(_) => Failure::Manifest(error.to_string()),
            _ => Failure::Job(error.to_string()),
        }
    }
}

impl From<CampaignError> for Failure {
    fn from(error: CampaignError) -> Failure {
        match error {
            CampaignError::Run(error) => error.into(),
            CampaignError::Another { .. } | CampaignError::Unreadable { .. } | CampaignError::Unsuitable(_) => {
                Failure::Manifest(error.to_string())
            }
            CampaignError::Record { .. } | CampaignError::Interrupted => Failure::Job(error.to_string()),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        match error {
            RunError::Check(error) => error.into(),
            RunError::Build(error) => error.into(),
            RunError::Image(error) => error.into(),
            RunError::Prefix(ref lack) if lack.is_lack() => Failure::Lack(error.to_string()),
            RunError::Lab(ref lack) if lack.is_lack() => Failure::Lack(error.to_string()),
            RunError::Counter(counter::Error::NoCompiler(_)) => Failure::Lack(error.to_string()),
            RunError::LabFile { .. } | RunError::Unsuitable(_) => Failure::Manifest(error.to_string()),
            RunError::Prefix(_) | RunError::Lab(_) | RunError::Counter(_) => Failure::Job(error.to_string()),
        }
    }
}

fn main() -> ExitCode {
    // In the processes that the lab starts, this doesn't return.
    lab::stage();
    // clap itself exits with 2 on wrong usage.
    let arguments = Arguments::parse();
    match perform(arguments.job) {
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

/// What has failed has said why.
fn all_well(well: bool) -> Result<(), Failure> {
    if well { Ok(()) } else { Err(Failure::Job(String::new())) }
}

/// Runs a campaign of the rig, which prints its own record.
fn in_the_rig(workspace: &Workspace, name: &str, question: &rig::Question, domains: &[String]) -> Result<(), Failure> {
    all_well(rig::run(workspace, name, question, domains)?)
}

fn in_qemu<Q: Question>(workspace: &Workspace, campaign: Campaign<Q>) -> Result<(), Failure> {
    let record = campaign::run(workspace, &campaign, |record| {
        let how = if record.is_well() { "all well" } else { "not well" };
        eprintln!("{} of {} {}, {how}", record.events(), campaign.count, Q::EVENTS);
    })?;
    print!("{}", Q::render(&record));
    all_well(record.is_well())
}

fn perform(job: Job) -> Result<(), Failure> {
    let workspace = Workspace::find();
    match job {
        Job::Check { manifest } => {
            let checked = check(&workspace, &manifest)?;
            run::check_lab(&checked)?;
            println!("{}: well, {} domains", manifest.display(), checked.appliance.domains.len());
        }
        Job::Build { manifest, output } => {
            let checked = check(&workspace, &manifest)?;
            let artifacts = build(&workspace, &checked.name, &checked.appliance, &checked.inquiry)?;
            let Some(output) = output else {
                println!("kernel {}\nbundle {}", artifacts.kernel_elf.display(), artifacts.bundle.display());
                return Ok(());
            };
            let label = image::Label { name: checked.name, manifest: checked.table };
            image::pack(&artifacts, &label, &output)?;
            println!("image {}", output.display());
        }
        Job::Run {
            target,
            duration,
            crashes,
            commands,
            pauses,
            outages,
            power_losses,
            faults,
            rubbish,
            programs,
            debug_kernel,
            report,
            keep_disks,
            format,
            firmware,
        } => {
            let flavour = if debug_kernel { Flavour::Debug } else { Flavour::Plain };
            let format = match format {
                ReportFormat::Human => lab::Format::Human,
                ReportFormat::Json => lab::Format::Json,
            };
            let firmware = match firmware {
                FirmwareName::Uefi => lab::Firmware::Uefi,
                FirmwareName::Bios => lab::Firmware::Bios,
            };
            let request = run::Request {
                target,
                duration,
                crashes,
                commands,
                pauses,
                outages,
                power_losses,
                faults,
                rubbish,
                programs,
                flavour,
                report,
                format,
                firmware,
                keep_disks,
            };
            let report = run::run(&workspace, request)?;
            match format {
                lab::Format::Human => print!("{}", lab::render(&report)),
                lab::Format::Json => println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default()),
            }
            all_well(report.ok())?;
        }
        Job::Flash { image, target, yes } => {
            let consent = if yes { Consent::Given } else { Consent::Ask };
            let bytes = flash::flash(&image, &target, consent)?;
            println!("{}: {bytes} bytes written, read back and equal", target.display());
        }
        Job::Graph { manifest, format } => {
            let checked = check(&workspace, &manifest)?;
            match format {
                GraphFormat::Boxes => print!("{}", graph::draw(&checked)),
                GraphFormat::Dot => print!("{}", graph::dot(&checked)),
            }
        }
        Job::New { kind: NewKind::Service { name } } => {
            for path in scaffold::new_service(&workspace, &name)? {
                println!("{}", path.display());
            }
            println!("next: cargo test -p {name}, ./redleaf check configs/{name}.toml");
        }
        Job::Campaign { kind: CampaignKind::Crashes { manifest, count, leg, domains, gap, seed, report } } => {
            let checked = check(&workspace, &manifest)?;
            let all: Vec<String> = checked.appliance.domains.iter().map(|domain| domain.name.value.clone()).collect();
            if let Some(unknown) = domains.iter().find(|name| !all.contains(name)) {
                return Err(Failure::Manifest(format!(
                    "{} has no domain {unknown}; it has {}",
                    checked.name,
                    all.join(", ")
                )));
            }
            let domains = if domains.is_empty() { all } else { domains };
            let question =
                crashes::Question { config: checked.name, domains, gap_ms: gap.as_millis() as u64, leg, seed };
            in_qemu(&workspace, Campaign { manifest, question, count, record: report })?;
        }
        Job::Campaign { kind: CampaignKind::PowerLosses { manifest, count, leg, gap, seed, report } } => {
            let config = check(&workspace, &manifest)?.name;
            let question = power::Question { config, gap_ms: gap.as_millis() as u64, leg, seed };
            in_qemu(&workspace, Campaign { manifest, question, count, record: report })?;
        }
        Job::Campaign { kind: CampaignKind::Restarts(asked) } => {
            in_the_rig(&workspace, "restarts", &asked.question, &asked.domains)?;
        }
        Job::Campaign { kind: CampaignKind::RestartsInQemu { count, leg, domains, seed, report } } => {
            let question = restarts::Question { domains, leg, seed };
            let manifest = workspace.root().join(restarts::MANIFEST);
            in_qemu(&workspace, Campaign { manifest, question, count, record: report })?;
        }
        Job::Campaign { kind: CampaignKind::Graphs(question) } => in_the_rig(&workspace, "graphs", &question, &[])?,
        Job::Campaign { kind: CampaignKind::Points(question) } => in_the_rig(&workspace, "points", &question, &[])?,
        Job::Bench { kind: BenchKind::Ipc { output } } => {
            all_well(bench::ipc(&workspace, &output)?)?;
        }
        Job::Bench { kind: BenchKind::Nvme { in_qemu, output } } => {
            all_well(match in_qemu {
                true => bench::disk::beside_linux(&workspace, &output)?,
                false => bench::nvme(&workspace, &output)?,
            })?;
        }
        Job::Bench { kind: BenchKind::Net { crashes, output } } => {
            all_well(bench::net(&workspace, crashes, &output)?)?;
        }
        Job::Bench { kind: BenchKind::Maglev(asked) } => {
            if asked.requests.is_some() && !asked.load.in_qemu {
                return Err(Failure::Manifest("natively packets are measured: --requests goes with --in-qemu".into()));
            }
            all_well(match asked.load.in_qemu {
                true => asked.in_qemu(&workspace, Subject::Maglev)?,
                false => bench::maglev(&workspace, &asked.output)?,
            })?;
        }
        Job::Bench { kind: BenchKind::Kv(asked) } => {
            all_well(match asked.load.in_qemu {
                true => asked.in_qemu(&workspace, Subject::Kv)?,
                false => bench::service(&workspace, bench::Service::Kv, asked.requests, &asked.output)?,
            })?;
        }
        Job::Bench { kind: BenchKind::Httpd(asked) } => {
            all_well(match asked.load.in_qemu {
                true => asked.in_qemu(&workspace, Subject::Httpd)?,
                false => bench::service(&workspace, bench::Service::Httpd, asked.requests, &asked.output)?,
            })?;
        }
        Job::Unsafe { files } => {
            let counts = unsafe_lines::count(&workspace).map_err(Failure::Job)?;
            print!("{}", unsafe_lines::table(&counts));
            for (path, lines) in counts.iter().flat_map(|(_, count)| &count.places).filter(|_| files) {
                println!("{lines:>8}  {}", path.display());
            }
            let faults = unsafe_lines::faults(&counts);
            if !faults.is_empty() {
                return Err(Failure::Job(faults.join("\n")));
            }
        }
        Job::Test { tier, pattern } => {
            all_well(test::run(&workspace, tier, pattern.as_deref()))?;
        }
    }
    Ok(())
}
