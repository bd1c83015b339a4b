//! A disk in memory that fails at the n-th operation and crashes on demand.

/// What a crash leaves of the bytes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing that was not synced.
    LoseUnsynced,
    /// Everything, as after the kill of a process: the operating system keeps its page cache.
    KeepAll,
    /// A pseudo-random part of it, torn within writes, derived from the seed.
    Torn { seed: u64 },
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct SimDisk;
