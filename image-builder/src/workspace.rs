//! The clone that everything is built from: where it is, which domains it has.

use std::path::{Path, PathBuf};

/// A clone of this repository.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    domains: Vec<DomainCrate>,
}

/// A crate that is built as a domain's image.
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

impl Workspace {
    /// The clone that this very program was built from, unless `REDLEAF_ROOT` says otherwise.
    pub fn find() -> Workspace {
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .unwrap_or(Path::new("."));
        Workspace::at(std::env::var_os("REDLEAF_ROOT").map_or(built_from.to_owned(), PathBuf::from))
    }

    pub fn at(root: PathBuf) -> Workspace {
        let domains = DOMAIN_FOLDERS
            .iter()
            .flat_map(|folder| crates_in(&root.join(folder)))
            .collect();
        Workspace { root, domains }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the builder's own work goes.
    pub fn target(&self) -> PathBuf {
        self.root.join("target/redleaf")
    }

    pub fn domain_crates(&self) -> &[DomainCrate] {
        &self.domains
    }

    pub fn domain_crate(&self, name: &str) -> Option<&DomainCrate> {
        self.domains.iter().find(|domain| domain.name == name)
    }
}

fn crates_in(folder: &Path) -> Vec<DomainCrate> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut crates: Vec<DomainCrate> = entries
        .filter_map(|entry| {
            let folder = entry.path();
            let manifest: toml::Table = std::fs::read_to_string(folder.join("Cargo.toml"))
                .ok()?
                .parse()
                .ok()?;
            let name = manifest.get("package")?.get("name")?.as_str()?.to_owned();
            // The trusted part of a driver is beside it, named as such, and no domain.
            (!name.ends_with("-device")).then_some(DomainCrate { name, folder })
        })
        .collect();
    crates.sort_by(|a, b| a.name.cmp(&b.name));
    crates
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a driver that link into the kernel can't be named as an image.
    #[test]
    fn trusted_crates_are_no_domains() {
        let workspace = Workspace::find();
        assert!(workspace.domain_crate("ixgbe").is_some());
        assert!(workspace.domain_crate("maglev").is_some());
        assert!(workspace.domain_crate("ixgbe-device").is_none());
    }
}
