//! The killer of a domain, who is its supervisor, too.

use loom::sync::atomic::{
    Ordering::{Relaxed, SeqCst},
    fence,
};

use crate::{
    appliance::{Appliance, Block, C, DYING, KERNEL, NOWHERE, QUIET, RECORD_OF_C, ends, get, put, put_fenced},
    orders::{Collect, Death, Look},
};

impl Appliance {
    /// Every CPU that runs executes a fence.
    fn barrier(&self) {
        fence(SeqCst);
        for block in &self.blocks {
            let asked = block.asked.fetch_add(100, SeqCst) + 100;
            while get(&block.answered) / 100 < asked / 100 && get(&block.gone) == 0 && get(&block.held) == 0 {
                self.changed.wait();
            }
        }
        fence(SeqCst);
    }

    pub fn kill(&self, victim: usize) {
        for step in &self.orders.death {
            match step {
                Death::Mark => put_fenced(&self.states[victim], DYING),
                Death::PointAway if victim == C && !self.by_handle => put_fenced(&self.slot, NOWHERE),
                Death::PointAway => {}
                Death::Barrier => self.barrier(),
                Death::Look => {
                    while !self.is_quiet(victim) {
                        self.changed.wait();
                    }
                }
                Death::Quiet => put_fenced(&self.states[victim], QUIET),
                Death::Resume => {
                    for block in &self.blocks {
                        if self.is_innermost(block, victim) && block.held.swap(0, SeqCst) == 1 {
                            self.release(block);
                        }
                    }
                }
                Death::Reclaim => {
                    self.sample();
                    self.reclaim(victim);
                }
            }
        }
        self.sample();
    }

    /// The watchdog asks every CPU where it is, which it may do at any time.
    fn sample(&self) {
        for block in &self.blocks {
            block.asked.fetch_add(1, SeqCst);
        }
    }

    /// The platform lets it run.
    fn release(&self, block: &Block) {
        if block.crashed {
            self.land(block);
            self.leave(block);
        } else {
            block.released.notify();
        }
    }

    fn is_quiet(&self, victim: usize) -> bool {
        let mut quiet = true;
        for block in &self.blocks {
            let (mut inside, mut crossing, mut held) = (false, false, false);
            for step in &self.orders.look {
                match step {
                    Look::Frame => inside = self.is_innermost(block, victim),
                    Look::Crossing => crossing = get(&block.crossing) != 0,
                    Look::Held => held = get(&block.held) != 0,
                    Look::Verdict => quiet &= held || !inside && !crossing,
                }
            }
            if !held && inside {
                block.asked.fetch_add(1, SeqCst);
            }
        }
        quiet
    }

    fn is_innermost(&self, block: &Block, domain: usize) -> bool {
        get(&block.top) == domain && (domain != C || get(&block.records[C]) == RECORD_OF_C)
    }

    fn reclaim(&self, victim: usize) {
        if self.owner.compare_exchange(victim, KERNEL, SeqCst, Relaxed).is_ok() {
            self.free();
        }
        ends(&self.images[victim]);
        // Whoever was in the kernel on the victim's behalf has come to the end of it.
        if victim == C {
            assert_eq!(get(&self.pair[0]), get(&self.pair[1]), "a kernel call was left half done");
            // A capability's record is its own until it is let go of.
            if !self.by_handle {
                self.collect();
            }
        }
    }

    /// `record::collect`.
    fn collect(&self) {
        let mut named = false;
        for step in &self.orders.collect {
            match step {
                Collect::Detach => put(&self.leads, KERNEL),
                Collect::Barrier => self.barrier(),
                Collect::LookAtFrames => {
                    named = self.blocks.iter().any(|block| {
                        get(&block.crossing) != 0 || get(&block.top) == C && get(&block.records[C]) == RECORD_OF_C
                    });
                }
                Collect::UseAgain if !named => ends(&self.generation),
                Collect::UseAgain => {}
            }
        }
    }
}
