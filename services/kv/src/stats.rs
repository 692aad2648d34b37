//! The `stats` command: names as memcached's, so that its tools read them; what this store hasn't (slabs, libevent, SASL) is left out.

use alloc::vec::Vec;
use core::fmt::{Display, Write};

use crate::{
    classic::VERSION,
    command::{Context, say},
    statistics::Traffic,
};
use runtime::tally::Tally;

/// Text as bytes of an answer.
struct Lines<'a>(&'a mut Vec<u8>);

impl Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Lines<'_> {
    fn stat(&mut self, name: &str, value: impl Display) {
        // Writing to a vector doesn't fail.
        let _ = write!(self, "STAT {name} {value}\r\n");
    }
}

pub fn show(context: &Context, arguments: &[&[u8]], out: &mut Vec<u8>) {
    match arguments {
        [] => general(context, &mut Lines(out)),
        [b"settings"] => settings(context, &mut Lines(out)),
        // There are no slabs: the store has chunks of one size.
        [b"items" | b"slabs" | b"sizes" | b"conns"] => {}
        [b"reset"] => {
            context.store.reset_counts();
            return say(out, b"RESET");
        }
        _ => return say(out, b"ERROR"),
    }
    say(out, b"END");
}

fn general(context: &Context, lines: &mut Lines) {
    let totals = context.store.totals();
    let counts = totals.counts;
    let sum = |of: fn(&Traffic) -> &Tally| context.traffic.iter().map(|traffic| of(traffic).get()).sum::<u64>();
    lines.stat("pid", 1);
    lines.stat("uptime", context.uptime);
    lines.stat("time", context.date.unwrap_or(0));
    lines.stat("version", core::str::from_utf8(&VERSION[8..]).unwrap_or(""));
    lines.stat("pointer_size", usize::BITS);
    lines.stat("curr_connections", sum(|traffic| &traffic.clients.open));
    lines.stat("total_connections", sum(|traffic| &traffic.clients.accepted));
    lines.stat("rejected_connections", sum(|traffic| &traffic.clients.refused));
    lines.stat("idle_kicks", sum(|traffic| &traffic.clients.timed_out));
    lines.stat("cmd_get", counts.get_hits + counts.get_misses);
    lines.stat("cmd_set", counts.set_commands);
    lines.stat("cmd_flush", sum(|traffic| &traffic.flushes));
    lines.stat("cmd_touch", counts.touch_hits + counts.touch_misses);
    lines.stat("cmd_meta", counts.meta_commands);
    lines.stat("get_hits", counts.get_hits);
    lines.stat("get_misses", counts.get_misses);
    lines.stat("get_expired", counts.expired);
    lines.stat("delete_misses", counts.delete_misses);
    lines.stat("delete_hits", counts.delete_hits);
    lines.stat("incr_misses", counts.incr_misses);
    lines.stat("incr_hits", counts.incr_hits);
    lines.stat("decr_misses", counts.decr_misses);
    lines.stat("decr_hits", counts.decr_hits);
    lines.stat("cas_misses", counts.cas_misses);
    lines.stat("cas_hits", counts.cas_hits);
    lines.stat("cas_badval", counts.cas_badval);
    lines.stat("touch_hits", counts.touch_hits);
    lines.stat("touch_misses", counts.touch_misses);
    lines.stat("store_too_large", counts.too_large);
    lines.stat("store_no_memory", counts.no_memory);
    lines.stat("bytes_read", sum(|traffic| &traffic.clients.bytes_received));
    lines.stat("bytes_written", sum(|traffic| &traffic.clients.bytes_sent));
    lines.stat("limit_maxbytes", totals.limit);
    lines.stat("threads", context.traffic.len());
    lines.stat("bytes", totals.bytes);
    lines.stat("curr_items", totals.items);
    lines.stat("total_items", counts.stored);
    lines.stat("evictions", counts.evictions);
    lines.stat("reclaimed", counts.reclaimed);
    if let Some(log) = context.store.journal().map(|journal| &journal.statistics) {
        let amplification = log.amplification();
        lines.stat("log_commits", log.commits.get());
        lines.stat("log_committed_bytes", log.committed.get());
        lines.stat("log_written_bytes", log.written.get());
        lines.stat("log_write_amplification", format_args!("{}.{:03}", amplification / 1000, amplification % 1000));
        lines.stat("log_flushes", log.flushes.get());
        lines.stat("log_compactions", log.compactions.get());
        lines.stat("log_fill_permille", log.fill.get());
        lines.stat("log_recovery_us", log.recovery_nanos.get() / 1000);
        lines.stat("log_recovered_changes", log.recovered_changes.get());
        lines.stat("log_torn_tail", log.torn.get());
    }
}

fn settings(context: &Context, lines: &mut Lines) {
    let limits = context.store.limits();
    lines.stat("maxbytes", limits.memory);
    lines.stat("item_size_max", limits.longest_value);
    lines.stat("evictions", if limits.evict { "on" } else { "off" });
    lines.stat("cas_enabled", "yes");
    lines.stat("flush_enabled", "yes");
    lines.stat("num_threads", context.traffic.len());
    lines.stat("hash_algorithm", "xxh3");
}
