//! What a request costs the whole machine, in instructions of all its virtual CPUs: a box in QEMU, and a Linux host that takes its place on the same card, in the same lab, for the
//! same requests. Never a speed: QEMU's clock says nothing of silicon, but an instruction is one there, too.

use super::rows::{self, OURS, Row};
use super::{Output, SERVICES, program, scratch, show};
use crate::build::BuildError;
use crate::run::{self, Request, RunError};
use crate::workspace::Workspace;
use counter::Counter;
use lab::guest::{self, Contents};
use lab::{Backend, Boot, Protocol, RunOptions, Vip};
use prefix::{Prefix, Tool};
use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Kv,
    Httpd,
    Maglev,
}

/// How much is asked, if it is said.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Load {
    /// Count the guest's instructions in QEMU instead, in the lab, beside a Linux guest in the box's place on the same card
    #[arg(long)]
    pub in_qemu: bool,
    /// With --in-qemu: requests a second
    #[arg(long, value_name = "N", requires = "in_qemu", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

/// Debian's kernel needs room to unpack its root.
const PEER_MEMORY: u64 = 1 << 30;
/// Everything that could make it slower is off, as in ours.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on";
/// Where the lab's backends have what they serve.
const CONTENT: &str = "/run/lab/www/small";
/// What an IPVS director needs, in the order in which it must be loaded.
const IPVS: [&str; 7] = [
    "crypto/crc32c_generic",
    "lib/libcrc32c",
    "net/ipv4/netfilter/nf_defrag_ipv4",
    "net/ipv6/netfilter/nf_defrag_ipv6",
    "net/netfilter/nf_conntrack",
    "net/netfilter/ipvs/ip_vs",
    "net/netfilter/ipvs/ip_vs_mh",
];

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Kv => "kv",
            Subject::Httpd => "httpd",
            Subject::Maglev => "maglev",
        }
    }

    fn peer(self) -> &'static str {
        match self {
            Subject::Kv => "memcached",
            Subject::Httpd => "nginx",
            Subject::Maglev => "ipvs",
        }
    }

    /// What brings the peer's program.
    fn tool(self) -> Tool {
        match self {
            Subject::Kv => Tool::Memcached,
            Subject::Httpd => Tool::Nginx,
            Subject::Maglev => Tool::Ipvs,
        }
    }

    /// What the manifest says beside the one that it inherits.
    fn additions(self) -> &'static str {
        match self {
            Subject::Httpd => "[domains.web.config]\ncontent = \"site\"\nrequests = 100000000\n",
            Subject::Kv | Subject::Maglev => "",
        }
    }
}

/// Nobody but the generator wants anything of the box.
const LAB: &str =
    "[load]\nkeep-alive = 0\nshort-rate = 0\ndownloads = 0\nuploads = 0\nspread-rate = 0\n[limits]\nboot = \"180s\"\n";

/// The benchmark of a box beside Linux in its place; false if it failed, of which it has said why.
pub fn beside_linux(
    workspace: &Workspace,
    subject: Subject,
    load: Load,
    requests: Option<u64>,
    output: &Output,
) -> Result<bool, RunError> {
    let Some(generator) = program(workspace, SERVICES)? else { return Ok(false) };
    let scratch = scratch()?;
    let bench = Bench { workspace, subject, load, requests, generator, folder: scratch.path().to_owned() };
    let counter = Counter::prepare(&bench.folder)?;
    let mut options = bench.our_options()?;
    options.counter = counter.arguments().into();
    let ours = match bench.measure(OURS, options.clone()) {
        Ok(rows) => rows,
        Err(reason) => {
            eprintln!("{reason}");
            return Ok(false);
        }
    };
    let tools = [Tool::Linux, Tool::Network, subject.tool()];
    let theirs = match Prefix::ensure(&tools) {
        Err(lack) => Err(Trouble::Absent(lack.to_string())),
        Ok(prefix) => bench
            .their_options(&prefix, options)
            .and_then(|options| bench.measure(subject.peer(), options))
            .map_err(Trouble::Failed),
    };
    let (rows, well) = together(subject, ours, theirs);
    show(&rows, output)?;
    Ok(well)
}

/// Why there is nothing of the peer's.
enum Trouble {
    /// The machine lacks something for it.
    Absent(String),
    /// It ran, and not well.
    Failed(String),
}

/// All rows, and whether all went well. Ours are worth something alone, and it is said when they are; a peer that isn't there costs the command nothing, one that fails its good end.
fn together(subject: Subject, mut ours: Vec<Row>, theirs: Result<Vec<Row>, Trouble>) -> (Vec<Row>, bool) {
    let (reason, well) = match theirs {
        Ok(theirs) => {
            ours.extend(theirs);
            return (ours, true);
        }
        Err(Trouble::Absent(reason)) => (reason, true),
        Err(Trouble::Failed(reason)) => (reason, false),
    };
    eprintln!("{reason}\nso {} is measured without {} beside it", subject.name(), subject.peer());
    (ours, well)
}

struct Bench<'a> {
    workspace: &'a Workspace,
    subject: Subject,
    load: Load,
    requests: Option<u64>,
    generator: PathBuf,
    folder: PathBuf,
}

impl Bench<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<(), RunError> {
        let path = self.path(name);
        Ok(fs::write(&path, bytes).map_err(BuildError::file("writing", &path))?)
    }

    /// The box of the shipped manifest.
    fn our_options(&self) -> Result<RunOptions, RunError> {
        let name = self.subject.name();
        let shipped = self.workspace.root().join("configs").join(format!("{name}.toml"));
        let manifest = format!("{name}.toml");
        self.write(&manifest, format!("inherit = {:?}\n{}", shipped.display().to_string(), self.subject.additions()))?;
        self.write(&format!("{name}.lab.toml"), LAB)?;
        if self.subject == Subject::Httpd {
            self.write_site()?;
        }
        let mut options = run::options(self.workspace, Request::quiet(self.path(&manifest)))?;
        // The lab's own stream of datagrams isn't asked for either.
        options.vips.retain(|vip| vip.protocol == Protocol::Tcp);
        Ok(options)
    }

    /// What the generator asks for, and the page by which the lab sees that a web server is up.
    fn write_site(&self) -> Result<(), RunError> {
        let site = self.path("site");
        fs::create_dir(&site).map_err(BuildError::file("creating", &site))?;
        let page = self.workspace.root().join("configs/site/index.html");
        fs::copy(&page, site.join("index.html")).map_err(BuildError::file("copying", &page))?;
        let written = super::succeeds(Command::new(&self.generator).arg("site").arg(&site), SERVICES)?;
        match written {
            true => Ok(()),
            false => Err(RunError::Unsuitable("there is no site to serve".into())),
        }
    }

    /// A Linux host in the same place.
    fn their_options(&self, prefix: &Prefix, ours: RunOptions) -> Result<RunOptions, String> {
        let initramfs = self.path("initramfs");
        let contents = self.guest(&ours).map_err(|error| error.to_string())?;
        contents.write_initramfs(prefix, &initramfs).map_err(|error| error.to_string())?;
        let kernel = guest::kernel(prefix).map_err(|error| error.to_string())?;
        let mut options = ours;
        options.boot = Boot::Linux { kernel, initramfs, parameters: PARAMETERS.into() };
        options.box_settings.memory = PEER_MEMORY;
        Ok(options)
    }

    /// What the Linux host's root holds: its driver, its server, and what it is told of its place.
    fn guest(&self, options: &RunOptions) -> std::io::Result<Contents> {
        let own = &options.box_settings;
        let place = format!(
            "ADDRESS={}/{}\nROUTER={}\nCPUS={}\n",
            own.ip,
            own.prefix,
            lab::router_on_segment(options),
            own.cpus
        );
        // Who serves is root, and asks for its name.
        let mut files = vec![
            ("etc/passwd".to_owned(), b"root:x:0:0:root:/:/bin/sh\n".to_vec()),
            ("etc/group".to_owned(), b"root:x:0:\n".to_vec()),
            ("etc/place".to_owned(), place.into_bytes()),
            ("etc/serve".to_owned(), serve(self.subject, options).into_bytes()),
        ];
        if self.subject == Subject::Httpd {
            let configuration = include_str!("guest/nginx.conf").replace("WORKERS", &own.cpus.to_string());
            files.push(("etc/nginx.conf".to_owned(), configuration.into_bytes()));
            for entry in fs::read_dir(self.path("site"))? {
                let entry = entry?;
                files.push((format!("site/{}", entry.file_name().to_string_lossy()), fs::read(entry.path())?));
            }
        }
        let (programs, more): (&'static [&'static str], &[&'static str]) = match self.subject {
            Subject::Kv => (&["ethtool", "memcached"], &[]),
            Subject::Httpd => (&["ethtool", "nginx"], &[]),
            Subject::Maglev => (&["ethtool", "ipvsadm"], &IPVS),
        };
        let modules = [&guest::IXGBE[..], more].concat();
        Ok(Contents { init: include_str!("guest/init.sh"), modules, programs, libraries: &[], files })
    }

    /// Boots one side in the lab and has the generator ask it; what came out, or why nothing did.
    fn measure(&self, side: &str, mut options: RunOptions) -> Result<Vec<Row>, String> {
        eprintln!("{side}: boots in the lab, and is asked");
        let report = self.path(&format!("{side}.json"));
        options.programs = vec![self.line(side, &options, &report)];
        let ran = lab::run(options).map_err(|error| format!("{side}: {error}"))?;
        if ran.programs.first().is_some_and(|program| program.status == Some(0)) {
            return rows::read(&report).map_err(|error| error.to_string());
        }
        let words = ran.programs.iter().map(|program| program.words.trim_end());
        Err(ran
            .reasons
            .iter()
            .map(String::as_str)
            .chain(words)
            .fold(format!("{side}:"), |text, line| text + "\n  " + line))
    }

    /// The generator's command line, for the lab's shell.
    fn line(&self, side: &str, options: &RunOptions, report: &Path) -> String {
        let vip = options.vips.first().map(|vip| SocketAddr::new(vip.address.into(), vip.port));
        let service = options.services.first();
        let server = vip.or(service.and_then(|one| {
            let address = one.addresses.iter().find(|address| matches!(address, IpAddr::V4(_)))?;
            Some(SocketAddr::new(*address, one.port))
        }));
        let server = server.map_or_else(String::new, |server| server.to_string());
        let mut words = vec![
            self.generator.display().to_string(),
            "lab".into(),
            self.subject.name().into(),
            side.into(),
            "--server".into(),
            server,
            "--counter".into(),
            self.folder.display().to_string(),
            "--content".into(),
            CONTENT.into(),
            "--report".into(),
            report.display().to_string(),
        ];
        words.extend(self.load.rate.iter().flat_map(|rate| ["--rate".into(), rate.to_string()]));
        words.extend(self.requests.iter().flat_map(|count| ["--requests".into(), count.to_string()]));
        let quoted = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
        quoted.collect::<Vec<_>>().join(" ")
    }
}

/// What the Linux host's shell does to serve as the box does.
fn serve(subject: Subject, options: &RunOptions) -> String {
    match subject {
        // As many threads as CPUs, and as much memory as the manifest's store has.
        Subject::Kv => format!("memcached -u root -t {} -m 64 -p 11211 -U 0 &\n", options.box_settings.cpus),
        Subject::Httpd => "nginx -e stderr -c /etc/nginx.conf\n".into(),
        Subject::Maglev => balance(&options.vips, &options.backends),
    }
}

/// Maglev's hash over addresses and ports, as ours; and the backends answer the clients themselves (`-g`).
fn balance(vips: &[Vip], backends: &[Backend]) -> String {
    let mut text = String::new();
    for vip in vips {
        let service = format!("-t {}:{}", vip.address, vip.port);
        // Writing to a string can't fail.
        let _ = writeln!(text, "ip address add {}/32 dev lo", vip.address);
        let _ = writeln!(text, "ipvsadm -A {service} -s mh -b mh-port");
        for backend in backends.iter().filter(|backend| vip.backends.contains(&backend.name)) {
            let _ = writeln!(text, "ipvsadm -a {service} -r {}:{} -g", backend.ip, vip.port);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    /// Ours are shown whatever becomes of the peer; a peer that gave wrong answers or none is no good end, one that can't be had is.
    #[test]
    fn a_peer_may_be_absent_and_may_not_fail() {
        let ours = || vec![row("kv.get-small.ours", 1.0)];
        let theirs = || vec![row("kv.get-small.memcached", 2.0)];
        assert_eq!(together(Subject::Kv, ours(), Ok(theirs())), ([ours(), theirs()].concat(), true));
        assert_eq!(together(Subject::Kv, ours(), Err(Trouble::Absent("no mirror".into()))), (ours(), true));
        assert_eq!(together(Subject::Kv, ours(), Err(Trouble::Failed("a wrong answer".into()))), (ours(), false));
    }

    /// Linux balances what the manifest's box does, to the same backends.
    #[test]
    fn linux_balances_the_same() {
        let backend = |name: &str, host| Backend { name: name.into(), ip: [10, 0, 1, host].into(), weight: 1 };
        let vip = Vip {
            address: [10, 0, 1, 101].into(),
            port: 8080,
            protocol: Protocol::Tcp,
            backends: vec!["b2".into()],
            weights: Default::default(),
        };
        let text = balance(&[vip], &[backend("b1", 11), backend("b2", 12)]);
        assert!(text.contains("ipvsadm -A -t 10.0.1.101:8080 -s mh -b mh-port\n"), "{text}");
        assert!(text.contains("ipvsadm -a -t 10.0.1.101:8080 -r 10.0.1.12:8080 -g\n"), "{text}");
        assert!(!text.contains("10.0.1.11"), "{text}");
    }
}
