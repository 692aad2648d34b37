//! The domain as services and the card meet it: threads of two services in one instance, a driver that crashes, a service that goes away.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use interfaces::{
    CallError, Cap, Port, RRef, host,
    net::{Link, MacAddress, Net, NetError, NetInfo, NetQueue},
    packet::Batch,
    socket::{Event, Local, NetStack, Round},
};
use netstack::{Config, Imports, start};
use runtime::env::Env;
use smoltcp::{
    iface::{Interface, SocketHandle, SocketSet},
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    socket::tcp::{self, State},
    time::Instant as Moment,
    wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address},
};

/// A card with one queue, and the wire behind it.
#[derive(Clone, Default)]
struct Card(Arc<(Mutex<Wire>, Condvar)>);

#[derive(Default)]
struct Wire {
    to_stack: VecDeque<Vec<u8>>,
    to_peer: VecDeque<Vec<u8>>,
    woken: bool,
    /// Calls that fail as if the driver had crashed.
    crashes: u32,
    opened: u32,
}

impl Net for Card {
    fn info(&self) -> Result<NetInfo, NetError> {
        Ok(NetInfo {
            mac: MacAddress([2, 0, 0, 0, 0, 1]),
            queues: 1,
            max_frame: 1514,
            fills_checksums: false,
            link: Link::Down,
        })
    }

    fn open_queue(&self, _: u16) -> Result<Cap<dyn NetQueue>, NetError> {
        self.0.0.lock().unwrap().opened += 1;
        Ok(Cap::new(Box::new(Queue(self.clone())) as Box<dyn NetQueue>))
    }

    fn wake(&self, _: u16) -> Result<(), NetError> {
        self.0.0.lock().unwrap().woken = true;
        self.0.1.notify_all();
        Ok(())
    }
}

struct Queue(Card);

impl NetQueue for Queue {
    fn receive(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut wire = self.0.0.0.lock().unwrap();
        if wire.crashes > 0 {
            wire.crashes -= 1;
            return Err(NetError::Call(CallError::Crashed));
        }
        while !wire.to_stack.is_empty() && batch.fill(1) == 1 {
            let frame = wire.to_stack.pop_front().unwrap();
            let mut packets = batch.packets_mut();
            let mut packet = packets.get(packets.len() - 1).unwrap();
            packet.set_len(frame.len());
            packet.data_mut().copy_from_slice(&frame);
        }
        Ok(batch)
    }

    fn send(&mut self, mut batch: RRef<Batch>) -> Result<RRef<Batch>, NetError> {
        let mut wire = self.0.0.0.lock().unwrap();
        wire.to_peer.extend(batch.packets().iter().map(|packet| packet.data().to_vec()));
        batch.clear();
        Ok(batch)
    }

    fn wait(&mut self, deadline: u64) -> Result<(), NetError> {
        let (mutex, changed) = &*self.0.0;
        let mut wire = mutex.lock().unwrap();
        while wire.to_stack.is_empty() && !wire.woken {
            let left = deadline.saturating_sub(runtime::time::now());
            if left == 0 {
                break;
            }
            wire = changed.wait_timeout(wire, Duration::from_nanos(left)).unwrap().0;
        }
        wire.woken = false;
        Ok(())
    }
}

/// The peer's end.
struct End(Card);

impl Device for End {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Place;

    fn receive(&mut self, _: Moment) -> Option<(Frame, Place)> {
        let frame = self.0.0.0.lock().unwrap().to_peer.pop_front()?;
        Some((Frame(frame), Place(self.0.clone())))
    }

    fn transmit(&mut self, _: Moment) -> Option<Place> {
        Some(Place(self.0.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, 1514);
        capabilities
    }
}

struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Place(Card);

impl TxToken for Place {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.0.0.lock().unwrap().to_stack.push_back(frame);
        self.0.0.1.notify_all();
        result
    }
}

struct World {
    card: Card,
    stack: Port<dyn NetStack>,
    peer: Interface,
    end: End,
    sockets: SocketSet<'static>,
    began: Instant,
}

impl World {
    fn new() -> World {
        host::connect();
        let card = Card::default();
        let config: Config = toml::from_str("address = '10.0.0.1/24'").unwrap();
        let net = Port::new(Box::leak(Box::new(card.clone()) as Box<dyn Net>));
        let exports = start(Env::new("stack", 1, &[0]), Imports { net }, config).unwrap();
        let mut end = End(card.clone());
        let mac = HardwareAddress::Ethernet(EthernetAddress([2, 0, 0, 0, 0, 2]));
        let mut peer = Interface::new(smoltcp::iface::Config::new(mac), &mut end, Moment::ZERO);
        peer.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(Ipv4Address::new(10, 0, 0, 2).into(), 24)).unwrap()
        });
        let sockets = SocketSet::new(Vec::new());
        let stack = Port::new(Box::leak(exports.stack));
        World { card, stack, peer, end, sockets, began: Instant::now() }
    }

    fn open(&self) -> Cap<dyn interfaces::socket::Sockets> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.stack.open(0) {
                Ok(sockets) => return sockets,
                Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// A service that gives back what it is sent at `port`, until it is sent "end".
    fn echo(&self, port: u16) -> thread::JoinHandle<()> {
        let mut sockets = self.open();
        sockets.listen(Local::port(port), 8).unwrap();
        thread::spawn(move || {
            let mut round = Round::allocate().unwrap();
            loop {
                round = sockets.exchange(round, u64::MAX).unwrap();
                for event in round.events().to_vec() {
                    if let Event::Received { socket, bytes } = event {
                        let words = round.bytes(bytes).to_vec();
                        if words.ends_with(b"end") {
                            return;
                        }
                        round.send(socket, &words);
                    }
                }
            }
        })
    }

    fn connect(&mut self, port: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(self.peer.context(), (Ipv4Address::new(10, 0, 0, 1), port), 40_000 + port).unwrap();
        self.sockets.add(socket)
    }

    /// Lets the peer work until `done` says so.
    fn until(&mut self, mut done: impl FnMut(&mut World) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done(self) {
            assert!(Instant::now() < deadline, "it never came");
            let now = Moment::from_micros(self.began.elapsed().as_micros() as i64);
            self.peer.poll(now, &mut self.end, &mut self.sockets);
            thread::sleep(Duration::from_micros(200));
        }
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Sends words and waits for them to come back.
    fn ask(&mut self, handle: SocketHandle, words: &[u8]) {
        self.until(|world| world.socket(handle).may_send());
        self.socket(handle).send_slice(words).unwrap();
        let mut back = Vec::new();
        self.until(|world| {
            let mut place = [0; 64];
            let len = world.socket(handle).recv_slice(&mut place).unwrap();
            back.extend_from_slice(&place[..len]);
            back.len() >= words.len()
        });
        assert_eq!(back, words);
    }
}

/// One of them waits at the queue, the other elsewhere; both are served, in turn and together.
#[test]
fn two_services_share_an_instance() {
    let mut world = World::new();
    let services = [world.echo(7), world.echo(8)];
    let peers = [world.connect(7), world.connect(8)];
    for turn in 0..50u8 {
        world.ask(peers[usize::from(turn % 2)], &[turn; 20]);
    }
    for peer in peers {
        world.socket(peer).send_slice(b"end").unwrap();
    }
    world.until(|_| services.iter().all(thread::JoinHandle::is_finished));
}

#[test]
fn a_crash_of_the_driver_breaks_no_connection() {
    let mut world = World::new();
    let service = world.echo(7);
    let peer = world.connect(7);
    for turn in 0..20u8 {
        world.ask(peer, &[turn; 10]);
        world.card.0.0.lock().unwrap().crashes = 1;
    }
    assert!(world.card.0.0.lock().unwrap().opened > 10);
    world.socket(peer).send_slice(b"end").unwrap();
    world.until(|_| service.is_finished());
}

/// Nobody of the service is left to say so: the caretaker sends the RST, and answers whoever comes after.
#[test]
fn a_service_that_goes_away_resets_its_peers() {
    let mut world = World::new();
    let service = world.echo(7);
    let peer = world.connect(7);
    world.ask(peer, b"hello");
    world.socket(peer).send_slice(b"end").unwrap();
    world.until(|world| world.socket(peer).state() == State::Closed);
    service.join().unwrap();
    let late = world.connect(9);
    world.until(|world| world.socket(late).state() == State::Closed);
}
