//! What the domain's threads tell the first CPU's worker: link addresses heard on other CPUs (by the card's hash ARP arrives on the first
//! queue; not every card promises that), and the operator's wishes. Nothing of it is on a forwarded packet's way.

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use runtime::sync::Mutex;

use crate::{frame::Heard, planner::Wish, table::BackendId};

/// More than this many ARP messages between two looks are forgotten: their senders are asked again.
const MOST_HEARD: usize = 256;

pub struct Shared {
    heard: Mutex<Vec<Heard>>,
    any_heard: AtomicBool,
    wishes: Mutex<Box<[Wish]>>,
    wishes_version: AtomicU64,
}

impl Shared {
    pub fn new(backends: usize) -> Shared {
        Shared {
            heard: Mutex::new(Vec::with_capacity(MOST_HEARD)),
            any_heard: AtomicBool::new(false),
            wishes: Mutex::new((0..backends).map(|_| Wish::Up).collect()),
            wishes_version: AtomicU64::new(0),
        }
    }

    /// A backend has been heard.
    pub fn hear(&self, message: Heard) {
        let mut heard = self.heard.lock();
        if heard.len() < MOST_HEARD {
            heard.push(message);
            self.any_heard.store(true, Ordering::Release);
        }
    }

    /// Hands over what has been heard since the last time.
    pub fn for_heard(&self, take: impl FnMut(Heard)) {
        if self.any_heard.load(Ordering::Acquire) {
            let mut heard = self.heard.lock();
            self.any_heard.store(false, Ordering::Release);
            heard.drain(..).for_each(take);
        }
    }

    /// The operator wishes this of a backend.
    pub fn wish(&self, backend: BackendId, wish: Wish) {
        if let Some(old) = self.wishes.lock().get_mut(backend.index()) {
            *old = wish;
            self.wishes_version.fetch_add(1, Ordering::Release);
        }
    }

    pub fn wishes(&self) -> Box<[Wish]> {
        self.wishes.lock().clone()
    }

    /// Hands over all wishes if any has changed since version `seen`.
    pub fn for_new_wishes(&self, seen: &mut u64, mut take: impl FnMut(BackendId, Wish)) {
        let version = self.wishes_version.load(Ordering::Acquire);
        if version != *seen {
            *seen = version;
            for (i, &wish) in self.wishes.lock().iter().enumerate() {
                take(BackendId(i as u16), wish);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_heard_is_handed_over_once_and_bounded() {
        let shared = Shared::new(1);
        for address in 0..1_000 {
            shared.hear(Heard { address, mac: [0; 6], answer: true });
        }
        let mut count = 0;
        shared.for_heard(|_| count += 1);
        assert_eq!(count, MOST_HEARD);
        shared.for_heard(|_| panic!("handed over twice"));
    }

    #[test]
    fn wishes_are_handed_over_when_they_change() {
        let (shared, mut seen, mut taken) = (Shared::new(2), 0, Vec::new());
        shared.for_new_wishes(&mut seen, |_, _| panic!("nothing was wished"));
        shared.wish(BackendId(1), Wish::Drain);
        shared.wish(BackendId(7), Wish::Down);
        shared.for_new_wishes(&mut seen, |backend, wish| taken.push((backend, wish)));
        assert_eq!(taken, [(BackendId(0), Wish::Up), (BackendId(1), Wish::Drain)]);
        shared.for_new_wishes(&mut seen, |_, _| panic!("nothing new"));
    }
}
