//! What clients of a store did to the keys that they share, and whether it can have been: a history is *linearizable* if each operation can be given a moment between its
//! begin and its end, so that the answers are those of one store that does one thing at a time (Herlihy and Wing, 1990).
//!
//! Keys are independent, so each is searched by itself, as Wing and Gong (1993) do it, with what Lowe (2017) added: a state that was reached by the same operations before is
//! not searched again. An operation without an answer may have happened at any time after its begin, or never.

use super::Dealings;
use crate::clock::Moment;
use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;

/// Values are written once each; so a value stands for the operation that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Get,
    Set(u64),
    /// Only if there is none.
    Add(u64),
    Delete,
    /// Only if the value is still that one.
    Swap {
        expected: u64,
        value: u64,
    },
    /// Of the store itself: a crash of what holds everything in memory.
    Wipe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Result {
    Value(Option<u64>),
    Done,
    /// `NOT_STORED`, `NOT_FOUND`, `EXISTS`.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub key: u8,
    pub operation: Operation,
    pub begin: Moment,
    /// None: nobody knows what came of it.
    pub end: Option<(Moment, Result)>,
}

/// All operations on shared keys, in the order of their begins.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub entries: Vec<Entry>,
}

/// A key whose answers no store gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub key: u8,
    /// Operations that could be put in an order, of all.
    pub explained: usize,
    pub operations: usize,
    /// The first that fits nowhere.
    pub culprit: String,
}

/// Writes into the history of one service.
#[derive(Clone, Copy)]
pub struct Recorder<'a> {
    pub dealings: &'a Mutex<Dealings>,
    pub service: usize,
}

impl Recorder<'_> {
    /// Returns the entry's place, for [`Self::end`].
    pub fn begin(&self, key: u8, operation: Operation) -> usize {
        let mut dealings = self.dealings.lock().expect("no client panics while counting");
        let entries = &mut dealings.histories[self.service].entries;
        // Taken under the lock, so that entries are in the order of their begins.
        entries.push(Entry { key, operation, begin: Moment::now(), end: None });
        entries.len() - 1
    }

    pub fn end(&self, entry: usize, result: Result, at: Moment) {
        let mut dealings = self.dealings.lock().expect("no client panics while counting");
        dealings.histories[self.service].entries[entry].end = Some((at, result));
    }
}

impl History {
    /// Every key whose history isn't linearizable. `wipes`: times in which the store lost everything, once in each.
    pub fn broken(&self, wipes: &[(Moment, Moment)]) -> Vec<Broken> {
        let mut by_key: BTreeMap<u8, Vec<Entry>> = BTreeMap::new();
        for entry in &self.entries {
            by_key.entry(entry.key).or_default().push(*entry);
        }
        let wipe = |key, (begin, end): &(Moment, Moment)| Entry {
            key,
            operation: Operation::Wipe,
            begin: *begin,
            end: Some((*end, Result::Done)),
        };
        let keys = by_key.into_iter().map(|(key, mut entries)| {
            entries.extend(wipes.iter().map(|times| wipe(key, times)));
            (key, entries)
        });
        keys.filter_map(|(key, entries)| linearize(&entries).err().map(|broken| Broken { key, ..broken })).collect()
    }
}

impl Operation {
    /// The value after it, if that is the answer which a store with `value` gives.
    fn apply(self, value: Option<u64>, result: Option<Result>) -> Option<Option<u64>> {
        let (answer, after) = match self {
            Operation::Get => (Result::Value(value), value),
            Operation::Set(new) => (Result::Done, Some(new)),
            Operation::Add(new) if value.is_none() => (Result::Done, Some(new)),
            Operation::Delete if value.is_some() => (Result::Done, None),
            Operation::Swap { expected, value: new } if value == Some(expected) => (Result::Done, Some(new)),
            Operation::Add(_) | Operation::Delete | Operation::Swap { .. } => (Result::Refused, value),
            Operation::Wipe => (Result::Done, None),
        };
        result.is_none_or(|result| result == answer).then_some(after)
    }
}

/// One step of the history: an operation's begin, or its end.
#[derive(Clone, Copy)]
struct Step {
    operation: usize,
    begins: bool,
    /// Neighbours among the steps that are not yet explained.
    before: usize,
    after: usize,
}

/// States that are looked at before a search is given up: a history that is right has an order that is found long before.
const MOST_STATES: usize = 1_000_000;

/// The head of the list of steps.
const HEAD: usize = 0;

fn linearize(entries: &[Entry]) -> std::result::Result<(), Broken> {
    // Begins before ends of the same moment: then they overlap, which forbids less.
    let mut order: Vec<(Moment, bool, usize)> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        order.push((entry.begin, false, number));
        order.extend(entry.end.map(|(at, _)| (at, true, number)));
    }
    order.sort_unstable();
    let mut steps = vec![Step { operation: usize::MAX, begins: false, before: HEAD, after: 1 }];
    let (mut begin_of, mut end_of) = (vec![0; entries.len()], vec![None; entries.len()]);
    for (place, (_, ends, operation)) in order.iter().enumerate() {
        let at = place + 1;
        steps.push(Step { operation: *operation, begins: !ends, before: at - 1, after: at + 1 });
        if *ends {
            end_of[*operation] = Some(at);
        } else {
            begin_of[*operation] = at;
        }
    }
    let tail = steps.len();
    steps.push(Step { operation: usize::MAX, begins: false, before: tail - 1, after: tail });
    let answered = entries.iter().filter(|entry| entry.end.is_some()).count();
    let (mut explained, mut most, mut culprit) = (0, 0, None);
    let mut value = None;
    let mut done = vec![0u64; entries.len().div_ceil(64)];
    let mut known = HashSet::new();
    let mut chosen: Vec<(usize, Option<u64>)> = Vec::new();
    let mut at = steps[HEAD].after;
    while explained < answered {
        let step = steps[at];
        if at != tail && step.begins {
            let number = step.operation;
            let entry = &entries[number];
            let after = entry.operation.apply(value, entry.end.map(|(_, result)| result));
            if let Some(after) = after {
                done[number / 64] |= 1 << (number % 64);
                if known.insert((done.clone(), after)) {
                    chosen.push((number, value));
                    value = after;
                    explained += usize::from(entry.end.is_some());
                    unlink(&mut steps, begin_of[number]);
                    if let Some(end) = end_of[number] {
                        unlink(&mut steps, end);
                    }
                    at = steps[HEAD].after;
                    continue;
                }
                done[number / 64] &= !(1 << (number % 64));
            }
            at = step.after;
            continue;
        }
        // An operation has ended that had no place before this moment: the last choice was wrong.
        if known.len() > MOST_STATES {
            let culprit = format!("any: after {MOST_STATES} attempts no order was found");
            return Err(Broken { key: 0, explained: most, operations: answered, culprit });
        }
        if explained >= most {
            (most, culprit) = (explained, entries.get(step.operation).copied());
        }
        let Some((number, earlier)) = chosen.pop() else {
            let culprit = culprit.map_or_else(String::new, |entry| format!("{:?}", (entry.operation, entry.end)));
            return Err(Broken { key: 0, explained: most, operations: answered, culprit });
        };
        value = earlier;
        explained -= usize::from(entries[number].end.is_some());
        done[number / 64] &= !(1 << (number % 64));
        if let Some(end) = end_of[number] {
            relink(&mut steps, end);
        }
        relink(&mut steps, begin_of[number]);
        at = steps[begin_of[number]].after;
    }
    Ok(())
}

fn unlink(steps: &mut [Step], at: usize) {
    let Step { before, after, .. } = steps[at];
    steps[before].after = after;
    steps[after].before = before;
}

/// Undoes the last [`unlink`] that hasn't been undone.
fn relink(steps: &mut [Step], at: usize) {
    let Step { before, after, .. } = steps[at];
    steps[before].after = at;
    steps[after].before = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(operation: Operation, begin: u64, end: Option<(u64, Result)>) -> Entry {
        Entry { key: 0, operation, begin: Moment(begin), end: end.map(|(at, result)| (Moment(at), result)) }
    }

    fn is_broken(entries: &[Entry], wipes: &[(Moment, Moment)]) -> bool {
        !History { entries: entries.to_vec() }.broken(wipes).is_empty()
    }

    #[test]
    fn a_value_that_was_overwritten_before_is_not_read_again() {
        let done = |at| Some((at, Result::Done));
        let mut history = vec![
            entry(Operation::Set(1), 0, done(10)),
            entry(Operation::Set(2), 20, done(30)),
            entry(Operation::Get, 40, Some((50, Result::Value(Some(2))))),
        ];
        assert!(!is_broken(&history, &[]));
        history[2].end = Some((Moment(50), Result::Value(Some(1))));
        assert!(is_broken(&history, &[]));
        // Had the second write been under way, either could be read; but not the new value first and the old one then.
        history[1].end = Some((Moment(60), Result::Done));
        assert!(!is_broken(&history, &[]));
        history.insert(2, entry(Operation::Get, 31, Some((39, Result::Value(Some(2))))));
        assert!(is_broken(&history, &[]));
    }

    #[test]
    fn an_operation_without_an_answer_happens_later_or_never() {
        let read = |begin, value| entry(Operation::Get, begin, Some((begin + 5, Result::Value(value))));
        let history =
            |reads: [Option<u64>; 2]| vec![entry(Operation::Set(1), 0, None), read(10, reads[0]), read(20, reads[1])];
        assert!(!is_broken(&history([None, None]), &[]));
        assert!(!is_broken(&history([None, Some(1)]), &[]));
        assert!(!is_broken(&history([Some(1), Some(1)]), &[]));
        assert!(is_broken(&history([Some(1), None]), &[]));
    }

    #[test]
    fn what_is_lost_was_lost_in_a_crash_and_stays_lost() {
        let read = |begin, value| entry(Operation::Get, begin, Some((begin + 5, Result::Value(value))));
        let history = |value| vec![entry(Operation::Set(1), 0, Some((5, Result::Done))), read(100, value)];
        assert!(is_broken(&history(None), &[]));
        let crash = [(Moment(50), Moment(60))];
        assert!(!is_broken(&history(None), &crash));
        assert!(is_broken(&history(Some(1)), &crash), "it is there although everything was lost");
        let late = [(Moment(150), Moment(160))];
        assert!(is_broken(&history(None), &late));
    }

    #[test]
    fn two_swaps_of_one_value_do_not_both_succeed() {
        let swap =
            |value, begin, result| entry(Operation::Swap { expected: 1, value }, begin, Some((begin + 50, result)));
        let written = entry(Operation::Set(1), 0, Some((5, Result::Done)));
        assert!(is_broken(&[written, swap(2, 10, Result::Done), swap(3, 11, Result::Done)], &[]));
        assert!(!is_broken(&[written, swap(2, 10, Result::Refused), swap(3, 11, Result::Done)], &[]));
        assert!(is_broken(&[written, swap(2, 10, Result::Refused), swap(3, 11, Result::Refused)], &[]));
    }

    proptest! {
        /// What one store really did, one thing at a time, is linearizable, however widely begins and ends are drawn apart and whichever answers are lost; and a
        /// read of what was never written is not.
        #[test]
        fn what_happened_is_linearizable(
            steps in proptest::collection::vec((0..6u8, 1..15u64, 1..15u64, 0..16u8), 1..40),
            spoil in any::<proptest::sample::Index>(),
        ) {
            let (mut value, mut history) = (None, Vec::new());
            for (number, (kind, early, late, lost)) in steps.iter().enumerate() {
                let new = 1_000 + number as u64;
                let operation = match kind {
                    0 => Operation::Set(new),
                    1 => Operation::Add(new),
                    2 => Operation::Delete,
                    3 => Operation::Swap { expected: value.unwrap_or(7), value: new },
                    _ => Operation::Get,
                };
                let answers = [Result::Done, Result::Refused, Result::Value(value)];
                let (answer, after) = answers.iter().find_map(|answer| Some((*answer, operation.apply(value, Some(*answer))?))).unwrap();
                value = after;
                let at = 100 + 10 * number as u64;
                history.push(entry(operation, at - early, (*lost > 0).then_some((at + late, answer))));
            }
            history.sort_by_key(|entry| entry.begin);
            prop_assert!(!is_broken(&history, &[]));
            let at = spoil.index(history.len());
            history[at] = entry(Operation::Get, history[at].begin.0, Some((history[at].begin.0 + 5, Result::Value(Some(5)))));
            prop_assert!(is_broken(&history, &[]));
        }
    }
}
