//! The client's load: keep-alive connections for the whole run, short connections by the clock, long downloads and long uploads.
//!
//! *Completed* means: status, length and SHA-256 right, within [`TIMELY`], at the first attempt. Everything else that was begun has *failed*,
//! refused connects included. A connection is *broken* by a reset, an early end, or [`STALLED`] without progress.

mod exchange;
mod tally;

pub use tally::{End, Kind, Loss, Tally};

use crate::backend::{LONG_SEED, SMALL_SEED};
use crate::content;
use crate::error::Error;
use crate::namespace::Namespace;
use crate::options::{Protocol, RunOptions};
use exchange::{Connection, Expected, Fault};
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// A request is only completed if it takes no longer.
pub const TIMELY: Duration = Duration::from_secs(15);
/// A connection that makes no progress for so long is broken.
pub const STALLED: Duration = Duration::from_secs(30);
/// Pause before a lost keep-alive connection is opened anew.
const REOPEN: Duration = Duration::from_millis(500);
/// Short connections under way at most; more can't be begun, which is a failure too.
const CROWD: u64 = 3000;

/// Where requests go, and who may answer them.
#[derive(Debug, Clone)]
struct Target {
    address: SocketAddrV4,
    backends: Vec<String>,
}

/// What the tasks share.
struct Ground {
    targets: Vec<Target>,
    tally: Arc<Mutex<Tally>>,
    stop: watch::Receiver<bool>,
    small: Expected,
    long: Expected,
    load: crate::labfile::Load,
}

/// A running load.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts the load in the client's namespace; `None` if no VIP speaks TCP.
    pub fn start(client: &Namespace, options: &RunOptions) -> Result<Option<Self>, Error> {
        let targets = targets(options);
        if targets.is_empty() {
            return Ok(None);
        }
        let (stop, stopped) = watch::channel(false);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let load = options.lab.load.clone();
        let ground = Ground {
            targets,
            tally: tally.clone(),
            stop: stopped,
            small: Expected::of(&content::bytes(SMALL_SEED, load.small_size)),
            long: Expected::of(&content::bytes(LONG_SEED, load.download_size)),
            load,
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("load's runtime"))?;
        let thread = client.spawn("load", move || runtime.block_on(drive(Arc::new(ground))))?;
        Ok(Some(Self { tally, stop, thread: Some(thread) }))
    }

    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("the load's tasks don't panic with it")
    }

    /// Begins nothing more; what is under way may end.
    pub fn stop(&self) {
        // Nobody listening means that it has ended already.
        let _ = self.stop.send(true);
    }

    /// Whether everything under way has ended. After [`Load::stop`] this comes true within [`STALLED`] and a little.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

/// Tries one connect and request; for the times when it must not succeed.
pub fn passes(client: &Namespace, options: &RunOptions, patience: Duration) -> Result<bool, Error> {
    let Some(target) = targets(options).into_iter().next() else { return Ok(false) };
    client.run(|| Ok(std::net::TcpStream::connect_timeout(&target.address.into(), patience).is_ok()))
}

fn targets(options: &RunOptions) -> Vec<Target> {
    let tcp = options.vips.iter().filter(|vip| vip.protocol == Protocol::Tcp);
    tcp.map(|vip| Target { address: SocketAddrV4::new(vip.address, vip.port), backends: vip.backends.clone() })
        .collect()
}

async fn drive(ground: Arc<Ground>) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..ground.load.keep_alive {
        tasks.spawn(keep_alive(ground.clone(), number));
    }
    for number in 0..ground.load.downloads {
        tasks.spawn(downloads(ground.clone(), number));
    }
    for number in 0..ground.load.uploads {
        tasks.spawn(uploads(ground.clone(), number));
    }
    if ground.load.short_rate > 0 {
        tasks.spawn(short_connections(ground.clone()));
    }
    // A stopped load ends by itself; the limit only guards against a connection that trickles for ever.
    let mut stop = ground.stop.clone();
    let stopped = async {
        // The sender is gone only if the run is.
        let _ = stop.wait_for(|stopped| *stopped).await;
        sleep(STALLED + Duration::from_secs(5)).await;
    };
    tokio::select! {
        () = async { while tasks.join_next().await.is_some() {} } => {}
        () = stopped => {}
    }
}

impl Ground {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().expect("no task panics with it")
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sleeps; wakes early when the load is stopped.
    async fn pause(&self, length: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = sleep(length) => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn connect(&self, kind: Kind, number: u32) -> Option<Connection> {
        let target = &self.targets[number as usize % self.targets.len()];
        match Connection::open(target).await {
            Ok(connection) => {
                self.tally().opened += 1;
                Some(connection)
            }
            Err(fault) => {
                self.tally().fail(kind, &fault);
                None
            }
        }
    }

    /// One request; false when the connection can't carry another.
    async fn get(&self, connection: &mut Connection, kind: Kind, path: &str, expected: &Expected) -> bool {
        let begun = Instant::now();
        let outcome = connection.get(path, expected).await;
        self.judge(kind, begun, connection, outcome)
    }

    fn judge(&self, kind: Kind, begun: Instant, connection: &Connection, outcome: Result<(), Fault>) -> bool {
        let took = begun.elapsed();
        let mut tally = self.tally();
        match outcome {
            Ok(()) if took <= TIMELY => {
                tally.complete(kind, connection.answered_by(), took);
                true
            }
            Ok(()) => {
                tally.lose(kind, &Fault::Late, connection.end());
                true
            }
            Err(fault) => {
                tally.lose(kind, &fault, connection.end());
                !fault.breaks()
            }
        }
    }
}

async fn keep_alive(ground: Arc<Ground>, number: u32) {
    // Spread over the think time, so that the load has no pulse.
    ground.pause(ground.load.think_time * number / ground.load.keep_alive.max(1)).await;
    while !ground.stopped() {
        let Some(mut connection) = ground.connect(Kind::KeepAlive, number).await else {
            ground.pause(REOPEN).await;
            continue;
        };
        while !ground.stopped() && ground.get(&mut connection, Kind::KeepAlive, "/small", &ground.small).await {
            ground.pause(ground.load.think_time).await;
        }
        if !ground.stopped() {
            ground.pause(REOPEN).await;
        }
    }
}

async fn downloads(ground: Arc<Ground>, number: u32) {
    while !ground.stopped() {
        match ground.connect(Kind::Download, number).await {
            Some(mut connection) => {
                ground.get(&mut connection, Kind::Download, "/long/file", &ground.long).await;
            }
            None => ground.pause(REOPEN).await,
        }
    }
}

async fn uploads(ground: Arc<Ground>, number: u32) {
    let mut turn = 0u64;
    while !ground.stopped() {
        let Some(mut connection) = ground.connect(Kind::Upload, number).await else {
            ground.pause(REOPEN).await;
            continue;
        };
        let name = format!("{number}-{turn}");
        let begun = Instant::now();
        let seed = (u64::from(number) << 32) | turn;
        let outcome = connection.put(&name, seed, ground.load.upload_size, ground.load.upload_rate).await;
        ground.judge(Kind::Upload, begun, &connection, outcome);
        turn += 1;
    }
}

async fn short_connections(ground: Arc<Ground>) {
    let mut ticks = interval(Duration::from_secs(1) / ground.load.short_rate);
    // Open loop: a tick that came late doesn't excuse the next.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut under_way = tokio::task::JoinSet::new();
    let mut number = 0;
    while !ground.stopped() {
        ticks.tick().await;
        while under_way.try_join_next().is_some() {}
        if under_way.len() as u64 >= CROWD {
            ground.tally().fail(Kind::Short, &Fault::Crowded);
            continue;
        }
        let ground = ground.clone();
        under_way.spawn(async move {
            if let Some(mut connection) = ground.connect(Kind::Short, number).await {
                ground.get(&mut connection, Kind::Short, "/small", &ground.small).await;
            }
        });
        number += 1;
    }
    while under_way.join_next().await.is_some() {}
}
