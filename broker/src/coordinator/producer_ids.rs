//! Producer ids for idempotent producers: unique across restarts, because whole blocks are reserved in the metadata journal
//! before the first id of a block is given out. What a crash leaves of a block is never used.

use crate::metadata::PRODUCER_ID_BLOCK;

/// The block in use.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    next: i64,
    end: i64,
}

impl ProducerIds {
    /// The next id, or `None` when a block has to be reserved first.
    pub(crate) fn take(&mut self) -> Option<i64> {
        let id = self.next;
        (id < self.end).then(|| {
            self.next += 1;
            id
        })
    }

    /// The block after the ids that may have been given out: reserve up to its end, then `start` it.
    pub(crate) fn block_after(reserved_end: i64) -> (i64, i64) {
        (reserved_end, reserved_end + PRODUCER_ID_BLOCK)
    }

    /// Uses a block that is reserved.
    pub(crate) fn start(&mut self, (next, end): (i64, i64)) {
        self.next = next;
        self.end = end;
    }
}
