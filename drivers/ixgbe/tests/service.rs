//! The driver domain over the trusted layer and the model: start, traffic, waiting, link, and what an operator sees.

#[path = "../../ixgbe-device/tests/bench/mod.rs"]
mod bench;
mod generation;

use std::time::{Duration, Instant};

use bench::{Bench, SORTS, frame, number, unfinished};
use generation::{Generation, receive};
use interfaces::{
    RRef,
    config::Configuration,
    control::{ControlError, Text},
    device::ixgbe::Identity,
    net::{Link, MacAddress, NetError},
    packet::{Batch, PacketFlags, buffer_for},
};
use ixgbe::Config;
use model::NicConfig;
use runtime::time::now;

const CPUS: [u32; 2] = [0, 1];
const BUFFERS: usize = 2048;

fn start(bench: &Bench) -> Generation {
    Generation::start(&bench.lease(), &CPUS, Config::default()).unwrap()
}

/// What `condition` says must come true, soon.
fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < limit, "{what}: not within 5 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_start_shows_address_queues_and_link() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let info = driver.net.info().unwrap();
    assert_eq!(info.mac, MacAddress(NicConfig::default().mac));
    assert_eq!((info.queues, info.max_frame), (2, 1514));
    soon("link up", || driver.net.info().unwrap().link == Link::Up { mbps: 10_000 });
    assert!(matches!(driver.net.open_queue(2), Err(NetError::NoSuchQueue)));
}

/// Each kind of medium comes up and carries traffic; and is adopted by the next generation.
#[test]
fn members_of_the_family() {
    use model::pci::device::{KX4, SFP, X540, X550};
    for device in [SFP, KX4, X540, X550] {
        let bench = Bench::with_device(device, BUFFERS);
        let lease = bench.lease();
        for generation in 0..2 {
            let driver = Generation::start(&lease, &CPUS[..1], Config::default()).unwrap();
            bench.process();
            soon("link up", || driver.net.info().unwrap().link == Link::Up { mbps: 10_000 });
            let mut queue = driver.open(0);
            bench.peer_send(&frame(0, generation, 60));
            bench.process();
            let batch = receive(&mut queue);
            assert_eq!(
                batch.packets().iter().map(|packet| number(packet.data())).collect::<Vec<_>>(),
                [generation],
                "{device:04x}"
            );
            assert!(queue.send(batch).unwrap().is_empty());
            assert_eq!(bench.peer_receive().map(|frame| number(&frame)), Some(generation), "{device:04x}");
        }
        assert_eq!(bench.violations(), 0);
    }
}

/// Of frames to other stations and to groups those are taken that the manifest names, and the rest isn't; what is named is filtered by the card, not by us.
#[test]
fn only_what_the_manifest_names_gets_through() {
    let to = |mac: [u8; 6]| {
        let mut frame = frame(0, 1, 60);
        frame[..6].copy_from_slice(&mac);
        frame
    };
    let own = NicConfig::default().mac;
    let (station, group) = ([2, 0, 0, 0, 0, 7], [1, 0, 0x5E, 0, 0x10, 0xFB]);
    let frames =
        [to(own), to([0xFF; 6]), to(station), to([2, 0, 0, 0, 0, 8]), to(group), to([1, 0, 0x5E, 0, 0x10, 0xEB])];
    let named =
        Config { stations: vec![ixgbe::Station(station)], groups: vec![ixgbe::Station(group)], ..Config::default() };
    let cases = [
        (Config::default(), [true, true, false, false, false, false]),
        (named.clone(), [true, true, true, false, true, false]),
        (Config { multicast: true, ..named.clone() }, [true, true, true, false, true, true]),
        (Config { promiscuous: true, ..Config::default() }, [true; 6]),
    ];
    for (config, expected) in cases {
        let bench = Bench::new(BUFFERS);
        let driver = Generation::start(&bench.lease(), &CPUS[..1], config.clone()).unwrap();
        let mut queue = driver.open(0);
        let taken = frames.each_ref().map(|frame| {
            bench.peer_send(frame);
            bench.process();
            let batch = receive(&mut queue);
            assert!(batch.packets().iter().all(|packet| packet.data() == frame), "as it was sent");
            batch.len() == 1
        });
        assert_eq!(taken, expected, "{config:?}");
    }
}

/// A box in a VLAN knows nothing of tags: the card takes them out of what comes and puts them into what goes, whichever generation drives it, and what is of no VLAN or another is dropped.
#[test]
fn a_box_in_a_vlan_sees_no_tags() {
    let bench = Bench::new(BUFFERS);
    let lease = bench.lease();
    let config = Config { vlan: Some(10), tx_ring: 64, ..Config::default() };
    let tagged = |tag: [u8; 2], number| {
        let plain = frame(0, number, 100);
        [&plain[..12], &[0x81, 0x00], &tag, &plain[12..]].concat()
    };
    let mut number = 0;
    for _ in 0..3 {
        let driver = Generation::start(&lease, &CPUS[..1], config.clone()).unwrap();
        assert_eq!(driver.net.info().unwrap().max_frame, 1514);
        let mut queue = driver.open(0);
        // More rounds than the ring has places, so that the context is not in it any more.
        for _ in 0..40 {
            number += 1;
            // In the VLAN, with a priority; in another; in none, as broadcasts are that are to everybody.
            let [mine, others, plain] = [tagged([0x60, 10], number), tagged([0, 11], number), frame(0, number, 100)];
            [&mine, &others, &plain].into_iter().for_each(|frame| bench.peer_send(frame));
            bench.process();
            let batch = receive(&mut queue);
            assert_eq!(
                batch.packets().iter().map(|packet| packet.data()).collect::<Vec<_>>(),
                [&frame(0, number, 100)]
            );
            assert!(queue.send(batch).unwrap().is_empty());
            assert_eq!(bench.peer_receive(), Some(tagged([0, 10], number)));
            assert_eq!(bench.peer_receive(), None);
        }
        queue.wait(now()).unwrap();
        assert_eq!(
            driver.counter("queue.0.rx.errors"),
            u64::from(number),
            "the card itself drops those of another VLAN"
        );
        assert_eq!(bench.pool.available() + lease.buffers(), BUFFERS, "a context is no buffer");
        drop(queue);
        driver.crash();
    }
    assert_eq!(bench.violations(), 0);
}

/// Checksums that a client leaves to the card are filled in, whichever generation drives it, in a VLAN, too.
#[test]
fn checksums_are_filled_in_whichever_generation_drives() {
    for vlan in [None, Some(10)] {
        let bench = Bench::new(BUFFERS);
        let lease = bench.lease();
        let mut number = 0;
        for _ in 0..4 {
            let driver = Generation::start(&lease, &CPUS[..1], Config { vlan, ..Config::default() }).unwrap();
            assert!(driver.net.info().unwrap().fills_checksums);
            let mut queue = driver.open(0);
            // The next generation begins where this one stops: with a sort that the device hasn't been told of, or has.
            for sort in SORTS.into_iter().cycle().skip(number as usize / 7).take(7) {
                number += 1;
                let (left, mut filled) = unfinished(sort, number, 100);
                let mut batch = Batch::allocate().unwrap();
                batch.fill(1);
                let mut packets = batch.packets_mut();
                let mut packet = packets.get(0).unwrap();
                packet.set_len(left.len());
                packet.data_mut().copy_from_slice(&left);
                packet.set_flags(sort);
                assert!(queue.send(batch).unwrap().is_empty());
                if let Some(vlan) = vlan {
                    filled.splice(12..12, [0x81, 0x00, 0, vlan as u8]);
                }
                assert_eq!(bench.peer_receive(), Some(filled), "{sort:?}");
            }
            drop(queue);
            driver.crash();
        }
        assert_eq!(bench.violations(), 0);
    }
}

#[test]
fn a_queue_has_one_holder_at_a_time() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let queue = driver.open(1);
    assert!(matches!(driver.net.open_queue(1), Err(NetError::QueueBusy)));
    drop(queue);
    driver.open(1);
}

/// Flows spread over the queues, a flow stays on one, and its answers come to the same one.
#[test]
fn rss_spreads_flows_and_keeps_both_directions_together() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let mut queues = [driver.open(0), driver.open(1)];
    let mut share = [0; 2];
    for flow in 0..256 {
        let there = frame(flow, 1, 60);
        let mut back = there.clone();
        back[26..30].copy_from_slice(&there[30..34]);
        back[30..34].copy_from_slice(&there[26..30]);
        back[34..36].copy_from_slice(&there[36..38]);
        back[36..38].copy_from_slice(&there[34..36]);
        [&there, &there, &back].into_iter().for_each(|frame| bench.peer_send(frame));
        bench.process();
        let counts = queues.each_mut().map(|queue| {
            let batch = receive(queue);
            assert!(
                batch
                    .packets()
                    .iter()
                    .all(|packet| packet.flags.contains(PacketFlags::HASHED | PacketFlags::IP_CHECKSUM_GOOD))
            );
            batch.len()
        });
        assert!(counts == [3, 0] || counts == [0, 3], "flow {flow} is torn: {counts:?}");
        share[usize::from(counts[1] == 3)] += 1;
    }
    assert!(share.iter().all(|flows| *flows >= 64), "{share:?}");
    assert_eq!(bench.violations(), 0);
}

#[test]
fn packets_go_through_in_order_on_both_queues_for_many_rings() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let mut queues = [driver.open(0), driver.open(1)];
    let (mut sent, mut seen) = (0, Vec::new());
    for round in 0..200 {
        for _ in 0..round % 50 {
            // One flow, so that the order is that of the numbers.
            bench.peer_send(&frame(7, sent, 60 + (sent % 1400) as usize));
            sent += 1;
        }
        bench.process();
        for queue in &mut queues {
            let mut batch = receive(queue);
            while !batch.is_empty() {
                batch = queue.send(batch).unwrap();
                assert!(batch.is_empty(), "there is room for all");
                batch = queue.receive(batch).unwrap();
            }
        }
        seen.extend(std::iter::from_fn(|| bench.peer_receive()).map(|frame| number(&frame)));
    }
    assert_eq!(seen, (0..sent).collect::<Vec<_>>());
    assert_eq!(bench.violations(), 0);
}

#[test]
fn waiting_ends_by_a_packet_or_at_the_deadline() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let mut queues = [driver.open(0), driver.open(1)];
    let began = Instant::now();
    queues[0].wait(now() + 30_000_000).unwrap();
    assert!(began.elapsed() >= Duration::from_millis(30));
    let sender = bench.clone();
    let sending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        (0..64).for_each(|flow| sender.peer_send(&frame(flow, 0, 60)));
        sender.process();
    });
    for queue in &mut queues {
        queue.wait(now() + 20_000_000_000).unwrap();
        assert!(!receive(queue).is_empty(), "woken by its own packets");
    }
    assert!(began.elapsed() < Duration::from_secs(10));
    sending.join().unwrap();
    // What has come before the wait ends it at once.
    (0..64).for_each(|flow| bench.peer_send(&frame(flow, 0, 60)));
    bench.process();
    for queue in &mut queues {
        queue.wait(now() + 20_000_000_000).unwrap();
        assert!(!receive(queue).is_empty());
    }
}

#[test]
fn broadcast_is_heard_other_stations_and_groups_only_on_demand() {
    let variants = [(false, false, 2), (true, false, 3), (false, true, 4)];
    for (multicast, promiscuous, expected) in variants {
        let bench = Bench::new(BUFFERS);
        let config = Config { multicast, promiscuous, ..Config::default() };
        let driver = Generation::start(&bench.lease(), &CPUS[..1], config).unwrap();
        let mut queue = driver.open(0);
        for to in [NicConfig::default().mac, [0xFF; 6], [0x01, 0, 0x5E, 0, 0, 1], [0x02, 0, 0, 0, 0, 0x77]] {
            let mut frame = frame(0, 0, 60);
            frame[..6].copy_from_slice(&to);
            bench.peer_send(&frame);
        }
        bench.process();
        assert_eq!(receive(&mut queue).len(), expected, "multicast {multicast}, promiscuous {promiscuous}");
    }
}

/// A bench whose buffers are as large as a builder makes them for this config.
fn bench_for(config: &Config) -> Bench {
    Bench::with_buffers_of(buffer_for(config.longest_frame()), NicConfig::default().device, BUFFERS)
}

const MTUS: [u16; 5] = [1500, 2030, 2031, 9000, 15_850];

/// Frames of full size arrive whole and leave whole, with or without a tag, which is the service's to read; longer ones the card drops and counts.
#[test]
fn the_mtu_counts_without_header_and_tag() {
    for mtu in MTUS {
        let config = Config { mtu, ..Config::default() };
        let bench = bench_for(&config);
        let driver = Generation::start(&bench.lease(), &CPUS[..1], config).unwrap();
        assert_eq!(driver.net.info().unwrap().max_frame, mtu + 14);
        let mut queue = driver.open(0);
        for (number, tag) in [(1, 0), (2, 4)] {
            let of = |length| {
                let mut frame = frame(0, number, length);
                if tag > 0 {
                    frame[12..14].copy_from_slice(&[0x81, 0x00]);
                }
                frame
            };
            let longest = of(usize::from(mtu) + 14 + tag);
            bench.peer_send(&longest);
            bench.peer_send(&of(longest.len() + 1));
            bench.process();
            let batch = receive(&mut queue);
            let received: Vec<_> = batch.packets().iter().map(|packet| packet.data()).collect();
            assert!(received == [&longest[..]], "mtu {mtu}, {tag} bytes of tag: {} received", received.len());
            assert!(queue.send(batch).unwrap().is_empty());
            assert!(bench.peer_receive() == Some(longest), "mtu {mtu}, {tag} bytes of tag");
        }
        soon("too long ones are counted", || driver.counter("device.rx.oversize") == 2);
        assert_eq!(bench.violations(), 0);
    }
}

/// In a VLAN the tag comes on top, both ways.
#[test]
fn the_mtu_counts_without_the_tag_that_the_card_sees_to() {
    for mtu in MTUS {
        let config = Config { mtu, vlan: Some(10), ..Config::default() };
        let bench = bench_for(&config);
        let driver = Generation::start(&bench.lease(), &CPUS[..1], config).unwrap();
        assert_eq!(driver.net.info().unwrap().max_frame, mtu + 14);
        let mut queue = driver.open(0);
        let plain = frame(0, 1, usize::from(mtu) + 14);
        let tagged = [&plain[..12], &[0x81, 0x00, 0, 10], &plain[12..]].concat();
        bench.peer_send(&tagged);
        bench.process();
        let batch = receive(&mut queue);
        assert!(batch.packets().len() == 1 && batch.packets()[0].data() == plain, "mtu {mtu}");
        assert!(queue.send(batch).unwrap().is_empty());
        assert!(bench.peer_receive() == Some(tagged), "mtu {mtu}");
        assert_eq!(bench.violations(), 0);
    }
}

/// A driver whose frames this box's buffers wouldn't hold says so, instead of losing the long ones for ever.
#[test]
fn frames_that_buffers_do_not_hold_are_refused_at_the_start() {
    let config = Config { mtu: 9000, ..Config::default() };
    let refused = Generation::start(&Bench::new(BUFFERS).lease(), &CPUS[..1], config.clone()).map(drop).unwrap_err();
    assert!(refused.0.contains("mtu = 9000") && refused.0.contains("2048"), "{}", refused.0);
    assert!(Generation::start(&bench_for(&config).lease(), &CPUS[..1], config).is_ok());
}

#[test]
fn the_link_is_followed() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    bench.nic().set_cable(false);
    soon("link down", || driver.net.info().unwrap().link == Link::Down);
    bench.nic().set_cable(true);
    bench.process();
    soon("link up", || driver.net.info().unwrap().link == Link::Up { mbps: 10_000 });
    let ask = |line: &str| driver.control.command(RRef::new(Text::new(line)).unwrap());
    assert_eq!(ask("link").unwrap().as_str(), "link up, 10000 Mb/s");
    assert!(ask("device").unwrap().as_str().starts_with("82599 SFP+ 02:00:00:00:00:01"));
    assert!(matches!(ask("dance"), Err(ControlError::UnknownCommand)));
}

#[test]
fn counters_tell_rings_and_device() {
    let bench = Bench::new(BUFFERS);
    let driver = start(&bench);
    let mut queues = [driver.open(0), driver.open(1)];
    (0..100).for_each(|flow| bench.peer_send(&frame(flow, 0, 100)));
    bench.process();
    for queue in &mut queues {
        loop {
            let batch = receive(queue);
            if batch.is_empty() {
                break;
            }
            queue.send(batch).unwrap();
        }
        queue.wait(now()).unwrap();
    }
    let sum = |direction: &str, what: &str| {
        (0..2).map(|at| driver.counter(&format!("queue.{at}.{direction}.{what}"))).sum::<u64>()
    };
    assert_eq!((sum("rx", "packets"), sum("rx", "bytes")), (100, 10_000));
    assert_eq!((sum("tx", "packets"), sum("tx", "bytes")), (100, 10_000));
    soon("the device's own count", || {
        driver.counter("device.rx.packets") == 100 && driver.counter("device.tx.packets") == 100
    });
    assert_eq!(driver.counter("device.rx.bytes"), 100 * 104, "with frame check sequences");
}

#[test]
fn an_unknown_device_is_refused_by_name_of_the_known() {
    let identity = Identity { vendor: 0x8086, device: 0x10B6, revision: 0, vectors: 3 };
    let bench = Bench::new(BUFFERS).with_identity(identity);
    let error = Generation::start(&bench.lease(), &CPUS, Config::default()).err().unwrap();
    assert!(error.0.contains("8086:10b6") && error.0.contains("8086:10fb (82599 SFP+)"), "{}", error.0);
}

#[test]
fn a_card_without_vectors_for_all_queues_is_polled() {
    let identity = Identity { vendor: 0x8086, device: 0x10FB, revision: 0, vectors: 0 };
    let bench = Bench::new(BUFFERS).with_identity(identity);
    let driver = start(&bench);
    let mut queue = driver.open(0);
    let sender = bench.clone();
    let sending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(10));
        (0..64).for_each(|flow| sender.peer_send(&frame(flow, 0, 60)));
        sender.process();
    });
    queue.wait(now() + 20_000_000_000).unwrap();
    assert!(!receive(&mut queue).is_empty());
    sending.join().unwrap();
}

/// A batch comes back from `receive` with what was in it at its front.
#[test]
fn receiving_into_a_batch_that_is_not_empty() {
    let bench = Bench::new(BUFFERS);
    let driver = Generation::start(&bench.lease(), &CPUS[..1], Config::default()).unwrap();
    let mut queue = driver.open(0);
    (0..40).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut batch = Batch::allocate().unwrap();
    batch.fill(30);
    let batch = queue.receive(batch).unwrap();
    assert_eq!(batch.len(), 32);
    assert_eq!(batch.packets()[30..].iter().map(|packet| number(packet.data())).collect::<Vec<_>>(), [0, 1]);
}
