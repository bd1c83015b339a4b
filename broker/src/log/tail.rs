//! The newest batches in memory, shared with the readers at the log's end: they neither copy nor call the system.

use std::collections::VecDeque;

use bytes::Bytes;

#[derive(Debug)]
struct TailBatch {
    base_offset: i64,
    last_offset: i64,
    bytes: Bytes,
}

/// The last batches of a log, without a gap, bounded by their bytes.
///
/// A batch keeps alive the allocation it was cut from, so the memory held may exceed the bound when small batches come in large frames.
#[derive(Debug)]
pub(super) struct Tail {
    batches: VecDeque<TailBatch>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Tail {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn push(&mut self, base_offset: i64, last_offset: i64, bytes: Bytes) {
        self.bytes += bytes.len();
        self.batches.push_back(TailBatch {
            base_offset,
            last_offset,
            bytes,
        });
        self.evict();
    }

    pub(super) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.evict();
    }

    pub(super) fn clear(&mut self) {
        self.batches = VecDeque::new();
        self.bytes = 0;
    }

    /// Drops the batches before this offset: the log holds others in their place.
    pub(super) fn drop_before(&mut self, offset: i64) {
        while self
            .batches
            .front()
            .is_some_and(|oldest| oldest.base_offset < offset)
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.bytes.len();
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.bytes.len();
        }
    }

    /// Whole batches from the one that holds `offset`; `None` if that one is no longer held.
    pub(super) fn read(
        &self,
        offset: i64,
        bytes_max: usize,
        end_bound: i64,
        at_least_one_batch: bool,
    ) -> Option<TailRead> {
        if self
            .batches
            .front()
            .is_none_or(|oldest| offset < oldest.base_offset)
        {
            return None;
        }
        let first = self
            .batches
            .partition_point(|batch| batch.last_offset < offset);
        let mut read = TailRead {
            batches: Vec::new(),
            size_bytes: 0,
            first_offset: offset,
            next_offset: offset,
        };
        for batch in self.batches.range(first..) {
            let fits = read.size_bytes + batch.bytes.len() <= bytes_max
                || (read.batches.is_empty() && at_least_one_batch);
            if !fits || batch.last_offset >= end_bound {
                break;
            }
            if read.batches.is_empty() {
                read.first_offset = batch.base_offset;
            }
            read.size_bytes += batch.bytes.len();
            read.next_offset = batch.last_offset + 1;
            read.batches.push(batch.bytes.clone());
        }
        Some(read)
    }
}

/// Batches shared with the tail.
#[derive(Debug)]
pub(super) struct TailRead {
    pub(super) batches: Vec<Bytes>,
    pub(super) size_bytes: usize,
    pub(super) first_offset: i64,
    pub(super) next_offset: i64,
}
