//! Questions to domains' crates that only their own types can answer: which ports they have, and whether a `config` table is one of theirs.
//!
//! The builder generates a program for the host that links the crates in question and calls [`answer`]; one [`Request`] goes in on
//! its standard input, one [`Response`] comes out. So a config table is read by exactly the type that the domain will read it with, and what
//! goes into the bundle are postcard bytes that this type has made.
#![forbid(unsafe_code)]

#[cfg(feature = "subjects")]
mod pack;
#[cfg(feature = "subjects")]
mod subject;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[cfg(feature = "subjects")]
pub use subject::{Subject, answer};

/// Config tables to be read, by domain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    pub configs: BTreeMap<String, Config>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    pub image: String,
    pub table: serde_json::Value,
    /// The names of the domain's imports that the manifest wires.
    pub wired: Vec<String>,
    /// By the path of each text in the table: the folder of the file that says it. What lies beside a manifest stays there for whoever inherits from it.
    pub beside: BTreeMap<String, PathBuf>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Response {
    /// By image.
    pub ports: BTreeMap<String, Ports>,
    /// By domain: what it was read as, or what is wrong.
    pub configs: BTreeMap<String, Result<Accepted, Vec<ConfigFault>>>,
}

/// A config table that its domain's type accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// As postcard has it.
    pub bytes: Vec<u8>,
    /// The longest frame that the domain's card may bring; 0 of one that drives none.
    pub longest_frame: u16,
}

/// What a domain's crate says about itself, in the order in which its entry takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    pub imports: Vec<Port>,
    pub exports: Vec<Port>,
}

/// A port as the domain's crate declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub interface: String,
    /// An import that the manifest may leave unwired.
    pub optional: bool,
}

/// Something that the domain's own type found wrong with its config table, or with what is wired beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFault {
    /// Such as `vips[1].address`; empty for the table itself. For an unknown field: the table that has it.
    pub path: String,
    pub message: String,
    pub concern: Concern,
}

/// What a fault is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Concern {
    Value,
    Unknown(UnknownField),
    /// The domain's imports: which are wired, and which aren't.
    Wiring,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownField {
    pub name: String,
    /// Those that there are.
    pub known: Vec<String>,
}
