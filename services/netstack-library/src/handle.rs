//! What services use a stack by, and the handles that they open by it.

use alloc::{borrow::Cow, boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::net::SocketAddr;

use interfaces::{
    Cap, Port, RRef,
    config::{Configuration, Fault},
    net::Net,
    socket::{Local, NetStack, Round, SocketError, SocketId, Sockets, SocketsId, StackInfo},
};
use runtime::env::{Env, StartError};

use crate::{
    config::Config,
    instance::{self, Instances},
    stack::ClientId,
    statistics::Statistics,
};

/// A stack at work.
#[derive(Clone)]
pub struct Services {
    instances: Arc<Instances>,
    config: Arc<Config>,
}

impl Services {
    /// Starts an instance on each of the domain's CPUs; the i-th is at queue i.
    pub fn start(env: &Env, net: Port<dyn Net>, config: Config) -> Result<Services, StartError> {
        let faults = config.validate();
        if !faults.is_empty() {
            let lines: Vec<String> =
                faults.iter().map(|Fault { path, message }| format!("{path}: {message}")).collect();
            return Err(StartError(lines.join("; ")));
        }
        let config = Arc::new(config);
        let instances = Arc::new(Instances::new(net, env.cpus().len() as u16, &config));
        for (index, &cpu) in env.cpus().iter().enumerate() {
            let (instances, config, index) = (instances.clone(), config.clone(), index as u16);
            env.spawn(&instance::caretaker_name(index), cpu, move || instances.care(index, config))?;
        }
        Ok(Services { instances, config })
    }

    /// The sums of the instances' counters, and each one's connections.
    pub fn counters(&self) -> impl Iterator<Item = (Cow<'static, str>, u64)> {
        let each: Vec<Option<Arc<Statistics>>> =
            (0..self.instances.count()).map(|index| self.instances.statistics(index)).collect();
        let mut counters: Vec<_> =
            Statistics::default().all().map(|(name, nothing)| (Cow::Borrowed(name), nothing)).collect();
        for statistics in each.iter().flatten() {
            for ((_, sum), (_, value)) in counters.iter_mut().zip(statistics.all()) {
                *sum += value;
            }
        }
        let live = |statistics: &Option<Arc<Statistics>>| statistics.as_ref().map_or(0, |one| one.live.get());
        counters.extend(each.iter().enumerate().map(|(i, one)| (format!("instance.{i}.live").into(), live(one))));
        counters.into_iter()
    }
}

impl NetStack for Services {
    fn info(&self) -> Result<StackInfo, SocketError> {
        let addresses = self.instances.addresses();
        Ok(StackInfo {
            instances: self.instances.count(),
            sockets: self.config.connections,
            ipv4: addresses.ipv4.map(|net| net.addr()),
            ipv6: addresses.ipv6.map(|net| net.addr()),
        })
    }

    fn open(&self, index: u16) -> Result<Cap<dyn Sockets>, SocketError> {
        let client = self.instances.open(index)?;
        let handle = Handle { instances: self.instances.clone(), index, client };
        Ok(Cap::new(Box::new(handle) as Box<dyn Sockets>))
    }

    fn wake(&self, handle: SocketsId) -> Result<(), SocketError> {
        self.instances.wake((handle.0 >> 32) as u16, ClientId(handle.0 as u32))
    }
}

/// A service's handle; dropped when the service lets go of it or dies.
struct Handle {
    instances: Arc<Instances>,
    index: u16,
    client: ClientId,
}

impl Sockets for Handle {
    fn id(&mut self) -> Result<SocketsId, SocketError> {
        Ok(SocketsId(u64::from(self.index) << 32 | u64::from(self.client.0)))
    }

    fn listen(&mut self, local: Local, backlog: u32) -> Result<SocketId, SocketError> {
        self.instances.with(self.index, |stack, _| stack.listen(self.client, local, backlog))
    }

    fn connect(&mut self, to: SocketAddr) -> Result<SocketId, SocketError> {
        self.instances.connect(self.index, self.client, to)
    }

    fn bind(&mut self, local: Local) -> Result<SocketId, SocketError> {
        self.instances.with(self.index, |stack, _| stack.bind(self.client, local))
    }

    fn exchange(&mut self, round: RRef<Round>, deadline: u64) -> Result<RRef<Round>, SocketError> {
        self.instances.exchange(self.index, self.client, round, deadline)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.instances.close(self.index, self.client);
    }
}
