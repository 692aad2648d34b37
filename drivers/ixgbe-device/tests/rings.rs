//! The trusted layer against the model: packets both ways, adoption, reset, and what a driver may not do.

mod bench;

use std::sync::Arc;

use bench::{Bench, SORTS, device, frame, number, unfinished};
use interfaces::{
    Cap, RRef,
    device::ixgbe::{DeviceError, IxgbeDevice, LeaseState, Losses, RxRing, TxRing},
    packet::{Batch, PacketFlags},
};
use ixgbe_device::{Hardware, Lease};
use model::control::Fault;

const RING: u16 = 64;
const RXCTRL: u32 = 0x3000;
const DMATXCTL: u32 = 0x4A80;
const SRRCTL: u32 = 0x2100;
const DROP_EN: u32 = 1 << 28;
const HLREG0: u32 = 0x4240;
const JUMBOEN: u32 = 1 << 2;
const MAXFRS: u32 = 0x4268;
const RDBAL: u32 = 0x1000;
const TDBAL: u32 = 0x6000;

/// What the driver does at least, for one queue pair.
fn bring_up(lease: &Arc<Lease<Bench>>) -> (Cap<dyn RxRing>, Cap<dyn TxRing>) {
    let device = device(lease);
    device.reset_lease().unwrap();
    let rx = device.rx_ring(0, RING, None).unwrap();
    device.write(DMATXCTL, 1).unwrap();
    let tx = device.tx_ring(0, RING, None).unwrap();
    device.write(RXCTRL, 1).unwrap();
    device.set_live(1, 1).unwrap();
    (rx, tx)
}

fn receive(rx: &mut Cap<dyn RxRing>) -> RRef<Batch> {
    let mut batch = Batch::allocate().unwrap();
    rx.receive(&mut batch, Batch::CAPACITY).unwrap();
    batch
}

/// Polls in vain until the lease believes that nothing has piled up.
fn poll_until_drained(bench: &Bench, rx: &mut Cap<dyn RxRing>) {
    while bench.nic().read32(SRRCTL) & DROP_EN == 0 {
        assert!(receive(rx).is_empty());
    }
}

/// Polls in vain for longer than the lease thinks that something may have piled up.
fn poll_for_long(rx: &mut Cap<dyn RxRing>) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(3) {
        assert!(receive(rx).is_empty());
    }
}

fn numbers(batch: &RRef<Batch>) -> Vec<u32> {
    batch.packets().iter().map(|packet| number(packet.data())).collect()
}

#[test]
fn a_received_batch_is_sent_again_byte_for_byte_without_a_copy() {
    let bench = Bench::new(256);
    let (mut rx, mut tx) = bring_up(&bench.lease());
    for at in 0..10 {
        bench.peer_send(&frame(0, at, 60 + 100 * at as usize));
    }
    bench.process();
    let mut batch = receive(&mut rx);
    assert_eq!(numbers(&batch), (0..10).collect::<Vec<_>>());
    let taken_out = 256 - bench.pool.available();
    assert_eq!(tx.send(&mut batch), Ok(10));
    assert!(batch.is_empty());
    assert_eq!(256 - bench.pool.available(), taken_out, "the buffers went from batch to ring");
    for at in 0..10 {
        assert_eq!(bench.peer_receive().unwrap(), frame(0, at, 60 + 100 * at as usize));
    }
    assert_eq!(tx.reclaim(), Ok(0));
    assert_eq!(256 - bench.pool.available(), usize::from(RING) - 1, "only what is posted is out");
    assert_eq!((rx.counts().packets, tx.counts().packets), (10, 10));
    assert_eq!(bench.violations(), 0);
}

#[test]
fn one_tail_write_a_batch() {
    let bench = Bench::new(256);
    let (mut rx, mut tx) = bring_up(&bench.lease());
    (0..16).for_each(|_| drop(receive(&mut rx)));
    (0..32).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let before = bench.register_writes();
    let mut batch = receive(&mut rx);
    assert_eq!((batch.len(), bench.register_writes() - before), (32, 1));
    tx.send(&mut batch).unwrap();
    assert_eq!(bench.register_writes() - before, 2);
    assert_eq!(receive(&mut rx).len(), 0);
    assert_eq!(bench.register_writes() - before, 2, "an empty poll touches no register");
}

#[test]
fn rings_wrap_many_times_with_batches_of_all_sizes() {
    let bench = Bench::new(256);
    let (mut rx, mut tx) = bring_up(&bench.lease());
    let mut next = 0;
    for round in 0..400u32 {
        let count = round % 33;
        (0..count).for_each(|at| bench.peer_send(&frame(0, next + at, 60)));
        bench.process();
        let mut batch = receive(&mut rx);
        assert_eq!(numbers(&batch), (next..next + count).collect::<Vec<_>>());
        assert_eq!(tx.send(&mut batch), Ok(count as usize));
        for at in 0..count {
            assert_eq!(number(&bench.peer_receive().unwrap()), next + at);
        }
        next += count;
    }
    assert_eq!(bench.violations(), 0);
}

#[test]
fn a_full_transmit_ring_leaves_the_rest_in_the_batch_in_order() {
    let bench = Bench::new(256);
    let (mut rx, mut tx) = bring_up(&bench.lease());
    bench.nic().set_cable(false);
    let mut sent = 0;
    let mut batch = Batch::allocate().unwrap();
    while batch.is_empty() {
        assert_eq!(batch.fill(20), 20);
        for (at, mut packet) in (0..).zip(batch.packets_mut()) {
            packet.set_len(60);
            packet.data_mut().copy_from_slice(&frame(0, sent as u32 + at, 60));
        }
        sent += tx.send(&mut batch).unwrap();
    }
    assert_eq!(sent, usize::from(RING) - 1);
    assert_eq!(numbers(&batch), (sent as u32..80).collect::<Vec<_>>());
    assert_eq!(tx.send(&mut batch), Ok(0));
    bench.nic().set_cable(true);
    bench.process();
    assert_eq!(tx.send(&mut batch), Ok(80 - sent));
    for at in 0..80 {
        assert_eq!(number(&bench.peer_receive().unwrap()), at);
    }
    assert_eq!(receive(&mut rx).len(), 0);
    assert_eq!(bench.violations(), 0);
}

/// Adds a packet to a batch.
fn push(batch: &mut RRef<Batch>, frame: &[u8], flags: PacketFlags) {
    assert_eq!(batch.fill(1), 1);
    let last = batch.len() - 1;
    let mut packets = batch.packets_mut();
    let mut packet = packets.get(last).unwrap();
    packet.set_len(frame.len());
    packet.data_mut().copy_from_slice(frame);
    packet.set_flags(flags);
}

/// The device fills in the checksums that packets ask for, and no others, whatever sorts of frames follow each other, many times round a ring that whoever comes next adopts.
#[test]
fn checksums_are_filled_in_where_packets_ask_for_them() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (_rx, mut tx) = bring_up(&lease);
    let mut number = 0;
    for round in 0..200 {
        let (mut batch, mut expected) = (Batch::allocate().unwrap(), Vec::new());
        for _ in 0..round % 33 {
            number += 1;
            // Runs of a sort, and each sort behind each other.
            let sort = SORTS[(number / 3 + number * number / 7) as usize % SORTS.len()];
            let (left, filled) = unfinished(sort, number, 80 + number as usize % 100);
            push(&mut batch, &left, sort);
            expected.push(filled);
        }
        while !batch.is_empty() {
            tx.send(&mut batch).unwrap();
        }
        expected.iter().for_each(|filled| assert_eq!(bench.peer_receive().as_ref(), Some(filled), "round {round}"));
        if round % 5 == 0 {
            drop(tx);
            tx = device(&lease).tx_ring(0, RING, None).unwrap();
        }
    }
    assert_eq!((tx.reclaim(), tx.counts().packets), (Ok(0), u64::from(number)));
    assert_eq!(bench.pool.available() + lease.buffers(), 256);
    assert_eq!(bench.violations(), 0);
}

/// Fills a batch with frames that the device must be told about, each.
fn offer(batch: &mut RRef<Batch>, expected: &mut Vec<Vec<u8>>) {
    while batch.len() < Batch::CAPACITY {
        let number = expected.len() as u32;
        let sort = SORTS[number as usize % 2];
        let (left, filled) = unfinished(sort, number, 90);
        push(batch, &left, sort);
        expected.push(filled);
    }
}

/// What the device is told about frames takes places in the ring, but is no frame: not in what is in flight, nor in what a reset has lost; and a ring that is full of both loses nothing.
#[test]
fn what_the_device_is_told_is_no_frame() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (rx, mut tx) = bring_up(&lease);
    bench.nic().set_cable(false);
    let mut batch = Batch::allocate().unwrap();
    let mut expected = Vec::new();
    offer(&mut batch, &mut expected);
    // Of 63 places each takes two, and one is left.
    assert_eq!(tx.send(&mut batch), Ok(31));
    offer(&mut batch, &mut expected);
    assert_eq!((tx.send(&mut batch), tx.reclaim()), (Ok(0), Ok(31)));
    assert_eq!(bench.pool.available() + lease.buffers() + batch.len(), 256);
    // One that the device needn't be told about still finds its place.
    let mut plain = Batch::allocate().unwrap();
    push(&mut plain, &frame(0, 7, 60), PacketFlags::empty());
    assert_eq!((tx.send(&mut plain), tx.send(&mut batch)), (Ok(1), Ok(0)));
    bench.nic().set_cable(true);
    bench.process();
    assert_eq!(tx.send(&mut batch), Ok(31));
    let sent: Vec<_> = std::iter::from_fn(|| bench.peer_receive()).collect();
    assert_eq!((&sent[..31], &sent[31], &sent[32..]), (&expected[..31], &frame(0, 7, 60), &expected[31..62]));

    bench.nic().set_cable(false);
    offer(&mut batch, &mut expected);
    assert_eq!(tx.send(&mut batch), Ok(31));
    drop((rx, tx));
    let device = device(&lease);
    device.reset_lease().unwrap();
    assert_eq!(device.losses().unsent, 31);
    assert_eq!(bench.pool.available() + batch.len(), 256);
    assert_eq!(bench.violations(), 0);
}

/// A client that asks for checksums of a frame that has no place for them gets none, and the device never hears of it.
#[test]
fn frames_too_short_for_their_checksums_are_dropped_and_counted() {
    let bench = Bench::new(128);
    let (_rx, mut tx) = bring_up(&bench.lease());
    let before = bench.pool.available();
    let mut batch = Batch::allocate().unwrap();
    for (sort, shortest) in SORTS.into_iter().zip([54, 42, 34, 74, 62]) {
        push(&mut batch, &vec![0; shortest - 1], sort);
    }
    assert_eq!((tx.send(&mut batch), bench.peer_receive()), (Ok(5), None));
    assert_eq!((tx.counts().packets, tx.counts().errors), (0, 5));
    assert_eq!(bench.pool.available(), before);
}

#[test]
fn packets_too_short_for_a_frame_are_dropped_and_counted() {
    let bench = Bench::new(128);
    let (_rx, mut tx) = bring_up(&bench.lease());
    let before = bench.pool.available();
    let mut batch = Batch::allocate().unwrap();
    batch.fill(3);
    batch.packets_mut().get(1).unwrap().set_len(60);
    assert_eq!(tx.send(&mut batch), Ok(3));
    assert_eq!((tx.counts().packets, tx.counts().errors), (1, 2));
    assert_eq!(bench.peer_receive().map(|frame| frame.len()), Some(60));
    tx.reclaim().unwrap();
    assert_eq!(bench.pool.available(), before);
}

#[test]
fn an_empty_pool_shortens_the_ring_and_it_recovers() {
    let bench = Bench::new(usize::from(RING) - 1 + 8);
    let lease = bench.lease();
    let (mut rx, _tx) = bring_up(&lease);
    device(&lease).set_live(2, 2).unwrap();
    poll_until_drained(&bench, &mut rx);
    (0..20).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let batch = receive(&mut rx);
    assert_eq!((batch.len(), bench.pool.available()), (20, 0));
    assert!(rx.counts().no_buffer > 0);
    // 51 are posted now; all that comes is still received.
    (20..80).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    drop(batch);
    let mut got = Vec::new();
    for _ in 0..4 {
        got.extend(numbers(&receive(&mut rx)));
        bench.process();
    }
    assert_eq!(
        got,
        (20..71).collect::<Vec<_>>(),
        "what was beyond the posted buffers was dropped by the device (DROP_EN)"
    );
    assert_eq!(bench.pool.available(), 8);
    assert_eq!(bench.violations(), 0);
}

/// The point of a lease: a driver that dies amid traffic loses no packet, as long as ring and packet buffer hold what comes.
#[test]
fn adoption_amid_traffic_loses_nothing() {
    let bench = Bench::new(512);
    let lease = bench.lease();
    let (mut rx, mut tx) = bring_up(&lease);
    device(&lease).set_live(2, 2).unwrap();
    (0..40).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut batch = receive(&mut rx);
    assert_eq!(tx.send(&mut batch), Ok(32));
    // The generation dies; its handles are dropped by reclaim. Traffic goes on, beyond what is posted.
    drop((rx, tx, batch));
    assert_eq!(bench.nic().read32(SRRCTL) & DROP_EN, 0, "frames wait in the packet buffer now");
    (40..400).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let device = device(&lease);
    assert_eq!(device.lease(), LeaseState::Live { rx_queues: 2, tx_queues: 2 });
    let writes = bench.register_writes();
    let (mut rx, mut tx) = (device.rx_ring(0, RING, None).unwrap(), device.tx_ring(0, RING, None).unwrap());
    assert_eq!(bench.register_writes(), writes, "adoption touches nothing");
    let mut got = Vec::new();
    while got.len() < 400 - 32 {
        let mut batch = receive(&mut rx);
        assert!(!batch.is_empty(), "lost after {got:?}");
        got.extend(numbers(&batch));
        tx.send(&mut batch).unwrap();
        bench.process();
    }
    assert_eq!(got, (32..400).collect::<Vec<_>>());
    assert_eq!(
        bench.nic().read32(SRRCTL) & DROP_EN,
        0,
        "what a poller finds now says nothing: more of the pile may be about to come"
    );
    poll_until_drained(&bench, &mut rx);
    let counters = bench.nic().counters();
    assert_eq!((counters.rx_wire, counters.rx_delivered), (400, 400));
    assert_eq!(rx.counts().packets, 400, "counts go on over generations");
    assert_eq!(bench.violations(), 0);
}

/// At nine tenths of the driver's speed a pile goes down by a tenth of what is received: nothing of it is dropped meanwhile, however much that is, and however long the driver had to wait for
/// its CPU.
#[test]
fn a_pile_under_load_is_not_dropped() {
    const PILE: u32 = 8_000;
    let bench = Bench::new(512);
    let lease = bench.lease();
    let (rx, _tx) = bring_up(&lease);
    let device = device(&lease);
    device.set_live(2, 2).unwrap();
    drop(rx);
    (0..PILE).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut rx = device.rx_ring(0, RING, None).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(3));
    let (mut sent, mut got) = (PILE, 0);
    while got < sent {
        let batch = receive(&mut rx);
        assert!(numbers(&batch).into_iter().eq(got..got + batch.len() as u32), "something before frame {got} is lost");
        got += batch.len() as u32;
        // More than a packet buffer and a ring can hold in all, and then what is left.
        let more = if sent < 5 * PILE { 29 } else { 0 };
        (sent..sent + more).for_each(|at| bench.peer_send(&frame(0, at, 60)));
        sent += more;
        bench.process();
    }
    assert_eq!(bench.nic().counters().rx_missed(), 0);
}

/// A thread that is still in the lease when its generation has died has no frames dropped; the next generation's may.
#[test]
fn nobody_has_frames_dropped_between_two_generations() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (mut rx, _tx) = bring_up(&lease);
    device(&lease).set_live(2, 2).unwrap();
    lease.hold_frames();
    poll_for_long(&mut rx);
    assert_eq!(bench.nic().read32(SRRCTL) & DROP_EN, 0, "nobody will receive what is dropped");
    drop(rx);
    let mut rx = device(&lease).rx_ring(0, RING, None).unwrap();
    poll_until_drained(&bench, &mut rx);
}

/// With one queue there is nobody to be kept waiting: what finds no descriptor waits in the packet buffer, be it that the driver hangs.
#[test]
fn a_single_queue_drops_nothing_while_the_packet_buffer_lasts() {
    let bench = Bench::new(256);
    let (mut rx, _tx) = bring_up(&bench.lease());
    poll_for_long(&mut rx);
    (0..400).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut got = 0;
    while got < 400 {
        let batch = receive(&mut rx);
        assert!(!batch.is_empty(), "lost after {got}");
        got += batch.len();
        bench.process();
    }
}

#[test]
fn a_ring_is_open_once() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (rx, tx) = bring_up(&lease);
    let device = device(&lease);
    assert!(matches!(device.rx_ring(0, RING, None), Err(DeviceError::Busy)));
    assert!(matches!(device.tx_ring(0, RING, None), Err(DeviceError::Busy)));
    assert_eq!(device.reset_lease(), Err(DeviceError::Busy));
    assert_eq!(device.lease(), LeaseState::Live { rx_queues: 1, tx_queues: 1 }, "a refused reset changes nothing");
    drop((rx, tx));
    assert!(device.rx_ring(0, RING, None).is_ok());
}

#[test]
fn reset_gives_every_buffer_back_and_counts_what_is_lost() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    drop(bring_up(&lease));
    (0..5).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    assert_eq!(lease.buffers(), usize::from(RING) - 1);
    assert_eq!(device(&lease).reset_lease(), Ok(()));
    assert_eq!(device(&lease).losses(), Losses { resets: 1, received: 5, unsent: 0 });
    assert_eq!((bench.pool.available(), lease.buffers()), (256, 0));
    assert_eq!(device(&lease).lease(), LeaseState::Fresh);
    // What comes now goes nowhere; and the device can be brought up again.
    bench.peer_send(&frame(0, 0, 60));
    bench.process();
    let (mut rx, _tx) = bring_up(&lease);
    bench.peer_send(&frame(0, 7, 60));
    bench.process();
    assert_eq!(numbers(&receive(&mut rx)), [7]);
    assert_eq!(bench.violations(), 0);
}

/// Buffers leave the lease only when the device can't reach them, whether or not it obeyed when its queues were disabled.
#[test]
fn the_device_is_master_of_the_bus_only_while_it_has_rings() {
    let bench = Bench::new(256);
    bench.set_bus_master(true);
    let lease = bench.lease();
    assert!(!bench.is_bus_master(), "whatever firmware has left running is stopped");
    device(&lease).reset_lease().unwrap();
    assert!(!bench.is_bus_master());
    drop(bring_up(&lease));
    assert!(bench.is_bus_master());
    device(&lease).reset_lease().unwrap();
    assert!(!bench.is_bus_master());
}

#[test]
fn no_ring_before_a_reset() {
    let bench = Bench::new(256);
    let device = device(&bench.lease());
    assert!(matches!(device.rx_ring(0, RING, None), Err(DeviceError::NotReset)));
    assert!(matches!(device.tx_ring(0, RING, None), Err(DeviceError::NotReset)));
    assert_eq!(bench.pool.available(), 256);
}

#[test]
fn wrong_lengths_queues_and_registers_are_refused() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let device = device(&lease);
    device.reset_lease().unwrap();
    for length in [0, 7, 12, 4104] {
        assert!(matches!(device.rx_ring(0, length, None), Err(DeviceError::WrongLength)), "{length}");
        assert!(matches!(device.tx_ring(0, length, None), Err(DeviceError::WrongLength)), "{length}");
    }
    assert!(matches!(device.rx_ring(16, RING, None), Err(DeviceError::NoSuchQueue)));
    assert!(
        matches!(device.queue_interrupt(bench::QUEUES), Err(DeviceError::NoSuchQueue)),
        "the last vector is not a queue's"
    );
    for register in [RDBAL, TDBAL, 0, 0x900, 1, 0x2_0000, u32::MAX] {
        assert_eq!(device.write(register, 1), Err(DeviceError::ForbiddenRegister));
    }
    assert_eq!(device.read(0x2_0000), Err(DeviceError::ForbiddenRegister));
    assert_eq!(bench.pool.available(), 256);
}

/// The device is told how large buffers are, and goes by it whatever else is said of a queue: a frame of that length is one packet, a longer one is none, and nothing behind a buffer is written.
#[test]
fn a_buffer_of_any_size_is_filled_to_its_end() {
    for bytes in [2 << 10, 9 << 10, 15 << 10] {
        let bench = Bench::with_buffers_of(bytes, model::NicConfig::default().device, 256);
        let lease = bench.lease();
        let (mut rx, mut tx) = bring_up(&lease);
        let device = device(&lease);
        device.write(HLREG0, device.read(HLREG0).unwrap() | JUMBOEN).unwrap();
        device.write(MAXFRS, 15_872 << 16).unwrap();
        for round in 0..2 {
            assert_eq!(bench.nic().read32(SRRCTL) & 0x3F1F, u32::from(bytes >> 10), "size, and no header split");
            let longest = frame(0, round, bytes.into());
            for frame in [frame(0, 100, usize::from(bytes) + 1), longest.clone(), frame(0, 200, 60)] {
                bench.peer_send(&frame);
            }
            bench.process();
            let mut batch = receive(&mut rx);
            assert_eq!(numbers(&batch), [round, 200], "buffers of {bytes} bytes");
            assert_eq!(tx.send(&mut batch).unwrap(), 2);
            bench.process();
            assert!(bench.peer_receive() == Some(longest) && bench.peer_receive().is_some());
            // As when the driver dies.
            lease.hold_frames();
        }
        assert_eq!((rx.counts().errors, bench.violations()), (2, 0), "too long ones");
    }
}

/// A device that writes back a length its buffer can't hold is caught before anybody reads it; the next generation resets.
#[test]
fn a_bogus_length_is_a_lie() {
    for (bytes, length) in [(2 << 10, 0), (2 << 10, (2 << 10) + 1), (2 << 10, 0xFFFF), (9 << 10, (9 << 10) + 1)] {
        let bench = Bench::with_buffers_of(bytes, model::NicConfig::default().device, 256);
        let lease = bench.lease();
        let (mut rx, tx) = bring_up(&lease);
        bench.peer_send(&frame(0, 1, 60));
        bench.process();
        bench.nic().inject(Fault::CorruptLength { count: 1, length });
        bench.peer_send(&frame(0, 2, 60));
        bench.process();
        assert_eq!(numbers(&receive(&mut rx)), [1], "what came before the lie is good");
        let mut batch = Batch::allocate().unwrap();
        assert_eq!(rx.receive(&mut batch, 32), Err(DeviceError::Lied));
        assert!(rx.ready(), "so that nobody sleeps over it");
        assert!(batch.is_empty());
        assert_eq!(device(&lease).lease(), LeaseState::Suspect);
        drop((rx, tx, batch));
        assert!(matches!(
            device(&lease).rx_ring(0, RING, None).map(|mut rx| rx.receive(&mut Batch::allocate().unwrap(), 1)),
            Ok(Err(DeviceError::Lied))
        ));
        device(&lease).reset_lease().unwrap();
        assert_eq!(bench.pool.available(), 256);
        assert_eq!(bench.violations(), 0);
    }
}

/// Write-backs that are repeated, early or missing give at worst a packet of old bytes in a buffer that is ours, never another's buffer.
#[test]
fn a_repeated_write_back_reaches_no_other_buffer() {
    let bench = Bench::new(256);
    let (mut rx, _tx) = bring_up(&bench.lease());
    bench.peer_send(&frame(0, 1, 60));
    bench.process();
    let written = bench.descriptor(RDBAL, 0);
    assert_eq!(receive(&mut rx).len(), 1);
    for at in 0..u64::from(RING) {
        bench.overwrite(RDBAL, at, written);
    }
    let mut total = 0;
    loop {
        let batch = receive(&mut rx);
        if batch.is_empty() {
            break;
        }
        assert!(batch.packets().iter().all(|packet| packet.data().len() == 60));
        total += batch.len();
    }
    assert!(total >= usize::from(RING) - 1 && total <= 2 * usize::from(RING), "each posted buffer once: {total}");
    assert_eq!(bench.pool.available(), 256 - (usize::from(RING) - 1));
}

#[test]
fn a_missing_write_back_stalls_the_ring_until_its_reset() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (mut rx, tx) = bring_up(&lease);
    bench.nic().inject(Fault::SkipWriteBack { count: 1 });
    (0..3).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    assert_eq!(receive(&mut rx).len(), 0);
    drop((rx, tx));
    device(&lease).reset_lease().unwrap();
    assert_eq!(device(&lease).losses().received, 3, "the one that was never reported among them");
    assert_eq!(bench.pool.available(), 256);
}

#[test]
fn a_device_that_has_left_the_bus_is_noticed_and_gets_nothing() {
    let bench = Bench::new(256);
    let lease = bench.lease();
    let (rx, tx) = bring_up(&lease);
    bench.nic().inject(Fault::AllOnes(true));
    assert_eq!(device(&lease).read(8), Err(DeviceError::Vanished));
    assert_eq!(device(&lease).lease(), LeaseState::Suspect);
    drop((rx, tx));
    assert_eq!(device(&lease).reset_lease(), Err(DeviceError::Vanished));
    assert_eq!(bench.pool.available(), 256, "its buffers are ours again, since it is cut off");
    assert!(device(&lease).rx_ring(0, RING, None).is_err());
    bench.nic().inject(Fault::AllOnes(false));
    device(&lease).reset_lease().unwrap();
    let (mut rx, _tx) = bring_up(&lease);
    bench.peer_send(&frame(0, 9, 60));
    bench.process();
    assert_eq!(numbers(&receive(&mut rx)), [9]);
    assert_eq!(bench.violations(), 0);
}

#[test]
fn frames_longer_than_a_buffer_and_damaged_ones_are_dropped_whole() {
    let bench = Bench::new(256);
    let (mut rx, _tx) = bring_up(&bench.lease());
    const DONE: u64 = 1;
    const END: u64 = 2;
    const DAMAGED: u64 = 1 << 29;
    let length = |bytes: u64| bytes << 32;
    bench.overwrite(RDBAL, 0, [0, length(2048) | DONE]);
    bench.overwrite(RDBAL, 1, [0, length(2048) | DONE]);
    bench.overwrite(RDBAL, 2, [0, length(100) | DONE | END]);
    bench.overwrite(RDBAL, 3, [0, length(100) | DONE | END | DAMAGED]);
    bench.overwrite(RDBAL, 4, [0, length(64) | DONE | END]);
    let batch = receive(&mut rx);
    assert_eq!(batch.packets().iter().map(|packet| packet.data().len()).collect::<Vec<_>>(), [64]);
    assert_eq!(rx.counts().errors, 2, "one long frame, one damaged one");
    assert_eq!(bench.pool.available(), 256 - (usize::from(RING) - 1) - 1);
}

/// In a strict box the device reaches a buffer from before it is posted until it has been reported as done: then no more, whatever the device still does with it. Whoever drives, it is so.
#[test]
fn in_a_strict_box_a_buffer_is_in_reach_while_the_device_has_it() {
    let bench = Bench::strict(256);
    let lease = bench.lease();
    let (mut rx, mut tx) = bring_up(&lease);
    let posted = usize::from(RING) - 1;
    assert_eq!(bench.pool.granted(), posted);
    bench.nic().inject(Fault::WriteLate { count: 1 });
    (0..10).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut batch = receive(&mut rx);
    bench.process();
    assert_eq!(bench.violations(), 1, "it has written to a buffer again that is in a batch by now, and was refused");
    assert_eq!((numbers(&batch), bench.pool.granted()), ((0..10).collect(), posted));
    bench.nic().set_cable(false);
    assert_eq!((tx.send(&mut batch), bench.pool.granted()), (Ok(10), posted + 10));
    drop((rx, tx));
    assert_eq!(bench.pool.granted(), posted + 10, "a dead driver's buffers are the device's still");
    bench.nic().set_cable(true);
    bench.process();
    let device = device(&lease);
    let (rx, mut tx) = (device.rx_ring(0, RING, None).unwrap(), device.tx_ring(0, RING, None).unwrap());
    assert_eq!((tx.reclaim(), bench.pool.granted()), (Ok(0), posted));
    drop((rx, tx));
    device.reset_lease().unwrap();
    assert_eq!((bench.pool.granted(), bench.pool.available(), bench.violations()), (0, 256, 1));
}

/// Granting and revoking go by the batch: the IOMMU is told once, however many packets come or go.
#[test]
fn in_a_strict_box_buffers_are_granted_and_revoked_by_the_batch() {
    let bench = Bench::strict(256);
    let (mut rx, mut tx) = bring_up(&bench.lease());
    let before = bench.grants_and_revocations();
    let since = || {
        let (grants, revocations) = bench.grants_and_revocations();
        (grants - before.0, revocations - before.1)
    };
    (0..16).for_each(|_| drop(receive(&mut rx)));
    assert_eq!((tx.reclaim(), since()), (Ok(0), (0, 0)), "in vain");
    (0..32).for_each(|at| bench.peer_send(&frame(0, at, 60)));
    bench.process();
    let mut batch = receive(&mut rx);
    assert_eq!((batch.len(), since()), (32, (1, 1)), "what was received, and what takes its place");
    assert_eq!((tx.send(&mut batch), since()), (Ok(32), (2, 1)));
    bench.process();
    assert_eq!((tx.reclaim(), since()), (Ok(0), (2, 2)));
}

/// A buffer for which the IOMMU has no room is never posted: a ring is as long as there is room for it, or isn't opened; what can't be sent is dropped and counted, and no harm to what comes behind.
#[test]
fn what_the_iommu_has_no_room_for_is_never_posted() {
    let bench = Bench::strict(256);
    let lease = bench.lease();
    bench.pool.set_room(0);
    let device = device(&lease);
    device.reset_lease().unwrap();
    assert!(matches!(device.rx_ring(0, RING, None), Err(DeviceError::NoMemory)));
    assert_eq!((bench.pool.available(), lease.buffers()), (256, 0));
    device.reset_lease().unwrap();
    bench.pool.set_room(40);
    let mut rx = device.rx_ring(0, RING, None).unwrap();
    device.write(DMATXCTL, 1).unwrap();
    let mut tx = device.tx_ring(0, RING, None).unwrap();
    device.write(RXCTRL, 1).unwrap();
    assert_eq!((bench.pool.granted(), lease.buffers(), rx.counts().no_buffer), (32, 32, 1));
    let (mut batch, mut expected) = (Batch::allocate().unwrap(), Vec::new());
    offer(&mut batch, &mut expected);
    assert_eq!((tx.send(&mut batch), tx.reclaim(), tx.counts().errors), (Ok(31), Ok(0), 31));
    assert_eq!((bench.pool.granted(), bench.peer_receive()), (32, None));
    batch.clear();
    bench.pool.set_room(usize::MAX);
    assert!(receive(&mut rx).is_empty());
    assert_eq!(lease.buffers(), usize::from(RING) - 1, "the ring is whole again");
    expected.clear();
    offer(&mut batch, &mut expected);
    assert_eq!(tx.send(&mut batch), Ok(31));
    expected[..31].iter().for_each(|filled| assert_eq!(bench.peer_receive().as_ref(), Some(filled)));
    tx.reclaim().unwrap();
    assert_eq!((bench.pool.available() + lease.buffers() + batch.len(), bench.violations()), (256, 0));
}
