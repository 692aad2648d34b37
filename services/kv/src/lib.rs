//! A key-value store that speaks memcached's protocol, so that existing clients just work: classic and meta commands, TCP and UDP. It has a thread on each of its
//! CPUs, each on an instance of the network stack, which is in a domain of its own or in this one; the store itself is one, in shards.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod arena;
pub mod classic;
pub mod clock;
pub mod command;
pub mod config;
pub mod control;
pub mod datagram;
pub mod durable;
pub mod item;
pub mod meta;
pub mod server;
pub mod session;
pub mod shard;
pub mod statistics;
pub mod stats;
pub mod store;
pub mod text;

use alloc::{boxed::Box, sync::Arc};

use interfaces::{
    Port,
    block::Block,
    control::Control,
    net::Net,
    socket::{Local, NetStack},
};
use netstack_library::Placement;
use runtime::{
    env::{Env, StartError},
    random,
    serving::{self, Server},
    time,
};

pub use config::Config;

use crate::{
    control::Console,
    durable::{disk::Disk, journal::Journal, writer::Writer},
    server::Clients,
    statistics::Traffic,
    store::Store,
};

#[derive(runtime::Imports)]
pub struct Imports {
    /// One of these two: a stack, or a card for one in this domain.
    pub stack: Option<Port<dyn NetStack>>,
    pub net: Option<Port<dyn Net>>,
    /// Where the log of a durable store lies.
    pub block: Option<Port<dyn Block>>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

/// Starts the store: a thread on each CPU, on the instance of the stack of the same number. A durable one is what its log says first.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let started = time::now();
    // First, so that whoever has lost a connection to the last generation is told so while the log is read.
    let placement = Placement::new(&env, imports.stack, imports.net, config.stack.clone())?;
    // Strangers mustn't know which keys collide.
    let seed = random::number();
    let disk = match (config.durable, imports.block) {
        (false, None) => None,
        (true, Some(block)) => Some(Disk::open(block, 0, config.namespace, config.log_size.0)?),
        (true, None) => return Err(config::NO_DISK.into()),
        (false, Some(_)) => return Err(config::IDLE_DISK.into()),
    };
    let journal = disk.is_some().then(|| Arc::new(Journal::new(env.cpus().len())));
    let store = Arc::new(Store::new(config.limits(env.cpus().len()), seed, journal.clone()));
    if let (Some(disk), Some(journal)) = (disk, journal) {
        let writer = Writer::open(disk, store.clone(), journal, started)?;
        env.spawn("log", env.cpus()[0], move || writer.run())?;
    }
    let traffic: Arc<[Traffic]> = env.cpus().iter().map(|_| Traffic::default()).collect();
    log::info!("{} for items in {} shards, on port {}", config.memory, store.shards(), config.port);
    for (index, &cpu) in env.cpus().iter().enumerate() {
        let (config, store, traffic, stack) = (config.clone(), store.clone(), traffic.clone(), placement.stack);
        env.spawn("clients", cpu, move || serve(&config, &store, &traffic, index, stack, started))?;
    }
    Ok(Exports { control: Box::new(Console { store, traffic, placement }) })
}

fn serve(config: &Config, store: &Store, traffic: &[Traffic], index: usize, stack: Port<dyn NetStack>, started: u64) {
    let longest_udp_answer = config.longest_udp_answer.0 as usize;
    let clients = Clients { store, traffic, index, longest_udp_answer, started };
    let limits = serving::Limits {
        connections: config.connections as usize,
        backlog: 256,
        waiting: config.waiting.0 as usize,
        request: config.request_time,
        answer: config.answer_time,
        idle: config.idle_time,
    };
    let udp = (config.udp_port != 0).then(|| Local::port(config.udp_port));
    Server::new(clients, limits, &traffic[index].clients).run(stack, index as u16, Local::port(config.port), udp);
}
