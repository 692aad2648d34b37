//! What a domain may be made of: safe code, no build script of its own, and dependencies that somebody has read; or libraries of the clone's that are made of the same.

use super::BuildError;
use super::abi::{Lock, normal_dependencies};
use crate::workspace::{DomainCrate, Workspace};
use serde::Deserialize;
use std::fs;

/// Crates of the clone that a domain may use; they are the tiers above it.
const TRUSTED: [&str; 4] = ["interfaces", "interfaces-macros", "runtime", "runtime-macros"];

/// `image-builder/reviewed.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reviewed {
    #[serde(rename = "crate")]
    crates: Vec<ReviewedCrate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReviewedCrate {
    name: String,
    version: String,
    checksum: String,
    /// Who has read it.
    #[serde(rename = "reviewed-by")]
    reviewed_by: String,
    /// What was looked at, and why it may stand behind a domain.
    reason: String,
}

/// Refuses a domain's crate that isn't made as domains are.
pub fn review(workspace: &Workspace, domain: &DomainCrate) -> Result<(), BuildError> {
    let faults = crate_faults(workspace, domain)?;
    match faults.is_empty() {
        true => Ok(()),
        false => Err(BuildError::Refused { image: domain.name.clone(), faults }),
    }
}

/// What is wrong with a domain's crate, or with a library's.
fn crate_faults(workspace: &Workspace, domain: &DomainCrate) -> Result<Vec<String>, BuildError> {
    let mut faults = Vec::new();
    let source = domain.folder.join("src/lib.rs");
    let text = fs::read_to_string(&source).map_err(BuildError::file("reading", &source))?;
    match syn::parse_file(&text) {
        Ok(file) if forbids_unsafe(&file) => {}
        Ok(_) => faults.push("src/lib.rs doesn't say #![forbid(unsafe_code)]".to_owned()),
        // Cargo will say it better.
        Err(_) => {}
    }
    let cargo_toml = domain.folder.join("Cargo.toml");
    let manifest = fs::read_to_string(&cargo_toml).map_err(BuildError::file("reading", &cargo_toml))?;
    let manifest: toml::Table =
        manifest.parse().map_err(|error: toml::de::Error| BuildError::Lock(error.to_string()))?;
    if domain.folder.join("build.rs").exists()
        || manifest.get("package").is_some_and(|package| package.get("build").is_some())
    {
        faults.push("it has a build script; a domain has none".to_owned());
    }
    faults.extend(dependency_faults(workspace, domain)?);
    Ok(faults)
}

fn forbids_unsafe(file: &syn::File) -> bool {
    file.attrs.iter().any(|attribute| {
        attribute.path().is_ident("forbid")
            && attribute
                .parse_args_with(syn::punctuated::Punctuated::<syn::Path, syn::Token![,]>::parse_terminated)
                .is_ok_and(|lints| lints.iter().any(|lint| lint.is_ident("unsafe_code")))
    })
}

fn dependency_faults(workspace: &Workspace, domain: &DomainCrate) -> Result<Vec<String>, BuildError> {
    let path = workspace.root().join("image-builder/reviewed.toml");
    let text = fs::read_to_string(&path).map_err(BuildError::file("reading", &path))?;
    let reviewed: Reviewed =
        toml::from_str(&text).map_err(|error| BuildError::Lock(format!("{}: {error}", path.display())))?;
    let lock = Lock::read(workspace)?;
    let mut faults = Vec::new();
    for entry in &reviewed.crates {
        if entry.reviewed_by.trim().is_empty() || entry.reason.trim().is_empty() {
            faults.push(format!(
                "the reviewed list doesn't say who has read {} {}, and why it may be there",
                entry.name, entry.version
            ));
        }
    }
    for (name, locked) in normal_dependencies(&lock, &domain.name, &domain.folder)? {
        if TRUSTED.contains(&name.as_str()) {
            continue;
        }
        if let Some(library) = workspace.library(&name) {
            let of_library = crate_faults(workspace, library)?.into_iter();
            faults.extend(of_library.map(|fault| format!("{name}, which it links: {fault}")));
            continue;
        }
        if locked.is_empty() {
            faults.push(format!(
                "it depends on {name}, which Cargo.lock doesn't know of; type: cargo metadata --format-version 1 > /dev/null"
            ));
        }
        // What these two bring along is reviewed with them, as part of the trusted tiers.
        for package in lock.closure(&locked) {
            let known =
                reviewed.crates.iter().find(|known| known.name == package.name && known.version == package.version);
            match (&package.checksum, known) {
                (None, _) if TRUSTED.contains(&package.name.as_str()) => {}
                (None, _) => faults.push(format!(
                    "it depends on {}; imports go downhill, to interfaces, runtime and libraries of domains only",
                    package.name
                )),
                (Some(_), None) => faults.push(format!(
                    "{} {} isn't on the reviewed list (image-builder/reviewed.toml)",
                    package.name, package.version
                )),
                (Some(checksum), Some(known)) if *checksum != known.checksum => {
                    faults.push(format!(
                        "{} {} isn't the one that was reviewed: its checksum differs",
                        package.name, package.version
                    ));
                }
                _ => {}
            }
        }
    }
    faults.dedup();
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The attribute counts as it is meant, not as text: not in a comment, not on an item, not as `deny`.
    #[test]
    fn forbid_is_recognised() {
        let forbids = |text| forbids_unsafe(&syn::parse_file(text).unwrap());
        assert!(forbids("#![no_std]\n#![forbid(unsafe_code)]"));
        assert!(forbids("#![forbid(missing_docs, unsafe_code)]"));
        assert!(!forbids("// #![forbid(unsafe_code)]"));
        assert!(!forbids("#![deny(unsafe_code)]"));
        assert!(!forbids("#[forbid(unsafe_code)] fn f() {}"));
    }

    /// A clone with one domain, `made-up`, of this Cargo.toml and with these further files; what is wrong with it.
    fn faults_of(manifest: &str, lock: &str, files: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("services/made-up/src/lib.rs", "#![no_std]\n#![forbid(unsafe_code)]");
        write(
            "services/made-up/Cargo.toml",
            &format!("[package]\nname = \"made-up\"\nversion = \"0.1.0\"\n{manifest}"),
        );
        write("Cargo.lock", lock);
        let listed = |version: &str| {
            format!(
                "[[crate]]\nname = \"listed\"\nversion = \"{version}\"\nchecksum = \"c{version}\"\nreviewed-by = \"A. Reader\"\nreason = \"no unsafe\"\n"
            )
        };
        write("image-builder/reviewed.toml", &listed("1.0.0"));
        for (path, text) in files {
            write(path, text);
        }
        let workspace = Workspace::at(folder.path().to_owned(), folder.path().join("target"));
        match review(&workspace, workspace.domain_crate("made-up").unwrap()) {
            Ok(()) => vec![],
            Err(BuildError::Refused { faults, .. }) => faults,
            Err(error) => panic!("{error}"),
        }
    }

    /// A package of a lock file.
    fn package(name: &str, version: &str, checksum: &str, dependencies: &str) -> String {
        let checksum = if checksum.is_empty() { String::new() } else { format!("checksum = \"{checksum}\"\n") };
        format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n{checksum}dependencies = [{dependencies}]\n")
    }

    const ON_LISTED: &str = "[dependencies]\nlisted = \"1\"\n";

    fn locked(version: &str, checksum: &str, dependencies: &str) -> String {
        package("made-up", "0.1.0", "", "\"listed\"") + &package("listed", version, checksum, dependencies)
    }

    #[test]
    fn what_is_listed_passes() {
        assert_eq!(faults_of("", "", &[]), [""; 0]);
        assert_eq!(faults_of(ON_LISTED, &locked("1.0.0", "c1.0.0", ""), &[]), [""; 0]);
    }

    /// A build script runs on the builder's machine, and could write what is then compiled.
    #[test]
    fn build_scripts_are_refused() {
        let refused = ["it has a build script; a domain has none"];
        assert_eq!(faults_of("", "", &[("services/made-up/build.rs", "fn main() {}")]), refused);
        assert_eq!(faults_of("build = \"make.rs\"\n", "", &[("services/made-up/make.rs", "fn main() {}")]), refused);
    }

    /// Whatever isn't on the list, in this version with this checksum: libraries and proc-macros alike (a proc-macro is a dependency like another), also behind
    /// another name, behind what is listed, for one target only, in a version besides the one that is listed, or from elsewhere.
    #[test]
    fn what_is_not_listed_is_refused() {
        let macros = package("made-up", "0.1.0", "", "\"derive-things\"") + &package("derive-things", "0.3.0", "d", "");
        let refused = ["derive-things 0.3.0 isn't on the reviewed list (image-builder/reviewed.toml)"];
        assert_eq!(faults_of("[dependencies]\nderive-things = \"0.3\"\n", &macros, &[]), refused);
        let renamed = "[dependencies]\nlisted = { package = \"derive-things\", version = \"0.3\" }\n";
        assert_eq!(faults_of(renamed, &macros, &[]), refused);
        let targeted = "[target.'cfg(target_arch = \"x86_64\")'.dependencies]\nderive-things = \"0.3\"\n";
        assert_eq!(faults_of(targeted, &macros, &[]), refused);
        let behind = locked("1.0.0", "c1.0.0", "\"derive-things\"") + &package("derive-things", "0.3.0", "d", "");
        assert_eq!(faults_of(ON_LISTED, &behind, &[]), refused);
        let two = package("made-up", "0.1.0", "", "\"listed 2.0.0\"")
            + &package("listed", "1.0.0", "c1.0.0", "")
            + &package("listed", "2.0.0", "c2.0.0", "");
        let refused = ["listed 2.0.0 isn't on the reviewed list (image-builder/reviewed.toml)"];
        assert_eq!(faults_of("[dependencies]\nlisted = \"2\"\n", &two, &[]), refused);
        let both = "[dependencies]\nlisted = \"1\"\nnewer = { package = \"listed\", version = \"2\" }\n";
        let two = two.replace("\"listed 2.0.0\"", "\"listed 1.0.0\", \"listed 2.0.0\"");
        assert_eq!(faults_of(both, &two, &[]), refused);
        let twins = package("made-up", "0.1.0", "", "\"listed 1.0.0 (registry+elsewhere)\"")
            + &package("listed", "1.0.0", "c1.0.0", "").replace("version", "source = \"registry+here\"\nversion")
            + &package("listed", "1.0.0", "c", "").replace("version", "source = \"registry+elsewhere\"\nversion");
        let differs = ["listed 1.0.0 isn't the one that was reviewed: its checksum differs"];
        assert_eq!(faults_of(ON_LISTED, &twins, &[]), differs);
        assert_eq!(faults_of(ON_LISTED, &locked("1.0.0", "another", ""), &[]), differs);
        let unknown = [
            "it depends on listed, which Cargo.lock doesn't know of; type: cargo metadata --format-version 1 > /dev/null",
        ];
        assert_eq!(faults_of(ON_LISTED, "", &[]), unknown);
        let anothers = package("made-up", "0.1.0", "", "") + &package("listed", "1.0.0", "c1.0.0", "");
        assert_eq!(faults_of(ON_LISTED, &anothers, &[]), unknown);
    }

    /// Another domain, the kernel or a macro crate of the author's own are no dependencies of a domain.
    #[test]
    fn sideways_and_uphill_are_refused() {
        let lock = package("made-up", "0.1.0", "", "\"own-macros\"") + &package("own-macros", "0.1.0", "", "");
        assert_eq!(
            faults_of("[dependencies]\nown-macros = { path = \"macros\" }\n", &lock, &[]),
            ["it depends on own-macros; imports go downhill, to interfaces, runtime and libraries of domains only"]
        );
    }

    /// A library of domains is held to what a domain is held to, wherever its fault is.
    #[test]
    fn a_library_is_reviewed_with_who_links_it() {
        let on_library = "[dependencies]\nsome-library = { path = \"../some-library\" }\n";
        let lock = package("made-up", "0.1.0", "", "\"some-library\"")
            + &package("some-library", "0.1.0", "", "\"derive-things\", \"listed\"")
            + &package("listed", "1.0.0", "c1.0.0", "")
            + &package("derive-things", "0.3.0", "d", "");
        let library = |dependencies: &str, text: &str, more: &[(&str, &str)]| {
            let manifest = format!("[package]\nname = \"some-library\"\nversion = \"0.1.0\"\n{dependencies}");
            let own =
                [("services/some-library/Cargo.toml", manifest.as_str()), ("services/some-library/src/lib.rs", text)];
            faults_of(on_library, &lock, &[&own, more].concat())
        };
        let safe = "#![no_std]\n#![forbid(unsafe_code)]";
        // What a library's tests need isn't linked.
        let tested = format!("{ON_LISTED}[dev-dependencies]\nderive-things = \"0.3\"\n");
        assert_eq!(library(&tested, safe, &[]), [""; 0]);
        let refused = |fault: &str| [format!("some-library, which it links: {fault}")];
        assert_eq!(library("", "#![no_std]", &[]), refused("src/lib.rs doesn't say #![forbid(unsafe_code)]"));
        let script = [("services/some-library/build.rs", "fn main() {}")];
        assert_eq!(library("", safe, &script), refused("it has a build script; a domain has none"));
        assert_eq!(
            library("[dependencies]\nderive-things = \"0.3\"\n", safe, &[]),
            refused("derive-things 0.3.0 isn't on the reviewed list (image-builder/reviewed.toml)")
        );
    }

    /// The list says who has read what, and for which reason it may be there.
    #[test]
    fn a_list_without_a_reader_or_a_reason_is_refused() {
        let list = |by: &str, reason: &str| {
            format!(
                "[[crate]]\nname = \"listed\"\nversion = \"1.0.0\"\nchecksum = \"c1.0.0\"\nreviewed-by = \"{by}\"\nreason = \"{reason}\"\n"
            )
        };
        for (by, reason) in [("", "no unsafe"), ("A. Reader", " ")] {
            assert_eq!(
                faults_of(
                    ON_LISTED,
                    &locked("1.0.0", "c1.0.0", ""),
                    &[("image-builder/reviewed.toml", &list(by, reason))]
                ),
                ["the reviewed list doesn't say who has read listed 1.0.0, and why it may be there"]
            );
        }
    }

    /// All domains of this clone are made as domains are.
    #[test]
    fn own_domains_pass() {
        let workspace = Workspace::find();
        for domain in workspace.domain_crates() {
            if let Err(error) = review(&workspace, domain) {
                panic!("{error}");
            }
        }
    }
}
