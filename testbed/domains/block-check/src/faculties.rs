//! What a disk can do besides reading and writing, tried once at a start, on blocks beyond all regions: writes that are on the medium when they complete, zeroes that nobody sends,
//! and blocks that are given back.

use alloc::{format, string::String, vec::Vec};

use interfaces::block::{Operation, Order};

use crate::{
    Counts,
    client::Client,
    pattern::{self, Found},
};

/// Blocks that a thread tries it on.
pub const BLOCKS: u32 = 8;
/// Of these, counted from the first: those that become zeroes, and those that are given back.
const ZEROES: core::ops::Range<u32> = 2..6;
const GIVEN_BACK: core::ops::Range<u32> = 0..2;
/// No pass of a region has this number.
const PASS: u64 = u64::MAX;

/// Tries each faculty that the disk says it has; returns their names.
pub fn all(client: &mut Client, counts: &Counts, first: u64) -> Result<Vec<&'static str>, String> {
    let order = |operation, blocks: &core::ops::Range<u32>| Order {
        operation,
        block: first + u64::from(blocks.start),
        blocks: blocks.end - blocks.start,
        ..Order::default()
    };
    let mut found = Vec::from(["unit-access"]);
    let write = Order { force_unit_access: true, ..order(Operation::Write, &(0..BLOCKS)) };
    client.one(counts, write, |block, bytes| pattern::write(bytes, block, PASS))?;
    look(client, counts, first, |_, block| block == Found::Pass(PASS))?;
    let info = client.info();
    if info.write_zeroes {
        client.one(counts, order(Operation::WriteZeroes, &ZEROES), |_, _| ())?;
        look(client, counts, first, |at, block| {
            if ZEROES.contains(&at) { block == Found::Nothing } else { block == Found::Pass(PASS) }
        })?;
        found.push("write-zeroes");
    }
    if info.deallocate {
        client.one(counts, order(Operation::Deallocate, &GIVEN_BACK), |_, _| ())?;
        // What they read as is the device's choice: zeroes, or what they were.
        look(client, counts, first, |at, block| match block {
            Found::Damaged { .. } => false,
            Found::Pass(pass) => pass == PASS,
            Found::Nothing => GIVEN_BACK.contains(&at) || info.write_zeroes && ZEROES.contains(&at),
        })?;
        found.push("deallocate");
    }
    Ok(found)
}

fn look(client: &mut Client, counts: &Counts, first: u64, well: impl Fn(u32, Found) -> bool) -> Result<(), String> {
    let order = Order { operation: Operation::Read, block: first, blocks: BLOCKS, ..Order::default() };
    let data = client.one(counts, order, |_, bytes| bytes.fill(0x5a))?;
    let size = client.info().block_size as usize;
    for (at, bytes) in (0..BLOCKS).zip(data.chunks_exact(size)) {
        let found = pattern::read(bytes, first + u64::from(at));
        if !well(at, found) {
            return Err(format!("block {at} of those that faculties are tried on holds {found:?}"));
        }
    }
    Ok(())
}
