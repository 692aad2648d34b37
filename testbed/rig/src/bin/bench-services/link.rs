//! The load generator's cable, whoever is at its far end, and a *turn*: the generator hands over all the frames that it has, the far side works until it rests, and what it sent
//! meanwhile is collected. Only then does the generator think. So a turn costs the far side what it costs under full load, whatever the generator takes for its own work; and
//! what the far side does when it has nothing to do (it polls, goes to sleep, is woken again) falls between turns, where nobody counts.

use std::{collections::VecDeque, hint::spin_loop};

use rig::bench::{rate, stamp};

pub trait Link {
    /// Whether it polls for a while before it sleeps. Then its clock is exact at any time, and what it takes after its last frame is no work; else that is exact while it rests, and
    /// all that it takes is work.
    const POLLS: bool;

    /// Hands over frames, at least one, and removes those.
    fn send(&mut self, frames: &mut VecDeque<Vec<u8>>);

    /// Adds what has come. Never blocks.
    fn receive(&mut self, into: &mut Vec<Vec<u8>>);

    /// CPU time in nanoseconds that the far side has taken by now.
    fn busy(&self) -> u64;

    /// Cycles of [`Link::send`] that were work of the far side's, by now.
    fn receiving(&self) -> u64;
}

/// What a turn brought.
pub struct Turn {
    /// In the order in which they came; each with the cycles since the turn began.
    pub frames: Vec<(Vec<u8>, u64)>,
    /// From the turn's beginning to the last frame.
    pub cycles: u64,
    /// The far side's CPU time in nanoseconds, up to the last frame.
    pub busy: u64,
    /// Cycles of the far side's on the generator's CPU.
    pub receiving: u64,
}

/// Who takes less than a tenth of so many nanoseconds, and sends nothing, rests; if we have looked so often meanwhile, and weren't away ourselves.
const REST: u64 = 60_000;
const LOOKS: u32 = 32;
/// No turn is longer: a far side that never rests isn't waited for.
const LONGEST: u64 = 500_000_000;

/// One turn with these frames, which are gone after it. `counted` is the far side's time up to which all has been counted.
pub fn turn<L: Link>(link: &mut L, outgoing: &mut VecDeque<Vec<u8>>, counted: &mut u64) -> Turn {
    let nanos = |nanos: u64| (nanos as f64 * rate()) as u64;
    let (rest, longest) = (nanos(REST), nanos(LONGEST));
    let (receiving, busy, begun) = (link.receiving(), link.busy(), stamp());
    if L::POLLS {
        *counted = busy;
    }
    let (mut frames, mut got) = (Vec::new(), Vec::new());
    let (mut last, mut busy_at_last) = (begun, None);
    // A window in which nothing came, and the far side's time at its beginning.
    let (mut window, mut looks, mut busy_before) = (begun, 0, busy);
    loop {
        let sending = !outgoing.is_empty();
        if sending {
            link.send(outgoing);
        }
        link.receive(&mut got);
        let now = stamp();
        if !got.is_empty() || sending {
            busy_before = link.busy();
            (window, looks) = (now, 0);
            if !got.is_empty() {
                (last, busy_at_last) = (now, Some(busy_before));
                frames.extend(got.drain(..).map(|frame| (frame, now - begun)));
            }
            continue;
        }
        looks += 1;
        if now - window > rest && looks > LOOKS {
            let at = link.busy();
            if at.saturating_sub(busy_before) < REST / 10 || now - begun > longest {
                break;
            }
            (window, looks, busy_before) = (now, 0, at);
        }
        spin_loop();
    }
    // What is answered by nothing is work, too.
    let end = busy_at_last.filter(|_| L::POLLS).unwrap_or_else(|| link.busy());
    let busy = end.saturating_sub(*counted);
    *counted = end;
    Turn { frames, cycles: last - begun, busy, receiving: link.receiving() - receiving }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each frame, a while after it came, and takes time of its own for it.
    #[derive(Default)]
    struct Slow {
        waiting: VecDeque<Vec<u8>>,
        looks: u64,
        busy: u64,
    }

    impl Link for Slow {
        const POLLS: bool = true;

        fn send(&mut self, frames: &mut VecDeque<Vec<u8>>) {
            self.waiting.extend(frames.pop_front());
        }

        fn receive(&mut self, into: &mut Vec<Vec<u8>>) {
            self.looks += 1;
            if self.looks.is_multiple_of(10)
                && let Some(frame) = self.waiting.pop_front()
            {
                self.busy += 5_000;
                into.push(frame);
            }
            // It never quite sleeps.
            self.busy += u64::from(self.looks.is_multiple_of(50));
        }

        fn busy(&self) -> u64 {
            self.busy
        }

        fn receiving(&self) -> u64 {
            7 * self.looks
        }
    }

    /// A turn brings all that the far side sends, in its order, and counts its time up to the last frame, and no longer.
    #[test]
    fn a_turn_ends_when_the_far_side_rests() {
        let mut slow = Slow::default();
        let mut frames: VecDeque<Vec<u8>> = (0..20u8).map(|byte| vec![byte]).collect();
        let turn = turn(&mut slow, &mut frames, &mut 0);
        let bytes: Vec<u8> = turn.frames.iter().map(|(frame, _)| frame[0]).collect();
        assert!(frames.is_empty() && bytes == (0..20).collect::<Vec<u8>>(), "{bytes:?}");
        assert!((100_000..100_000 + 200).contains(&turn.busy), "{}", turn.busy);
        assert!(turn.frames.windows(2).all(|pair| pair[0].1 <= pair[1].1) && turn.receiving > 0);
        assert_eq!(turn.cycles, turn.frames[19].1);
    }
}
