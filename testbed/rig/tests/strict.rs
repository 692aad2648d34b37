//! A strict box (`iommu = "strict"`): the card reaches a packet buffer only while it has it, whoever drives, and however often that is somebody else.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use bundle::manifest::{DeviceMatch, Import, Iommu, Source};
use interfaces::{config::Configuration, net::Net, packet::Batch};
use kernel_core::supervisor::Command;
use model::{NicConfig, control::Fault};
use rig::{Card, DomainSpec, Rig, Settings, Start, Tester, dma};

const IXGBE: Start = Start { name: "ixgbe", package: "ixgbe", path: "ixgbe::start" };
const FRAMES: u64 = 200;
const DEATHS: usize = 20;

fn config() -> ixgbe::Config {
    ixgbe::Config { promiscuous: true, rx_ring: 128, tx_ring: 256, ..ixgbe::Config::default() }
}

fn driver() -> DomainSpec {
    DomainSpec::new("ixgbe0", IXGBE).export("net", "Net").export("control", "Control").with(|spec| {
        spec.device = Some(DeviceMatch::Id { vendor: 0x8086, device: 0x10FB });
        spec.imports.push(Import { port: "device".into(), from: Source::Device, interface: "IxgbeDevice".into() });
        spec.cpus = vec![0];
        spec.config = postcard::to_allocvec(&config()).unwrap();
    })
}

/// No access by the card but to what it has, and to what it was told to stray to; each frame that comes back is as it was; after many deaths of the driver the card reaches as much as before.
#[test]
fn a_card_reaches_what_it_has_whoever_drives() {
    let card = Card::new(0, NicConfig::default(), Tester::new(64));
    card.serve(true);
    let rig = Rig::start(Settings {
        domains: vec![driver()],
        functions: vec![card],
        devices: devices::CLASSES,
        packet_buffers: 1024,
        longest_frame: config().longest_frame(),
        iommu: Iommu::Strict,
        ..Settings::default()
    });
    let net = rig.port::<dyn Net>("ixgbe0", "net");
    let [stop, hold] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (stopped, holding) = (stop.clone(), hold.clone());
    // Sends back what comes; or keeps it, to send it back later.
    let client = rig.spawn(0, move || {
        let mut held = Vec::new();
        while !stopped.load(SeqCst) {
            let Ok(mut queue) = net.open_queue(0) else { continue };
            let mut turn = || {
                let batch = queue.receive(Batch::allocate().ok()?).ok()?;
                held.extend((!batch.is_empty()).then_some(batch));
                for mut batch in held.drain(..if holding.load(SeqCst) { 0 } else { held.len() }) {
                    while !batch.is_empty() {
                        batch = queue.send(batch).ok()?;
                    }
                }
                queue.wait(kernel_core::machine().now() + 1_000_000).ok()
            };
            while !stopped.load(SeqCst) && turn().is_some() {}
        }
    });
    let returned = || card.with(|device| device.nic().wire().returned());
    let send = |frames| card.with(|device| device.nic().wire_mut().allow(frames));
    send(FRAMES);
    rig.until("all frames are back", || returned().frames == FRAMES);
    // Its two rings, and all buffers of the one for receiving but one place.
    let at_rest = 2 + usize::from(config().rx_ring) - 1;
    rig.until("the card has what it receives into", || dma::pieces() == at_rest);

    // What it has given back, it has again as soon as that is to be sent: so that is to take a while.
    hold.store(true, SeqCst);
    card.with(|device| device.nic().inject(Fault::WriteLate { count: 3 }));
    send(FRAMES);
    rig.until("the card has written to what it had given back", || dma::violations() == 3);
    hold.store(false, SeqCst);
    rig.until("all frames are back", || returned().frames == 2 * FRAMES);

    for _ in 0..DEATHS {
        let (before, generation) = (returned().frames, rig.status("ixgbe0").generation);
        send(FRAMES);
        rig.until("some are under way", || returned().frames > before + FRAMES / 4);
        rig.order(Command::Kill, "ixgbe0");
        rig.until_restarted("ixgbe0", generation);
        // What was in the dead one's hands is lost: nobody shadows it here.
        rig.until("the others are back", || returned().frames >= before + FRAMES - Batch::CAPACITY as u64);
    }
    rig.until("the card has as much as before", || dma::pieces() == at_rest);
    assert_eq!((returned().strange, dma::violations()), (0, 3));
    stop.store(true, SeqCst);
    client.join();
}
