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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::{Backend, Memory, StoreSpec, Stores};

    type Logged = (Vec<u8>, Option<Vec<u8>>, Option<i64>);

    #[derive(Default)]
    struct Log(Vec<Logged>);

    impl ChangelogSink for Log {
        fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
            let value = record.value.map(<[u8]>::to_vec);
            self.0
                .push((record.key.to_vec(), value, record.timestamp_ms));
            Ok(())
        }
    }

    fn stores() -> Stores {
        let specs = [
            StoreSpec::key_value("keys", Backend::InMemory),
            StoreSpec::window("windows", 100, Backend::InMemory),
        ];
        Stores::open(None, &specs, &Memory::new(0)).unwrap()
    }

    fn stamped(timestamp_ms: i64, value: &[u8]) -> Vec<u8> {
        let mut stored = Vec::new();
        timestamped::join(timestamp_ms, value, &mut stored);
        stored
    }

    #[test]
    fn a_plain_put_is_logged_as_it_is_without_a_timestamp_of_its_own() {
        let log = Rc::new(RefCell::new(Log::default()));
        let keys = stores().key_value("keys").unwrap();
        let mut keys = ChangeLogging::new(keys, log.clone(), ValueFormat::Plain);
        keys.put(b"a", Some(b"12345678")).unwrap();
        keys.put(b"a", None).unwrap();
        assert_eq!(
            log.borrow().0,
            [
                (b"a".to_vec(), Some(b"12345678".to_vec()), None),
                (b"a".to_vec(), None, None),
            ]
        );
    }

    #[test]
    fn a_timestamped_put_is_logged_as_the_plain_value_at_its_timestamp() {
        let log = Rc::new(RefCell::new(Log::default()));
        let keys = stores().key_value("keys").unwrap();
        let mut keys = ChangeLogging::new(keys, log.clone(), ValueFormat::Timestamped);
        keys.put(b"a", Some(&stamped(7, b"one"))).unwrap();
        keys.put(b"b", Some(&stamped(8, b""))).unwrap();
        keys.put(b"a", None).unwrap();
        assert_eq!(
            log.borrow().0,
            [
                (b"a".to_vec(), Some(b"one".to_vec()), Some(7)),
                (b"b".to_vec(), Some(Vec::new()), Some(8)),
                (b"a".to_vec(), None, None),
            ]
        );
        let mut out = Vec::new();
        assert!(keys.read(b"b", &mut out).unwrap());
        assert_eq!(out, stamped(8, b""));
    }

    #[test]
    fn a_value_without_its_timestamp_is_neither_stored_nor_logged() {
        let log = Rc::new(RefCell::new(Log::default()));
        let keys = stores().key_value("keys").unwrap();
        let mut keys = ChangeLogging::new(keys, log.clone(), ValueFormat::Timestamped);
        assert!(matches!(
            keys.put(b"a", Some(b"short")),
            Err(StoreError::MissingTimestamp { bytes: 5 })
        ));
        assert!(log.borrow().0.is_empty());
        assert!(!keys.read(b"a", &mut Vec::new()).unwrap());
    }

    #[test]
    fn a_window_is_logged_under_its_window_key_also_when_it_has_expired() {
        let log = Rc::new(RefCell::new(Log::default()));
        let window = stores().window("windows").unwrap();
        let mut window = ChangeLogging::new(window, log.clone(), ValueFormat::Timestamped);
        let value = stamped(9, b"v");
        assert_eq!(
            window.put(b"k", 200_000, Some(&value)).unwrap(),
            PutOutcome::Stored
        );
        assert_eq!(
            window.put(b"k", 1, Some(&value)).unwrap(),
            PutOutcome::Expired
        );
        let key = |start: i64| [b"k", &start.to_be_bytes()[..], &[0; 4]].concat();
        assert_eq!(
            log.borrow().0,
            [
                (key(200_000), Some(b"v".to_vec()), Some(9)),
                (key(1), Some(b"v".to_vec()), Some(9)),
            ]
        );
    }

    #[test]
    fn what_was_logged_restores_the_store() {
        let log = Rc::new(RefCell::new(Log::default()));
        let window = stores().window("windows").unwrap();
        let mut window = ChangeLogging::new(window, log.clone(), ValueFormat::Timestamped);
        for start in [0, 50, 70, 50] {
            let value = stamped(start, b"v");
            let _ = window.put(b"k", start, Some(&value)).unwrap();
        }
        let _ = window.put(b"k", 70, None).unwrap();

        let mut restored = stores();
        let records: Vec<(Vec<u8>, Option<Vec<u8>>)> = log
            .borrow()
            .0
            .iter()
            .map(|(key, value, timestamp_ms)| {
                let stored = value
                    .as_ref()
                    .map(|value| stamped(timestamp_ms.unwrap(), value));
                (key.clone(), stored)
            })
            .collect();
        let records = records
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()));
        restored.restore("windows", records, 5).unwrap();
        let restored = restored.window("windows").unwrap();
        let all =
            |store: &dyn WindowStore| crate::suite::windows(store.all(Direction::Forward).unwrap());
        assert_eq!(all(&restored), all(&window));
        assert_eq!(all(&restored).len(), 2);
    }
}
