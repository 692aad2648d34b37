//! What is counted: in each shard what happens to items, under the shard's lock; over all what happens on connections.

use runtime::{serving::Tallies, tally::Tally};

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// Of one shard.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counts {
            /// Adds another shard's.
            pub fn add(&mut self, other: &Counts) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counts! {
    /// Commands that read, and that store; by what came of them.
    get_hits, get_misses, touch_hits, touch_misses, set_commands, delete_hits, delete_misses, incr_hits, incr_misses, decr_hits, decr_misses,
    cas_hits, cas_misses, cas_badval, meta_commands,
    /// Items that have ever been stored.
    stored,
    /// Items that had expired when somebody asked for them.
    expired,
    /// Items that were pushed out, and those among what was pushed out that had expired.
    evictions, reclaimed,
    /// Values that were too large, or for which there was no room.
    too_large, no_memory,
}

/// Of one thread that serves clients.
#[derive(Debug, Default)]
pub struct Traffic {
    pub clients: Tallies,
    pub flushes: Tally,
    /// Datagrams that were no requests.
    pub dropped_datagrams: Tally,
}
