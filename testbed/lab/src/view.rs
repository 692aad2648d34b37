//! What a person sees of a run: a live status with a console on a terminal, else plain lines.

mod live;

use crate::control::News;
use crate::options::{Format, RunOptions};
use live::Live;
use std::io::{IsTerminal, stdin, stdout};

/// What was typed since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    pub lines: Vec<String>,
    /// Ctrl-C, which a terminal in raw mode gives as a key.
    pub interrupts: usize,
}

pub enum View {
    Live(Box<Live>),
    /// Lines on stderr, so that stdout is the report's alone.
    Plain {
        phase: String,
    },
}

impl View {
    /// Live only where asked for and where it can be drawn and typed at.
    pub fn open(options: &RunOptions) -> Self {
        let terminal = stdout().is_terminal()
            && stdin().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let wanted = options.live && options.format == Format::Human && terminal;
        match wanted.then(|| Live::open(options)) {
            Some(Ok(live)) => View::Live(Box::new(live)),
            _ => View::Plain { phase: String::new() },
        }
    }

    pub fn take(&mut self, news: News) {
        match self {
            View::Live(live) => live.take(news),
            View::Plain { phase } => match news {
                News::Line(line) => eprintln!("{line}"),
                News::Status(status) if status.phase != *phase => {
                    phase.clone_from(&status.phase);
                    eprintln!("{phase}");
                }
                _ => {}
            },
        }
    }

    /// Draws, and looks at the keyboard.
    pub fn keys(&mut self) -> Keys {
        match self {
            View::Live(live) => live.keys(),
            View::Plain { .. } => Keys::default(),
        }
    }
}
