//! Servers that are processes of their own: each on a host of the lab's, ended with the run.

use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::Tool;
use crate::stage::die_with_parent;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

pub struct Server {
    /// Whose and what, for messages: `b1's nginx`.
    name: String,
    process: Child,
    log: PathBuf,
    /// Of its host, bound and never read: so that what comes for them ends in a socket instead of an ICMP error.
    _sockets: Vec<UdpSocket>,
}

impl Server {
    /// Starts `tool` on `host`, with what it says in a file of `folder`.
    pub fn start(
        what: &'static str,
        tool: &Tool,
        arguments: &[String],
        host: &Namespace,
        folder: &Path,
    ) -> Result<Self, Error> {
        let name = format!("{}'s {what}", host.name());
        let log = folder.join("stderr");
        let stderr = fs::File::create(&log).map_err(Error::io(format!("log of {name}")))?;
        let mut command = tool.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        host.adopt(&mut command);
        die_with_parent(&mut command);
        let process = command.spawn().map_err(|source| Error::Start { what, program: tool.program.clone(), source })?;
        Ok(Self { name, process, log, _sockets: Vec::new() })
    }

    /// The same with sockets that are there as long as it is.
    pub fn beside(mut self, sockets: Vec<UdpSocket>) -> Self {
        self._sockets = sockets;
        self
    }

    /// That it has ended, and its last words, if so: worth a reason in the report.
    pub fn ended(&mut self) -> Option<String> {
        if matches!(self.process.try_wait(), Ok(None)) {
            return None;
        }
        let words = fs::read_to_string(&self.log).unwrap_or_default();
        Some(format!("{} ended by itself: {}", self.name, words.trim()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
