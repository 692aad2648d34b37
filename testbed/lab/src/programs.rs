//! Programs of the operator's, run where the client is: whoever has a client of the box's can have the lab's network round it.
//!
//! They run one after the other, by the shell, from the moment that the box is up; the box's addresses are in `BOX` and `BOX6`. What they say is shown, and one that ends
//! with another status than 0 fails the run.

use crate::clock::Moment;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::RunOptions;
use crate::report::ProgramReport;
use crate::stage;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

/// The end of what a program said; more is not kept.
const WORDS: usize = 64 << 10;

pub struct Programs {
    done: Receiver<ProgramReport>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    reports: Vec<ProgramReport>,
}

impl Programs {
    /// Starts the first; `None` if there are none.
    pub fn start(client: &Namespace, options: &RunOptions) -> Result<Option<Self>, Error> {
        if options.programs.is_empty() {
            return Ok(None);
        }
        let lines = options.programs.clone();
        let own = options.box_settings.clone();
        let (tell, done) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = move || {
            for line in lines {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let mut command = Command::new("/bin/sh");
                command.args(["-c", &line]).env("BOX", own.ip.to_string()).stdin(Stdio::null());
                if let Some(own) = own.ip6 {
                    command.env("BOX6", own.ip.to_string());
                }
                stage::die_with_parent(&mut command);
                // The session that listens has ended: so does this.
                if tell.send(run(line, command)).is_err() {
                    return;
                }
            }
        };
        let thread = client.spawn("programs", work)?;
        Ok(Some(Self { done, stop, thread, reports: Vec::new() }))
    }

    /// Those that have ended since the last time.
    pub fn news(&mut self) -> Vec<ProgramReport> {
        let news: Vec<ProgramReport> = self.done.try_iter().collect();
        self.reports.extend(news.iter().cloned());
        news
    }

    /// All that have ended.
    pub fn into_reports(mut self) -> Vec<ProgramReport> {
        self.news();
        self.reports
    }

    /// Begins no further one.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether all have ended, and been told of.
    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

fn run(line: String, mut command: Command) -> ProgramReport {
    let begun = Moment::now();
    let (status, words) = match command.output() {
        Ok(output) => (output.status.code(), [output.stdout, output.stderr].concat()),
        Err(error) => (None, error.to_string().into_bytes()),
    };
    let words = String::from_utf8_lossy(&words[words.len().saturating_sub(WORDS)..]).into_owned();
    ProgramReport { line, status, took_ms: Moment::now().since(begun).as_secs_f64() * 1e3, words }
}
