//! The hot path takes no lock: a thread that calls, moves objects, allocates and frees, and fills and empties batches, once warm (debug builds count).

use interfaces::{
    Port, RRef,
    packet::Batch,
    probe::{Probe, Word},
};
use kernel_core::thread;
use rig::{Rig, Settings};

#[test]
fn calls_objects_and_packets_take_no_lock() {
    let rig = Rig::start(Settings::chain(|_| {}));
    let c: Port<dyn Probe> = rig.port("c", "probe");
    rig.run(0, move || {
        let round = || {
            assert_eq!(c.next(1), Ok(2));
            let word = c.pass(RRef::new(Word(1)).unwrap()).unwrap();
            assert_eq!(word.0, 2);
            let mut batch = Batch::allocate().unwrap();
            let mut other = Batch::allocate().unwrap();
            assert_eq!(batch.fill(Batch::CAPACITY), Batch::CAPACITY);
            assert_eq!(batch.transfer(0xffff, &mut other), 16);
        };
        (0..100).for_each(|_| round());
        let (warm, _) = thread::current().locks();
        assert!(warm > 0 || !cfg!(debug_assertions), "this build counts");
        (0..100_000).for_each(|_| round());
        let (now, last) = thread::current().locks();
        assert_eq!(now, warm, "the last one at {last:?}");
    });
}
