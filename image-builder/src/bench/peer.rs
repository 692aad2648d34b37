//! DPDK beside us: Debian's packages, unpacked and not installed; a C program of ours compiled against their headers by the machine's compiler; run with their own loader and
//! libraries.

use super::{LARGE_PAGES, PROGRAM, rows, rows::Row, succeeds};
use crate::build::BuildError;
use crate::workspace::Workspace;
use prefix::{Prefix, Tool};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the C program calls by name, and what DPDK's driver is made of.
const LIBRARIES: [&str; 8] = ["eal", "ethdev", "mbuf", "mempool", "mempool_ring", "bus_pci", "net_ixgbe", "ring"];

pub struct Peer {
    prefix: Prefix,
    program: PathBuf,
    library: PathBuf,
    scratch: PathBuf,
}

impl Peer {
    /// Fetches and compiles what is needed; what is lacking otherwise.
    pub fn prepare(workspace: &Workspace, program: &Path, scratch: &Path) -> Result<Peer, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("it needs a mount namespace and physical addresses: run this as root".into());
        }
        let prefix = Prefix::ensure(&[Tool::Dpdk]).map_err(|error| error.to_string())?;
        let tree = prefix.tree(Tool::Dpdk).map_err(|error| error.to_string())?;
        let folder = workspace.root().join("testbed/rig/src/bin/bench-net");
        let library = scratch.join("dpdk.so");
        let mut command = Command::new("cc");
        command.args(["-O3", "-march=native", "-Wall", "-shared", "-fPIC"]);
        for folder in ["usr/include/dpdk", "usr/include/x86_64-linux-gnu/dpdk"] {
            command.arg("-isystem").arg(tree.join(folder));
        }
        // By file: the folder that they are in has a C library too, which is not the compiler's.
        command
            .arg("-o")
            .arg(&library)
            .args(["dpdk.c", "maglev.c"].map(|name| folder.join(name)))
            .arg("-Wl,--no-as-needed");
        command.args(LIBRARIES.map(|name| tree.join(format!("usr/lib/x86_64-linux-gnu/librte_{name}.so"))));
        match command.status() {
            Ok(status) if status.success() => {}
            Ok(_) => return Err(format!("the C programs in {} do not compile", folder.display())),
            Err(error) => return Err(format!("a C compiler, cc: {error}")),
        }
        Ok(Peer { prefix, program: program.to_owned(), library, scratch: scratch.to_owned() })
    }

    /// Measures what the program calls `what`, and adds its rows.
    pub fn measure(&self, what: &str, scalar: bool, into: &mut Vec<Row>) -> Result<bool, BuildError> {
        let name = format!("{what}{}", if scalar { "-scalar" } else { "" });
        let (place, report) = (self.scratch.join(&name), self.scratch.join(format!("{name}.json")));
        std::fs::create_dir_all(&place).map_err(BuildError::file("creating", &place))?;
        let command = self.prefix.command_with(Tool::Dpdk, &self.program, PROGRAM);
        let mut command =
            command.map_err(|error| BuildError::Image { image: PROGRAM.into(), reason: error.to_string() })?;
        let flags: [&OsStr; 7] = [
            what.as_ref(),
            "--library".as_ref(),
            self.library.as_ref(),
            "--place".as_ref(),
            place.as_ref(),
            "--report".as_ref(),
            report.as_ref(),
        ];
        command.args(flags).args(scalar.then_some("--scalar")).stdout(Stdio::null());
        command.env(LARGE_PAGES.0, LARGE_PAGES.1);
        let well = succeeds(&mut command, PROGRAM)?;
        into.extend(rows::read(&report)?);
        Ok(well)
    }
}
