//! What the operator sees of this domain, and can ask of it: counters, and `backend NAME up|down|drain`.

use alloc::sync::Arc;
use core::fmt::Write;

use interfaces::{
    RRef,
    control::{Control, ControlError, Counters, Text},
};

use crate::{
    config::Config,
    plan::{Published, Stage},
    planner::Wish,
    shared::Shared,
    statistics::{self, CpuCounters},
    table::BackendId,
};

const USAGE: &str = "it is `backend NAME up|down|drain`";

/// The domain's `control` port.
pub struct Console {
    pub config: Arc<Config>,
    pub shared: Arc<Shared>,
    pub published: Arc<Published>,
    pub cpus: Arc<[Arc<CpuCounters>]>,
}

impl Console {
    /// All counters, always in the same order.
    fn show(&self, mut show: impl FnMut(core::fmt::Arguments, u64)) {
        statistics::show(&self.config, &self.cpus, &mut show);
        let plan = self.published.plan();
        show(format_args!("serving"), u64::from(plan.stage == Stage::Serving));
        let backends = self.config.backends.iter().zip(&plan.routes).zip(self.shared.wishes());
        for ((backend, route), wish) in backends {
            show(format_args!("backend.{}.alive", backend.name), u64::from(route.is_some()));
            show(format_args!("backend.{}.draining", backend.name), u64::from(wish == Wish::Drain));
            show(format_args!("backend.{}.down", backend.name), u64::from(wish == Wish::Down));
        }
    }

    fn backend_command(&self, name: &str, wish: &str) -> Text<240> {
        let mut answer = Text::default();
        let backend = self.config.backends.iter().position(|backend| backend.name == name);
        let words = match wish {
            "up" => Some((Wish::Up, "takes new connections while it is alive")),
            "drain" => Some((Wish::Drain, "keeps its connections and gets no new ones")),
            "down" => Some((Wish::Down, "gets nothing any more; its connections go to others")),
            _ => None,
        };
        // An answer that doesn't fit is cut: all there is to do.
        let _ = match (backend, words) {
            (Some(backend), Some((wish, meaning))) => {
                self.shared.wish(BackendId(backend as u16), wish);
                write!(answer, "{name} {meaning}")
            }
            (Some(_), None) => write!(answer, "error: {USAGE}"),
            (None, _) => {
                let _ = write!(answer, "error: no backend is named \"{name}\"; there are:");
                self.config.backends.iter().try_for_each(|backend| write!(answer, " {}", backend.name))
            }
        };
        answer
    }
}

impl Control for Console {
    fn counters(&self, first: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
        let mut at = 0;
        self.show(|name, value| {
            if at >= first {
                let mut text = Text::<54>::default();
                let _ = text.write_fmt(name);
                page.push(text.as_str(), value);
            }
            at += 1;
        });
        Ok(page)
    }

    fn command(&self, mut line: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
        let mut words = line.as_str().split_ascii_whitespace();
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("backend"), Some(name), Some(wish), None) => {
                let answer = self.backend_command(name, wish);
                *line = answer;
                Ok(line)
            }
            (Some("backend"), ..) => {
                *line = Text::default();
                let _ = write!(line, "error: {USAGE}");
                Ok(line)
            }
            _ => Err(ControlError::UnknownCommand),
        }
    }
}
