//! What is to be done when: injections, typed commands and pauses of a run, in order of time.

use crate::options::{Crash, RunOptions};
use std::collections::VecDeque;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// A line for the console.
    Type(String),
    /// Stop the box's time, or let it go on.
    Freeze,
    Thaw,
}

#[derive(Debug)]
pub struct Schedule(VecDeque<(Duration, Deed)>);

impl Schedule {
    pub fn of(options: &RunOptions) -> Self {
        let crashes = options.crashes.iter().map(|crash| (crash.at, Deed::Type(line(crash))));
        let commands = options.commands.iter().map(|command| (command.at, Deed::Type(command.line.clone())));
        let pauses =
            options.pauses.iter().flat_map(|pause| [(pause.at, Deed::Freeze), (pause.at + pause.length, Deed::Thaw)]);
        let mut all: Vec<_> = crashes.chain(commands).chain(pauses).collect();
        all.sort_by_key(|(at, _)| *at);
        Self(all.into())
    }

    /// The next deed whose time has come.
    pub fn due(&mut self, elapsed: Duration) -> Option<Deed> {
        self.0.pop_front_if(|(at, _)| *at <= elapsed).map(|(_, deed)| deed)
    }

    /// Deeds whose time never came.
    pub fn left(&self) -> usize {
        self.0.len()
    }
}

fn line(crash: &Crash) -> String {
    match &crash.kind {
        Some(kind) => format!("crash {} {kind}", crash.domain),
        None => format!("crash {}", crash.domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Command, Pause};

    #[test]
    fn deeds_come_in_the_order_of_their_times_and_never_early() {
        let seconds = Duration::from_secs;
        let mut options = crate::options::tests::options();
        options.crashes = vec![
            Crash { domain: "lb".into(), kind: None, at: seconds(8) },
            Crash { domain: "ixgbe0".into(), kind: Some("stack-overflow".into()), at: seconds(2) },
        ];
        options.commands = vec![Command { line: "domains".into(), at: seconds(5) }];
        options.pauses = vec![Pause { at: seconds(3), length: seconds(1) }];
        let mut schedule = Schedule::of(&options);
        assert_eq!(schedule.due(seconds(1)), None);
        let mut done = Vec::new();
        while let Some(deed) = schedule.due(seconds(6)) {
            done.push(deed);
        }
        let typed = |line: &str| Deed::Type(line.into());
        assert_eq!(done, [typed("crash ixgbe0 stack-overflow"), Deed::Freeze, Deed::Thaw, typed("domains")]);
        assert_eq!(schedule.left(), 1);
        assert_eq!(schedule.due(seconds(8)), Some(typed("crash lb")));
    }
}
