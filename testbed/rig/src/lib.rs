//! The rig: the kernel's domain core as a Linux process.
//!
//! It loads the same domain ELFs as the metal does. Threads are pthreads on pinned CPUs, CPU exceptions are signals whose context is redirected exactly as
//! an exception frame is, eviction from another CPU is a directed signal, the barrier is `membarrier`. Above `kernel_core::Platform` nothing knows.
//!
//! A process has one box. Tests that share it take turns ([`Rig::turn`]).

pub mod bench;
mod cable;
pub mod campaign;
mod card;
pub mod dma;
mod drive;
pub mod graphs;
mod images;
mod machine;
mod memory;
mod rig;
mod signals;
pub mod stops;
mod threads;

pub use cable::{DESTINATION, DESTINATION_PORT, FLOWS, Returned, Tester};
pub use card::{Card, Device};
pub use drive::Drive;
pub use images::{Start, build};
pub use machine::{Machine, clock};
pub use rig::{Counts, Damage, DomainCounts, DomainSpec, PROBE, RELAY, Rig, Running, Settings};
pub use threads::pin;
