//! Runs the captures: one thread that drains every ring and hands the frames to the [`Witness`] in the order in which they passed.

use crate::capture::{Capture, Scope, Way};
use crate::clock::Moment;
use crate::error::Error;
use crate::frame::Frame;
use crate::network::{NIC_SEGMENT_PORT, Network, PORT};
use crate::witness::{Place, Witness};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a frame is held back, so that one from another ring that passed earlier comes first. More than a ring's retire time.
const HOLD: Duration = Duration::from_millis(100);

struct Passed {
    at: Moment,
    place: Place,
    way: Way,
    frame: Frame,
}

pub struct Watch {
    witness: Arc<Mutex<Witness>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watch {
    /// Opens all captures and starts to watch.
    pub fn start(network: &Network, witness: Witness) -> Result<Self, Error> {
        let mut captures = vec![
            (Place::Router, network.router.run(|| Capture::open(PORT, Scope::Both))?),
            (Place::ToBox, network.nic.run(|| Capture::open(PORT, Scope::IncomingOnly))?),
            (Place::FromBox, network.segment.run(|| Capture::open(NIC_SEGMENT_PORT, Scope::IncomingOnly))?),
        ];
        for (number, backend) in network.backends.iter().enumerate() {
            captures.push((Place::Backend(number), backend.run(|| Capture::open(PORT, Scope::IncomingOnly))?));
        }
        let witness = Arc::new(Mutex::new(witness));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped) = (witness.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("captures".into())
            .spawn(move || watch(captures, &seen, &stopped))
            .map_err(Error::io("captures' thread"))?;
        Ok(Self { witness, stop, thread: Some(thread) })
    }

    /// What was seen up to about [`HOLD`] ago.
    pub fn witness(&self) -> MutexGuard<'_, Witness> {
        self.witness.lock().expect("the captures' thread doesn't panic")
    }

    /// Ends the captures, with all that had passed by now; says how many frames they missed.
    pub fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("stopped once");
        thread.join().expect("the captures' thread doesn't panic")
    }
}

fn watch(mut captures: Vec<(Place, Capture)>, witness: &Mutex<Witness>, stop: &AtomicBool) -> u64 {
    let mut held: Vec<Passed> = Vec::new();
    loop {
        let stopping = stop.load(Ordering::Acquire);
        if stopping {
            // The kernel hands a block out when it is full or its time is up: give the last ones that time.
            thread::sleep(HOLD);
        } else {
            let mut fds: Vec<PollFd> =
                captures.iter().map(|(_, capture)| PollFd::new(capture.as_fd(), PollFlags::POLLIN)).collect();
            // An interrupted wait is a short one.
            let _ = poll(&mut fds, PollTimeout::from(20u8));
        }
        let now = Moment::now();
        for (place, capture) in &mut captures {
            capture.drain(|at, way, frame| held.push(Passed { at, place: *place, way, frame }));
        }
        held.sort_by_key(|passed| passed.at);
        let ripe = if stopping { held.len() } else { held.partition_point(|passed| passed.at <= now - HOLD) };
        if ripe > 0 {
            let mut witness = witness.lock().expect("nobody panics with it");
            for passed in held.drain(..ripe) {
                witness.see(passed.place, passed.at, passed.way, &passed.frame);
            }
        }
        if stopping {
            return captures.iter_mut().map(|(_, capture)| capture.dropped()).sum();
        }
    }
}
