//! A private prefix of Debian's tools in the user's cache: QEMU, firmware, GRUB and whatever else isn't ordinary on a developer's
//! machine. Promises:
//!
//! - Nothing is installed: packages are fetched by an apt root of our own and unpacked, their scripts never run. It is the same
//!   for root and for a user.
//! - Mirror, keys and proxies are the machine's own; only the suite is ours.
//! - A tool is there wholly or not at all: unpacked beside its place and renamed at the end. What was fetched before an interruption
//!   isn't fetched again, and a second run at once waits for the first.
//! - Once a tool is there, no network is used for it.
//!
//! ```no_run
//! # use prefix::{Prefix, Tool};
//! let prefix = Prefix::ensure(&[Tool::Qemu])?;
//! let status = prefix.command("qemu-system-x86_64")?.arg("--version").status();
//! # Ok::<(), prefix::Error>(())
//! ```
#![forbid(unsafe_code)]

mod apt;
mod cache;
mod command;
mod error;
mod sources;
mod tool;

use std::path::{Path, PathBuf};

pub use cache::cache_folder;
pub use error::{Error, Missing};
pub use tool::Tool;

/// The mirror of Debian's main archive that this machine's own apt uses, for tools that fetch by themselves.
pub fn debian_mirror() -> Result<String, Error> {
    Ok(sources::Mirror::of_this_machine("Debian's packages")?.uri().to_owned())
}

/// Unpacked tools, ready to be run.
#[derive(Clone, Debug)]
pub struct Prefix {
    trees: Vec<(Tool, PathBuf)>,
}

impl Prefix {
    /// Makes sure that all of `tools` are in the user's cache, fetching what isn't. Says on stderr what it fetches.
    pub fn ensure(tools: &[Tool]) -> Result<Prefix, Error> {
        Prefix::ensure_in(&cache_folder()?, tools)
    }

    /// The same with another cache folder than the user's.
    pub fn ensure_in(cache: &Path, tools: &[Tool]) -> Result<Prefix, Error> {
        let mut tools = tools.to_vec();
        tools.sort();
        tools.dedup();
        let home = cache.join("prefix");
        let trees: Vec<_> = tools.iter().map(|&tool| (tool, cache::tree_folder(&home, tool))).collect();
        let absent: Vec<Tool> = trees.iter().filter(|(_, tree)| !tree.is_dir()).map(|&(tool, _)| tool).collect();
        if !absent.is_empty() {
            cache::fetch(&home, &absent)?;
        }
        Ok(Prefix { trees })
    }

    /// A file of `tool`, by its path on a Debian system without the leading slash.
    pub fn file(&self, tool: Tool, path: &str) -> Result<PathBuf, Error> {
        let tree = self.tree(tool)?;
        let file = tree.join(path);
        match file.exists() {
            true => Ok(file),
            false => Err(Error::NoSuchFile { tool, path: path.to_owned() }),
        }
    }

    /// The root folder of `tool`'s unpacked packages.
    pub fn tree(&self, tool: Tool) -> Result<&Path, Error> {
        let tree = self.trees.iter().find(|(have, _)| *have == tool);
        tree.map(|(_, tree)| tree.as_path()).ok_or(Error::NotEnsured { tool })
    }
}
