//! The two hashes: *ABI*, what images must share to call each other; *build*, where an image came from.

use super::BuildError;
use super::cargo::{DOMAIN_FLAGS, compiler_version};
use crate::workspace::{DomainCrate, Workspace};
use bundle::Hash;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Crates whose types and code both sides of a call have.
const SHARED: [&str; 2] = ["interfaces", "runtime"];

/// A package of the clone's Cargo.lock.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Locked {
    pub name: String,
    pub version: String,
    source: Option<String>,
    /// Of what the registry delivered; none for crates of the clone itself.
    pub checksum: Option<String>,
    /// By name, or name and version where there are several.
    dependencies: Vec<String>,
}

pub struct Lock(Vec<Locked>);

impl Lock {
    pub fn read(workspace: &Workspace) -> Result<Lock, BuildError> {
        let path = workspace.root().join("Cargo.lock");
        let text = fs::read_to_string(&path).map_err(BuildError::file("reading", &path))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| BuildError::Lock(error.to_string()))?;
        let packages = table.get("package").and_then(toml::Value::as_array).into_iter().flatten();
        let packages = packages.filter_map(|package| {
            let text = |key| Some(package.get(key)?.as_str()?.to_owned());
            let dependencies = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
            Some(Locked {
                name: text("name")?,
                version: text("version")?,
                source: text("source"),
                checksum: text("checksum"),
                dependencies: dependencies.filter_map(|name| Some(name.as_str()?.to_owned())).collect(),
            })
        });
        Ok(Lock(packages.collect()))
    }

    /// `name`, `name version` or `name version (source)`, as dependencies are written.
    pub fn get(&self, reference: &str) -> Option<&Locked> {
        let mut parts = reference.splitn(3, ' ');
        let (name, version, source) = (parts.next()?, parts.next(), parts.next());
        let source = source.map(|source| source.trim_matches(['(', ')']));
        self.0.iter().find(|package| {
            package.name == name
                && version.is_none_or(|version| package.version == version)
                && source.is_none_or(|source| package.source.as_ref().is_some_and(|own| own.starts_with(source)))
        })
    }

    /// The names with everything that they depend on, tests' dependencies included: the lock doesn't tell them apart.
    pub fn closure(&self, names: &[String]) -> BTreeSet<&Locked> {
        let mut found = BTreeSet::new();
        let mut queue: Vec<&Locked> = names.iter().filter_map(|name| self.get(name)).collect();
        while let Some(package) = queue.pop() {
            if found.insert(package) {
                queue.extend(package.dependencies.iter().filter_map(|name| self.get(name)));
            }
        }
        found
    }
}

/// Compiler, flags, profile, and the shared crates with all that they are made of.
pub fn abi_hash(workspace: &Workspace) -> Result<Hash, BuildError> {
    let mut hash = Sha256::new();
    let mut part = |name: &str, bytes: &[u8]| {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part("compiler", compiler_version(workspace)?.as_bytes());
    part("flags", DOMAIN_FLAGS.join("\n").as_bytes());
    // Profiles, and the features that the workspace asks of common dependencies.
    let root = workspace.root().join("Cargo.toml");
    let root = fs::read_to_string(&root).map_err(BuildError::file("reading", root))?;
    let root: toml::Table = root.parse().map_err(|error: toml::de::Error| BuildError::Lock(error.to_string()))?;
    let dependencies = root.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    for (name, value) in [("profile", root.get("profile")), ("dependencies", dependencies)] {
        part(name, value.map(toml::Value::to_string).unwrap_or_default().as_bytes());
    }
    for folder in SHARED {
        for (path, bytes) in sources(&workspace.root().join(folder))? {
            part(&format!("{folder}/{path}"), &bytes);
        }
    }
    let lock = Lock::read(workspace)?;
    let mut dependencies = Vec::new();
    for name in SHARED {
        dependencies.extend(normal_dependencies(&lock, name, &workspace.root().join(name))?.into_values().flatten());
    }
    for dependency in dependencies {
        for package in lock.closure(&[dependency]) {
            let checksum = package.checksum.as_deref().unwrap_or("of the clone");
            part(&format!("{} {}", package.name, package.version), checksum.as_bytes());
        }
    }
    Ok(Hash(hash.finalize().into()))
}

/// Where an image came from: its own sources, its libraries' and dependencies, over the ABI.
pub fn build_hash(workspace: &Workspace, domain: &DomainCrate, abi: Hash) -> Result<Hash, BuildError> {
    let mut hash = Sha256::new();
    hash.update(abi.0);
    for own in std::iter::once(domain).chain(libraries(workspace, domain)?) {
        for (path, bytes) in sources(&own.folder)? {
            hash.update(path);
            hash.update(Sha256::digest(&bytes));
        }
    }
    for package in Lock::read(workspace)?.closure(std::slice::from_ref(&domain.name)) {
        hash.update(format!("{package:?}"));
    }
    Ok(Hash(hash.finalize().into()))
}

/// The clone's libraries that this domain's crate links, each once.
pub fn libraries<'a>(workspace: &'a Workspace, domain: &DomainCrate) -> Result<Vec<&'a DomainCrate>, BuildError> {
    let lock = Lock::read(workspace)?;
    let mut libraries: Vec<&DomainCrate> = Vec::new();
    let (mut next, mut looked_at) = (Some(domain), 0);
    while let Some(one) = next {
        for name in normal_dependencies(&lock, &one.name, &one.folder)?.keys() {
            libraries.extend(workspace.library(name).filter(|library| !libraries.contains(library)));
        }
        next = libraries.get(looked_at).copied();
        looked_at += 1;
    }
    Ok(libraries)
}

/// What the crate `name` in `folder` links or is expanded by, tests left out: each name in its `[dependencies]`, those of single targets included, with what the lock
/// gives this very crate under that name, not just any package called so. None where the lock doesn't know of it.
pub fn normal_dependencies(
    lock: &Lock,
    name: &str,
    folder: &Path,
) -> Result<BTreeMap<String, Vec<String>>, BuildError> {
    let path = folder.join("Cargo.toml");
    let text = fs::read_to_string(&path).map_err(BuildError::file("reading", &path))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| BuildError::Lock(error.to_string()))?;
    let targets = table.get("target").and_then(toml::Value::as_table).into_iter().flatten();
    let tables = std::iter::once(&table).chain(targets.filter_map(|(_, target)| target.as_table()));
    let dependencies = tables.filter_map(|table| table.get("dependencies")?.as_table()).flatten();
    let locked = lock.get(name).map_or(&[][..], |package| &package.dependencies);
    let dependencies = dependencies.map(|(key, value)| {
        // A dependency may be renamed; the lock knows it by its own name.
        let own = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
        let locked = locked.iter().filter(|reference| reference.split(' ').next() == Some(own));
        (own.to_owned(), locked.cloned().collect())
    });
    Ok(dependencies.collect())
}

/// Cargo.toml and everything under `src` of a crate and of crates inside it, by relative path. Tests aren't part of an image.
fn sources(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, BuildError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(BuildError::file("reading", &folder))?.flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.file_name().is_some_and(|name| name == "tests" || name == "target") => {}
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    files.sort();
    let read = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).map_err(BuildError::file("reading", &path))?;
        Ok((path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned(), bytes))
    };
    files.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two runs over the same clone agree, and a domain's own sources tell its build from another's.
    #[test]
    fn hashes_are_stable() {
        let workspace = Workspace::find();
        let abi = abi_hash(&workspace).unwrap();
        assert_eq!(abi, abi_hash(&workspace).unwrap());
        let of = |name| build_hash(&workspace, workspace.domain_crate(name).unwrap(), abi).unwrap();
        assert_eq!(of("maglev"), of("maglev"));
        assert_ne!(of("maglev"), of("filter"));
    }

    /// An image is told from another by the sources of what it links, too.
    #[test]
    fn a_library_is_part_of_the_build() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("Cargo.lock", "");
        let on = "[dependencies]\nsome-library = { path = \"../some-library\" }\n";
        write("services/made-up/Cargo.toml", &format!("[package]\nname = \"made-up\"\nversion = \"0.1.0\"\n{on}"));
        write("services/some-library/Cargo.toml", "[package]\nname = \"some-library\"\nversion = \"0.1.0\"\n");
        write("services/some-library/src/lib.rs", "pub fn f() {}");
        let hash = || {
            let workspace = Workspace::at(folder.path().to_owned(), folder.path().join("target"));
            build_hash(&workspace, workspace.domain_crate("made-up").unwrap(), Hash([0; 32])).unwrap()
        };
        let before = hash();
        assert_eq!(hash(), before);
        write("services/some-library/src/lib.rs", "pub fn g() {}");
        assert_ne!(hash(), before);
    }

    /// What the hash is made of, in a folder of its own.
    fn excerpt() -> (tempfile::TempDir, Workspace) {
        let (clone, folder) = (Workspace::find(), tempfile::tempdir().unwrap());
        for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"] {
            fs::copy(clone.root().join(name), folder.path().join(name)).unwrap();
        }
        for shared in SHARED {
            for (path, bytes) in sources(&clone.root().join(shared)).unwrap() {
                let to = folder.path().join(shared).join(path);
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::write(to, bytes).unwrap();
            }
        }
        let workspace = Workspace::at(folder.path().to_owned(), folder.path().join("target"));
        (folder, workspace)
    }

    /// Two images that could misread each other are told apart: by what the shared crates say, by the features that are asked of common dependencies, by the
    /// profile's flags, and by what the registry delivered. A comment in a test is nothing to them.
    #[test]
    fn whatever_both_sides_share_is_in_the_hash() {
        let (folder, workspace) = excerpt();
        let first = abi_hash(&workspace).unwrap();
        assert_eq!(first, abi_hash(&Workspace::find()).unwrap(), "the excerpt has all that the hash is made of");
        let change = |file: &str, from: &str, to: &str| {
            let path = folder.path().join(file);
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{file} has no {from:?} to change");
            fs::write(&path, text.replacen(from, to, 1)).unwrap();
            let hash = abi_hash(&workspace).unwrap();
            fs::write(&path, text).unwrap();
            hash
        };
        for (file, from, to) in [
            ("interfaces/src/packet.rs", "pub struct", "pub  struct"),
            ("interfaces/macros/src/lib.rs", "fn ", "fn  "),
            ("runtime/src/lib.rs", "//!", "//! "),
            ("Cargo.toml", "overflow-checks = true", "overflow-checks = false"),
            ("Cargo.toml", "[\"xxhash64\", \"xxhash3_64\"]", "[\"xxhash64\"]"),
            ("Cargo.lock", "name = \"log\"\nversion = \"", "name = \"log\"\nversion = \"9"),
            // Of two versions the one that `runtime` or `interfaces` has.
            ("Cargo.lock", "name = \"talc\"\nversion = \"5", "name = \"talc\"\nversion = \"95"),
            ("Cargo.lock", "name = \"bitflags\"\nversion = \"2", "name = \"bitflags\"\nversion = \"92"),
        ] {
            assert_ne!(change(file, from, to), first, "{file}: {from} -> {to}");
        }
        assert_eq!(abi_hash(&workspace).unwrap(), first);
        assert_eq!(change("Cargo.lock", "name = \"clap\"\nversion = \"", "name = \"clap\"\nversion = \"9"), first);
    }
}
