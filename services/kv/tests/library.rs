//! The store with the network stack in its own domain, at a card that nobody is behind.

use std::{thread, time::Duration};

use interfaces::{
    Cap, Port, RRef,
    control::Counters,
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
    socket::NetStack,
};
use kv::{Config, Exports, Imports, start};
use runtime::{
    env::{Env, StartError},
    time,
};

struct Card;

impl Net for Card {
    fn info(&self) -> Result<NetInfo, NetError> {
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        Ok(NetInfo { mac, queues: 2, max_frame: 1514, fills_checksums: true, link: Link::Down })
    }

    fn open_queue(&self, _: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        Ok(Cap::new(Box::new(Queue) as Box<dyn NetQueue>))
    }

    fn wake(&self, _: u16) -> Result<(), NetError> {
        Ok(())
    }
}

struct Queue;

impl NetQueue for Queue {
    fn receive(&mut self, batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        batch.clear();
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        thread::sleep(Duration::from_nanos(deadline.saturating_sub(time::now())).min(Duration::from_millis(5)));
        Ok(())
    }
}

fn store(stack: Option<Port<dyn NetStack>>, config: &str) -> Result<Exports, StartError> {
    host::connect();
    let imports = Imports { stack, net: Some(Port::new(&Card)), block: None };
    let config: Config = toml::from_str(config).unwrap();
    start(Env::new("kv", 1, &[0, 1]), imports, config)
}

fn counter(exports: &Exports, name: &str) -> Option<u64> {
    let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    page.as_slice().iter().find(|counter| counter.name.as_str() == name).map(|counter| counter.value)
}

/// The operator finds the stack's counters among the store's, an instance for each CPU among them.
#[test]
fn the_stack_is_seen_at_the_console() {
    let exports = store(None, "memory = '16MiB'\n[stack]\naddress = '10.0.1.3/24'").unwrap();
    let names = ["stack.received", "stack.tcp.accepted", "stack.instance.0.live", "stack.instance.1.live", "items"];
    assert_eq!(names.map(|name| counter(&exports, name)), [Some(0); 5]);
}

/// What the builder has checked, the domain checks again: the same faults, in the same words.
#[test]
fn a_faulty_place_stops_the_start() {
    let refused = |stack, config| store(stack, config).err().unwrap().0;
    assert!(refused(None, "").contains("needs a table `config.stack`"));
    assert!(refused(None, "[stack]\ngateway = '10.0.1.1'").contains("the box needs an address"));
    let network = host::sockets::Network::new(host::sockets::Limits::default());
    let stack: &'static _ = Box::leak(network.stack());
    assert!(refused(Some(Port::new(stack)), "").contains("both wired"));
}
