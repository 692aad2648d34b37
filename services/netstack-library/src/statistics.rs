//! What an instance counts. Only who has the instance writes; so counting is a plain addition.

use runtime::tally::Tally;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal,)*) => {
        /// The counters of one instance.
        #[derive(Debug, Default)]
        pub struct Statistics {
            $($(#[$doc])* pub $field: Tally,)*
        }

        impl Statistics {
            /// All of them, by name, always in the same order.
            pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field.get()),)*].into_iter()
            }
        }
    };
}

counters! {
    received: "received",
    sent: "sent",
    /// Malformed, or with a wrong checksum.
    damaged: "damaged",
    /// There is no reassembly.
    fragments: "fragments",
    accepted: "tcp.accepted",
    connected: "tcp.connected",
    /// Connections now, whatever their state.
    live: "tcp.live",
    /// Segments for no connection and no listener: answered with RST.
    strange: "tcp.strange",
    /// Connections that were being opened, and gave way to newer ones.
    displaced: "tcp.displaced",
    /// SYNs for which there was no place.
    refused: "tcp.refused",
    /// Connections whose service let go of them, or died.
    abandoned: "tcp.abandoned",
    /// Connections whose service sent more than it had room for.
    overrun: "tcp.overrun",
    /// Acknowledgements that weren't looked at, since the next came with them.
    superseded: "tcp.superseded",
    /// Segments that were cut into frames.
    trains: "tcp.trains",
    datagrams: "udp.received",
    /// Datagrams that nobody is bound for.
    unbound: "udp.unbound",
    /// Datagrams that their service didn't take in time.
    dropped: "udp.dropped",
    /// How often the queue was opened anew after a crash below.
    reopened: "queue.reopened",
}
