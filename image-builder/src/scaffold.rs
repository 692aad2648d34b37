//! `redleaf new service NAME`: a domain that builds, with its test and its manifest entry, to be changed into what is wanted.

use crate::workspace::Workspace;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    #[error(
        "\"{0}\" is no name for a service: expected lower-case letters, digits and single `-`, beginning with a letter"
    )]
    Name(String),
    #[error("there is a crate `{0}` already")]
    Taken(String),
    #[error("{action} {path}: {source}")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cargo didn't take the new crate into Cargo.lock; its words are above")]
    Lock,
}

/// What stands for the name in the templates; it is a name itself, so that the templates are Rust and TOML as they stand.
const PLACEHOLDER: &str = "template_service";

const FILES: [(&str, &str); 3] = [
    ("services/NAME/Cargo.toml", include_str!("scaffold/Cargo.toml.template")),
    ("services/NAME/src/lib.rs", include_str!("scaffold/lib.rs.template")),
    ("configs/NAME.toml", include_str!("scaffold/manifest.toml.template")),
];

/// Writes the new service's files; returns them, relative to the clone.
pub fn new_service(workspace: &Workspace, name: &str) -> Result<Vec<PathBuf>, ScaffoldError> {
    let well = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.ends_with('-')
        && !name.contains("--");
    // A crate of that ending would be taken for the trusted part of a driver.
    if !well || name.ends_with("-device") || bundle::format::Name::new(name).is_none() {
        return Err(ScaffoldError::Name(name.to_owned()));
    }
    let files: Vec<(PathBuf, String)> =
        FILES.iter().map(|(path, text)| (path.replace("NAME", name).into(), text.replace(PLACEHOLDER, name))).collect();
    let taken = is_crate(workspace.root(), name) || files.iter().any(|(path, _)| workspace.root().join(path).exists());
    if taken {
        return Err(ScaffoldError::Taken(name.to_owned()));
    }
    for (path, text) in &files {
        let path = workspace.root().join(path);
        let failed = |action| {
            let path = path.clone();
            move |source| ScaffoldError::File { action, path, source }
        };
        fs::create_dir_all(path.parent().unwrap_or(workspace.root())).map_err(failed("creating the folder of"))?;
        fs::write(&path, text).map_err(failed("writing"))?;
    }
    update_lock(workspace)?;
    Ok(files.into_iter().map(|(path, _)| path).collect())
}

/// Whether some crate of the lock, ours or the registry's, has that name: two of one name confuse everybody.
fn is_crate(root: &Path, name: &str) -> bool {
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
    lock.lines().any(|line| line == format!("name = \"{name}\""))
}

/// The lock is given with everything else, and builds refuse to change it.
fn update_lock(workspace: &Workspace) -> Result<(), ScaffoldError> {
    let mut cargo = crate::build::host_cargo(workspace);
    // It needs nothing that isn't in the lock already: no network.
    cargo.args(["metadata", "--offline", "--format-version", "1"]).stdout(std::process::Stdio::null());
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(ScaffoldError::Lock),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clone of which nothing is there but the lock.
    fn empty_clone() -> (tempfile::TempDir, Workspace) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("Cargo.lock"), "[[package]]\nname = \"serde\"\n").unwrap();
        let workspace = Workspace::at(folder.path().to_owned(), folder.path().join("target"));
        (folder, workspace)
    }

    /// Names that can't be crates, would be taken for something else, or are taken.
    #[test]
    fn names() {
        let (_folder, workspace) = empty_clone();
        for wrong in ["", "Echo", "1st", "a b", "-a", "a-", "a--b", "../x", "ixgbe-device"] {
            assert!(matches!(new_service(&workspace, wrong), Err(ScaffoldError::Name(_))), "{wrong}");
        }
        assert!(matches!(new_service(&workspace, "serde"), Err(ScaffoldError::Taken(_))));
    }

    /// The templates, renamed, are Rust and TOML, and nothing of the placeholder is left.
    #[test]
    fn templates() {
        for (path, text) in FILES {
            let text = text.replace(PLACEHOLDER, "echo-two");
            assert!(!text.contains("template"), "{path}");
            match path.ends_with(".rs") {
                true => assert!(syn::parse_file(&text).is_ok(), "{path}"),
                false => assert!(text.parse::<toml::Table>().is_ok(), "{path}"),
            }
        }
    }
}
