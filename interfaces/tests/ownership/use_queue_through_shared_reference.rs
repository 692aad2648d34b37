//! A handle's methods want it exclusively.
use interfaces::{Cap, net::NetQueue};

fn wait(queue: &Cap<dyn NetQueue>) {
    let _ = queue.wait(0);
}

fn main() {}
