//! The few rtnetlink requests that the lab's wiring needs, in the calling thread's namespace.

use crate::error::Error;
use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use std::fmt::Display;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

/// A connection to the kernel's rtnetlink in one namespace.
pub struct Netlink {
    runtime: tokio::runtime::Runtime,
    handle: Handle,
}

fn network<E: Display>(step: impl Display) -> impl FnOnce(E) -> Error {
    move |reason| Error::Network { step: step.to_string(), reason: reason.to_string() }
}

impl Netlink {
    /// Opens it in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(network("netlink runtime"))?;
        let guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection().map_err(network("netlink socket"))?;
        drop(guard);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn ask<T>(
        &self,
        step: impl Display,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, Error> {
        self.runtime.block_on(request).map_err(network(step))
    }

    fn index(&self, name: &str) -> Result<u32, Error> {
        let found =
            self.ask(format!("look for {name}"), self.handle.link().get().match_name(name).execute().try_next())?;
        found
            .map(|link| link.header.index)
            .ok_or_else(|| Error::Network { step: format!("look for {name}"), reason: "not there".into() })
    }

    fn change(&self, step: impl Display, message: LinkMessageBuilder<LinkUnspec>) -> Result<(), Error> {
        self.ask(step, self.handle.link().set(message.build()).execute())
    }

    /// A veth pair; its far end goes into another namespace at once, and has its name only there.
    pub fn veth(&self, near: &str, far: &str, far_namespace: RawFd) -> Result<(), Error> {
        const UNDERWAY: &str = "underway";
        self.ask(
            format!("make veth {near}–{far}"),
            self.handle.link().add(LinkVeth::new(near, UNDERWAY).build()).execute(),
        )?;
        let index = self.index(UNDERWAY)?;
        self.change(format!("move {far}"), LinkUnspec::new_with_index(index).setns_by_fd(far_namespace).name(far))
    }

    /// A bridge that neither snoops nor ages within a run's time.
    pub fn bridge(&self, name: &str) -> Result<(), Error> {
        self.ask(
            format!("make bridge {name}"),
            self.handle.link().add(LinkBridge::new(name).mcast_snooping(false).build()).execute(),
        )
    }

    pub fn attach(&self, port: &str, bridge: &str) -> Result<(), Error> {
        let (port_index, bridge_index) = (self.index(port)?, self.index(bridge)?);
        self.change(
            format!("attach {port} to {bridge}"),
            LinkUnspec::new_with_index(port_index).controller(bridge_index),
        )
    }

    pub fn set_mac(&self, name: &str, mac: [u8; 6]) -> Result<(), Error> {
        let index = self.index(name)?;
        self.change(format!("address of {name}"), LinkUnspec::new_with_index(index).address(mac.to_vec()))
    }

    pub fn up(&self, name: &str, mtu: Option<u32>) -> Result<(), Error> {
        let mut message = LinkUnspec::new_with_index(self.index(name)?).up();
        if let Some(mtu) = mtu {
            message = message.mtu(mtu);
        }
        self.change(format!("bring {name} up"), message)
    }

    pub fn down(&self, name: &str) -> Result<(), Error> {
        let index = self.index(name)?;
        self.change(format!("take {name} down"), LinkUnspec::new_with_index(index).down())
    }

    pub fn address(&self, name: &str, address: impl Into<IpAddr>, prefix: u8) -> Result<(), Error> {
        let (index, address) = (self.index(name)?, address.into());
        self.ask(format!("give {name} {address}/{prefix}"), self.handle.address().add(index, address, prefix).execute())
    }

    /// `address` is reached on `name`'s segment directly.
    pub fn route_on_link(&self, address: Ipv4Addr, name: &str) -> Result<(), Error> {
        let index = self.index(name)?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .output_interface(index)
            .scope(RouteScope::Link)
            .build();
        self.ask(format!("route {address} on {name}"), self.handle.route().add(route).execute())
    }

    pub fn default_route6(&self, gateway: Ipv6Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build();
        self.ask(format!("default route by {gateway}"), self.handle.route().add(route).execute())
    }

    pub fn default_route(&self, gateway: Ipv4Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.ask(format!("default route by {gateway}"), self.handle.route().add(route).execute())
    }
}
