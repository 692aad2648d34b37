//! The census above a card that is made of this test.

use census_guide::{
    Imports,
    config::{Config, Kind},
    start,
};
use interfaces::{
    Cap, Port, RRef,
    config::Configuration,
    control::Counters,
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use runtime::env::Env;

/// A card that receives the same three frames each time: two of IPv4, and one that is too short to be any.
struct Card;

impl Net for Card {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo {
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            queues: 1,
            max_frame: 1514,
            fills_checksums: false,
            link: Link::Up { mbps: 10_000 },
        })
    }

    fn open_queue(&self, _index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        Ok(Cap::new(Box::new(Queue)))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(())
    }
}

struct Queue;

impl NetQueue for Queue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let lengths = [64, 100, 13];
        let first = batch.len();
        batch.fill(lengths.len());
        for (mut packet, length) in batch.packets_mut().into_iter().skip(first).zip(lengths) {
            packet.set_len(length);
            let frame = packet.data_mut();
            frame.fill(0);
            if let Some(ether_type) = frame.get_mut(12..14) {
                ether_type.copy_from_slice(&[0x08, 0x00]);
            }
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        batch.clear();
        Ok(batch)
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), NetError> {
        Ok(())
    }
}

fn config() -> Config {
    let kind = |name: &str, ether_type| Kind { name: name.into(), ether_type };
    Config { count: vec![kind("ipv4", 0x0800), kind("arp", 0x0806)] }
}

#[test]
fn frames_are_counted_and_nothing_leaks() {
    host::connect();
    let imports = Imports { net: Port::new(&Card) };
    let exports = start(Env::new("census", 1, &[0]), imports, config()).unwrap();

    let mut queue = exports.net.open_queue(0).unwrap();
    let mut batch = Batch::allocate().unwrap();
    for _ in 0..2 {
        batch = queue.receive(batch).unwrap();
    }
    assert_eq!(batch.len(), 6, "the census passes everything on");
    batch = queue.send(batch).unwrap();

    let page = exports.control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    let counts: Vec<_> = page.as_slice().iter().map(|counter| (counter.name.as_str(), counter.value)).collect();
    assert_eq!(counts, [("ipv4", 4), ("arp", 0)]);

    drop((batch, page, queue));
    assert_eq!((host::live_objects(), host::buffers_out()), (0, 0));
}

#[test]
fn a_kind_that_is_counted_twice_is_refused() {
    let mut config = config();
    config.count[1].ether_type = 0x0800;
    assert_eq!(config.validate()[0].path, "count[1].ether-type");
}
