//! What a domain may be made of: safe code, no build script of its own, and dependencies that somebody has read.

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
    /// What was looked at, and why it may stand behind a domain.
    #[expect(dead_code, reason = "for people; that it is there is what is checked")]
    reason: String,
}

/// Refuses a domain's crate that isn't made as domains are.
pub fn review(workspace: &Workspace, domain: &DomainCrate) -> Result<(), BuildError> {
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
    match faults.is_empty() {
        true => Ok(()),
        false => Err(BuildError::Refused { image: domain.name.clone(), faults }),
    }
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
    for name in normal_dependencies(workspace, std::slice::from_ref(&domain.folder))? {
        if TRUSTED.contains(&name.as_str()) {
            continue;
        }
        // What these two bring along is reviewed with them, as part of the trusted tiers.
        for package in lock.closure(&[name]) {
            let known =
                reviewed.crates.iter().find(|known| known.name == package.name && known.version == package.version);
            match (&package.checksum, known) {
                (None, _) if TRUSTED.contains(&package.name.as_str()) => {}
                (None, _) => faults.push(format!(
                    "it depends on {}; imports go downhill, to interfaces and runtime only",
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
