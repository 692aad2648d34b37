//! A round of honest work: what a crash in a service's code interrupts.

use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use core::hint::black_box;

use interfaces::{
    CallError, Port, RRef,
    collections::Bytes,
    packet::Batch,
    probe::{Probe, Word},
};
use runtime::{thread, time};

use crate::deeds::{State, parcel};

/// One round, each number another mix. Whatever it makes it also frees.
pub fn round(state: &Arc<State>, number: u64) -> Result<(), CallError> {
    write(number);
    count(number);
    exchange(number)?;
    packets(number)?;
    if let Some(next) = state.next {
        call(next, number)?;
    }
    if number.is_multiple_of(8) {
        state.nap()?;
        log::debug!("round {number}: {:.3}", number as f64 / 7.0);
        thread::yield_now();
    }
    Ok(())
}

/// Strings: formatted, sorted, joined, taken apart and parsed.
fn write(number: u64) {
    let mut words: Vec<String> = (0..4 + number % 13)
        .map(|at| format!("{:>8x}|{}|{:?}", number.wrapping_mul(at + 1), at as i32 - 3, Some(at)))
        .collect();
    words.push(format!("{:e} {:.2}", number as f64 * 0.37, 1.0 / (number + 1) as f64));
    words.sort_unstable();
    words.dedup();
    let text = words.join(", ");
    let parsed: u64 = text.split('|').filter_map(|part| part.trim().parse::<u64>().ok()).sum();
    assert!(text.to_uppercase().len() >= text.len() && parsed < u64::MAX);
    black_box((text.find("Some"), text.as_bytes().to_vec()));
}

/// Collections of the private heap, of all sizes.
fn count(number: u64) {
    let mut map = BTreeMap::new();
    let mut queue = VecDeque::new();
    for at in 0..20 + number % 40 {
        map.insert(number.wrapping_mul(at | 1) % 97, at.to_string());
        queue.push_front(at);
        if at % 3 == 0 {
            map.remove(&(at * 7 % 97));
            queue.pop_back();
        }
    }
    let mut bytes: Vec<u8> = (0..(number * 37 % 6000) as usize + 64).map(|at| at as u8).collect();
    let half = bytes.len() / 2;
    bytes.copy_within(..half, half);
    bytes.extend_from_within(..half);
    bytes.fill(number as u8);
    assert!(bytes.iter().all(|byte| *byte == number as u8));
    assert_eq!(map.values().map(String::len).max().is_some(), !map.is_empty());
    assert!(queue.len() <= 60);
}

fn exchange(number: u64) -> Result<(), CallError> {
    let full = |_| CallError::Overloaded;
    let mut parcel = parcel(number)?;
    let mut word = parcel.word.take().ok_or(CallError::Gone)?;
    word.0 += 1;
    let text = Bytes::copy_of(word.0.to_string().as_bytes()).map_err(full)?;
    parcel.word.put(word).map_err(|_| CallError::Overloaded)?;
    drop(parcel.texts.pop_front());
    parcel.texts.push_back(text).map_err(|_| CallError::Overloaded)?;
    assert_eq!(parcel.word.get().map(|word| word.0), Some(number + 1));
    Ok(())
}

fn packets(number: u64) -> Result<(), CallError> {
    let mut batch = Batch::allocate().map_err(|_| CallError::Overloaded)?;
    let mut other = Batch::allocate().map_err(|_| CallError::Overloaded)?;
    let filled = batch.fill(1 + number as usize % 8);
    for (at, mut packet) in batch.packets_mut().into_iter().enumerate() {
        packet.set_len(64 + at);
        packet.data_mut().fill(at as u8);
    }
    let moved = batch.transfer(0b0101, &mut other);
    assert_eq!(batch.len() + moved, filled);
    assert!(other.packets().iter().all(|packet| packet.data().len() >= 64));
    Ok(())
}

/// The next domain, in every way; its errors are its own.
fn call(next: Port<dyn Probe>, number: u64) -> Result<(), CallError> {
    let full = |_| CallError::Overloaded;
    assert_eq!(next.next(number)?, number + 1);
    let word = next.pass(RRef::new(Word(number)).map_err(full)?)?;
    assert_eq!(word.0, number + 1);
    assert_eq!(next.look(word.lend(), 0)?, number + 1);
    assert_eq!(next.repack(parcel(number)?)?.number, number + 1);
    if number.is_multiple_of(4) {
        let mut handle = next.handle()?;
        assert_eq!(handle.next(number)?, number + 1);
    }
    black_box(time::now());
    Ok(())
}
