//! From a flow to its connection, in constant time: an open-addressed table of fixed size, keyed by a hash with a secret, so that strangers can't choose their place.

use alloc::{boxed::Box, vec};
use core::net::IpAddr;

use crate::flow::Flow;

/// The connections' places by their flows.
pub struct Flows {
    slots: Box<[Option<(Flow, u32)>]>,
    secret: u64,
}

impl Flows {
    /// A table for `most` flows, at most half full.
    pub fn new(most: usize, secret: u64) -> Flows {
        Flows { slots: vec![None; (2 * most).next_power_of_two().max(16)].into_boxed_slice(), secret }
    }

    pub fn get(&self, flow: &Flow) -> Option<u32> {
        let mut at = self.home(flow);
        while let Some((other, place)) = &self.slots[at] {
            if other == flow {
                return Some(*place);
            }
            at = self.next(at);
        }
        None
    }

    /// Enters a flow that isn't in it; the caller enters no more than `most`.
    pub fn insert(&mut self, flow: Flow, place: u32) {
        let mut at = self.home(&flow);
        while self.slots[at].is_some() {
            at = self.next(at);
        }
        self.slots[at] = Some((flow, place));
    }

    pub fn remove(&mut self, flow: &Flow) {
        let mut hole = self.home(flow);
        loop {
            match &self.slots[hole] {
                Some((other, _)) if other == flow => break,
                Some(_) => hole = self.next(hole),
                None => return,
            }
        }
        // What stands behind and would be found no more because of the hole moves into it (Knuth, TAOCP 3, §6.4, algorithm R).
        let mut at = hole;
        loop {
            at = self.next(at);
            let Some((other, _)) = &self.slots[at] else { break };
            let distance = |from: usize| at.wrapping_sub(from) & (self.slots.len() - 1);
            if distance(self.home(other)) >= distance(hole) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole] = None;
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn home(&self, flow: &Flow) -> usize {
        let words = |address: IpAddr| match address {
            IpAddr::V4(address) => (u64::from(address.to_bits()), 4),
            IpAddr::V6(address) => ((address.to_bits() >> 64) as u64, address.to_bits() as u64),
        };
        let (a, b) = words(flow.remote);
        let (c, d) = words(flow.local);
        let ports = u64::from(flow.remote_port) << 16 | u64::from(flow.local_port);
        let hash = [a, b, c ^ d.rotate_left(32), ports].into_iter().fold(self.secret, mix);
        hash as usize & (self.slots.len() - 1)
    }
}

/// A 64 × 64 bit product folded to 64 bits, as wyhash has it.
fn mix(hash: u64, word: u64) -> u64 {
    let product = u128::from(hash ^ 0xa076_1d64_78bd_642f) * u128::from(word ^ 0xe703_7ed1_a0b4_28db);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use core::net::Ipv4Addr;
    use proptest::prelude::*;

    fn flow(number: u16) -> Flow {
        let ip = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
        Flow { remote: ip((number % 7) as u8), remote_port: number, local: ip(1), local_port: 80 }
    }

    proptest! {
        /// It is a map, whatever is entered and removed, however the flows collide.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0..40u16), 0..400), secret in any::<u64>()) {
            let (mut flows, mut map) = (Flows::new(32, secret), BTreeMap::new());
            for (enter, number) in steps {
                if enter && map.len() < 32 && !map.contains_key(&number) {
                    flows.insert(flow(number), number.into());
                    map.insert(number, number);
                } else if !enter {
                    flows.remove(&flow(number));
                    map.remove(&number);
                }
                for number in 0..40 {
                    prop_assert_eq!(flows.get(&flow(number)), map.get(&number).map(|&n| n.into()));
                }
            }
        }
    }
}
