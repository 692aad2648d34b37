//! The command's side of a run: starts the lab, shows what it says, passes on what is typed, and writes the report.

use crate::control::{News, Order, hear, tell};
use crate::error::Error;
use crate::options::RunOptions;
use crate::report::Report;
use crate::stage;
use crate::view::View;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How often signals and keys are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long the lab's processes may take to end by themselves.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// Makes a run. `Ok` means that there is a report, which says whether all went well; it has been written to the options' path.
///
/// Blocks until the run has ended. Ctrl-C (SIGINT, SIGTERM, SIGHUP) ends the load early and still gives a report; a second one gives up on that, too.
pub fn run(options: RunOptions) -> Result<Report, Error> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let mut handlers = Vec::new();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let count = interrupts.clone();
        // SAFETY: the handler only adds to an atomic, which is safe in a signal handler.
        let handler = unsafe {
            signal_hook::low_level::register(signal, move || {
                count.fetch_add(1, Ordering::Relaxed);
            })
        };
        handlers.push(handler.map_err(Error::io("signal handler"))?);
    }
    let outcome = supervised(&options, &interrupts);
    for handler in handlers {
        signal_hook::low_level::unregister(handler);
    }
    let report = outcome?;
    if let Some(path) = &options.report {
        write(&report, path)?;
    }
    Ok(report)
}

/// The lab's processes; ended when this goes.
struct Lab {
    process: Child,
    socket: UnixStream,
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Inner ends when nobody is there to hear it, everything in its PID namespace before it, and outer after it: so that nothing is left when the command returns.
        let _ = self.socket.shutdown(Shutdown::Both);
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begun.elapsed() < LAST_PATIENCE {
            thread::sleep(Duration::from_millis(5));
        }
        // Whatever holds it up: outer's death ends inner's, too. Already gone is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn supervised(options: &RunOptions, interrupts: &AtomicUsize) -> Result<Report, Error> {
    let (process, socket) = stage::start()?;
    let mut lab = Lab { process, socket };
    tell(&mut lab.socket, &Order::Run(Box::new(options.clone()))).map_err(Error::io("control socket"))?;
    let (heard, news) = mpsc::channel();
    let mut input = BufReader::new(lab.socket.try_clone().map_err(Error::io("control socket"))?);
    thread::spawn(move || {
        while let Ok(Some(message)) = hear::<News>(&mut input) {
            if heard.send(message).is_err() {
                return;
            }
        }
    });
    let mut view = View::open(options);
    let mut told_to_stop = 0;
    loop {
        // All that has come is taken in before anything is drawn: a view that lags behind shows the past.
        let mut wait = TICK;
        loop {
            match news.recv_timeout(wait) {
                Ok(News::Report(report)) => return Ok(*report),
                Ok(News::Failed { message, lack }) => {
                    return Err(if lack { Error::Lack(message) } else { Error::Inner(message) });
                }
                Ok(other) => view.take(other),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    let how = lab.process.wait().map_or_else(|error| error.to_string(), crate::machine::describe);
                    return Err(if told_to_stop > 0 { Error::Interrupted } else { Error::Ended(how) });
                }
            }
            wait = Duration::ZERO;
        }
        let keys = view.keys();
        for line in keys.lines {
            // A lab that is gone closes its socket, which is seen above.
            let _ = tell(&mut lab.socket, &Order::Type(line));
        }
        if keys.interrupts > 0 {
            interrupts.fetch_add(keys.interrupts, Ordering::Relaxed);
        }
        let wanted = interrupts.load(Ordering::Relaxed);
        if wanted > told_to_stop {
            if told_to_stop > 0 {
                return Err(Error::Interrupted);
            }
            told_to_stop = wanted;
            let _ = tell(&mut lab.socket, &Order::Stop);
        }
    }
}

fn write(report: &Report, path: &std::path::Path) -> Result<(), Error> {
    let failed = |source| Error::Report { path: path.to_owned(), source };
    let mut text = serde_json::to_string_pretty(report).map_err(|error| failed(error.into()))?;
    text.push('\n');
    // Whole or not at all: whoever waits for the file must not find half of it.
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).map_err(failed)
}
