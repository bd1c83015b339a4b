//! What the handles of one store share: its uncommitted writes, and where the committed ones are.

use std::cell::{Cell, RefCell};

use crate::memory::{self, SharedEntries};
use crate::merge::{CommittedCursor, KeyRange};
use crate::overlay::{LENGTH_MAX, Overlay};
use crate::rocksdb::Column;
use crate::{Direction, StoreError, StoreKind};

/// Observed stream time before the first put.
pub(crate) const NO_STREAM_TIME: i64 = -1;

pub(crate) enum Committed {
    Memory(RefCell<SharedEntries>),
    RocksDb(Column),
}

impl Committed {
    pub(crate) fn cursor(
        &self,
        range: &KeyRange,
        direction: Direction,
    ) -> Result<CommittedCursor<'_>, StoreError> {
        Ok(match self {
            Committed::Memory(entries) => CommittedCursor::Memory(entries.borrow().clone()),
            Committed::RocksDb(column) => {
                CommittedCursor::RocksDb(column.cursor(range, direction)?)
            }
        })
    }
}

pub(crate) struct StoreState {
    pub(crate) name: String,
    pub(crate) kind: StoreKind,
    pub(crate) committed: Committed,
    pub(crate) overlay: RefCell<Overlay>,
    /// Counts the times the committed side was written.
    pub(crate) epoch: Cell<u64>,
    /// Of a window store: the highest window start put, committed or not.
    pub(crate) stream_time_ms: Cell<i64>,
    pub(crate) stream_time_committed_ms: Cell<i64>,
    /// Of a window store: segments below were deleted by this process. Begins at 0, so that the first expiry after an
    /// open also deletes what a longer retention had kept.
    pub(crate) deleted_below: Cell<u64>,
}

impl StoreState {
    pub(crate) fn new(
        name: String,
        kind: StoreKind,
        committed: Committed,
        stream_time_ms: i64,
    ) -> StoreState {
        StoreState {
            name,
            kind,
            committed,
            overlay: RefCell::default(),
            epoch: Cell::new(0),
            stream_time_ms: Cell::new(stream_time_ms),
            stream_time_committed_ms: Cell::new(stream_time_ms),
            deleted_below: Cell::new(0),
        }
    }

    /// Reads through the uncommitted writes.
    pub(crate) fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        out.clear();
        if let Some(uncommitted) = self.overlay.borrow().read(key) {
            out.extend_from_slice(uncommitted.unwrap_or_default());
            return Ok(uncommitted.is_some());
        }
        match &self.committed {
            Committed::Memory(entries) => {
                let entries = entries.borrow();
                let value = entries.get(key);
                out.extend_from_slice(value.map_or(&[], |value| &**value));
                Ok(value.is_some())
            }
            Committed::RocksDb(column) => column.read(key, out),
        }
    }

    pub(crate) fn check_lengths(&self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        // A stored key has a few bytes more than the one given.
        for (what, bytes) in [
            ("key", key.len() + 32),
            ("value", value.map_or(0, <[u8]>::len)),
        ] {
            if bytes > LENGTH_MAX {
                return Err(StoreError::TooLarge {
                    store: self.name.clone(),
                    what,
                    bytes,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn wrong_kind(&self, expected: &'static str) -> StoreError {
        StoreError::WrongKind {
            store: self.name.clone(),
            expected,
            found: self.kind.name(),
        }
    }

    /// Forgets uncommitted writes.
    pub(crate) fn discard(&self) {
        self.overlay.borrow_mut().clear();
        self.stream_time_ms.set(self.stream_time_committed_ms.get());
    }

    /// The committed side has been written with all that was uncommitted, and segments below one are deleted.
    pub(crate) fn committed(&self, deleted_below: Option<u64>) {
        self.overlay.borrow_mut().clear();
        self.stream_time_committed_ms.set(self.stream_time_ms.get());
        self.deleted_below
            .set(self.deleted_below.get().max(deleted_below.unwrap_or(0)));
        self.epoch.set(self.epoch.get() + 1);
    }

    /// The committed side has been written with what was restored, up to this stream time, and segments below one are deleted. What is
    /// uncommitted stays so.
    pub(crate) fn restored(&self, stream_time_ms: i64, deleted_below: u64) {
        for observed in [&self.stream_time_ms, &self.stream_time_committed_ms] {
            observed.set(observed.get().max(stream_time_ms));
        }
        self.deleted_below
            .set(self.deleted_below.get().max(deleted_below));
        self.epoch.set(self.epoch.get() + 1);
    }

    pub(crate) fn approximate_num_entries(&self) -> u64 {
        let committed = match &self.committed {
            Committed::Memory(entries) => entries.borrow().len() as u64,
            Committed::RocksDb(column) => column.approximate_num_entries(),
        };
        committed + self.overlay.borrow().len() as u64
    }

    /// Writes to the committed side of an in-memory store.
    pub(crate) fn write_memory(
        entries: &RefCell<SharedEntries>,
        write: impl FnOnce(&mut memory::Entries),
    ) {
        write(std::sync::Arc::make_mut(&mut entries.borrow_mut()));
    }
}
