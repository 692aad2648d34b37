//! Judges of the model: drivers that we did not write, run against it.
//!
//! [`linux`] boots a Debian kernel with its own `ixgbe` on the model and has it bring the link up, ping,
//! move TCP and UDP with its offloads over two queues, test itself and load the driver anew. The far end of
//! the cable is a TCP/IP stack in this process, which checks every checksum. [`dpdk`] runs DPDK's testpmd in the
//! same guest, with its polling driver. No privilege is needed.

mod dpdk;
mod exerciser;
pub mod guest;
mod linux;
mod peer;

pub use dpdk::dpdk;
pub use linux::linux;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use prefix::Prefix;

use crate::config::NicConfig;
use crate::control::{self, Control};
use crate::counters::{SharedCounters, Snapshot};
use crate::frame_socket::{self, FrameSocket};
use crate::vfio_user::{ServeError, Server};

/// The longest that a guest may take from QEMU's start to its own power-off. With two free CPUs it takes half a minute.
pub const LIMIT: Duration = Duration::from_secs(900);

/// What a judge saw.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each check that the guest made, and what it answered.
    pub checks: Vec<(String, String)>,
    /// The model's own counters at the end.
    pub counters: Snapshot,
    pub took: Duration,
}

/// Why there is no verdict, or a bad one.
#[derive(Debug)]
pub enum Error {
    /// QEMU or the guest's kernel isn't there and couldn't be fetched.
    Prefix(prefix::Error),
    /// A file or process of the host's.
    Host {
        doing: &'static str,
        error: io::Error,
    },
    Model(ServeError),
    /// The kernel's package has no such file.
    Missing(PathBuf),
    /// The guest didn't finish in [`LIMIT`]; the end of its console.
    TooSlow {
        console: String,
    },
    /// A check failed.
    Judged {
        check: String,
        answer: String,
        console: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Prefix(error) => write!(f, "{error}"),
            Error::Host { doing, error } => write!(f, "{doing}: {error}"),
            Error::Model(error) => write!(f, "the model stopped: {error}"),
            Error::Missing(path) => {
                write!(f, "{} isn't in the kernel's package; remove the cached tree to fetch it anew", path.display())
            }
            Error::TooSlow { console } => {
                write!(f, "the guest didn't finish in {} s; its console ends:\n{console}", LIMIT.as_secs())
            }
            Error::Judged { check, answer, console } => {
                write!(f, "check {check:?} came out as {answer:?}; the guest's console ends:\n{console}")
            }
        }
    }
}

impl std::error::Error for Error {}

pub(crate) fn host(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Host { doing, error }
}

/// What the guest's machine is like.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Put the card behind an IOMMU that the guest's kernel uses: the device reaches what the driver maps,
    /// page by page, and only while it is mapped.
    pub iommu: bool,
    pub card: NicConfig,
}

/// A judge's run: what the guest said, what the peer saw, what the model counted.
struct Run<P> {
    checks: Vec<(String, String)>,
    console: String,
    peer: P,
    counters: Snapshot,
    took: Duration,
}

/// Boots `guest` with the model as its card and `peer` at the cable's far end, and waits for the guest's own end.
fn run<P: Send + 'static>(
    prefix: &Prefix,
    setup: &Setup,
    guest: &guest::Contents,
    peer: impl FnOnce(FrameSocket) -> io::Result<P> + Send + 'static,
) -> Result<Run<P>, Error> {
    let began = Instant::now();
    let folder = tempfile::tempdir().map_err(host("making a scratch folder"))?;
    let initramfs = folder.path().join("initramfs");
    guest.write_initramfs(prefix, &initramfs)?;
    let socket = folder.path().join("nic");
    let server = Server::bind(&socket).map_err(Error::Model)?;
    let card = setup.card.clone();
    let (near, far) = frame_socket::pair().map_err(host("making a cable"))?;
    let (remote, inbox) = control::channel().map_err(host("making a command channel"))?;
    let counters = SharedCounters::new();
    let counted = counters.clone();
    let model = std::thread::spawn(move || server.serve(card, near, inbox, counted));
    let peer = std::thread::spawn(move || peer(far));
    let console = guest::run(prefix, setup, &initramfs, &socket, LIMIT);
    // Whatever became of the guest, the model ends, and with its end of the cable the peer.
    let _ = remote.send(Control::Stop);
    let served = model.join().expect("the model doesn't panic");
    let peer = peer.join().expect("the peer doesn't panic").map_err(host("answering the guest"))?;
    let console = console?;
    served.map_err(Error::Model)?;
    let checks = guest::checks(&console);
    Ok(Run { checks, console, peer, counters: counters.snapshot(), took: began.elapsed() })
}

impl<P> Run<P> {
    /// What the guest must have answered, check by check.
    fn require(&self, check: &str, wanted: &str) -> Result<(), Error> {
        let answer = self.checks.iter().find(|(name, _)| name == check).map_or("no answer", |(_, answer)| answer);
        self.require_seen(check, answer == wanted, answer)
    }

    /// What must be so by what was seen on this side.
    fn require_seen(&self, check: &str, well: bool, seen: impl fmt::Display) -> Result<(), Error> {
        let judged =
            || Error::Judged { check: check.to_owned(), answer: seen.to_string(), console: guest::tail(&self.console) };
        if well { Ok(()) } else { Err(judged()) }
    }

    /// What holds for every guest: both queue pairs used, nothing unaccounted for, no step out of bounds.
    fn report(self) -> Result<Report, Error> {
        let counters = &self.counters;
        let both = |queues: &[u64]| queues[0] > 0 && queues[1] > 0;
        let own = [
            ("two receive queues", both(&counters.rx_queue)),
            ("two transmit queues", both(&counters.tx_queue)),
            ("balance", counters.balanced()),
            ("no refused DMA", counters.dma_refused == 0),
            ("no refused frame", counters.tx_refused == 0),
        ];
        for (check, well) in own {
            self.require_seen(check, well, format_args!("{counters:?}"))?;
        }
        Ok(Report { checks: self.checks, counters: self.counters, took: self.took })
    }
}
