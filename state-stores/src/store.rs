//! What a store can do: bytes in, bytes out.

use std::ops::Bound;

use crate::StoreError;
use crate::iterator::{Direction, StoreIterator, WindowIterator};

/// Keyed bytes (Kafka's `KeyValueStore<Bytes, byte[]>`).
///
/// A store reads its own uncommitted writes merged over what is committed. Nothing reaches the disk before
/// [`Stores::commit`](crate::Stores::commit).
pub trait KeyValueStore {
    /// Replaces the content of `out` with the value of `key`, and says whether there is one; `out` is empty when not.
    ///
    /// Nothing is allocated beyond what `out` needs to grow.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError>;

    /// Sets the value of `key`; `None` deletes it.
    ///
    /// # Errors
    /// When the key or the value is longer than a store can hold. The disk is not touched.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError>;

    /// Entries between two keys in byte-lexicographic order; none when `from` is above `to`.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn StoreIterator + '_>, StoreError>;

    /// Entries whose key begins with `prefix`, ascending (KIP-614). The prefix is of bytes: it may end inside a
    /// serialised field.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn prefix_scan(&self, prefix: &[u8]) -> Result<Box<dyn StoreIterator + '_>, StoreError>;

    /// About how many entries there are. Uncommitted overwrites and deletes, and RocksDB's own, are counted as if
    /// they were new entries until compaction meets them.
    fn approximate_num_entries(&self) -> u64;
}

/// What became of a put into a window store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an expired put was dropped, and is to be counted"]
pub enum PutOutcome {
    /// The store has it.
    Stored,
    /// The window is older than the store keeps, and the write was dropped. Kafka counts it in `dropped-records-total`
    /// of the task (formerly `expired-window-record-drop`).
    Expired,
}

/// Keyed bytes per window, kept for a retention of event time (Kafka's `WindowStore<Bytes, byte[]>`).
///
/// ## Retention
/// The store observes a stream time: the highest window start it was ever given, committed with its content.
/// - Reads hide windows with `start < observed stream time - retention + 1`.
/// - Time is cut into segments; a segment goes at once when all its windows are hidden. A put into a segment that has
///   gone is dropped and [`PutOutcome::Expired`] says so. (That is the rule of Kafka's RocksDB store, here for both
///   backends; Kafka's in-memory store drops by the read limit.)
pub trait WindowStore {
    /// Sets the value of `key` in the window that starts at `window_start_ms` (since the epoch); `None` deletes it.
    ///
    /// Observes the window's start as stream time, also when the value is `None`.
    ///
    /// # Errors
    /// When the window start is negative, or the key or value longer than a store can hold. The disk is not touched.
    fn put(
        &mut self,
        key: &[u8],
        window_start_ms: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError>;

    /// Replaces the content of `out` with the value of one window of `key`, and says whether there is one.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn read(&self, key: &[u8], window_start_ms: i64, out: &mut Vec<u8>)
    -> Result<bool, StoreError>;

    /// Windows of `key` that start between `from_ms` and `to_ms`, both inclusive, in the order of time.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn fetch(
        &self,
        key: &[u8],
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError>;

    /// Windows of the keys between two keys that start between `from_ms` and `to_ms`, both inclusive.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn fetch_range(
        &self,
        key_from: Bound<&[u8]>,
        key_to: Bound<&[u8]>,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError>;

    /// Windows of all keys that start between `from_ms` and `to_ms`, both inclusive.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn fetch_all(
        &self,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.fetch_range(
            Bound::Unbounded,
            Bound::Unbounded,
            from_ms,
            to_ms,
            direction,
        )
    }

    /// Every window that is kept.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    fn all(&self, direction: Direction) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.fetch_all(0, i64::MAX, direction)
    }

    /// The highest window start the store was given, in milliseconds since the epoch; -1 before the first.
    fn observed_stream_time_ms(&self) -> i64;
}

impl<S: KeyValueStore + ?Sized> KeyValueStore for Box<S> {
    fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        (**self).read(key, out)
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        (**self).put(key, value)
    }

    fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        (**self).range(from, to, direction)
    }

    fn prefix_scan(&self, prefix: &[u8]) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        (**self).prefix_scan(prefix)
    }

    fn approximate_num_entries(&self) -> u64 {
        (**self).approximate_num_entries()
    }
}

impl<S: WindowStore + ?Sized> WindowStore for Box<S> {
    fn put(
        &mut self,
        key: &[u8],
        window_start_ms: i64,
        value: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError> {
        (**self).put(key, window_start_ms, value)
    }

    fn read(
        &self,
        key: &[u8],
        window_start_ms: i64,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        (**self).read(key, window_start_ms, out)
    }

    fn fetch(
        &self,
        key: &[u8],
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        (**self).fetch(key, from_ms, to_ms, direction)
    }

    fn fetch_range(
        &self,
        key_from: Bound<&[u8]>,
        key_to: Bound<&[u8]>,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        (**self).fetch_range(key_from, key_to, from_ms, to_ms, direction)
    }

    fn fetch_all(
        &self,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        (**self).fetch_all(from_ms, to_ms, direction)
    }

    fn all(&self, direction: Direction) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        (**self).all(direction)
    }

    fn observed_stream_time_ms(&self) -> i64 {
        (**self).observed_stream_time_ms()
    }
}
