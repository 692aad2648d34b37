//! A card with two ports: two functions, two drivers of one image, each with its own lease. Both carry traffic, one of them long frames in a VLAN, and what happens to one is no matter of the other's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bundle::manifest::{DeviceMatch, Import, PciAddress, Source};
use interfaces::{
    config::Configuration,
    net::{MacAddress, Net},
    packet::Batch,
};
use kernel_core::supervisor::Command;
use model::NicConfig;
use rig::{Card, DomainSpec, Rig, Running, Settings, Start, Tester};

const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };
const FRAMES: u64 = 300;

fn mac(port: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, 1 + port]
}

/// The first port is on a trunk, whose frames are as long as its driver takes them.
const MTUS: [u16; 2] = [9000, 1500];

fn vlan(port: u8) -> Option<u16> {
    (port == 0).then_some(10)
}

fn card(port: u8) -> &'static Card<Tester> {
    let mut tester = Tester::new(64);
    if let Some(vlan) = vlan(port) {
        tester.set_vlan(vlan);
        tester.resize(usize::from(MTUS[usize::from(port)]) + 18);
    }
    let card = Card::new(0, NicConfig { port, ports: 2, mac: mac(port), ..NicConfig::default() }, tester);
    card.serve(true);
    card
}

fn config(port: u8) -> ixgbe::Config {
    let (mtu, vlan) = (MTUS[usize::from(port)], vlan(port));
    // The tester's frames are to one address, whichever port they come in by.
    ixgbe::Config { promiscuous: true, rx_ring: 128, tx_ring: 256, mtu, vlan, ..ixgbe::Config::default() }
}

fn driver(name: &str, port: u8, device: DeviceMatch) -> DomainSpec {
    DomainSpec::new(name, IXGBE).export("net", "Net").export("control", "Control").with(|spec| {
        spec.device = Some(device);
        spec.imports.push(Import { port: "device".into(), from: Source::Device, interface: "IxgbeDevice".into() });
        spec.cpus = vec![0];
        spec.config = postcard::to_allocvec(&config(port)).unwrap();
    })
}

/// Sends back whatever comes, through all of a driver's generations, until it is told to stop.
fn forward(rig: &Rig, domain: &str, stop: &Arc<AtomicBool>) -> Running<()> {
    let net = rig.port::<dyn Net>(domain, "net");
    let stopped = stop.clone();
    rig.spawn(0, move || {
        while !stopped.load(SeqCst) {
            let Ok(mut queue) = net.open_queue(0) else { continue };
            let mut turn = || {
                let mut batch = queue.receive(Batch::allocate().ok()?).ok()?;
                while !batch.is_empty() {
                    batch = queue.send(batch).ok()?;
                }
                queue.wait(kernel_core::machine().now() + 1_000_000).ok()
            };
            while !stopped.load(SeqCst) && turn().is_some() {}
        }
    })
}

#[test]
fn both_ports_carry_traffic_and_crash_alone() {
    let cards = [card(0), card(1)];
    let address = PciAddress { segment: 0, bus: 1, device: 0, function: 0 };
    let rig = Rig::start(Settings {
        domains: vec![
            driver("ixgbe0", 0, DeviceMatch::Address(address)),
            driver("ixgbe1", 1, DeviceMatch::Mac(mac(1))),
        ],
        functions: vec![cards[0], cards[1]],
        devices: devices::CLASSES,
        packet_buffers: 2048,
        longest_frame: config(0).longest_frame(),
        ..Settings::default()
    });
    let domains = ["ixgbe0", "ixgbe1"];
    for (port, domain) in (0..).zip(domains) {
        let net = rig.port::<dyn Net>(domain, "net");
        assert_eq!(rig.run(0, move || net.info().unwrap().mac), MacAddress(mac(port)));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let clients = domains.map(|domain| forward(&rig, domain, &stop));
    let missing = |port: usize| cards[port].with(|device| device.nic().wire().missing());
    let send = |port: usize| cards[port].with(|device| device.nic().wire_mut().allow(FRAMES / 3));
    let both = || (0..2).all(|port| missing(port) == 0);
    (0..2).for_each(send);
    rig.until("all frames are back on both ports", both);
    // The first port's driver ends while frames come in by both; the second one's goes on.
    (0..2).for_each(send);
    let generation = rig.status("ixgbe0").generation;
    rig.order(Command::Kill, "ixgbe0");
    rig.until("the second port's frames are back", || missing(1) == 0);
    rig.until_restarted("ixgbe0", generation);
    assert_eq!(rig.status("ixgbe1").generation, 1);
    // What was in the first one's hands died with it: nobody shadows it here.
    (0..2).for_each(send);
    rig.until("the first port carries traffic again", || {
        cards[0].with(|device| device.nic().wire().returned().frames) >= FRAMES - Batch::CAPACITY as u64
    });
    rig.until("the second port lost nothing", || missing(1) == 0);
    let returned = |port: usize| cards[port].with(|device| device.nic().wire().returned());
    assert_eq!((returned(1).frames, returned(1).strange, returned(0).strange), (FRAMES, 0, 0));
    assert_eq!(rig::dma::violations(), 0);
    stop.store(true, SeqCst);
    clients.into_iter().for_each(Running::join);
}
