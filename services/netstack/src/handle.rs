//! The `stack` port, and the handles that services open by it.

use alloc::{boxed::Box, sync::Arc};
use core::net::SocketAddr;

use interfaces::{
    Cap, RRef,
    socket::{Local, NetStack, Round, SocketError, SocketId, Sockets, SocketsId, StackInfo},
};

use crate::{config::Config, instance::Instances, stack::ClientId};

pub struct Services {
    pub instances: Arc<Instances>,
    pub config: Arc<Config>,
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
