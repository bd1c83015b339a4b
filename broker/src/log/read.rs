//! Reading a log.

use bytes::Bytes;

use crate::log::ReadError;

/// What a read found: whole batches in offset order.
#[derive(Clone, Debug, Default)]
pub struct ReadSlice {
    /// Each holds one or more whole batches. Shared with the log's tail, or read from the segment.
    pub batches: Vec<Bytes>,
    pub size_bytes: usize,
    /// Base offset of the first batch, at or below the wanted offset; the wanted offset if empty.
    pub first_offset: i64,
    /// Where to read on: one past the last offset of the last batch; the wanted offset if empty.
    pub next_offset: i64,
}

/// A read whose bounds are settled and whose bytes are held, but not yet fetched: needs no lock.
#[derive(Debug)]
pub struct ReadPlan {}

impl ReadPlan {
    pub fn perform(self) -> Result<ReadSlice, ReadError> {
        todo!()
    }
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    pub timestamp: i64,
    pub offset: i64,
    pub leader_epoch: i32,
}
