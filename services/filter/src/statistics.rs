//! What passed and what was dropped, by queue and direction, and by rule. Each queue's tallies are written by the one thread that uses the
//! queue.

use alloc::{boxed::Box, sync::Arc, vec::Vec};

use runtime::{sync::Mutex, tally::Tally};

use crate::rules::Judgement;

/// A direction's tallies: whatever was judged has passed or was dropped.
#[derive(Debug, Default)]
pub struct Passage {
    pub passed: Tally,
    pub dropped: Tally,
}

#[derive(Debug, Default)]
pub struct RuleTally {
    pub packets: Tally,
    pub bytes: Tally,
}

/// Of one queue.
#[derive(Debug)]
#[repr(align(128))]
pub struct QueueTallies {
    pub received: Passage,
    pub sent: Passage,
    /// Queues below opened anew after a crash.
    pub reopened: Tally,
    pub rules: Box<[RuleTally]>,
}

impl QueueTallies {
    fn new(rules: usize) -> QueueTallies {
        QueueTallies {
            received: Passage::default(),
            sent: Passage::default(),
            reopened: Tally::new(),
            rules: (0..rules).map(|_| RuleTally::default()).collect(),
        }
    }

    /// Counts a packet of `bytes` with the rules that it matched.
    pub fn count_rules(&self, judgement: Judgement, bytes: u64) {
        let mut matched = judgement.matched;
        while matched != 0 {
            if let Some(rule) = self.rules.get(matched.trailing_zeros() as usize) {
                rule.packets.add(1);
                rule.bytes.add(bytes);
            }
            matched &= matched - 1;
        }
    }
}

/// Of all queues that have been opened.
pub struct Statistics {
    rules: usize,
    queues: Mutex<Vec<(u16, Arc<QueueTallies>)>>,
}

impl Statistics {
    pub fn new(rules: usize) -> Statistics {
        Statistics { rules, queues: Mutex::new(Vec::new()) }
    }

    /// The tallies of a queue, which go on when it is opened again.
    pub fn of_queue(&self, index: u16) -> Arc<QueueTallies> {
        let mut queues = self.queues.lock();
        if let Some((_, tallies)) = queues.iter().find(|(known, _)| *known == index) {
            return tallies.clone();
        }
        let tallies = Arc::new(QueueTallies::new(self.rules));
        queues.push((index, tallies.clone()));
        tallies
    }

    /// Calls `show` with every counter's name and value, summed over the queues, always in the same order.
    pub fn show(&self, names: &[alloc::string::String], mut show: impl FnMut(core::fmt::Arguments, u64)) {
        let queues = self.queues.lock().clone();
        let sum = |of: &dyn Fn(&QueueTallies) -> &Tally| queues.iter().map(|(_, queue)| of(queue).get()).sum::<u64>();
        show(format_args!("receive.passed"), sum(&|queue| &queue.received.passed));
        show(format_args!("receive.dropped"), sum(&|queue| &queue.received.dropped));
        show(format_args!("send.passed"), sum(&|queue| &queue.sent.passed));
        show(format_args!("send.dropped"), sum(&|queue| &queue.sent.dropped));
        show(format_args!("queue.reopened"), sum(&|queue| &queue.reopened));
        for (i, name) in names.iter().enumerate() {
            show(format_args!("rule.{name}.packets"), sum(&|queue| &queue.rules[i].packets));
            show(format_args!("rule.{name}.bytes"), sum(&|queue| &queue.rules[i].bytes));
        }
    }
}
