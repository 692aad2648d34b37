//! The operator's manifest: read with its places kept, checked as a whole, compiled for the kernel.

pub mod appliance;
pub mod check;
pub mod compile;
pub mod diagnostic;
pub mod read;
pub mod source;

use crate::build::{BuildError, Inquiry, inquire};
use crate::workspace::Workspace;
use appliance::Appliance;
use diagnostic::Diagnostics;
use source::Sources;
use std::path::{Path, PathBuf};

/// A manifest that nothing is wrong with.
pub struct Checked {
    /// The file's name without `.toml`: what the box is called.
    pub name: String,
    /// The files that it was read from, its own first.
    pub files: Vec<PathBuf>,
    /// As written, `inherit` resolved.
    pub table: toml::Table,
    pub appliance: Appliance,
    pub inquiry: Inquiry,
}

/// Why a manifest isn't fit to be built.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Everything that is wrong, ready to be shown.
    #[error("{rendered}{count} {} in {manifest}", if *.count == 1 { "error" } else { "errors" })]
    Manifest { rendered: String, count: usize, manifest: String },
    /// A domain's crate couldn't be asked.
    #[error(transparent)]
    Build(#[from] BuildError),
}

/// Reads and checks the manifest at `path`, down to the domains' own config tables.
pub fn check(workspace: &Workspace, path: &Path) -> Result<Checked, CheckError> {
    let mut sources = Sources::default();
    let (checked, diagnostics) = examine(workspace, path, &mut sources)?;
    match checked {
        Some(checked) if diagnostics.is_empty() => Ok(checked),
        _ => Err(CheckError::Manifest {
            rendered: diagnostics.render(&sources),
            count: diagnostics.len(),
            manifest: path.display().to_string(),
        }),
    }
}

/// The same, with what is wrong as values.
pub fn examine(
    workspace: &Workspace,
    path: &Path,
    sources: &mut Sources,
) -> Result<(Option<Checked>, Diagnostics), BuildError> {
    let mut diagnostics = Diagnostics::default();
    let Some(table) = source::load(path, sources, &mut diagnostics) else {
        return Ok((None, diagnostics));
    };
    let Some(appliance) = Appliance::read(&table, &mut diagnostics) else {
        return Ok((None, diagnostics));
    };
    let known: Vec<String> = workspace.domain_crates().iter().map(|domain| domain.name.clone()).collect();
    let inquiry = inquire(workspace, &appliance, sources)?;
    check::structure(&appliance, inquiry.longest_frame, &mut diagnostics);
    check::images(&appliance, &known, &mut diagnostics);
    check::ports(&appliance, &inquiry.ports, &mut diagnostics);
    check::configs(&appliance, &inquiry.faults, &mut diagnostics);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((
        Some(Checked {
            name,
            files: sources.files.iter().map(|file| file.path.clone()).collect(),
            table: source::to_toml(&table),
            appliance,
            inquiry,
        }),
        diagnostics,
    ))
}
