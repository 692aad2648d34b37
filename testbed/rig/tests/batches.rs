//! Packets cross a boundary as one object, however many they are (debug builds count).

use interfaces::{
    Port, RRef,
    packet::Batch,
    probe::{Probe, Word},
};
use kernel_core::{exchange, packets, thread};
use rig::{Rig, Settings};

const CALLS: u64 = 100;

/// What that many calls of one kind do: objects that get another owner, locks taken, objects and buffers that are there then and not before.
fn done(mut call: impl FnMut()) -> [u64; 4] {
    // Whoever counts these takes locks, too.
    let there = || [exchange::objects(0).0 as u64, packets::counts().1 as u64];
    let by_thread = || [thread::current().moves(), thread::current().locks().0];
    // The thread's first ones fill what it keeps for itself.
    call();
    let [objects, buffers] = there();
    let [moves, locks] = by_thread();
    (0..CALLS).for_each(|_| call());
    let [moves_now, locks_now] = by_thread();
    let [objects_now, buffers_now] = there();
    [moves_now - moves, locks_now - locks, objects_now.abs_diff(objects), buffers_now.abs_diff(buffers)]
}

/// A batch of 32 is moved there and back at the cost of one packet, and that of one word: two owner changes a call, no lock, nothing allocated.
#[test]
fn a_batch_of_32_moves_at_the_cost_of_one() {
    let rig = Rig::start(Settings::chain(|_| {}));
    let c: Port<dyn Probe> = rig.port("c", "probe");
    let ferry = |packets: usize| {
        rig.run(0, move || {
            let mut batch = Batch::allocate().ok();
            assert_eq!(batch.as_mut().unwrap().fill(packets), packets);
            let done = done(|| batch = c.ferry(batch.take().unwrap()).ok());
            assert_eq!(batch.unwrap().len(), packets);
            done
        })
    };
    let word = rig.run(0, move || {
        let mut word = RRef::new(Word(0)).ok();
        let done = done(|| word = c.pass(word.take().unwrap()).ok());
        assert_eq!(word.unwrap().0, CALLS + 1);
        done
    });
    let moves = if cfg!(debug_assertions) { 2 * CALLS } else { 0 };
    assert_eq!(word, [moves, 0, 0, 0]);
    assert_eq!([1, 2, Batch::CAPACITY].map(ferry), [word; 3]);
}
