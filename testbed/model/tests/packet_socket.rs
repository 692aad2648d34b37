//! The lab's cable, on a real veth pair in a network namespace of this test's own thread.
//!
//! It needs the right to make a namespace (root); where that is missing the tests say so and check nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use model::packet_socket::{PacketSocket, WireError};
use model::vfio_user::PollableWire;
use model::{SharedCounters, Wire, frames};

/// Puts this thread into a fresh network namespace with the veth pair `near`–`far`.
fn namespace() -> bool {
    // SAFETY: [system call] no pointers; only this thread's view of the network changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        println!(
            "skipped: no right to make a network namespace: {}",
            std::io::Error::last_os_error()
        );
        return false;
    }
    let script = "ip link add near mtu 9000 type veth peer name far mtu 9000 && ip link set near up && ip link set far up \
                  && sysctl -q net.ipv6.conf.all.disable_ipv6=1";
    let made = Command::new("sh").args(["-c", script]).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no ip command, or it couldn't make a veth pair");
        return false;
    }
    true
}

fn open(name: &str) -> PacketSocket {
    PacketSocket::open(name, 9018).unwrap_or_else(|error| panic!("{error}"))
}

/// The next frame that is one of ours: the host's own chatter on a fresh link isn't.
fn next(wire: &mut PacketSocket) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match wire.receive() {
            Some(frame) if frame.ends_with(b"ours") || frame.starts_with(&frames::TO) => {
                return frame.to_vec();
            }
            Some(_) => {}
            None => {
                assert!(Instant::now() < deadline, "no frame in five seconds");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Frames arrive as they were sent: whole, in order, tags restored, short ones padded, and never our own.
#[test]
fn frames_cross_unchanged() {
    if !namespace() {
        return;
    }
    let (mut near, mut far) = (open("near"), open("far"));
    let plain = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1, 2, &[7; 900]);
    let long = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1, 2, &[8; 8900]);
    let tagged = frames::tagged(&plain, 0x6123);
    for _ in 0..3 {
        for frame in [&plain, &long, &tagged] {
            far.send(frame);
        }
    }
    far.send(&plain[..30]);
    far.flush();
    for _ in 0..3 {
        for frame in [&plain, &long, &tagged] {
            assert!(next(&mut near) == *frame);
        }
    }
    let padded = next(&mut near);
    assert!(padded.len() == 60 && padded[..30] == plain[..30] && padded[30..] == [0; 30]);
    near.send(&plain);
    near.flush();
    assert!(next(&mut far) == plain);
    assert_eq!(
        near.receive(),
        None,
        "what we send ourselves doesn't come back"
    );
}

/// A flood is either received or counted as the host's loss: the lab's books depend on it.
#[test]
fn a_flood_is_counted() {
    if !namespace() {
        return;
    }
    let counters = SharedCounters::new();
    let mut near = open("near").count_overruns(counters.clone());
    let mut far = open("far");
    const SENT: u64 = 30_000;
    for number in 0..SENT {
        far.send(&frames::udp(
            [10, 0, 0, 1],
            [10, 0, 0, 2],
            number as u16,
            2,
            &[7; 60],
        ));
    }
    far.flush();
    std::thread::sleep(Duration::from_millis(50));
    let mut received = 0;
    while let Some(frame) = near.receive() {
        received += u64::from(frame.starts_with(&frames::TO));
    }
    drop(near);
    let lost = counters.snapshot().wire_overrun;
    assert!(lost > 0, "the ring is smaller than the flood");
    assert_eq!(received + lost, SENT);
}

/// The message names what is missing.
#[test]
fn a_missing_interface_is_named() {
    let Err(error) = PacketSocket::open("nosuchnic", 1518) else {
        panic!("there is no such interface")
    };
    assert!(
        matches!(error, WireError::NoInterface { .. }) && error.to_string().contains("nosuchnic")
    );
}

/// An interface that goes down and comes back is an outage of the cable, neither its end nor a busy loop.
#[test]
fn an_interface_may_go_down() {
    if !namespace() {
        return;
    }
    let (mut near, mut far) = (open("near"), open("far"));
    let ip = |state| {
        Command::new("ip")
            .args(["link", "set", "near", state])
            .status()
            .unwrap()
    };
    let errors = |wire: &PacketSocket| {
        let mut fds = [rustix::event::PollFd::new(
            wire,
            rustix::event::PollFlags::IN,
        )];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        rustix::event::poll(&mut fds, Some(&now)).unwrap();
        fds[0].revents().contains(rustix::event::PollFlags::ERR)
    };
    assert!(ip("down").success());
    assert!(errors(&near));
    assert!(near.outlives_error());
    assert!(!errors(&near), "told once");
    assert!(ip("up").success());
    let frame = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1, 2, &[7; 100]);
    far.send(&frame);
    far.flush();
    assert!(next(&mut near) == frame);
}
