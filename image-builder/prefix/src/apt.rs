//! Our own apt root: lists, archives and sources in the cache; keys, proxies and credentials the machine's.

use crate::sources::{Mirror, looked_through};
use crate::{Error, Missing, Tool};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Apt {
    folder: PathBuf,
}

/// A package that apt's resolver chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    architecture: String,
}

impl Package {
    /// `Inst qemu-system-x86 (1:11.1+ds-1~bpo13+1 Debian Backports:trixie-backports [amd64])`, from a simulated install.
    fn from_simulation(line: &str) -> Option<Package> {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let (version, rest) = rest.split_once(' ')?;
        let architecture = rest.split_once('[')?.1.split(']').next()?;
        // A virtual-architecture suffix (`libc6:amd64`) isn't part of the file's name.
        let name = name.split([':', ' ']).next()?;
        Some(Package { name: name.into(), version: version.into(), architecture: architecture.into() })
    }

    fn archive_name(&self) -> String {
        // apt quotes the epoch's colon in file names.
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// The files that sources.list(5) names on this machine, wherever its configuration puts them.
pub(crate) fn source_files() -> Vec<PathBuf> {
    let config = |key: &str, default: &str| {
        let shell = Command::new("apt-config").args(["shell", "PLACE", key]).output().ok();
        let text = shell.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let value = text.trim().strip_prefix("PLACE='").and_then(|text| text.strip_suffix('\''));
        PathBuf::from(value.filter(|value| !value.is_empty()).unwrap_or(default))
    };
    looked_through(
        config("Dir::Etc::sourcelist/f", "/etc/apt/sources.list"),
        config("Dir::Etc::sourceparts/d", "/etc/apt/sources.list.d"),
    )
}

/// What the fetching needs of the machine.
pub(crate) fn lacks() -> Vec<Missing> {
    let present =
        |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ["apt-get", "apt-config", "dpkg-deb"]
        .iter()
        .filter(|program| present(program).is_err())
        .map(|program| Missing {
            what: format!("{program}, to fetch Debian's packages with (this works on Debian 12 and 13)"),
            line: "use a Debian machine, or in a container: docker run -it debian:13".into(),
        })
        .collect()
}

impl Apt {
    /// Writes the root's configuration into `folder`.
    pub(crate) fn prepare(folder: &Path, tools: &str) -> Result<Apt, Error> {
        let mirror = Mirror::of_this_machine(tools)?;
        for sub in ["state/lists/partial", "cache/archives/partial", "sources.list.d", "preferences.d"] {
            let path = folder.join(sub);
            fs::create_dir_all(&path).map_err(Error::file("creating", path))?;
        }
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Error::file("writing", path))
        };
        write("state/status", "")?;
        write("sources.list.d/redleaf.sources", &mirror.stanza(&["trixie", "trixie-backports"]))?;
        let place = folder.display();
        write(
            "apt.conf",
            &format!(
                "Dir::State \"{place}/state\";\n\
                 Dir::State::status \"{place}/state/status\";\n\
                 Dir::Cache \"{place}/cache\";\n\
                 Dir::Etc::sourcelist \"/dev/null\";\n\
                 Dir::Etc::sourceparts \"{place}/sources.list.d\";\n\
                 Dir::Etc::preferences \"/dev/null\";\n\
                 Dir::Etc::preferencesparts \"{place}/preferences.d\";\n\
                 APT::Architecture \"amd64\";\n\
                 APT::Install-Recommends \"false\";\n\
                 APT::Keep-Downloaded-Packages \"true\";\n\
                 Acquire::Languages \"none\";\n\
                 // The cache may lie where apt's own user can't go.\n\
                 APT::Sandbox::User \"\";\n\
                 // Containers' images empty the archive here; desktops index what nobody here asks for.\n\
                 #clear APT::Update::Pre-Invoke;\n\
                 #clear APT::Update::Post-Invoke;\n\
                 #clear APT::Update::Post-Invoke-Success;\n\
                 #clear DPkg::Pre-Install-Pkgs;\n\
                 #clear DPkg::Pre-Invoke;\n\
                 #clear DPkg::Post-Invoke;\n\
                 #clear Acquire::IndexTargets::deb::DEP-11;\n"
            ),
        )?;
        Ok(Apt { folder: folder.to_owned() })
    }

    fn get(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        // By -c rather than APT_CONFIG: it is read last, so that hooks can be cleared.
        command.arg("-c").arg(self.folder.join("apt.conf")).args(arguments);
        command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive").env_remove("APT_CONFIG");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn update(&self, tools: &str) -> Result<(), Error> {
        let mut command = self.get(&["update", "-q", "--error-on=any"]);
        run_with_progress(&mut command, "fetching Debian's lists of packages", tools)
    }

    /// What has to be unpacked for `tool`, dependencies included.
    pub(crate) fn resolve(&self, tool: Tool) -> Result<Vec<Package>, Error> {
        let failed = |output: String| Error::Apt { tools: tool.to_string(), output };
        let mut command = self.get(&["-s", "-y", "-q", "install", "-t", tool.suite()]);
        let output = command.args(tool.packages()).output().map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(Package::from_simulation).collect())
    }

    /// Fetches into the archive folder what isn't there yet; apt checks signatures and hashes.
    pub(crate) fn download(&self, tool: Tool) -> Result<(), Error> {
        let mut command = self.get(&["--download-only", "-y", "-q", "install", "-t", tool.suite()]);
        run_with_progress(command.args(tool.packages()), &format!("fetching {tool}"), &tool.to_string())
    }

    pub(crate) fn unpack(&self, package: &Package, into: &Path) -> Result<(), Error> {
        let archive = self.folder.join("cache/archives").join(package.archive_name());
        let failed = |reason: String| Error::Unpack { package: package.name.clone(), reason, archive: archive.clone() };
        let output = Command::new("dpkg-deb").arg("-x").args([&archive, into]).output();
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Runs apt with its machine-readable progress on a bar, or on one line if nobody watches.
fn run_with_progress(command: &mut Command, what: &str, tools: &str) -> Result<(), Error> {
    let failed = |output: String| Error::Apt { tools: tools.to_owned(), output };
    let bar = progress_bar(what, 100);
    let mut child = command
        .args(["-o", "APT::Status-Fd=1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stderr = child.stderr.take();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.map(|mut stderr| stderr.read_to_string(&mut text));
        text
    });
    for line in BufReader::new(child.stdout.take().expect("piped above")).lines().map_while(Result::ok) {
        // `dlstatus:item:percent:text`
        let percent = line.strip_prefix("dlstatus:").and_then(|line| line.split(':').nth(1)?.parse::<f64>().ok());
        if let Some(percent) = percent {
            bar.set_position(percent as u64);
        }
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    bar.finish_and_clear();
    let errors = errors.join().unwrap_or_default();
    match status.success() {
        true => Ok(()),
        false => Err(failed(errors.lines().map(|line| format!("    {line}\n")).collect())),
    }
}

/// On a terminal a bar; elsewhere one plain line.
pub(crate) fn progress_bar(what: &str, length: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("{what}");
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{msg:32} {bar:30} {percent:>3} %").unwrap_or(ProgressStyle::default_bar());
    let bar = ProgressBar::new(length).with_style(style).with_message(what.to_owned());
    bar.tick();
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that the list of archives is made from, epochs and architecture-independent packages included.
    #[test]
    fn simulation_lines() {
        let parse = |line| Package::from_simulation(line).map(|package| package.archive_name());
        assert_eq!(
            parse("Inst qemu-system-x86 (1:11.1+ds-1~bpo13+1 Debian Backports:trixie-backports [amd64]) []"),
            Some("qemu-system-x86_1%3a11.1+ds-1~bpo13+1_amd64.deb".into())
        );
        assert_eq!(parse("Inst ovmf (2025.02-8 Debian:13.1/stable [all])"), Some("ovmf_2025.02-8_all.deb".into()));
        assert_eq!(parse("Conf ovmf (2025.02-8 Debian:13.1/stable [all])"), None);
        assert_eq!(parse("Inst"), None);
    }
}
