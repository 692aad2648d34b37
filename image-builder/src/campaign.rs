//! `redleaf campaign`: long randomised tests. A campaign runs for as many trials as were asked for, writes its record after each leg, and goes on
//! where the record ends when it is started again with the same question.

pub mod crashes;
pub mod power;
pub mod restarts;
pub mod rig;

use crate::{
    run::{self, Request},
    workspace::Workspace,
};
use lab::Report;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

pub const SCHEMA_VERSION: u32 = 1;

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
    #[error("interrupted: the leg that was under way is not in the record; the same line goes on after those that are")]
    Interrupted,
}

/// A question that a campaign asks of boxes in QEMU, leg by leg; a leg is one life of one box, or disk.
pub trait Question: Clone + PartialEq + fmt::Debug + Serialize + DeserializeOwned {
    type Leg: Leg;

    /// What is done to the box, in the plural.
    const EVENTS: &str;

    /// Why it can't be asked, if so.
    fn fault(&self) -> Option<&'static str>;

    /// Events in one leg.
    fn leg_size(&self) -> u32;

    fn seed(&self) -> u64;

    /// Makes a leg with this seed and so many events, and judges it.
    fn answer(&self, workspace: &Workspace, manifest: &Path, seed: u64, count: u32)
    -> Result<Self::Leg, CampaignError>;

    /// The record as a person reads it.
    fn render(record: &Record<Self, Self::Leg>) -> String;
}

/// What a leg has answered.
pub trait Leg: Serialize + DeserializeOwned {
    /// Events that were in it.
    fn events(&self) -> u32;

    fn is_well(&self) -> bool;
}

/// What the command line asked for.
pub struct Campaign<Question> {
    pub manifest: PathBuf,
    pub question: Question,
    /// Events in all, those of the record included.
    pub count: u32,
    pub record: PathBuf,
}

/// What a campaign in QEMU has come to: the question, and the answers of its legs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record<Question, Leg> {
    pub schema_version: u32,
    pub question: Question,
    pub legs: Vec<Leg>,
}

impl<Q: Question> Record<Q, Q::Leg> {
    /// The record of this question that stands in the file, or a new one.
    fn resume(path: &Path, question: &Q) -> Result<Self, CampaignError> {
        let fresh = || Record { schema_version: SCHEMA_VERSION, question: question.clone(), legs: Vec::new() };
        let Some(record) = read::<Self>(path)? else { return Ok(fresh()) };
        if record.schema_version != SCHEMA_VERSION || record.question != *question {
            let differs = format!("it asks {:?}, you ask {question:?}", record.question);
            return Err(CampaignError::Another { path: path.into(), differs });
        }
        Ok(record)
    }

    pub fn events(&self) -> u32 {
        self.legs.iter().map(Leg::events).sum()
    }

    pub fn is_well(&self) -> bool {
        !self.legs.is_empty() && self.legs.iter().all(Leg::is_well)
    }
}

/// Goes on with a campaign until it has as many events as were asked for; `each` hears of the record after every leg.
pub fn run<Q: Question>(
    workspace: &Workspace,
    campaign: &Campaign<Q>,
    mut each: impl FnMut(&Record<Q, Q::Leg>),
) -> Result<Record<Q, Q::Leg>, CampaignError> {
    let question = &campaign.question;
    if let Some(fault) = question.fault() {
        return Err(CampaignError::Unsuitable(fault.into()));
    }
    let mut record = Record::resume(&campaign.record, question)?;
    while record.events() < campaign.count {
        let count = question.leg_size().min(campaign.count - record.events());
        let seed = leg_seed(question.seed(), record.legs.len());
        record.legs.push(question.answer(workspace, &campaign.manifest, seed, count)?);
        write(&campaign.record, &record)?;
        each(&record);
    }
    Ok(record)
}

/// A leg's run in the lab. What was interrupted is no leg: it says neither that all is well nor that anything isn't.
fn run_leg(workspace: &Workspace, request: Request) -> Result<Report, CampaignError> {
    let report = run::run(workspace, request)?;
    if is_interrupted(&report) { Err(CampaignError::Interrupted) } else { Ok(report) }
}

fn is_interrupted(report: &Report) -> bool {
    report.reasons.iter().any(|reason| reason.ends_with("interrupted"))
}

/// A leg's seed: SplitMix64 over the campaign's, so that legs don't resemble each other.
fn leg_seed(seed: u64, number: usize) -> u64 {
    let mut mixed = seed.wrapping_add((number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// Median, 99 % and longest of some milliseconds; `None` of none.
fn times(values: &mut [f64]) -> Option<String> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    let quantile = |part: f64| values[((values.len() as f64 * part) as usize).min(last)];
    Some([0.5, 0.99, 1.0].map(|part| format!("{:.1} ms", quantile(part))).join(" / "))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Protects the record from legs that somebody ended: they would be called not well for ever, and the campaign with them.
    #[test]
    fn what_is_interrupted_is_no_leg() {
        let said = |reason: &str| Report { reasons: vec![reason.into()], ..Default::default() };
        assert!(is_interrupted(&said(" 83.968 s  interrupted")));
        assert!(!is_interrupted(&said("kv did not come back after the power was lost")));
    }
}
