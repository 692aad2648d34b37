//! The exchange heap from below: what a domain may leave behind at any instruction.

use interfaces::{abi::kernel, packet::Batch, probe::Word};
use rig::{Rig, Settings};

/// A domain can die between the allocation of a batch and its first write to it; whoever reclaims it then looks into what was there before.
#[test]
fn a_batch_is_empty_before_it_is_written() {
    let rig = Rig::start(Settings::chain(|_| {}));
    rig.run(0, || {
        let table = kernel();
        let (size, align) = (size_of::<Batch>(), align_of::<Batch>());
        for _ in 0..100 {
            // As many as a thread keeps, so that the next ones are made of the same memory.
            let stale: Vec<*mut u8> = (0..16)
                .map(|_| (table.exchange_allocate)(<Word as interfaces::Exchangeable>::KIND, size, align))
                .collect();
            for object in stale {
                // SAFETY: fresh memory of that size, then given back.
                unsafe {
                    object.write_bytes(0xff, size);
                    (table.exchange_free)(object);
                }
            }
            let batch = (table.exchange_allocate)(Batch::KIND, size, align);
            // SAFETY: allocated one line up; a batch's count may be read whatever it is.
            unsafe {
                assert_eq!((*batch.cast::<Batch>()).len(), 0);
                (table.exchange_free)(batch);
            }
        }
    });
}
