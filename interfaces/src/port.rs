//! An import port: a domain's named way to another domain's export.

use core::ops::Deref;

use crate::abi::RawObject;

/// A trait that may be called across domains, as `dyn Trait`.
///
/// # Safety
/// Only `#[interface]` implements it, and only in this crate: no two interfaces have the same `NAME`, and an object of one is never taken for an
/// object of another.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interface",
    label = "not an interface",
    note = "a port is typed by a trait of crate `interfaces` that is marked `#[interface]`, such as `dyn Net`"
)]
pub unsafe trait Interface: Send + 'static {
    /// The trait's name, as manifests and reports show it.
    const NAME: &'static str;
    /// Of the methods' signatures and of the shape of every type in them, so that two versions of an interface are never taken for each other.
    const HASH: u64;

    /// The fat pointer in the form in which it travels between images.
    fn to_raw(object: *mut Self) -> RawObject;

    /// The other way round; as good as `object` is.
    fn from_raw(object: RawObject) -> *mut Self;
}

/// Which interface, without its type: how the two sides of a port compare what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceId {
    pub name: &'static str,
    pub hash: u64,
}

impl InterfaceId {
    pub const fn of<I: Interface + ?Sized>() -> Self {
        InterfaceId { name: I::NAME, hash: I::HASH }
    }
}

/// A port typed by the interface `I` (a `dyn Trait`). Copyable, usable from all threads of the domain; what it points at is a proxy in the kernel's
/// memory, which stays valid through every restart of the callee.
pub struct Port<I: ?Sized + 'static> {
    proxy: &'static I,
}

impl<I: ?Sized> Port<I> {
    /// For the kernel's wiring (through `runtime`) and for tests of domains on the host.
    pub const fn new(proxy: &'static I) -> Self {
        Port { proxy }
    }
}

impl<I: ?Sized> Clone for Port<I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<I: ?Sized> Copy for Port<I> {}

impl<I: ?Sized> Deref for Port<I> {
    type Target = I;
    fn deref(&self) -> &I {
        self.proxy
    }
}
