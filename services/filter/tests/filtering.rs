//! The whole domain on the host's kernel table: rules, counting, chains of filters, and crashes below.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use filter::{Config, Exports, Imports};
use interfaces::{
    CallError, Cap, Port, RRef,
    config::Configuration,
    control::{Control, ControlError, Counters, Text},
    host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
};
use proptest::prelude::*;
use runtime::env::Env;

const RULES: &str = r#"
rules = [
    { name = "lab", action = "count", direction = "receive", source = "10.9.0.0/16" },
    { name = "no-telnet", action = "drop", protocol = "tcp", destination-port = 23 },
    { name = "no-high", action = "drop", direction = "send", protocol = "udp", source-port = "8000-8099", destination = "10.9.1.0/24" },
    { name = "arp", action = "count", protocol = "arp" },
    { name = "tagged", action = "drop", direction = "receive", vlan = 7 },
    { name = "all", action = "count" },
]
"#;

fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn tcp(port: u16) -> Vec<u8> {
    ipv4(6, [10, 9, 0, 1], [10, 0, 0, 1], (40_000, port))
}

fn udp(source: u16, destination: [u8; 4]) -> Vec<u8> {
    ipv4(17, [10, 8, 0, 1], destination, (source, 53))
}

fn arp() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..14].copy_from_slice(&[8, 6]);
    frame
}

/// A card: frames that arrive, frames that were sent, and the next error.
#[derive(Default)]
struct Card {
    arriving: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
    room: Option<usize>,
    fail: Option<CallError>,
    opened: usize,
}

#[derive(Clone, Default)]
struct SharedCard(Arc<Mutex<Card>>);

impl Net for SharedCard {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo { mac: MacAddress([2; 6]), queues: 1, max_frame: 1514, fills_checksums: false, link: Link::Down })
    }

    fn open_queue(&self, index: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        if index > 0 {
            return Err(NetError::NoSuchQueue);
        }
        self.0.lock().unwrap().opened += 1;
        Ok(Cap::new(Box::new(CardQueue { card: self.clone(), gone: false }) as Box<dyn NetQueue>))
    }

    fn wake(&self, _index: u16) -> Result<(), NetError> {
        Ok(())
    }
}

struct CardQueue {
    card: SharedCard,
    gone: bool,
}

impl CardQueue {
    fn meet(&mut self) -> Result<(), NetError> {
        if self.gone {
            return Err(NetError::Call(CallError::Gone));
        }
        if let Some(error) = self.card.0.lock().unwrap().fail.take() {
            self.gone = true;
            return Err(NetError::Call(error));
        }
        Ok(())
    }
}

impl NetQueue for CardQueue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet()?;
        let mut card = self.card.0.lock().unwrap();
        let first = batch.len();
        let count = batch.fill(card.arriving.len().min(Batch::CAPACITY - first));
        for at in first..first + count {
            let frame = card.arriving.pop_front().unwrap();
            put(&mut batch, at, &frame);
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        self.meet()?;
        let mut card = self.card.0.lock().unwrap();
        let count = batch.len().min(card.room.unwrap_or(usize::MAX));
        card.sent.extend(batch.packets()[..count].iter().map(|packet| packet.data().to_vec()));
        batch.discard(((1u64 << count) - 1) as u32);
        Ok(batch)
    }

    fn wait(&mut self, _deadline: u64) -> Result<(), NetError> {
        self.meet()
    }
}

fn put(batch: &mut RRef<Batch>, at: usize, frame: &[u8]) {
    let mut packets = batch.packets_mut();
    let mut packet = packets.get(at).unwrap();
    packet.set_len(frame.len());
    packet.data_mut().copy_from_slice(frame);
}

fn batch_of(frames: &[Vec<u8>]) -> RRef<Batch> {
    let mut batch = Batch::allocate().unwrap();
    batch.fill(frames.len());
    for (at, frame) in frames.iter().enumerate() {
        put(&mut batch, at, frame);
    }
    batch
}

fn frames_of(batch: &RRef<Batch>) -> Vec<Vec<u8>> {
    batch.packets().iter().map(|packet| packet.data().to_vec()).collect()
}

fn start(below: &'static dyn Net, config: &str) -> Exports {
    host::connect();
    let config: Config = toml::from_str(config).unwrap();
    let Ok(exports) = filter::start(Env::new("filter0", 1, &[0]), Imports { net: Port::new(below) }, config) else {
        panic!("does not start")
    };
    exports
}

fn filtered(config: &str) -> (SharedCard, Exports) {
    let card = SharedCard::default();
    let exports = start(Box::leak(Box::new(card.clone())), config);
    (card, exports)
}

fn counter(control: &dyn Control, name: &str) -> u64 {
    let page = control.counters(0, RRef::new(Counters::default()).unwrap()).unwrap();
    let found = page.as_slice().iter().find(|counter| counter.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no counter {name}")).value
}

#[test]
fn received_packets_are_counted_and_dropped_by_rule() {
    let (card, Exports { net, control }) = filtered(RULES);
    let mut tagged = tcp(80);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    card.0.lock().unwrap().arriving = [tcp(80), tcp(23), arp(), tagged, udp(8000, [10, 9, 1, 1])].into();
    let mut queue = net.open_queue(0).unwrap();
    let batch = queue.receive(Batch::allocate().unwrap()).unwrap();
    assert_eq!(frames_of(&batch), [tcp(80), arp(), udp(8000, [10, 9, 1, 1])]);
    for (name, value) in [
        ("receive.passed", 3),
        ("receive.dropped", 2),
        ("rule.lab.packets", 3),
        ("rule.no-telnet.packets", 1),
        ("rule.no-telnet.bytes", 60),
        ("rule.no-high.packets", 0),
        ("rule.arp.packets", 1),
        ("rule.tagged.packets", 1),
        ("rule.all.packets", 3),
    ] {
        assert_eq!(counter(&*control, name), value, "{name}");
    }
}

#[test]
fn sent_packets_are_dropped_by_rule_and_counted_once_even_if_offered_twice() {
    let (card, Exports { net, control }) = filtered(RULES);
    card.0.lock().unwrap().room = Some(1);
    let mut queue = net.open_queue(0).unwrap();
    let rest = queue.send(batch_of(&[tcp(80), udp(8099, [10, 9, 1, 9]), tcp(81), udp(8100, [10, 9, 1, 9])])).unwrap();
    assert_eq!(
        frames_of(&rest),
        [tcp(81), udp(8100, [10, 9, 1, 9])],
        "what found no place comes back, without what was dropped"
    );
    card.0.lock().unwrap().room = None;
    assert!(queue.send(rest).unwrap().is_empty());
    assert_eq!(card.0.lock().unwrap().sent, [tcp(80), tcp(81), udp(8100, [10, 9, 1, 9])]);
    for (name, value) in [
        ("send.passed", 3),
        ("send.dropped", 1),
        ("rule.no-high.packets", 1),
        ("rule.all.packets", 3),
        ("rule.lab.packets", 0),
    ] {
        assert_eq!(counter(&*control, name), value, "{name}");
    }
}

#[test]
fn packets_that_were_there_before_are_left_alone() {
    let (card, Exports { net, control }) = filtered(RULES);
    card.0.lock().unwrap().arriving = [tcp(23), tcp(80)].into();
    let mut queue = net.open_queue(0).unwrap();
    let batch = queue.receive(batch_of(&[tcp(23)])).unwrap();
    assert_eq!(frames_of(&batch), [tcp(23), tcp(80)]);
    assert_eq!(counter(&*control, "receive.dropped"), 1);
}

/// Composition is a fact: a filter above a filter is wired like a filter above a card.
#[test]
fn filters_stand_in_a_chain() {
    let (card, lower) =
        filtered("rules = [{ name = \"no-telnet\", action = \"drop\", protocol = \"tcp\", destination-port = 23 }]");
    let upper = start(Box::leak(lower.net), "rules = [{ name = \"no-arp\", action = \"drop\", protocol = \"arp\" }]");
    card.0.lock().unwrap().arriving = [tcp(23), arp(), tcp(80)].into();
    let mut queue = upper.net.open_queue(0).unwrap();
    let batch = queue.receive(Batch::allocate().unwrap()).unwrap();
    assert_eq!(frames_of(&batch), [tcp(80)]);
    assert_eq!(counter(&*lower.control, "receive.passed"), 2);
    assert_eq!(counter(&*upper.control, "receive.passed"), 1);
    assert_eq!(upper.net.info().unwrap().mac, MacAddress([2; 6]));
    assert!(matches!(upper.net.open_queue(1), Err(NetError::NoSuchQueue)));
}

#[test]
fn a_crash_below_is_told_once_and_survived() {
    let (card, Exports { net, control }) = filtered("");
    let mut queue = net.open_queue(0).unwrap();
    for call in 0..3 {
        card.0.lock().unwrap().fail = Some(CallError::Crashed);
        let result = match call {
            0 => queue.receive(Batch::allocate().unwrap()).map(drop),
            1 => queue.send(batch_of(&[tcp(80)])).map(drop),
            _ => queue.wait(0),
        };
        assert_eq!(result, Err(NetError::Call(CallError::Crashed)));
        assert!(queue.receive(Batch::allocate().unwrap()).unwrap().is_empty(), "the same queue works again");
    }
    assert_eq!(counter(&*control, "queue.reopened"), 3);
    assert_eq!(card.0.lock().unwrap().opened, 4);
    drop(queue);
    assert_eq!(host::buffers_out(), 0);
}

#[test]
fn an_opened_queue_counts_on_where_its_forerunner_stopped() {
    let (card, Exports { net, control }) = filtered("");
    for round in 1..3 {
        card.0.lock().unwrap().arriving = [tcp(80)].into();
        let mut queue = net.open_queue(0).unwrap();
        queue.receive(Batch::allocate().unwrap()).unwrap();
        assert_eq!(counter(&*control, "receive.passed"), round);
    }
}

#[test]
fn a_filter_takes_no_commands() {
    let (_, Exports { control, .. }) = filtered("");
    assert!(matches!(control.command(RRef::new(Text::new("drop all")).unwrap()), Err(ControlError::UnknownCommand)));
}

#[test]
fn a_good_table_has_no_faults_and_is_read_back_as_written_and_as_compiled() {
    let config: Config = toml::from_str(RULES).unwrap();
    assert_eq!(config.validate(), []);
    assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
    let compiled = postcard::to_allocvec(&config).unwrap();
    assert_eq!(postcard::from_bytes::<Config>(&compiled).unwrap(), config);
}

/// Each a rule, the path of its fault and words of the message.
#[test]
fn faults_are_named_by_path_and_reason() {
    for (rule, path, words) in [
        ("name = \"\", action = \"drop\"", "rules[0].name", "1 to 40 letters"),
        ("name = \"a\", action = \"drop\", vlan = 0", "rules[0].vlan", "1 to 4094"),
        (
            "name = \"a\", action = \"drop\", protocol = \"icmp\", source-port = 1",
            "rules[0].source-port",
            "never match",
        ),
        (
            "name = \"a\", action = \"drop\", protocol = \"arp\", source = \"10.0.0.0/8\"",
            "rules[0].source",
            "never match",
        ),
        ("name = \"a\", action = \"drop\", destination = \"10.0.0.1/8\"", "rules[0].destination", "write 10.0.0.0/8"),
    ] {
        let faults = toml::from_str::<Config>(&format!("rules = [{{ {rule} }}]")).unwrap().validate();
        assert!(faults.iter().any(|fault| fault.path == path && fault.message.contains(words)), "{rule}: {faults:?}");
    }
    let twice = "{ name = \"a\", action = \"drop\" }";
    let faults = toml::from_str::<Config>(&format!("rules = [{twice}, {twice}]")).unwrap().validate();
    assert_eq!(faults[0].message, "the name \"a\" is already that of rules[0]");
    for (wrong, words) in [
        ("destination-port = 65536", "a port such as 80"),
        ("destination-port = \"9-8\"", "a port such as 80"),
        ("direction = \"up\"", "`receive`"),
        ("port = 80", "unknown field `port`"),
    ] {
        let error = toml::from_str::<Config>(&format!("rules = [{{ name = \"a\", action = \"drop\", {wrong} }}]"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{wrong}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, it passes or is dropped, and nothing leaks.
    #[test]
    fn everything_is_accounted_for(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..100)) {
        let (card, Exports { net, control }) = filtered(RULES);
        let count = frames.len() as u64;
        card.0.lock().unwrap().arriving = frames.into();
        let mut queue = net.open_queue(0).unwrap();
        let mut passed = 0;
        for _ in 0..4 {
            passed += queue.receive(Batch::allocate().unwrap()).unwrap().len() as u64;
        }
        prop_assert_eq!(counter(&*control, "receive.passed"), passed);
        prop_assert_eq!(counter(&*control, "receive.dropped"), count - passed);
        prop_assert_eq!(host::buffers_out(), 0);
    }
}
