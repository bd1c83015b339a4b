//! What another thread may read: a store as it was at one commit.

use std::ops::Bound;

use crate::key_schema::{self, WindowKey};
use crate::memory::SharedEntries;
use crate::merge::{CommittedCursor, KeyRange, Merge};
use crate::rocksdb::ColumnSnapshot;
use crate::window::{Keys, Retention, WindowScan};
use crate::{Direction, StoreError, StoreIterator, StoreKind, WindowIterator};

pub(crate) enum Entries {
    Memory(SharedEntries),
    RocksDb(ColumnSnapshot),
}

/// The committed content of one store at the moment the snapshot was taken. `Send`, so that an interactive query may
/// read it beside the task.
///
/// It costs little to take, but while it lives the store keeps what it has since deleted or overwritten (an in-memory
/// store is copied by its next commit), and the directory of the stores stays open and locked.
pub struct Snapshot {
    pub(crate) store: String,
    pub(crate) entries: Entries,
    /// Of a window store, with its observed stream time.
    pub(crate) window: Option<(Retention, i64)>,
}

impl Snapshot {
    /// As [`KeyValueStore::read`](crate::KeyValueStore::read).
    ///
    /// # Errors
    /// When it is of another kind of store, or the disk cannot be read.
    pub fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.key_value()?;
        self.read_stored(key, out)
    }

    /// As [`KeyValueStore::range`](crate::KeyValueStore::range).
    ///
    /// # Errors
    /// When it is of another kind of store, or the disk cannot be read.
    pub fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        self.key_value()?;
        Ok(Box::new(self.merge(KeyRange::new(from, to), direction)?))
    }

    /// As [`WindowStore::read`](crate::WindowStore::read).
    ///
    /// # Errors
    /// When it is of another kind of store, or the disk cannot be read.
    pub fn read_window(
        &self,
        key: &[u8],
        window_start_ms: i64,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let (retention, stream_time_ms) = self.window()?;
        out.clear();
        if retention
            .visible(stream_time_ms, window_start_ms, window_start_ms)
            .is_none()
        {
            return Ok(false);
        }
        let mut stored_key = Vec::with_capacity(key.len() + key_schema::STORED_SUFFIX_BYTES);
        let window_key = WindowKey {
            key,
            window_start_ms,
            sequence: 0,
        };
        key_schema::stored_key(
            retention.segment_of(window_start_ms),
            &window_key,
            &mut stored_key,
        );
        self.read_stored(&stored_key, out)
    }

    /// As [`WindowStore::fetch`](crate::WindowStore::fetch).
    ///
    /// # Errors
    /// When it is of another kind of store, or the disk cannot be read.
    pub fn fetch(
        &self,
        key: &[u8],
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.scan(Keys::Only(key.to_vec()), (from_ms, to_ms), direction)
    }

    /// As [`WindowStore::fetch_range`](crate::WindowStore::fetch_range).
    ///
    /// # Errors
    /// When it is of another kind of store, or the disk cannot be read.
    pub fn fetch_range(
        &self,
        key_from: Bound<&[u8]>,
        key_to: Bound<&[u8]>,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.scan(Keys::between(key_from, key_to), (from_ms, to_ms), direction)
    }

    fn scan(
        &self,
        keys: Keys,
        times_ms: (i64, i64),
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        let (retention, stream_time_ms) = self.window()?;
        Ok(Box::new(WindowScan::new(
            |range, direction| self.merge(range, direction),
            retention,
            stream_time_ms,
            keys,
            times_ms,
            direction,
        )))
    }

    fn merge(&self, range: KeyRange, direction: Direction) -> Result<Merge<'_>, StoreError> {
        let committed = match &self.entries {
            Entries::Memory(entries) => CommittedCursor::Memory(entries.clone()),
            Entries::RocksDb(column) => CommittedCursor::RocksDb(column.cursor(&range, direction)?),
        };
        Ok(Merge::snapshot(committed, range, direction))
    }

    fn read_stored(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        out.clear();
        match &self.entries {
            Entries::Memory(entries) => {
                let value = entries.get(key);
                out.extend_from_slice(value.map_or(&[], |value| &**value));
                Ok(value.is_some())
            }
            Entries::RocksDb(column) => column.read(key, out),
        }
    }

    fn key_value(&self) -> Result<(), StoreError> {
        match self.window {
            None => Ok(()),
            Some((retention, _)) => {
                Err(self.wrong_kind("key-value", StoreKind::window(retention.retention_ms)))
            }
        }
    }

    fn window(&self) -> Result<(Retention, i64), StoreError> {
        self.window
            .ok_or_else(|| self.wrong_kind("window", StoreKind::KeyValue))
    }

    fn wrong_kind(&self, expected: &'static str, found: StoreKind) -> StoreError {
        StoreError::WrongKind {
            store: self.store.clone(),
            expected,
            found: found.name(),
        }
    }
}
