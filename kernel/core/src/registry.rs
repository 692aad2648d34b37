//! Interfaces by name: how a manifest's word becomes a proxy.

use alloc::boxed::Box;
use core::ptr::NonNull;

use interfaces::{
    InterfaceId, abi::RawObject, block::Block, control::Control, gate::Callable, net::Net, probe::Probe,
    socket::NetStack,
};

use crate::call::SlotGate;

/// An interface that a port may have.
struct PortKind {
    id: InterfaceId,
    proxy: fn(NonNull<SlotGate>) -> RawObject,
}

const fn port<I: ?Sized + Callable>() -> PortKind {
    fn proxy<I: ?Sized + Callable>(gate: NonNull<SlotGate>) -> RawObject {
        I::to_raw(I::proxy(gate).as_ptr())
    }
    PortKind { id: InterfaceId::of::<I>(), proxy: proxy::<I> }
}

/// Every interface of ports. (Interfaces of capabilities need no entry: the proxy that mints one knows its type.)
const PORTS: &[PortKind] =
    &[port::<dyn Net>(), port::<dyn Block>(), port::<dyn Control>(), port::<dyn Probe>(), port::<dyn NetStack>()];

/// The proxy for a port of the named interface, over a gate that is never freed, and which interface that is in this kernel; `None` if it has none of that name.
pub(crate) fn proxy(interface: &str, gate: &'static SlotGate) -> Option<(RawObject, InterfaceId)> {
    PORTS.iter().find(|kind| kind.id.name == interface).map(|kind| ((kind.proxy)(NonNull::from(gate)), kind.id))
}

/// A gate for a port: it stays as long as the box runs.
pub(crate) fn gate(record: &'static crate::record::PortRecord) -> &'static SlotGate {
    Box::leak(Box::new(SlotGate::port(record)))
}
