//! The fresh tier: the README's two commands on machines that have never seen this project. Minimal roots of Debian 12 and 13, each as root and as an
//! ordinary user, from empty caches, and then once more with the network cut.
//!
//! From the machine that runs this come only the Rust toolchain and what its owner configured about registries (cargo's configuration, apt's,
//! certificates, the environment's proxies). Takes some hours, since everything is compiled four times and the suite runs eight times; run by name, not in
//! the suite. A pattern picks machines: `./redleaf test fresh 'Debian 13, as a user'`.

use super::{Outcome, Tally};
use crate::workspace::Workspace;
use prefix::{Prefix, Tool};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RELEASES: [(&str, &str); 2] = [("bookworm", "Debian 12"), ("trixie", "Debian 13")];
/// What the README asks for beforehand, beside rustup's Rust.
const PACKAGES: &str = "--include=git,gcc,libc6-dev,ca-certificates";
/// The README's two commands; the first as its unattended form.
const COMMANDS: [(&str, &str); 2] = [
    ("run", "./redleaf run configs/maglev.toml --duration 20s --crash ixgbe0@8s --report /tmp/out.json"),
    ("test", "./redleaf test"),
];

#[derive(Clone, Copy)]
enum Who {
    Root,
    User,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Who::Root => "root",
            Who::User => "a user",
        }
    }

    fn home(self) -> &'static str {
        match self {
            Who::Root => "/root",
            Who::User => "/home/newcomer",
        }
    }
}

#[derive(Clone, Copy)]
enum Network {
    There,
    Cut,
}

pub fn run(workspace: &Workspace, tally: &mut Tally) {
    for (release, title) in RELEASES {
        for who in [Who::Root, Who::User] {
            let name = format!("{title}, as {}", who.name());
            let stages = [(Network::There, "from empty caches"), (Network::Cut, "again with the network cut")];
            let checks = stages.iter().flat_map(|(network, when)| {
                COMMANDS.map(|(title, line)| (format!("{name}: `{title}` {when}"), *network, line))
            });
            let wanted: Vec<_> = checks.filter(|(name, ..)| tally.wants(name)).collect();
            if wanted.is_empty() {
                continue;
            }
            if !is_root() {
                let skipped = wanted.iter().map(|(name, ..)| name);
                skipped.for_each(|name| tally.record(name, Outcome::Skipped("debootstrap needs root".into()), false));
                continue;
            }
            match Machine::make(workspace, release, who) {
                Ok(machine) => {
                    for (name, network, line) in wanted {
                        tally.check(&name, || machine.run(network, line));
                    }
                }
                Err(reason) => tally.record(&name, Outcome::Failed(reason), false),
            }
        }
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

/// A root folder with a clone in somebody's home, thrown away at the end.
struct Machine {
    root: PathBuf,
    toolchain: PathBuf,
    who: Who,
}

impl Machine {
    fn make(workspace: &Workspace, release: &str, who: Who) -> Result<Machine, String> {
        let pristine = pristine_root(release)?;
        let folder = workspace.target().join("fresh");
        std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let root = folder.join(format!("{release}-{}", who.name().replace(' ', "-")));
        remove(&root)?;
        succeed(Command::new("cp").args(["-a", "--reflink=auto"]).args([&pristine, &root]))?;
        let machine = Machine { root, toolchain: toolchain(workspace)?, who };
        machine.configure(workspace)?;
        Ok(machine)
    }

    /// A user, the owner's settings about registries, and a clone of the last commit.
    fn configure(&self, workspace: &Workspace) -> Result<(), String> {
        let home = self.inside(self.who.home());
        if let Who::User = self.who {
            self.chroot("useradd --create-home --shell /bin/sh newcomer")?;
        }
        let cargo = home.join(".cargo");
        std::fs::create_dir_all(&cargo).map_err(|error| error.to_string())?;
        for name in ["config.toml", "config", "credentials.toml"] {
            copy_if_there(&cargo_home().join(name), &cargo.join(name))?;
        }
        for entry in Path::new("/etc/apt/apt.conf.d").read_dir().into_iter().flatten().flatten() {
            // Proxies and the like; hooks of the owner's are none of a fresh machine's.
            if std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("Acquire")) {
                copy_if_there(&entry.path(), &self.inside("/etc/apt/apt.conf.d").join(entry.file_name()))?;
            }
        }
        copy_if_there(Path::new("/etc/resolv.conf"), &self.inside("/etc/resolv.conf"))?;
        copy_if_there(
            Path::new("/etc/ssl/certs/ca-certificates.crt"),
            &self.inside("/etc/ssl/certs/ca-certificates.crt"),
        )?;
        let clone = home.join("redleaf");
        succeed(Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).args([workspace.root(), &clone]))?;
        if let Who::User = self.who {
            self.chroot("chown -R newcomer:newcomer /home/newcomer")?;
        }
        Ok(())
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn chroot(&self, line: &str) -> Result<(), String> {
        succeed(Command::new("chroot").arg(&self.root).args(["/bin/sh", "-c", line]))
    }

    /// Runs a line as somebody in the clone. What it says goes where ours goes.
    fn run(&self, network: Network, line: &str) -> Outcome {
        let home = self.who.home();
        let root = self.root.display();
        let toolchain = self.toolchain.display();
        let as_who = match self.who {
            Who::Root => "",
            // Other credentials take away the signal that `unshare --kill-child` has asked for.
            Who::User => "setpriv --reuid newcomer --regid newcomer --init-groups --pdeathsig KILL ",
        };
        // Everything that is mounted here goes with the namespace. The root is pivoted into rather than changed to: from within chroot(2) nobody may make
        // a user namespace, which is what an ordinary user's lab lives in.
        let script = format!(
            "set -e; ip link set lo up 2>/dev/null || true
             mount --bind {root} {root}
             mkdir -p {root}/opt/rust
             mount --rbind /dev {root}/dev; mount -t proc proc {root}/proc; mount --rbind /sys {root}/sys
             mount --bind {toolchain} {root}/opt/rust; mount -o remount,bind,ro {root}/opt/rust
             cd {root}; pivot_root . mnt; cd /; umount -l /mnt
             exec {as_who}/bin/sh -c 'cd {home}/redleaf && {line}; exit $?'"
        );
        // Whatever ends this ends the machine, too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
        if let Network::Cut = network {
            command.arg("--net");
        }
        command.args(["/bin/sh", "-c", &script]).env_clear().stdin(Stdio::null());
        command.env("HOME", home).env("CARGO_HOME", format!("{home}/.cargo"));
        command.env("PATH", "/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        // A skip on a fresh machine is a promise that isn't kept there.
        command.env("CI", "true");
        command.envs(std::env::vars().filter(|(name, _)| is_registry_setting(name)));
        match command.status() {
            Ok(status) if status.success() => Outcome::Passed,
            Ok(status) => Outcome::Failed(format!("{status}; its words are above")),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A left-over folder lies under target/ and is removed by the next run.
        let _ = remove(&self.root);
    }
}

/// A minimal root of `release`, made once.
fn pristine_root(release: &str) -> Result<PathBuf, String> {
    let text = |error: prefix::Error| error.to_string();
    let cache = prefix::cache_folder().map_err(text)?.join("fresh");
    let root = cache.join(release);
    if root.is_dir() {
        return Ok(root);
    }
    std::fs::create_dir_all(&cache).map_err(|error| error.to_string())?;
    let tools = Prefix::ensure(&[Tool::Debootstrap]).map_err(text)?;
    let tree = tools.tree(Tool::Debootstrap).map_err(text)?;
    let half_made = cache.join(format!("{release}.half-made"));
    remove(&half_made)?;
    eprintln!("making a minimal root of {release}");
    let mut debootstrap = Command::new("/bin/sh");
    debootstrap.arg(tree.join("usr/sbin/debootstrap")).env("DEBOOTSTRAP_DIR", tree.join("usr/share/debootstrap"));
    debootstrap.arg("--keyring").arg(tree.join("usr/share/keyrings/debian-archive-keyring.gpg"));
    debootstrap.args(["--variant=minbase", PACKAGES, release]).arg(&half_made);
    debootstrap.arg(prefix::debian_mirror().map_err(text)?);
    succeed(&mut debootstrap)?;
    std::fs::rename(&half_made, &root).map_err(|error| error.to_string())?;
    Ok(root)
}

fn is_registry_setting(name: &str) -> bool {
    let upper = name.to_uppercase();
    let beginnings = ["SSL_CERT_", "GIT_SSL_", "CARGO_REGISTR", "CARGO_HTTP_", "CARGO_SOURCE_"];
    upper.ends_with("_PROXY") || upper.ends_with("CA_BUNDLE") || beginnings.iter().any(|start| upper.starts_with(start))
}

fn cargo_home() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or("/root".into())).join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// The folder of the clone's compiler. (What rustup keeps beside it may be links that lead nowhere in another root.)
fn toolchain(workspace: &Workspace) -> Result<PathBuf, String> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(workspace.root()).args(["--print", "sysroot"]).stderr(Stdio::inherit());
    let sysroot = rustc.output().map_err(|error| format!("rustc: {error}"))?.stdout;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot).trim());
    sysroot.canonicalize().map_err(|error| format!("{}: {error}", sysroot.display()))
}

fn copy_if_there(from: &Path, to: &Path) -> Result<(), String> {
    if !from.exists() {
        return Ok(());
    }
    // A link would lead out of the root.
    let _ = std::fs::remove_file(to);
    std::fs::copy(from, to).map(|_| ()).map_err(|error| format!("{}: {error}", to.display()))
}

fn remove(folder: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display())),
        _ => Ok(()),
    }
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().to_string_lossy().into_owned();
    Err(format!("{program}: {}", said.lines().last().unwrap_or("failed without a word")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh machine gets its owner's registries, and nothing else of his environment.
    #[test]
    fn registry_settings() {
        for name in ["https_proxy", "SSL_CERT_FILE", "CARGO_REGISTRIES_X_INDEX", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"] {
            assert!(is_registry_setting(name), "{name}");
        }
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTFLAGS", "CI", "CARGO_TARGET_DIR"] {
            assert!(!is_registry_setting(name), "{name}");
        }
    }
}
