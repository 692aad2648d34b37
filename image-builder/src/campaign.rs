//! `redleaf campaign`: long randomised tests. A campaign runs for as many trials as were asked for, writes its record after each leg, and goes on
//! where the record ends when it is started again with the same question.

pub mod crashes;
pub mod rig;

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    #[error(transparent)]
    Run(#[from] crate::run::RunError),
    #[error("{path}: {error}")]
    Record { path: PathBuf, error: io::Error },
    #[error("{path} is no record of this version's ({error}); name another file, or remove it")]
    Unreadable { path: PathBuf, error: serde_json::Error },
    #[error("{path} is the record of another campaign: {differs}; name another file, or ask the same question")]
    Another { path: PathBuf, differs: String },
    #[error("{0}")]
    Unsuitable(String),
}

/// The record that stands in a file, or `None` if there is no such file.
fn read<R: DeserializeOwned>(path: &Path) -> Result<Option<R>, CampaignError> {
    match fs::read(path) {
        Ok(bytes) => {
            let record = serde_json::from_slice(&bytes);
            record.map(Some).map_err(|error| CampaignError::Unreadable { path: path.into(), error })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CampaignError::Record { path: path.into(), error }),
    }
}

/// Replaces the record in one step: whenever the campaign is ended, the file holds whole legs.
fn write(path: &Path, record: &impl Serialize) -> Result<(), CampaignError> {
    let failed = |error: io::Error| CampaignError::Record { path: path.into(), error };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    serde_json::to_writer_pretty(&mut file, record).map_err(|error| failed(error.into()))?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}
