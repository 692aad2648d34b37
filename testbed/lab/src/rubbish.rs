//! Rubbish on the box's cable: frames of every kind, right in no more than some of their parts, at a fixed rate beside the load.
//!
//! They are put on the cable itself, behind the segment's bridge: a bridge would swallow what no station may send (a multicast source, a pause frame),
//! learn addresses that are somebody else's, and show broken ARP to hosts that aren't tested here. What is put there is counted by how the lab itself reads
//! it, so that the run's sums still have to agree to the frame.
//!
//! Promises: the same seed gives the same frames in the same order; nothing but the box sees them, and no frame says, in a form that ARP allows, that a
//! backend has another link address (against which ARP has no defence, and this isn't the test of one).

mod frames;

use crate::clock::Moment;
use crate::error::Error;
use crate::frame::{Frame, Kind};
use crate::namespace::Namespace;
use crate::network::NIC_SEGMENT_PORT;
use crate::options::RunOptions;
use frames::{Generator, Sort};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What was sent, for the report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RubbishReport {
    pub seed: u64,
    /// Frames that went onto the box's cable.
    pub sent: u64,
    /// Those of them that read as IPv4 to a VIP.
    pub to_vips: u64,
    /// Frames that the host would not put there.
    pub refused: u64,
    pub by_sort: BTreeMap<String, u64>,
}

/// A running generator.
pub struct Rubbish {
    report: Arc<Mutex<RubbishReport>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rubbish {
    /// Starts it, if the options ask for it.
    pub fn start(segment: &Namespace, options: &RunOptions) -> Result<Option<Self>, Error> {
        let Some(asked) = &options.rubbish else { return Ok(None) };
        if let Some(only) =
            asked.only.as_ref().filter(|only| !Sort::ALL.iter().any(|sort| sort.name() == only.as_str()))
        {
            let known: Vec<&str> = Sort::ALL.iter().map(|sort| sort.name()).collect();
            return Err(Error::Options(format!(
                "there is no rubbish of the sort \"{only}\": there is {}",
                known.join(", ")
            )));
        }
        let rate = asked.rate;
        let cable = segment.run(|| cable().map_err(Error::io("rubbish's socket")))?;
        let report = Arc::new(Mutex::new(RubbishReport { seed: asked.seed, ..RubbishReport::default() }));
        let stop = Arc::new(AtomicBool::new(false));
        let vips = options.vips.iter().map(|vip| vip.address).collect();
        let (generator, counted, stopped) = (Generator::new(options, asked), report.clone(), stop.clone());
        let thread = segment.spawn("rubbish", move || send(&cable, generator, rate, &vips, &counted, &stopped))?;
        Ok(Some(Self { report, stop, thread: Some(thread) }))
    }

    /// Ends it; returns when the last frame is out.
    pub fn stop(&mut self) -> RubbishReport {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // If it panicked the counts tell, and what was sent until then still has to add up.
            let _ = thread.join();
        }
        self.report.lock().map(|report| report.clone()).unwrap_or_default()
    }
}

impl Drop for Rubbish {
    fn drop(&mut self) {
        self.stop();
    }
}

fn send(
    cable: &OwnedFd,
    mut generator: Generator,
    rate: u32,
    vips: &HashSet<Ipv4Addr>,
    report: &Mutex<RubbishReport>,
    stop: &AtomicBool,
) {
    let start = Moment::now();
    for turn in 0u64.. {
        let due = start + Duration::from_secs_f64(turn as f64 / f64::from(rate.max(1)));
        while Moment::now() < due {
            if stop.load(Ordering::Acquire) {
                return;
            }
            std::thread::sleep(due.since(Moment::now()).min(Duration::from_millis(20)));
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        let (sort, frame) = generator.next();
        // SAFETY: the kernel reads the frame's bytes, which outlive the call.
        let sent = unsafe { libc::send(cable.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) } >= 0;
        let Ok(mut report) = report.lock() else { return };
        if !sent {
            report.refused += 1;
            continue;
        }
        report.sent += 1;
        let to_vip = matches!(Frame::parse(&frame, false).kind, Kind::Ip(ip) if vips.contains(&ip.destination));
        report.to_vips += u64::from(to_vip);
        *report.by_sort.entry(Sort::name(sort).to_owned()).or_default() += 1;
    }
}

/// A socket that puts whole frames onto the box's cable, from the segment's end.
fn cable() -> io::Result<OwnedFd> {
    // Protocol 0: it receives nothing.
    // SAFETY: plain system call; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let index = nix::net::if_::if_nametoindex(NIC_SEGMENT_PORT)?;
    // SAFETY: an all-zero `sockaddr_ll` is valid: integers only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as libc::c_int;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address and length belong together, and outlive the call.
    match unsafe { libc::bind(raw, (&raw const address).cast(), length) } {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}
