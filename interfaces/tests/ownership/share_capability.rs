//! A handle is used by one thread at a time, so that queues need no lock.
use interfaces::{Cap, net::NetQueue};

fn share(queue: &Cap<dyn NetQueue>) {
    std::thread::scope(|threads| {
        threads.spawn(|| queue);
    });
}

fn main() {}
