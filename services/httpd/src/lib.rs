//! A web server for static content: HTTP/1.1 as RFC 9110 and RFC 9112 want it. It serves a folder that is in the bundle, with a thread on each of its CPUs,
//! each on an instance of the network stack, which is in a domain of its own or in this one.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod body;
pub mod config;
pub mod connection;
pub mod control;
pub mod date;
pub mod grammar;
pub mod head;
pub mod negotiate;
pub mod server;
pub mod status;
pub mod target;

use alloc::{boxed::Box, format, sync::Arc};

use interfaces::{
    Port,
    control::Control,
    folder::Files,
    net::Net,
    socket::{Local, NetStack},
};
use netstack_library::Placement;
use runtime::{
    env::{Env, StartError},
    serving::{self, Server},
};

pub use config::Config;

use crate::{
    control::{Console, Counts},
    server::Site,
};

#[derive(runtime::Imports)]
pub struct Imports {
    /// One of these two: a stack, or a card for one in this domain.
    pub stack: Option<Port<dyn NetStack>>,
    pub net: Option<Port<dyn Net>>,
}

#[derive(runtime::Exports)]
pub struct Exports {
    pub control: Box<dyn Control>,
}

/// Starts the server: a thread on each CPU, on the instance of the stack of the same number.
pub fn start(env: Env, imports: Imports, config: Config) -> Result<Exports, StartError> {
    let config = Arc::new(config);
    // Read once for the log, and so that a damaged archive stops the start; each thread reads its own index of it.
    let files = Files::read(config.content.archive()).map_err(|damaged| StartError(format!("{damaged}")))?;
    log::info!("{} files, {} KiB, on port {}", files.files().len(), config.content.archive().len() >> 10, config.port);
    let placement = Placement::new(&env, imports.stack, imports.net, config.stack.clone())?;
    let counts: Arc<[Counts]> = env.cpus().iter().map(|_| Counts::default()).collect();
    for (index, &cpu) in env.cpus().iter().enumerate() {
        let (config, counts, stack) = (config.clone(), counts.clone(), placement.stack);
        env.spawn("clients", cpu, move || serve(&config, &counts[index], stack, index as u16))?;
    }
    Ok(Exports { control: Box::new(Console { counts, placement }) })
}

fn serve(config: &Config, counts: &Counts, stack: Port<dyn NetStack>, index: u16) {
    let Ok(content) = Files::read(config.content.archive()) else { return };
    let limits = config.limits();
    let site = Site { content: &content, limits: &limits, answers: &counts.answers, access_log: config.access_log };
    let serving = serving::Limits {
        connections: config.connections as usize,
        backlog: 256,
        waiting: config.waiting.0 as usize,
        request: config.request_time,
        answer: config.answer_time,
        idle: config.idle_time,
    };
    Server::new(site, serving, &counts.clients).run(stack, index, Local::port(config.port), None);
}
