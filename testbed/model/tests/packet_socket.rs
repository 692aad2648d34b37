//! The lab's cable, on a real veth pair in a network namespace of this test's own thread.
//!
//! Root makes the namespace itself; for an ordinary user the test runs itself once more in a user namespace.

use std::process::Command;
use std::time::{Duration, Instant};

use model::packet_socket::{PacketSocket, WireError};
use model::vfio_user::PollableWire;
use model::{SharedCounters, Wire, frames};
use prefix::{Prefix, Tool};

/// The prefix's tools, since the machine may have no `ip`. First asked for outside a namespace: inside there is no
/// network to fetch them by.
fn tools() -> Prefix {
    Prefix::ensure(&[Tool::Network]).unwrap_or_else(|error| panic!("{error}"))
}

fn ip(arguments: &[&str]) {
    let prefix = tools();
    let status = prefix.command("ip").expect("it is among the tools").args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "ip {arguments:?} failed");
}

/// Runs `test`, which is the test function called `name`, in a fresh network namespace with the veth pair `near`-`far`.
fn in_namespace(name: &str, test: impl FnOnce()) {
    tools();
    // SAFETY: [system call] no pointers; only this thread's view of the network changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        assert!(std::env::var_os("IN_USER_NAMESPACE").is_none(), "no right to make a network namespace");
        let this = std::env::current_exe().expect("a running test");
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--"]).arg(this).args(["--exact", name]).env("IN_USER_NAMESPACE", "1");
        let status = command.status();
        assert!(status.is_ok_and(|status| status.success()), "failed in a user namespace of its own");
        return;
    }
    // The host's own IPv6 chatter on a fresh link would be counted with our frames.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("a namespace of our own");
    ip(&["link", "add", "near", "mtu", "9000", "type", "veth", "peer", "name", "far", "mtu", "9000"]);
    ip(&["link", "set", "near", "up"]);
    ip(&["link", "set", "far", "up"]);
    test();
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
    in_namespace("frames_cross_unchanged", || {
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
        assert_eq!(near.receive(), None, "what we send ourselves doesn't come back");
    });
}

/// A flood is either received or counted as the host's loss: the lab's books depend on it.
#[test]
fn a_flood_is_counted() {
    in_namespace("a_flood_is_counted", || {
        let counters = SharedCounters::new();
        let mut near = open("near").count_overruns(counters.clone());
        let mut far = open("far");
        const SENT: u64 = 30_000;
        for number in 0..SENT {
            far.send(&frames::udp([10, 0, 0, 1], [10, 0, 0, 2], number as u16, 2, &[7; 60]));
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
    });
}

/// The message names what is missing.
#[test]
fn a_missing_interface_is_named() {
    let Err(error) = PacketSocket::open("nosuchnic", 1518) else { panic!("there is no such interface") };
    assert!(matches!(error, WireError::NoInterface { .. }) && error.to_string().contains("nosuchnic"));
}

/// An interface that goes down and comes back is an outage of the cable, neither its end nor a busy loop.
#[test]
fn an_interface_may_go_down() {
    in_namespace("an_interface_may_go_down", || {
        let (mut near, mut far) = (open("near"), open("far"));
        let errors = |wire: &PacketSocket| {
            let mut fds = [rustix::event::PollFd::new(wire, rustix::event::PollFlags::IN)];
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            rustix::event::poll(&mut fds, Some(&now)).unwrap();
            fds[0].revents().contains(rustix::event::PollFlags::ERR)
        };
        ip(&["link", "set", "near", "down"]);
        assert!(errors(&near));
        assert!(near.outlives_error());
        assert!(!errors(&near), "told once");
        ip(&["link", "set", "near", "up"]);
        let frame = frames::udp([10, 0, 0, 1], [10, 0, 0, 2], 1, 2, &[7; 100]);
        far.send(&frame);
        far.flush();
        assert!(next(&mut near) == frame);
    });
}
