//! A domain's ports, between the kernel's raw objects and the domain's typed structs.
//!
//! What it promises: an object is only ever taken as the interface that its port declares, even if somebody implements [`Imports`] or [`Exports`] by
//! hand and gets it wrong. So the derives need no `unsafe`.

use alloc::boxed::Box;

pub use interfaces::{Interface, InterfaceId};
use interfaces::{Port, abi::RawObject};

/// One port of a domain as the builder and the kernel see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// As in manifests: `net`, `raw-net`.
    pub name: &'static str,
    /// Such as `Net`, with the hash that this image knows it by.
    pub interface: InterfaceId,
    /// An import that the manifest may leave unwired.
    pub optional: bool,
}

/// A domain's import ports. Derived for structs of `Port<dyn Interface>` fields, and of `Option`s of them for ports that needn't be wired.
pub trait Imports: Sized {
    const PORTS: &'static [PortSpec];

    fn take(imported: &mut Imported<'_>) -> Self;
}

/// A domain's export ports. Derived for structs of `Box<dyn Interface>` fields.
pub trait Exports: Sized {
    const PORTS: &'static [PortSpec];

    fn give(self, exported: &mut Exported<'_>);
}

impl Imports for () {
    const PORTS: &'static [PortSpec] = &[];
    fn take(_: &mut Imported<'_>) {}
}

impl Exports for () {
    const PORTS: &'static [PortSpec] = &[];
    fn give(self, _: &mut Exported<'_>) {}
}

/// The proxies that the kernel gave for a domain's import ports.
pub struct Imported<'a> {
    ports: &'static [PortSpec],
    objects: &'a [RawObject],
}

/// Where the kernel expects the objects of a domain's export ports.
pub struct Exported<'a> {
    ports: &'static [PortSpec],
    objects: &'a mut [RawObject],
}

impl<'a> Imported<'a> {
    /// # Safety
    /// `objects[i]` is a proxy for the interface of `ports[i]`, and lives as long as this image; or null where `ports[i]` is optional.
    pub(crate) unsafe fn new(ports: &'static [PortSpec], objects: &'a [RawObject]) -> Self {
        Imported { ports, objects }
    }

    /// The port of that name. Panics unless it is declared with interface `I`.
    pub fn port<I: Interface + ?Sized>(&mut self, name: &str) -> Port<I> {
        self.optional_port(name).expect("a port that has to be wired and isn't")
    }

    /// The same, for one that the manifest may have left unwired.
    pub fn optional_port<I: Interface + ?Sized>(&mut self, name: &str) -> Option<Port<I>> {
        let object = self.objects[place::<I>(self.ports, name)];
        if object.data.is_null() {
            return None;
        }
        // SAFETY: `new`'s contract, and `place` saw that this port's interface is `I` (SOUNDNESS: ABI between images).
        Some(Port::new(unsafe { &*I::from_raw(object) }))
    }
}

impl<'a> Exported<'a> {
    pub(crate) fn new(ports: &'static [PortSpec], objects: &'a mut [RawObject]) -> Self {
        Exported { ports, objects }
    }

    /// Gives `object` to the port of that name; it lives as long as this image. Panics unless the port is declared with interface `I`.
    pub fn object<I: Interface + ?Sized>(&mut self, name: &str, object: Box<I>) {
        let at = place::<I>(self.ports, name);
        self.objects[at] = I::to_raw(Box::into_raw(object));
    }
}

fn place<I: Interface + ?Sized>(ports: &[PortSpec], name: &str) -> usize {
    let at = ports.iter().position(|port| port.name == name).expect("a port that PORTS doesn't name");
    let declared = ports[at].interface;
    assert!(declared == InterfaceId::of::<I>(), "port {name} is declared as {}, used as {}", declared.name, I::NAME);
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use interfaces::{
        CallError, RRef,
        control::{Control, ControlError, Counters, Text},
        net::Net,
    };

    struct Answers(u64);

    impl Control for Answers {
        fn counters(&self, _: u32, mut page: RRef<Counters>) -> Result<RRef<Counters>, ControlError> {
            page.push("answer", self.0);
            Ok(page)
        }
        fn command(&self, _: RRef<Text<240>>) -> Result<RRef<Text<240>>, ControlError> {
            Err(ControlError::Call(CallError::Gone))
        }
    }

    const PORTS: &[PortSpec] = &[
        PortSpec { name: "net", interface: InterfaceId::of::<dyn Net>(), optional: true },
        PortSpec { name: "control", interface: InterfaceId::of::<dyn Control>(), optional: false },
    ];

    #[test]
    fn an_exported_object_is_the_one_that_is_imported() {
        interfaces::host::connect();
        let mut objects = vec![RawObject::NULL; 2];
        Exported::new(PORTS, &mut objects).object::<dyn Control>("control", Box::new(Answers(42)));
        // SAFETY: the object was put there one line up, for this very port; the other is optional.
        let mut imported = unsafe { Imported::new(PORTS, &objects) };
        assert!(imported.optional_port::<dyn Net>("net").is_none(), "nobody wired it");
        let port = imported.port::<dyn Control>("control");
        let page = port.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
        assert_eq!(page.as_slice()[0].value, 42);
    }

    #[test]
    #[should_panic(expected = "port net is declared as Net, used as Control")]
    fn a_port_is_not_taken_for_another_interface() {
        Exported::new(PORTS, &mut [RawObject::NULL; 2]).object::<dyn Control>("net", Box::new(Answers(0)));
    }

    #[test]
    fn a_raw_object_is_data_then_vtable() {
        let object: Box<dyn Control> = Box::new(Answers(0x5eed));
        let raw = Interface::to_raw(Box::into_raw(object));
        // SAFETY: `data` is the box's contents if the order is as we believe; that is what is tested.
        assert_eq!(unsafe { raw.data.cast::<u64>().read() }, 0x5eed);
        // SAFETY: the box from above.
        drop(unsafe { Box::from_raw(<dyn Control>::from_raw(raw)) });
    }
}
