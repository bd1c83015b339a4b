//! A store whose every put goes to its changelog too.
//!
//! The changelog's bytes are Kafka's: the plain value, with the timestamp it is stored with as the record's own; for a
//! window store the [window key](crate::key_schema) as key. A window store logs expired puts as well, as Kafka does:
//! whoever restores from them drops them again.

use std::ops::Bound;

use crate::key_schema::WindowKey;
use crate::{
    ChangelogRecord, ChangelogSink, Direction, KeyValueStore, PutOutcome, StoreError,
    StoreIterator, WindowIterator, WindowStore, timestamped,
};

/// What the values of a store are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFormat {
    /// The value alone.
    Plain,
    /// A timestamp, then the value: [`timestamped`].
    Timestamped,
}

/// Logs every put of a store to a sink, after the store took it.
pub struct ChangeLogging<S, L> {
    store: S,
    sink: L,
    format: ValueFormat,
    window_key: Vec<u8>,
}

impl<S, L: ChangelogSink> ChangeLogging<S, L> {
    /// Wraps a store, with the format its values have.
    pub fn new(store: S, sink: L, format: ValueFormat) -> ChangeLogging<S, L> {
        ChangeLogging {
            store,
            sink,
            format,
            window_key: Vec::new(),
        }
    }
}

/// The plain value, and the timestamp stored with it.
fn plain(
    format: ValueFormat,
    stored: Option<&[u8]>,
) -> Result<(Option<&[u8]>, Option<i64>), StoreError> {
    match (format, stored) {
        (ValueFormat::Timestamped, Some(stored)) => {
            let (timestamp_ms, value) = timestamped::split(stored)?;
            Ok((Some(value), Some(timestamp_ms)))
        }
        (_, stored) => Ok((stored, None)),
    }
}

impl<S: KeyValueStore, L: ChangelogSink> KeyValueStore for ChangeLogging<S, L> {
    fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.store.read(key, out)
    }

    fn put(&mut self, key: &[u8], stored: Option<&[u8]>) -> Result<(), StoreError> {
        let (value, timestamp_ms) = plain(self.format, stored)?;
        self.store.put(key, stored)?;
        self.sink.log(ChangelogRecord {
            key,
            value,
            timestamp_ms,
        })
    }

    fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        self.store.range(from, to, direction)
    }

    fn prefix_scan(&self, prefix: &[u8]) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        self.store.prefix_scan(prefix)
    }

    fn approximate_num_entries(&self) -> u64 {
        self.store.approximate_num_entries()
    }
}

impl<S: WindowStore, L: ChangelogSink> WindowStore for ChangeLogging<S, L> {
    fn put(
        &mut self,
        key: &[u8],
        window_start_ms: i64,
        stored: Option<&[u8]>,
    ) -> Result<PutOutcome, StoreError> {
        let (value, timestamp_ms) = plain(self.format, stored)?;
        let outcome = self.store.put(key, window_start_ms, stored)?;
        self.window_key.clear();
        WindowKey {
            key,
            window_start_ms,
            sequence: 0,
        }
        .append_to(&mut self.window_key);
        self.sink.log(ChangelogRecord {
            key: &self.window_key,
            value,
            timestamp_ms,
        })?;
        Ok(outcome)
    }

    fn read(
        &self,
        key: &[u8],
        window_start_ms: i64,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        self.store.read(key, window_start_ms, out)
    }

    fn fetch(
        &self,
        key: &[u8],
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.store.fetch(key, from_ms, to_ms, direction)
    }

    fn fetch_range(
        &self,
        key_from: Bound<&[u8]>,
        key_to: Bound<&[u8]>,
        from_ms: i64,
        to_ms: i64,
        direction: Direction,
    ) -> Result<Box<dyn WindowIterator + '_>, StoreError> {
        self.store
            .fetch_range(key_from, key_to, from_ms, to_ms, direction)
    }

    fn observed_stream_time_ms(&self) -> i64 {
        self.store.observed_stream_time_ms()
    }
}
