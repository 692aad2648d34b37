//! The clone that everything is built from: where it is, which domains it has.

use std::path::{Path, PathBuf};

/// A clone of this repository.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    domains: Vec<DomainCrate>,
    libraries: Vec<DomainCrate>,
}

/// A crate that is built as a domain's image, or a library of such crates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainCrate {
    pub name: String,
    pub folder: PathBuf,
}

impl DomainCrate {
    /// What `use` calls it.
    pub fn module(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Where domains' crates lie. Those of the testbed are for tests.
const DOMAIN_FOLDERS: [&str; 3] = ["drivers", "services", "testbed/domains"];
/// The trusted part of a driver is beside it, named as such, and no domain.
const TRUSTED_PART: &str = "-device";
/// What several domains link is beside them, named as such, and held to what they are held to.
const LIBRARY: &str = "-library";

impl Workspace {
    /// The clone that this very program was built from, unless `REDLEAF_ROOT` says otherwise.
    pub fn find() -> Workspace {
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let root = std::env::var_os("REDLEAF_ROOT").map_or(built_from.to_owned(), PathBuf::from);
        // The bootstrap script names another one where the clone isn't ours to write to.
        let target = std::env::var_os("REDLEAF_TARGET").map_or(root.join("target"), PathBuf::from);
        Workspace::at(root, target)
    }

    pub fn at(root: PathBuf, target: PathBuf) -> Workspace {
        let crates = DOMAIN_FOLDERS.iter().flat_map(|folder| crates_in(&root.join(folder)));
        let crates = crates.filter(|one| !one.name.ends_with(TRUSTED_PART));
        let (libraries, domains) = crates.partition(|one| one.name.ends_with(LIBRARY));
        Workspace { root, target, domains, libraries }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where compiled things go, each kind in a folder of its own.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the builder's own work goes.
    pub fn work(&self) -> PathBuf {
        self.target.join("redleaf")
    }

    /// The compiler that rust-toolchain.toml names, for builds outside the clone.
    pub fn toolchain(&self) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join("rust-toolchain.toml")).ok()?;
        let table: toml::Table = text.parse().ok()?;
        Some(table.get("toolchain")?.get("channel")?.as_str()?.to_owned())
    }

    pub fn domain_crates(&self) -> &[DomainCrate] {
        &self.domains
    }

    pub fn domain_crate(&self, name: &str) -> Option<&DomainCrate> {
        self.domains.iter().find(|domain| domain.name == name)
    }

    /// The library of that name that domains may link.
    pub fn library(&self, name: &str) -> Option<&DomainCrate> {
        self.libraries.iter().find(|library| library.name == name)
    }
}

fn crates_in(folder: &Path) -> Vec<DomainCrate> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut crates: Vec<DomainCrate> = entries
        .filter_map(|entry| {
            let folder = entry.path();
            let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml")).ok()?.parse().ok()?;
            let name = manifest.get("package")?.get("name")?.as_str()?.to_owned();
            Some(DomainCrate { name, folder })
        })
        .collect();
    crates.sort_by(|a, b| a.name.cmp(&b.name));
    crates
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a driver that link into the kernel can't be named as an image, and neither can what domains link.
    #[test]
    fn trusted_crates_and_libraries_are_no_domains() {
        let workspace = Workspace::find();
        assert!(workspace.domain_crate("ixgbe").is_some());
        assert!(workspace.domain_crate("maglev").is_some());
        assert!(workspace.domain_crate("ixgbe-device").is_none() && workspace.library("ixgbe-device").is_none());
        assert!(
            workspace.domain_crate("netstack-library").is_none() && workspace.library("netstack-library").is_some()
        );
    }
}
