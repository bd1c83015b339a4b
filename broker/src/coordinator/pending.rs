//! What a coordinator has appended to its topic and is not durable yet, and what is to follow from it.
//!
//! 1. A coordinator appends a batch under its lock, and queues what follows (`push`).
//! 2. When the partition's high watermark has advanced, or the partition has failed, it takes out in log order what is settled by that
//!    (`take_settled`), and does it.
//! 3. Whoever has queued something looks once: the high watermark may have passed before it was queued.

use std::collections::{BTreeMap, VecDeque};

use crate::log::{AppendError, Appended};
use crate::protocol::record_batch::{self, Record, RecordBatch};
use crate::replica::{Isolation, Partition, PartitionError};

/// Bound on what one batch of a coordinator's topic may expand to.
const RECORDS_BYTES_MAX: usize = 128 << 20;

/// Queues by partition of the topic. `T` is what follows.
pub(super) struct Pending<T> {
    queues: BTreeMap<i32, VecDeque<Entry<T>>>,
}

struct Entry<T> {
    end_offset: i64,
    then: T,
}

/// What is decided about something that was queued.
pub(super) struct Settled<T> {
    pub(super) then: T,
    /// Else the partition has failed: it never will be.
    pub(super) is_durable: bool,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            queues: BTreeMap::new(),
        }
    }
}

impl<T> Pending<T> {
    /// Queues what follows from a batch. It may be behind others in the log that were queued already, if it was appended under another lock.
    pub(super) fn push(&mut self, partition: &Partition, appended: &Appended, then: T) {
        let end_offset = appended.last_offset + 1;
        let queue = self.queues.entry(partition.index()).or_default();
        let at = queue.partition_point(|entry| entry.end_offset <= end_offset);
        queue.insert(at, Entry { end_offset, then });
    }

    /// Queues what follows once all that is queued is settled; gives it back if nothing is.
    pub(super) fn push_behind(&mut self, partition: i32, then: T) -> Result<(), T> {
        let queue = self.queues.get_mut(&partition);
        match queue.and_then(|queue| Some((queue.back()?.end_offset, queue))) {
            Some((end_offset, queue)) => {
                queue.push_back(Entry { end_offset, then });
                Ok(())
            }
            None => Err(then),
        }
    }

    /// The first that is settled. Its coordinator is locked: what is queued below the high watermark is durable.
    pub(super) fn take_settled(&mut self, partition: &Partition) -> Option<Settled<T>> {
        let queue = self.queues.get_mut(&partition.index())?;
        let end_offset = queue.front()?.end_offset;
        // In this order: of what has failed, all that ever was acknowledged is known.
        let has_failed = partition.has_failed();
        let is_durable = end_offset <= partition.high_watermark();
        if !is_durable && !has_failed {
            return None;
        }
        let Entry { then, .. } = queue.pop_front()?;
        Some(Settled { then, is_durable })
    }

    /// What is queued of a partition, in log order.
    pub(super) fn of(&self, partition: i32) -> impl Iterator<Item = &T> {
        let queue = self.queues.get(&partition).into_iter().flatten();
        queue.map(|entry| &entry.then)
    }

    /// All that is queued.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.queues.values().flatten().map(|entry| &entry.then)
    }

    /// Partitions of which something is queued.
    pub(super) fn partitions(&self) -> impl Iterator<Item = i32> {
        let busy = self.queues.iter().filter(|(_, queue)| !queue.is_empty());
        busy.map(|(partition, _)| *partition)
    }

    /// Takes all that is queued: nothing will be settled any more.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = T> {
        let queues = std::mem::take(&mut self.queues);
        queues.into_values().flatten().map(|entry| entry.then)
    }
}

/// Reads a partition of a coordinator's topic from its start: each record with its batch, and each control batch with none.
pub(super) fn load(
    partition: &Partition,
    mut replay: impl FnMut(&RecordBatch<'_>, Option<&Record<'_>>),
) -> Result<(), PartitionError> {
    let mut offset = partition.log_start_offset().max(0);
    let mut scratch = Vec::new();
    loop {
        let fetched = partition.fetch(offset, 1 << 20, Isolation::ReadUncommitted)?;
        if fetched.batches.is_empty() {
            return Ok(());
        }
        offset = fetched.next_offset;
        let batches = fetched.batches.iter();
        for batch in batches.flat_map(|bytes| record_batch::batches(bytes)) {
            if batch.is_control() {
                replay(&batch, None);
                continue;
            }
            let records = batch.records(&mut scratch, RECORDS_BYTES_MAX);
            for record in records.map_err(AppendError::Corrupt)? {
                replay(&batch, Some(&record.map_err(AppendError::Corrupt)?));
            }
        }
    }
}
