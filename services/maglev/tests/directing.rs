//! The packet path and the planner together, without a kernel: where packets go while backends come, go and are drained, and that every
//! packet is accounted for.

mod stage;

use std::{collections::BTreeMap, sync::Arc};

use maglev::{
    Config,
    connections::{Connections, Lifetimes},
    director::{Director, Verdict},
    drops::DropReason,
    frame::{ArpRequest, Heard},
    plan::{Services, Stage, View},
    planner::{Planner, Wish},
    statistics::CpuCounters,
    table::BackendId,
};
use proptest::prelude::*;
use stage::*;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;

/// A box with some CPUs, and backends 1 to 3 of which some answer ARP.
struct Segment {
    planner: Planner,
    directors: Vec<Director>,
    alive: [bool; 3],
    now: u64,
}

impl Segment {
    fn new(config: Config, cpus: usize, alive: [bool; 3]) -> Segment {
        let config = Arc::new(config);
        let services = Arc::new(Services::new(&config));
        let planner = Planner::new(config.clone(), 0);
        let lifetimes = Lifetimes {
            opening: config.lifetimes.opening.nanos(),
            established: config.lifetimes.established.nanos(),
            closing: config.lifetimes.closing.nanos(),
            reset: config.lifetimes.reset.nanos(),
            datagram: config.lifetimes.datagram.nanos(),
        };
        let director = |_| {
            Director::new(
                BOX,
                services.clone(),
                View::new(planner.published().clone()),
                Connections::new(config.connections as usize, config.backends.len(), lifetimes),
                Arc::new(CpuCounters::new(config.vips.len(), config.backends.len())),
            )
        };
        let directors = (0..cpus).map(director).collect();
        Segment { planner, directors, alive, now: 0 }
    }

    /// One that serves, with all backends alive.
    fn serving() -> Segment {
        let mut segment = Segment::new(config(), 1, [true; 3]);
        segment.run(SECOND);
        assert!(segment.planner.is_serving());
        segment
    }

    /// Lets time pass in steps of 10 ms, with ARP requests answered by those alive.
    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            self.now += 10 * MS;
            let mut requests: Vec<ArpRequest> = vec![];
            for _ in 0..4 {
                self.planner.poll(self.now, |request| {
                    requests.push(request);
                    true
                });
            }
            for request in requests {
                assert_eq!(request.sender, OWN);
                let n = (request.target - address(10)) as u8;
                if self.alive[usize::from(n) - 1] {
                    let verdict = self.direct(0, &mut arp_answer(n));
                    let heard = Heard { address: request.target, mac: backend_mac(n), answer: true };
                    assert_eq!(verdict, Verdict::Learn(heard));
                }
            }
            for director in &mut self.directors {
                director.between_batches(self.now);
            }
        }
    }

    fn direct(&mut self, cpu: usize, frame: &mut [u8]) -> Verdict {
        let verdict = self.directors[cpu].direct(frame, GOOD, self.now);
        if let Verdict::Learn(heard) = verdict {
            self.planner.heard(heard, self.now);
        }
        verdict
    }

    /// Which backend a frame reaches.
    fn reaches(&mut self, mut frame: Vec<u8>) -> Result<u8, DropReason> {
        match self.direct(0, &mut frame) {
            Verdict::Forward => Ok(backend_of(&frame)),
            Verdict::Drop(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn wish(&mut self, n: u16, wish: Wish) {
        self.planner.wish(BackendId(n - 1), wish);
        self.run(100 * MS);
    }

    /// Opens connections of clients `numbers` to the web VIP; client → backend.
    fn open(&mut self, numbers: std::ops::Range<u32>) -> BTreeMap<u32, u8> {
        numbers
            .map(|n| {
                let backend = self.reaches(tcp(n, WEB, 80, SYN)).unwrap();
                assert_eq!(self.reaches(tcp(n, WEB, 80, ACK)), Ok(backend));
                (n, backend)
            })
            .collect()
    }

    fn counters(&self) -> &CpuCounters {
        self.directors[0].counters()
    }
}

#[test]
fn new_connections_are_shared_by_weight() {
    let mut segment = Segment::serving();
    let backends = segment.open(0..2_000);
    let count = |n| backends.values().filter(|&&backend| backend == n).count() as f64 / 2_000.0;
    for (n, share) in [(1, 0.25), (2, 0.25), (3, 0.5)] {
        assert!((count(n) - share).abs() < 0.05, "backend {n}: {}", count(n));
    }
    let dns: Vec<u8> = (0..200).map(|n| segment.reaches(udp(n, DNS, 53)).unwrap()).collect();
    assert!(dns.contains(&1) && dns.contains(&2) && !dns.contains(&3), "a VIP's packets go to its own backends");
}

#[test]
fn every_port_of_a_vip_without_port_is_served_and_no_other() {
    let mut segment = Segment::serving();
    assert!(segment.reaches(udp(1, DNS, 53)).is_ok());
    assert!(segment.reaches(udp(1, DNS, 5353)).is_ok());
    assert_eq!(segment.reaches(udp(1, DNS, 0)), Err(DropReason::NotServed));
    assert_eq!(segment.reaches(udp(1, WEB, 80)), Err(DropReason::NotServed));
    assert_eq!(segment.reaches(tcp(1, WEB, 81, SYN)), Err(DropReason::NotServed));
    assert_eq!(segment.reaches(tcp(1, OWN, 80, SYN)), Err(DropReason::NotServed));
    assert_eq!(segment.reaches(tcp(1, address(99), 80, SYN)), Err(DropReason::NotOurAddress));
}

/// A dead backend's connections move, those of others don't; and when it returns, nobody's do.
#[test]
fn death_and_return_of_a_backend() {
    let mut segment = Segment::serving();
    let before = segment.open(0..1_000);
    segment.alive[1] = false;
    segment.run(4 * SECOND);
    let mut after = BTreeMap::new();
    for (&n, &backend) in &before {
        let now = segment.reaches(tcp(n, WEB, 80, ACK)).unwrap();
        assert!(if backend == 2 { now != 2 } else { now == backend }, "client {n} went from {backend} to {now}");
        after.insert(n, now);
    }
    let moved = before.values().filter(|&&backend| backend == 2).count() as u64;
    assert_eq!(segment.counters().moved.get(), moved);
    segment.run(10 * MS);
    assert_eq!(segment.counters().backends[1].live.get(), 0, "none is left at it");

    segment.alive[1] = true;
    segment.run(2 * SECOND);
    for (&n, &backend) in &after {
        assert_eq!(segment.reaches(tcp(n, WEB, 80, ACK)), Ok(backend), "client {n}");
    }
    assert!(segment.open(2_000..2_100).values().any(|&backend| backend == 2), "it gets new ones again");
    assert_eq!(segment.counters().moved.get(), moved);
}

#[test]
fn a_drained_backend_keeps_its_connections_and_gets_no_new_ones() {
    let mut segment = Segment::serving();
    let before = segment.open(0..500);
    segment.wish(3, Wish::Drain);
    for (&n, &backend) in &before {
        assert_eq!(segment.reaches(tcp(n, WEB, 80, ACK)), Ok(backend));
    }
    assert!(segment.open(1_000..1_300).values().all(|&backend| backend != 3));
    // The old connection ends; a new one with the same ports is a new one.
    let (&n, _) = before.iter().find(|&(_, &backend)| backend == 3).unwrap();
    assert_eq!(segment.reaches(tcp(n, WEB, 80, FIN)), Ok(3));
    assert_eq!(segment.reaches(tcp(n, WEB, 80, ACK)), Ok(3));
    assert_ne!(segment.reaches(tcp(n, WEB, 80, SYN)), Ok(3));
    segment.wish(3, Wish::Up);
    assert!(segment.open(2_000..2_100).values().any(|&backend| backend == 3));
}

#[test]
fn a_backend_wished_down_gets_nothing() {
    let mut segment = Segment::serving();
    let before = segment.open(0..200);
    segment.wish(1, Wish::Down);
    for &n in before.keys() {
        assert_ne!(segment.reaches(tcp(n, WEB, 80, ACK)), Ok(1));
    }
    segment.wish(2, Wish::Down);
    segment.wish(3, Wish::Down);
    assert_eq!(segment.reaches(tcp(1, WEB, 80, ACK)), Err(DropReason::NoBackend));
}

/// The next generation of this domain remembers nothing, and must send every connection where it was: backends being the same, even if one
/// of them is dead since long.
#[test]
fn a_restart_moves_nobody_while_the_set_is_the_same() {
    for alive in [[true; 3], [true, false, true]] {
        let mut first = Segment::new(config(), 1, alive);
        first.run(5 * SECOND);
        let before = first.open(0..1_000);
        let mut second = Segment::new(config(), 1, alive);
        assert_eq!(second.reaches(tcp(1, WEB, 80, ACK)), Err(DropReason::Starting));
        for _ in 0..40 {
            second.run(10 * MS);
            for (&n, &backend) in &before {
                let reached = second.reaches(tcp(n, WEB, 80, ACK));
                assert!(
                    reached == Ok(backend) || reached == Err(DropReason::Starting),
                    "client {n} of {backend}: {reached:?}"
                );
            }
        }
        assert!(second.planner.is_serving());
    }
}

/// With all backends answering, the next generation serves at once: the first poll asks, the answers settle it, tables are ready.
#[test]
fn a_restart_is_over_as_soon_as_all_have_answered() {
    let mut segment = Segment::new(config(), 1, [true; 3]);
    segment.run(20 * MS);
    assert_eq!(segment.directors[0].stage(), Stage::Serving);
}

#[test]
fn arp_and_echo_are_answered_for_vips_and_the_box_alone() {
    let mut segment = Segment::new(config(), 1, [false; 3]);
    for own in [OWN, WEB, DNS] {
        let mut request = arp([0xff; 6], 1, (ROUTER, address(1)), own);
        assert_eq!(segment.direct(0, &mut request), Verdict::Answer, "before it serves, too");
        assert_eq!(request[..6], ROUTER);
        assert_eq!(segment.direct(0, &mut echo(own)), Verdict::Answer);
    }
    let mut from_backend = arp(BOX, 1, (backend_mac(1), address(11)), WEB);
    assert_eq!(segment.direct(0, &mut from_backend), Verdict::Answer, "backends ask too");
    for target in [address(11), address(1), 0] {
        let mut request = arp([0xff; 6], 1, (ROUTER, address(1)), target);
        assert_eq!(segment.direct(0, &mut request), Verdict::Drop(DropReason::NotOurAddress));
    }
    assert_eq!(segment.direct(0, &mut echo(address(11))), Verdict::Drop(DropReason::NotOurAddress));
    let mut claim = arp([0xff; 6], 1, (ROUTER, WEB), WEB);
    assert_eq!(segment.direct(0, &mut claim), Verdict::Drop(DropReason::BadSource), "somebody claims our VIP");
    let mut stranger = arp(BOX, 2, (ROUTER, address(77)), OWN);
    assert_eq!(segment.direct(0, &mut stranger), Verdict::Drop(DropReason::NotOurAddress), "not a backend's answer");
}

/// Nobody else sends from an address of the box: neither while it starts nor later is such a packet held, forwarded or remembered, the first or the next.
#[test]
fn who_sends_from_an_address_of_ours_is_dropped() {
    let mut starting = Segment::new(config(), 1, [true; 3]);
    let mut serving = Segment::serving();
    for segment in [&mut starting, &mut serving] {
        for flags in [SYN, ACK, ACK] {
            let mut frame = tcp(1, WEB, 80, flags);
            frame[26..30].copy_from_slice(&OWN.to_be_bytes());
            assert_eq!(segment.reaches(frame), Err(DropReason::BadSource));
        }
    }
    serving.run(SECOND);
    assert!(serving.counters().backends.iter().all(|backend| backend.live.get() == 0));
}

/// Path MTU discovery works through direct server return only if the error finds the backend.
#[test]
fn an_icmp_error_reaches_the_connections_backend() {
    let mut segment = Segment::serving();
    let backends = segment.open(0..50);
    for (n, backend) in backends {
        assert_eq!(segment.reaches(too_big(n, WEB, 80)), Ok(backend));
    }
    let opened = segment.counters().vips[0].opened.get();
    assert!(segment.reaches(too_big(9_999, WEB, 80)).is_ok());
    assert_eq!(segment.counters().vips[0].opened.get(), opened, "an error opens nothing");
}

#[test]
fn a_full_connection_table_forwards_by_the_table() {
    let mut small = config();
    small.connections = 64;
    let mut segment = Segment::new(small, 1, [true; 3]);
    segment.run(SECOND);
    let first = segment.open(0..1_000);
    assert!(segment.counters().untracked.get() + segment.counters().replaced.get() > 800);
    for (n, backend) in first {
        assert_eq!(segment.reaches(tcp(n, WEB, 80, ACK)), Ok(backend), "the set hasn't changed");
    }
}

#[test]
fn a_reset_of_nothing_is_forwarded_and_not_remembered() {
    let mut segment = Segment::serving();
    assert!(segment.reaches(tcp(1, WEB, 80, RST)).is_ok());
    assert_eq!(segment.counters().vips[0].opened.get(), 0);
}

/// All CPUs take up a plan, and agree.
#[test]
fn all_cpus_direct_alike() {
    let mut segment = Segment::new(config(), 2, [true; 3]);
    segment.run(SECOND);
    for n in 0..300 {
        let (mut a, mut b) = (tcp(n, WEB, 80, SYN), tcp(n, WEB, 80, SYN));
        assert_eq!(segment.direct(0, &mut a), Verdict::Forward);
        assert_eq!(segment.direct(1, &mut b), Verdict::Forward);
        assert_eq!(a, b);
    }
}

fn frame_of(kind: u8, n: u32) -> Vec<u8> {
    match kind {
        0 => tcp(n, WEB, 80, SYN),
        1 => tcp(n, WEB, 80, ACK),
        2 => tcp(n, WEB, 80, FIN),
        3 => tcp(n, WEB, 80, RST),
        4 => udp(n, DNS, 53),
        5 => echo(WEB),
        6 => arp([0xff; 6], 1, (ROUTER, address(1)), DNS),
        7 => arp_answer((n % 3) as u8 + 1),
        8 => too_big(n, WEB, 80),
        _ => tcp(n, address(50), 80, SYN),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every frame, whole or cut or changed, has one verdict; packets of VIPs add up with those of backends; nothing panics, whatever the
    /// state of the backends.
    #[test]
    fn every_packet_is_accounted_for(
        steps in proptest::collection::vec(
            (0u8..10, 0u32..64, proptest::option::of(0usize..70), proptest::option::of((0usize..70, any::<u8>())), 0u64..3_000, 0u8..20),
            1..200,
        )
    ) {
        let mut segment = Segment::serving();
        let (mut forwarded, mut answered, mut dropped) = (0, 0, 0);
        let count = steps.len();
        for (kind, n, cut, change, pause, event) in steps {
            match event {
                0..3 => segment.alive[usize::from(event)] ^= true,
                3 => segment.wish(1, Wish::Down),
                4 => segment.wish(2, Wish::Drain),
                5 => segment.wish(1, Wish::Up),
                6 => segment.run(pause * MS),
                _ => {}
            }
            let mut frame = frame_of(kind, n);
            frame.truncate(cut.unwrap_or(usize::MAX));
            if let Some((at, value)) = change && let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
            match segment.direct(0, &mut frame) {
                Verdict::Forward => { prop_assert_eq!(&frame[6..12], &BOX); forwarded += 1 }
                Verdict::Answer => { prop_assert_eq!(&frame[6..12], &BOX); answered += 1 }
                Verdict::Drop(_) | Verdict::Learn(_) => dropped += 1,
            }
        }
        prop_assert_eq!(forwarded + answered + dropped, count);
        let counters = segment.counters();
        prop_assert_eq!(counters.vips.iter().map(|vip| vip.packets.get()).sum::<u64>(), forwarded as u64);
        prop_assert_eq!(counters.backends.iter().map(|backend| backend.packets.get()).sum::<u64>(), forwarded as u64);
    }
}
