//! What the `config` table of a web server in the manifest may hold.
//!
//! ```toml
//! content = "site"      # a folder, from this file
//! port = 80
//! access-log = true
//!
//! [domains.web.config.stack]  # if import `net` is wired, and `stack` isn't: the network stack in this domain
//! address = "10.0.1.3/24"
//! ```

use alloc::{format, string::String, vec::Vec};

use interfaces::{
    config::{Configuration, Duration, Fault, Size},
    folder::Folder,
};
use netstack_library::placement;
use serde::{Deserialize, Serialize};

use crate::{connection::Limits, head::HeadLimits};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// What is served: a folder that goes into the bundle.
    pub content: Folder,
    #[serde(default = "default::port")]
    pub port: u16,
    /// Whether each answer is a line in the domain's log.
    #[serde(default)]
    pub access_log: bool,
    /// Connections of one thread at most.
    #[serde(default = "default::connections")]
    pub connections: u32,
    /// Requests of one connection.
    #[serde(default = "default::requests")]
    pub requests: u32,
    /// Of a request's content, which is thrown away.
    #[serde(default = "default::body")]
    pub longest_body: Size,
    /// Of answers that wait to be sent, of all connections of a thread.
    #[serde(default = "default::waiting")]
    pub waiting: Size,
    /// For a request, from its first byte to its last.
    #[serde(default = "default::request")]
    pub request_time: Duration,
    /// For taking an answer, as long as nothing of it is taken.
    #[serde(default = "default::answer")]
    pub answer_time: Duration,
    /// Between requests.
    #[serde(default = "default::idle")]
    pub idle_time: Duration,
    /// Of the network stack, if it is in this domain.
    #[serde(default)]
    pub stack: Option<netstack_library::Config>,
}

mod default {
    use interfaces::config::{Duration, Size};

    pub fn port() -> u16 {
        80
    }
    pub fn connections() -> u32 {
        4096
    }
    pub fn requests() -> u32 {
        100_000
    }
    pub fn body() -> Size {
        Size(64 << 10)
    }
    pub fn waiting() -> Size {
        Size(4 << 20)
    }
    pub fn request() -> Duration {
        Duration::from_millis(10_000)
    }
    pub fn answer() -> Duration {
        Duration::from_millis(30_000)
    }
    pub fn idle() -> Duration {
        Duration::from_millis(60_000)
    }
}

impl Configuration for Config {
    fn validate(&self) -> Vec<Fault> {
        let at_least = [
            ("port", u64::from(self.port), 1),
            ("connections", self.connections.into(), 1),
            ("requests", self.requests.into(), 1),
            ("waiting", self.waiting.0, 64 << 10),
        ];
        let fault =
            |(path, value, least)| Fault { path: String::from(path), message: format!("{value} is less than {least}") };
        let own = at_least.into_iter().filter(|&(_, value, least)| value < least).map(fault);
        own.chain(placement::faults(self.stack.as_ref())).collect()
    }

    fn wiring_faults(&self, wired: &[&str]) -> Vec<String> {
        placement::wiring_fault(wired, self.stack.as_ref()).into_iter().collect()
    }

    fn folders(&mut self) -> Vec<(String, &mut Folder)> {
        Vec::from([("content".into(), &mut self.content)])
    }
}

impl Config {
    /// What a connection may do.
    pub fn limits(&self) -> Limits {
        let head = HeadLimits { line: 8 << 10, head: 16 << 10, fields: 100 };
        Limits { head, body: self.longest_body.0, requests: self.requests }
    }
}
