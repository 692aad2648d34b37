//! Counts the instructions that a guest executes in QEMU, each virtual CPU's for itself, exactly, and read at any moment while it runs. The measure of a machine without
//! KVM: emulated cycles mean nothing, but an instruction is one there, too.
//!
//! It is a plugin of QEMU's translator (`plugin.c`), compiled by the machine's compiler when it is needed.
//!
//! - Only with `-accel tcg`; KVM executes unseen.
//! - A CPU that has halted (`hlt`) executes nothing, so idling costs what wakes it and no more.
//! - An instruction that faults counts, and counts again when it is tried again. A repeated string instruction (`rep movsb`) is one, however long, unless an interrupt
//!   or a fault comes amid it.
//!
//! ```no_run
//! # use counter::Counter;
//! # let (mut qemu, folder) = (std::process::Command::new("qemu-system-x86_64"), std::path::Path::new("/tmp/somewhere"));
//! let counter = Counter::prepare(folder)?;
//! qemu.args(counter.arguments()).spawn()?;
//! let before: u64 = counter.read()?.iter().sum();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const PLUGIN: &str = include_str!("plugin.c");

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a C compiler is needed for the counter of instructions, cc: {0}\n    apt install gcc")]
    NoCompiler(io::Error),
    #[error("QEMU's plugin doesn't compile; cc says:\n{0}")]
    Compile(String),
    #[error("the counter of the guest's instructions doesn't answer: {0}")]
    Silent(io::Error),
}

/// A counter for one machine at a time.
#[derive(Debug)]
pub struct Counter {
    plugin: PathBuf,
    socket: PathBuf,
}

impl Counter {
    /// Compiles the plugin into `folder`; its socket will be there, too.
    pub fn prepare(folder: &Path) -> Result<Counter, Error> {
        let counter = Counter::at(folder);
        let mut compiler = Command::new("cc");
        compiler.args(["-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-fPIC", "-shared", "-pthread", "-o"]);
        compiler.arg(&counter.plugin).args(["-x", "c", "-"]);
        compiler.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut compiler = compiler.spawn().map_err(Error::NoCompiler)?;
        let written = compiler.stdin.take().expect("piped above").write_all(PLUGIN.as_bytes());
        let said = compiler.wait_with_output().map_err(Error::NoCompiler)?;
        if !said.status.success() || written.is_err() {
            return Err(Error::Compile(String::from_utf8_lossy(&said.stderr).trim().to_owned()));
        }
        Ok(counter)
    }

    /// The one that was prepared in this folder, for another process than the one that did so.
    pub fn at(folder: &Path) -> Counter {
        Counter { plugin: folder.join("counter.so"), socket: folder.join("counter.sock") }
    }

    /// What QEMU is to be told.
    pub fn arguments(&self) -> [String; 2] {
        // A comma in a value is written twice.
        let quoted = |path: &Path| path.display().to_string().replace(',', ",,");
        ["-plugin".to_owned(), format!("file={},socket={}", quoted(&self.plugin), quoted(&self.socket))]
    }

    /// How many instructions each virtual CPU has executed since the machine was switched on.
    pub fn read(&self) -> Result<Vec<u64>, Error> {
        Ok(self.read_halves()?.iter().map(|halves| halves.iter().sum()).collect())
    }

    /// The same, those in the lower half of the address space (on Linux, programs') and those in the upper one (its kernel's) for themselves.
    pub fn read_halves(&self) -> Result<Vec<[u64; 2]>, Error> {
        let mut bytes = Vec::new();
        let mut socket = UnixStream::connect(&self.socket).map_err(Error::Silent)?;
        socket.read_to_end(&mut bytes).map_err(Error::Silent)?;
        if bytes.is_empty() || bytes.len() % 16 != 0 {
            return Err(Error::Silent(io::ErrorKind::UnexpectedEof.into()));
        }
        let count = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(bytes.chunks_exact(16).map(|halves| [count(&halves[..8]), count(&halves[8..])]).collect())
    }
}
