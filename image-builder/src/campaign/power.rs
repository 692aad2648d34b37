//! `redleaf campaign power-losses`: a box with a durable store under load in the lab, whose power goes at random moments, again and again.
//!
//! A leg is one disk, and the box's lives on it. What it must show: after each loss the box comes up and serves, and holds all that was acknowledged in whichever life of
//! its; the lab holds every answer against those of one store that forgets nothing.

use super::{CampaignError, run_leg, times};
use crate::{run::Request, workspace::Workspace};
use comfy_table::{Table, presets};
use lab::Report;
use serde::{Deserialize, Serialize};
use std::{fmt::Write, path::Path, time::Duration};

/// What is asked: the same question continues the same record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The manifest's name.
    pub config: String,
    /// Time between two losses, on the average, the box's start in it.
    pub gap_ms: u64,
    /// Losses that one disk goes through.
    pub leg: u32,
    pub seed: u64,
}

pub type Record = super::Record<Question, Leg>;

/// One disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leg {
    pub seed: u64,
    pub losses: u32,
    /// After which every service answered again.
    pub survived: u32,
    pub back_after_ms: Vec<f64>,
    pub requests_completed: u64,
    /// Those that the losses cost, too.
    pub requests_failed: u64,
    pub ok: bool,
    pub reasons: Vec<String>,
}

/// The first loss comes when the load has settled.
const SETTLE: Duration = Duration::from_secs(3);
/// Load after the last one, so that what it cost is seen.
const TAIL: Duration = Duration::from_secs(8);

impl Question {
    /// When the power goes in a leg: between half and one and a half of the gap after the time before.
    fn losses(&self, seed: u64, count: u32) -> Vec<Duration> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut at = SETTLE;
        (0..count)
            .map(|_| {
                at += Duration::from_millis(self.gap_ms / 2 + random.u64(..=self.gap_ms));
                at
            })
            .collect()
    }
}

impl super::Question for Question {
    type Leg = Leg;

    const EVENTS: &str = "power losses";

    fn fault(&self) -> Option<&'static str> {
        (self.leg == 0 || self.gap_ms == 0).then_some("a campaign needs a leg of one power loss, and a gap")
    }

    fn leg_size(&self) -> u32 {
        self.leg
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn answer(&self, workspace: &Workspace, manifest: &Path, seed: u64, count: u32) -> Result<Leg, CampaignError> {
        let power_losses = self.losses(seed, count);
        let duration = Some(power_losses.last().map_or(SETTLE, |last| *last) + TAIL);
        let report = run_leg(workspace, Request { power_losses, duration, ..Request::quiet(manifest.to_owned()) })?;
        Ok(leg(seed, count, &report))
    }

    fn render(record: &Record) -> String {
        render(record)
    }
}

impl super::Leg for Leg {
    fn events(&self) -> u32 {
        self.losses
    }

    fn is_well(&self) -> bool {
        self.ok
    }
}

fn leg(seed: u64, losses: u32, report: &Report) -> Leg {
    let back_after_ms: Vec<f64> = report.power_losses.iter().filter_map(|loss| loss.back_after_ms).collect();
    let mut leg = Leg {
        seed,
        losses,
        survived: back_after_ms.len() as u32,
        back_after_ms,
        requests_completed: report.requests.completed,
        requests_failed: report.requests.failed,
        ok: report.ok(),
        reasons: report.reasons.clone(),
    };
    if leg.survived != losses {
        leg.ok = false;
        leg.reasons.push(format!("the box came back from {} of {losses} power losses", leg.survived));
    }
    leg
}

/// The record as a person reads it.
fn render(record: &Record) -> String {
    let sum = |of: fn(&Leg) -> u64| record.legs.iter().map(of).sum::<u64>().to_string();
    let mut back: Vec<f64> = record.legs.iter().flat_map(|leg| leg.back_after_ms.iter().copied()).collect();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    for (name, value) in [
        ("disks", record.legs.len().to_string()),
        ("power losses", sum(|leg| leg.losses.into())),
        ("after which the box served again", sum(|leg| leg.survived.into())),
        ("loss to service: median / 99 % / longest", times(&mut back).unwrap_or_default()),
        ("requests completed", sum(|leg| leg.requests_completed)),
        ("requests failed, those that the losses cost among them", sum(|leg| leg.requests_failed)),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    let mut text = format!("{table}\n\n");
    for (number, leg) in record.legs.iter().enumerate().filter(|(_, leg)| !leg.ok) {
        let _ = writeln!(text, "disk {number} (seed {:#x}): {}", leg.seed, leg.reasons.join("; "));
    }
    text.push_str(if record.is_well() { "nothing that was acknowledged was lost\n" } else { "not well\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab::PowerLossReport;

    fn question() -> Question {
        Question { config: "kv-durable".into(), gap_ms: 6000, leg: 10, seed: 7 }
    }

    /// A leg can be run again by its seed, and no two are alike.
    #[test]
    fn a_seed_says_when_the_power_goes() {
        let losses = [1, 1, 2].map(|seed| question().losses(seed, 10));
        assert!(losses[0] == losses[1] && losses[1] != losses[2]);
        let gaps = losses[0].windows(2).map(|pair| (pair[1] - pair[0]).as_millis());
        assert!(gaps.clone().count() == 9 && gaps.clone().all(|gap| (3000..=9000).contains(&gap)));
    }

    /// A box that stays away, or that has forgotten something, is told of: a campaign that can't fail shows nothing.
    #[test]
    fn a_disk_that_does_not_survive_is_called_so() {
        let loss = |back_after_ms| PowerLossReport { at_ms: 4000.0, back_after_ms };
        let good = Report { ok: true, power_losses: vec![loss(Some(900.0)); 2], ..Default::default() };
        assert!(leg(1, 2, &good).ok);
        for (what, bad) in [
            ("a box that stayed away", Report { power_losses: vec![loss(Some(900.0)), loss(None)], ..good.clone() }),
            ("a loss that never was", Report { power_losses: vec![loss(Some(900.0))], ..good.clone() }),
            ("what the lab itself complains of", Report { ok: false, ..good.clone() }),
        ] {
            let legs = vec![leg(1, 2, &bad)];
            assert!(!legs[0].ok, "{what}");
            let record = Record { schema_version: 1, question: question(), legs };
            assert!(render(&record).ends_with("not well\n"), "{what}");
        }
    }
}
