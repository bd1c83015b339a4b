//! The cases every store passes. An implementation's tests call `store_suite!` with its backend, and each case is a
//! test of theirs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::key_schema::WindowKey;
use crate::{
    Backend, Direction, KeyValueStore, Memory, Positions, PutOutcome, RestoredRecord, Snapshot,
    StoreError, StoreIterator, StoreKind, StoreSpec, Stores, WindowIterator, WindowStore,
};

/// Makes one test of each case.
macro_rules! store_suite {
    ($backend:expr) => {
        store_suite!($backend;
            a_put_is_read_before_and_after_its_commit,
            none_deletes_and_an_empty_value_does_not,
            a_read_replaces_the_content_of_the_buffer,
            a_range_is_in_byte_order_and_has_the_bounds_asked_for,
            a_range_from_above_to_is_empty,
            a_prefix_scan_ends_with_the_prefix,
            writes_and_commits_during_an_iteration_are_seen_ahead_of_it,
            discard_goes_back_to_the_last_commit,
            a_snapshot_stays_as_it_was_taken,
            handles_share_what_is_uncommitted,
            restored_records_are_committed_with_their_offset,
            what_is_restored_in_bulk_is_what_one_by_one_would_be,
            restoring_over_uncommitted_writes_is_refused,
            uncommitted_bytes_grow_with_writes_and_go_with_a_commit,
            positions_change_only_where_they_are_given,
            a_store_is_asked_for_by_its_name_and_kind,
            key_value_store_does_what_a_sorted_map_does,
            a_window_is_read_until_its_retention_ends,
            a_put_into_a_segment_that_has_gone_is_dropped_and_says_so,
            windows_of_a_key_come_in_the_order_of_time_and_no_others,
            windows_of_several_keys_come_by_segment_then_window_key,
            a_window_before_the_epoch_is_refused,
            discard_goes_back_in_stream_time,
            a_window_store_is_restored_from_its_changelog_keys,
            a_changelog_that_is_not_of_windows_is_refused_whole,
            window_store_does_what_a_sorted_map_with_retention_does,
        );
    };
    ($backend:expr; $($case:ident),* $(,)?) => {
        $(
            #[test]
            fn $case() {
                $crate::suite::$case(&$crate::suite::Subject::new($backend));
            }
        )*
    };
}
pub(crate) use store_suite;

/// A backend under test, with a directory of its own.
pub(crate) struct Subject {
    backend: Backend,
    directory: TempDir,
}

impl Subject {
    pub(crate) fn new(backend: Backend) -> Subject {
        Subject {
            backend,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self, kinds: &[(&str, StoreKind)]) -> Stores {
        let specs: Vec<StoreSpec> = kinds
            .iter()
            .map(|(name, kind)| StoreSpec {
                name: (*name).to_owned(),
                kind: *kind,
                backend: self.backend,
            })
            .collect();
        Stores::open(Some(self.directory.path()), &specs, &Memory::new(8 << 20)).unwrap()
    }

    fn key_value(&self) -> (Stores, Box<dyn KeyValueStore>) {
        let stores = self.open(&[("store", StoreKind::KeyValue)]);
        let handle = stores.key_value("store").unwrap();
        (stores, handle)
    }

    /// Retention 100 ms, segments of 40 ms.
    fn window(&self) -> (Stores, Box<dyn WindowStore>) {
        let stores = self.open(&[("store", WINDOW)]);
        let handle = stores.window("store").unwrap();
        (stores, handle)
    }
}

const RETENTION_MS: i64 = 100;
const SEGMENT_INTERVAL_MS: i64 = 40;
const WINDOW: StoreKind = StoreKind::Window {
    retention_ms: RETENTION_MS,
    segment_interval_ms: SEGMENT_INTERVAL_MS,
};

type Pair = (Vec<u8>, Vec<u8>);
type WindowEntry = (Vec<u8>, i64, Vec<u8>);

pub(crate) fn pairs(mut iterator: Box<dyn StoreIterator + '_>) -> Vec<Pair> {
    let mut all = Vec::new();
    while let Some((key, value)) = iterator.next().unwrap() {
        all.push((key.to_vec(), value.to_vec()));
    }
    assert_eq!(
        iterator.next().unwrap(),
        None,
        "an iterator that ended goes on"
    );
    all
}

pub(crate) fn windows(mut iterator: Box<dyn WindowIterator + '_>) -> Vec<WindowEntry> {
    let mut all = Vec::new();
    while let Some((key, window_start_ms, value)) = iterator.next().unwrap() {
        all.push((key.to_vec(), window_start_ms, value.to_vec()));
    }
    assert_eq!(
        iterator.next().unwrap(),
        None,
        "an iterator that ended goes on"
    );
    all
}

pub(crate) fn value_of(store: &dyn KeyValueStore, key: &[u8]) -> Option<Vec<u8>> {
    let mut out = b"left over".to_vec();
    let found = store.read(key, &mut out).unwrap();
    assert!(
        found || out.is_empty(),
        "nothing was found, and left {out:?}"
    );
    found.then_some(out)
}

fn window_of(store: &dyn WindowStore, key: &[u8], window_start_ms: i64) -> Option<Vec<u8>> {
    let mut out = b"left over".to_vec();
    let found = store.read(key, window_start_ms, &mut out).unwrap();
    assert!(
        found || out.is_empty(),
        "nothing was found, and left {out:?}"
    );
    found.then_some(out)
}

/// All entries as text, `key=value` with spaces between.
fn show(store: &dyn KeyValueStore) -> String {
    show_pairs(pairs(
        store
            .range(Unbounded, Unbounded, Direction::Forward)
            .unwrap(),
    ))
}

fn show_pairs(pairs: Vec<Pair>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    pairs
        .iter()
        .map(|(key, value)| format!("{}={}", text(key), text(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Entries as text, `key@start=value` with spaces between.
fn show_windows(entries: Vec<WindowEntry>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    entries
        .iter()
        .map(|(key, start, value)| format!("{}@{start}={}", text(key), text(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

/// `a=1 b=2 c=` puts two and deletes one.
fn put_all(store: &mut dyn KeyValueStore, writes: &str) {
    for write in writes.split_whitespace() {
        let (key, value) = write.split_once('=').unwrap();
        let value = (!value.is_empty()).then_some(value.as_bytes());
        store.put(key.as_bytes(), value).unwrap();
    }
}

/// `a@5=1 b@7=` puts one and deletes one; returns the outcomes that were not `Stored`, by key and start.
fn put_windows(store: &mut dyn WindowStore, writes: &str) -> Vec<String> {
    let mut expired = Vec::new();
    for write in writes.split_whitespace() {
        let (window, value) = write.split_once('=').unwrap();
        let (key, start) = window.split_once('@').unwrap();
        let value = (!value.is_empty()).then_some(value.as_bytes());
        if store
            .put(key.as_bytes(), start.parse().unwrap(), value)
            .unwrap()
            == PutOutcome::Expired
        {
            expired.push(window.to_owned());
        }
    }
    expired
}

fn window_key(key: &[u8], window_start_ms: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    WindowKey {
        key,
        window_start_ms,
        sequence: 0,
    }
    .append_to(&mut bytes);
    bytes
}

fn commit(stores: &mut Stores) {
    stores.commit(&Positions::default()).unwrap();
}

pub(crate) fn a_put_is_read_before_and_after_its_commit(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1 b=2 a=3");
    assert_eq!(value_of(&store, b"a"), Some(b"3".to_vec()));
    commit(&mut stores);
    assert_eq!(value_of(&store, b"a"), Some(b"3".to_vec()));
    assert_eq!(value_of(&store, b"absent"), None);
    assert_eq!(show(&store), "a=3 b=2");
}

pub(crate) fn none_deletes_and_an_empty_value_does_not(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1 b=2 c=3");
    commit(&mut stores);
    store.put(b"a", None).unwrap();
    store.put(b"b", Some(b"")).unwrap();
    store.put(b"absent", None).unwrap();
    for _ in 0..2 {
        assert_eq!(value_of(&store, b"a"), None);
        assert_eq!(value_of(&store, b"b"), Some(Vec::new()));
        assert_eq!(show(&store), "b= c=3");
        commit(&mut stores);
    }
}

pub(crate) fn a_read_replaces_the_content_of_the_buffer(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=committed");
    commit(&mut stores);
    put_all(&mut store, "b=un");
    let mut out = b"something longer than either".to_vec();
    assert!(store.read(b"a", &mut out).unwrap());
    assert_eq!(out, b"committed");
    assert!(store.read(b"b", &mut out).unwrap());
    assert_eq!(out, b"un");
    assert!(!store.read(b"c", &mut out).unwrap());
    assert!(out.is_empty());
}

pub(crate) fn a_range_is_in_byte_order_and_has_the_bounds_asked_for(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "b=1 d=1 f=1 d0=1");
    store.put(&[0xff], Some(b"high")).unwrap();
    commit(&mut stores);
    put_all(&mut store, "a=2 c=2 d=2 e=2 f=");
    let range = |from: Bound<&[u8]>, to: Bound<&[u8]>, direction| {
        show_pairs(pairs(store.range(from, to, direction).unwrap()))
    };
    let forward = Direction::Forward;
    assert_eq!(
        range(Included(b"b"), Included(b"d"), forward),
        "b=1 c=2 d=2"
    );
    assert_eq!(range(Excluded(b"b"), Excluded(b"d"), forward), "c=2");
    assert_eq!(
        range(Excluded(b"b"), Included(b"d0"), forward),
        "c=2 d=2 d0=1"
    );
    assert_eq!(range(Unbounded, Excluded(b"c"), forward), "a=2 b=1");
    assert_eq!(
        range(Included(b"e"), Unbounded, forward),
        "e=2 \u{fffd}=high"
    );
    let backward = Direction::Backward;
    assert_eq!(
        range(Included(b"b"), Included(b"d"), backward),
        "d=2 c=2 b=1"
    );
    assert_eq!(range(Excluded(b"b"), Excluded(b"d"), backward), "c=2");
    assert_eq!(range(Unbounded, Excluded(b"c"), backward), "b=1 a=2");
    assert_eq!(
        range(Included(b"d0"), Unbounded, backward),
        "\u{fffd}=high e=2 d0=1"
    );
}

pub(crate) fn a_range_from_above_to_is_empty(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1 b=1 c=1");
    for _ in 0..2 {
        for direction in [Direction::Forward, Direction::Backward] {
            for (from, to) in [
                (Included(&b"c"[..]), Included(&b"a"[..])),
                (Excluded(b"b"), Excluded(b"b")),
                (Included(b"b"), Excluded(b"b")),
                (Excluded(b"b"), Included(b"b")),
            ] {
                assert_eq!(pairs(store.range(from, to, direction).unwrap()), []);
            }
        }
        commit(&mut stores);
    }
}

pub(crate) fn a_prefix_scan_ends_with_the_prefix(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1 aa=1 ab=1 b=1");
    for key in [&[0xfe, 0xff][..], &[0xff], &[0xff, 0xff, 1]] {
        store.put(key, Some(b"high")).unwrap();
    }
    commit(&mut stores);
    put_all(&mut store, "aaa=2 ab= B=2");
    let scan = |prefix: &[u8]| pairs(store.prefix_scan(prefix).unwrap());
    assert_eq!(show_pairs(scan(b"a")), "a=1 aa=1 aaa=2");
    assert_eq!(show_pairs(scan(b"aa")), "aa=1 aaa=2");
    assert_eq!(scan(&[0xff]).len(), 2);
    assert_eq!(scan(&[0xfe, 0xff]).len(), 1);
    assert_eq!(scan(b"").len(), 8);
    assert_eq!(scan(b"c"), []);
}

pub(crate) fn writes_and_commits_during_an_iteration_are_seen_ahead_of_it(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    let mut writer = stores.key_value("store").unwrap();
    put_all(&mut store, "b=1 d=1 f=1 h=1");
    commit(&mut stores);
    put_all(&mut store, "e=1");

    let mut iterator = store
        .range(Unbounded, Unbounded, Direction::Forward)
        .unwrap();
    assert_eq!(iterator.next().unwrap(), Some((&b"b"[..], &b"1"[..])));
    put_all(&mut writer, "a=2 c=2 d=");
    assert_eq!(iterator.next().unwrap(), Some((&b"c"[..], &b"2"[..])));
    commit(&mut stores);
    assert_eq!(iterator.next().unwrap(), Some((&b"e"[..], &b"1"[..])));
    put_all(&mut writer, "f=2 g=2");
    commit(&mut stores);
    stores.discard_uncommitted();
    assert_eq!(show_pairs(pairs(iterator)), "f=2 g=2 h=1");

    let mut iterator = store
        .range(Unbounded, Unbounded, Direction::Backward)
        .unwrap();
    assert_eq!(iterator.next().unwrap(), Some((&b"h"[..], &b"1"[..])));
    put_all(&mut writer, "i=3 f0=3");
    commit(&mut stores);
    put_all(&mut writer, "a=");
    assert_eq!(show_pairs(pairs(iterator)), "g=2 f0=3 f=2 e=1 c=2 b=1");
}

pub(crate) fn discard_goes_back_to_the_last_commit(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1 b=1");
    commit(&mut stores);
    put_all(&mut store, "a=2 b= c=2");
    stores.discard_uncommitted();
    assert_eq!(show(&store), "a=1 b=1");
    assert_eq!(stores.uncommitted_bytes(), 0);
    commit(&mut stores);
    assert_eq!(show(&store), "a=1 b=1");
}

pub(crate) fn a_snapshot_stays_as_it_was_taken(subject: &Subject) {
    fn is_send<T: Send>(_: &T) {}

    let mut stores = subject.open(&[("keys", StoreKind::KeyValue), ("windows", WINDOW)]);
    let mut keys = stores.key_value("keys").unwrap();
    let mut window = stores.window("windows").unwrap();
    put_all(&mut keys, "a=1 b=1");
    put_windows(&mut window, "a@0=1 a@50=1 b@100=1");
    commit(&mut stores);
    put_all(&mut keys, "a=2");
    put_windows(&mut window, "a@120=2");
    let (of_keys, of_windows) = (
        stores.snapshot("keys").unwrap(),
        stores.snapshot("windows").unwrap(),
    );
    put_all(&mut keys, "b= c=2");
    put_windows(&mut window, "a@500=2");
    commit(&mut stores);
    drop((stores, keys, window));

    is_send(&of_keys);
    let mut out = Vec::new();
    assert!(of_keys.read(b"a", &mut out).unwrap());
    assert_eq!(out, b"1");
    assert!(!of_keys.read(b"c", &mut out).unwrap());
    let all = |snapshot: &Snapshot, direction| {
        show_pairs(pairs(
            snapshot.range(Unbounded, Unbounded, direction).unwrap(),
        ))
    };
    assert_eq!(all(&of_keys, Direction::Forward), "a=1 b=1");
    assert_eq!(all(&of_keys, Direction::Backward), "b=1 a=1");

    // Stream time is 100 there: what starts at 0 is hidden already.
    let fetched = of_windows.fetch(b"a", 0, 1000, Direction::Forward).unwrap();
    assert_eq!(show_windows(windows(fetched)), "a@50=1");
    let fetched = of_windows
        .fetch_range(Unbounded, Unbounded, 0, 1000, Direction::Backward)
        .unwrap();
    assert_eq!(show_windows(windows(fetched)), "b@100=1 a@50=1");
    assert!(of_windows.read_window(b"a", 50, &mut out).unwrap());
    assert!(!of_windows.read_window(b"a", 120, &mut out).unwrap());

    assert!(matches!(
        of_keys.fetch(b"a", 0, 1, Direction::Forward).map(|_| ()),
        Err(StoreError::WrongKind {
            expected: "window",
            ..
        })
    ));
    assert!(matches!(
        of_windows.read(b"a", &mut out),
        Err(StoreError::WrongKind {
            expected: "key-value",
            ..
        })
    ));
}

pub(crate) fn handles_share_what_is_uncommitted(subject: &Subject) {
    let (stores, mut store) = subject.key_value();
    let other = stores.key_value("store").unwrap();
    put_all(&mut store, "a=1");
    assert_eq!(show(&other), "a=1");
    assert_eq!(other.approximate_num_entries(), 1);
}

pub(crate) fn restored_records_are_committed_with_their_offset(subject: &Subject) {
    let (mut stores, store) = subject.key_value();
    let piece = [
        (&b"a"[..], Some(&b"1"[..])),
        (b"b", Some(b"1")),
        (b"a", Some(b"2")),
        (b"b", None),
    ];
    stores.restore("store", piece, 4).unwrap();
    stores.discard_uncommitted();
    assert_eq!(show(&store), "a=2");
    assert_eq!(stores.positions().offset("store"), Some(4));
    stores
        .restore("store", [(&b"c"[..], Some(&b"3"[..]))], 9)
        .unwrap();
    assert_eq!(show(&store), "a=2 c=3");
    assert_eq!(stores.positions().offset("store"), Some(9));
}

pub(crate) fn what_is_restored_in_bulk_is_what_one_by_one_would_be(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    stores.begin_bulk("store").unwrap();
    let record = |key, value, timestamp_ms| RestoredRecord {
        key,
        value,
        timestamp_ms: Some(timestamp_ms),
    };
    let piece = [
        record(&b"b"[..], Some(&b"old"[..]), 1),
        record(b"a", Some(b"1"), 2),
        record(b"b", Some(b"new"), 3),
        record(b"gone", Some(b"1"), 4),
        record(b"gone", None, 5),
        // Beyond eight bytes that are the same.
        record(b"a longer key, number 2", Some(b""), 6),
        record(b"a longer key, number 1", Some(b""), 7),
    ];
    stores.restore("store", piece, 7).unwrap();
    stores.restore("store", [record(b"c", None, 8)], 9).unwrap();
    // A commit in between is not lost, nor does it lose anything.
    put_all(&mut store, "d=4");
    let mut positions = Positions::default();
    positions.set_offset("store", 10);
    stores.commit(&positions).unwrap();
    stores
        .restore("store", [record(b"e", Some(b"5"), 9)], 11)
        .unwrap();
    stores.finish_bulk("store").unwrap();
    let mut value = Vec::new();
    let mut found = |key: &[u8]| store.read(key, &mut value).unwrap().then(|| value.clone());
    let stored = |timestamp_ms: i64, value: &[u8]| {
        let mut bytes = Vec::new();
        crate::timestamped::join(timestamp_ms, value, &mut bytes);
        Some(bytes)
    };
    assert_eq!(found(b"a"), stored(2, b"1"));
    assert_eq!(found(b"b"), stored(3, b"new"));
    assert_eq!(found(b"a longer key, number 1"), stored(7, b""));
    assert_eq!(found(b"a longer key, number 2"), stored(6, b""));
    assert_eq!(found(b"d"), Some(b"4".to_vec()));
    assert_eq!(found(b"e"), stored(9, b"5"));
    assert_eq!((found(b"c"), found(b"gone")), (None, None));
    assert_eq!(stores.positions().offset("store"), Some(11));
    // Nothing was begun: nothing to end.
    stores.finish_bulk("store").unwrap();
}

pub(crate) fn restoring_over_uncommitted_writes_is_refused(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    put_all(&mut store, "a=1");
    let error = stores
        .restore("store", [(&b"a"[..], Some(&b"2"[..]))], 1)
        .unwrap_err();
    assert!(
        matches!(error, StoreError::UncommittedWrites { .. }),
        "{error}"
    );
    assert_eq!(stores.positions().offset("store"), None);
    assert_eq!(show(&store), "a=1");
}

pub(crate) fn uncommitted_bytes_grow_with_writes_and_go_with_a_commit(subject: &Subject) {
    let (mut stores, mut store) = subject.key_value();
    assert_eq!(stores.uncommitted_bytes(), 0);
    store.put(b"key", Some(&[7; 1000])).unwrap();
    let one = stores.uncommitted_bytes();
    assert!((1003..1200).contains(&one), "{one} bytes");
    store.put(b"key", Some(&[8; 1000])).unwrap();
    assert_eq!(stores.uncommitted_bytes(), one);
    store.put(b"yek", Some(&[8; 1000])).unwrap();
    assert_eq!(stores.uncommitted_bytes(), 2 * one);
    commit(&mut stores);
    assert_eq!(stores.uncommitted_bytes(), 0);
}

pub(crate) fn positions_change_only_where_they_are_given(subject: &Subject) {
    let mut stores = subject.open(&[("a", StoreKind::KeyValue), ("b", StoreKind::KeyValue)]);
    let mut positions = Positions::default();
    positions.set_offset("a", 5);
    positions.set_metadata("operator", vec![1, 2]);
    stores.commit(&positions).unwrap();
    let mut positions = Positions::default();
    positions.set_offset("b", 7);
    stores.commit(&positions).unwrap();
    assert_eq!(
        stores.positions().offsets().collect::<Vec<_>>(),
        [("a", 5), ("b", 7)]
    );
    assert_eq!(stores.positions().metadata("operator"), Some(&[1, 2][..]));
}

pub(crate) fn a_store_is_asked_for_by_its_name_and_kind(subject: &Subject) {
    let stores = subject.open(&[("keys", StoreKind::KeyValue), ("windows", WINDOW)]);
    assert!(matches!(
        stores.key_value("absent").map(|_| ()),
        Err(StoreError::UnknownStore { .. })
    ));
    assert!(matches!(
        stores.key_value("windows").map(|_| ()),
        Err(StoreError::WrongKind { .. })
    ));
    assert!(matches!(
        stores.window("keys").map(|_| ()),
        Err(StoreError::WrongKind { .. })
    ));
}

pub(crate) fn a_window_is_read_until_its_retention_ends(subject: &Subject) {
    let (mut stores, mut store) = subject.window();
    assert_eq!(store.observed_stream_time_ms(), -1);
    assert_eq!(windows(store.all(Direction::Forward).unwrap()), []);
    assert!(put_windows(&mut store, "a@0=0 a@1=1 a@50=50").is_empty());
    for _ in 0..2 {
        assert_eq!(window_of(&store, b"a", 0), Some(b"0".to_vec()));
        commit(&mut stores);
    }
    assert!(put_windows(&mut store, "b@100=100").is_empty());
    for _ in 0..2 {
        assert_eq!(store.observed_stream_time_ms(), 100);
        assert_eq!(window_of(&store, b"a", 0), None);
        assert_eq!(window_of(&store, b"a", 1), Some(b"1".to_vec()));
        assert_eq!(
            show_windows(windows(store.all(Direction::Forward).unwrap())),
            "a@1=1 a@50=50 b@100=100"
        );
        commit(&mut stores);
    }
    assert!(put_windows(&mut store, "c@1000=").is_empty());
    for _ in 0..2 {
        assert_eq!(store.observed_stream_time_ms(), 1000);
        assert_eq!(windows(store.all(Direction::Forward).unwrap()), []);
        commit(&mut stores);
    }
}

pub(crate) fn a_put_into_a_segment_that_has_gone_is_dropped_and_says_so(subject: &Subject) {
    let (mut stores, mut store) = subject.window();
    assert!(put_windows(&mut store, "a@180=1").is_empty());
    // Segments are 0..40, 40..80, 80..120: the first two have gone when stream time is 180, 80 is hidden.
    assert_eq!(
        put_windows(&mut store, "a@39=x a@79=x a@80=x a@81=1"),
        ["a@39", "a@79"]
    );
    for _ in 0..2 {
        assert_eq!(
            show_windows(windows(store.all(Direction::Forward).unwrap())),
            "a@81=1 a@180=1"
        );
        commit(&mut stores);
    }
}

pub(crate) fn windows_of_a_key_come_in_the_order_of_time_and_no_others(subject: &Subject) {
    let (mut stores, mut store) = subject.window();
    // Keys that begin like the one wanted, and one that goes on like a window start.
    put_windows(&mut store, "k@10=1 k@45=1 kk@10=x j@20=x k@90=1");
    let _ = store.put(b"k\0\0\0\0\0\0\0\x0a", 12, Some(b"x")).unwrap();
    let _ = store.put(b"", 12, Some(b"x")).unwrap();
    commit(&mut stores);
    put_windows(&mut store, "k@46=2 k@11=2 k@45=");
    let fetch = |from_ms, to_ms, direction| {
        show_windows(windows(
            store.fetch(b"k", from_ms, to_ms, direction).unwrap(),
        ))
    };
    assert_eq!(
        fetch(0, 1000, Direction::Forward),
        "k@10=1 k@11=2 k@46=2 k@90=1"
    );
    assert_eq!(
        fetch(i64::MIN, i64::MAX, Direction::Backward),
        "k@90=1 k@46=2 k@11=2 k@10=1"
    );
    assert_eq!(fetch(11, 46, Direction::Forward), "k@11=2 k@46=2");
    assert_eq!(fetch(12, 45, Direction::Forward), "");
    assert_eq!(fetch(46, 11, Direction::Forward), "");
}

pub(crate) fn windows_of_several_keys_come_by_segment_then_window_key(subject: &Subject) {
    let (mut stores, mut store) = subject.window();
    put_windows(&mut store, "b@10=1 a@30=1 a@50=1 c@20=1");
    commit(&mut stores);
    put_windows(&mut store, "a@20=2 b@60=2 bb@10=2");
    let fetch = |from, to, from_ms, to_ms, direction| {
        show_windows(windows(
            store
                .fetch_range(from, to, from_ms, to_ms, direction)
                .unwrap(),
        ))
    };
    assert_eq!(
        fetch(
            Included(&b"a"[..]),
            Included(&b"b"[..]),
            0,
            100,
            Direction::Forward
        ),
        "a@20=2 a@30=1 b@10=1 a@50=1 b@60=2"
    );
    assert_eq!(
        fetch(Excluded(&b"a"[..]), Unbounded, 0, 100, Direction::Backward),
        "b@60=2 c@20=1 bb@10=2 b@10=1"
    );
    assert_eq!(
        fetch(Unbounded, Excluded(&b"b"[..]), 25, 100, Direction::Forward),
        "a@30=1 a@50=1"
    );
    assert_eq!(
        show_windows(windows(
            store.fetch_all(15, 50, Direction::Forward).unwrap()
        )),
        "a@20=2 a@30=1 c@20=1 a@50=1"
    );
    assert_eq!(
        fetch(
            Included(&b"c"[..]),
            Included(&b"a"[..]),
            0,
            100,
            Direction::Forward
        ),
        ""
    );
}

pub(crate) fn a_window_before_the_epoch_is_refused(subject: &Subject) {
    let (_stores, mut store) = subject.window();
    let error = store.put(b"a", -1, Some(b"x")).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::NegativeWindowStart {
                window_start_ms: -1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(window_of(&store, b"a", -1), None);
}

pub(crate) fn discard_goes_back_in_stream_time(subject: &Subject) {
    let (mut stores, mut store) = subject.window();
    put_windows(&mut store, "a@10=1");
    commit(&mut stores);
    put_windows(&mut store, "a@1000=2");
    assert_eq!(window_of(&store, b"a", 10), None);
    stores.discard_uncommitted();
    assert_eq!(store.observed_stream_time_ms(), 10);
    assert_eq!(window_of(&store, b"a", 10), Some(b"1".to_vec()));
    commit(&mut stores);
    assert_eq!(window_of(&store, b"a", 10), Some(b"1".to_vec()));
}

pub(crate) fn a_window_store_is_restored_from_its_changelog_keys(subject: &Subject) {
    let (mut stores, store) = subject.window();
    let keys: Vec<Vec<u8>> = [(b"a", 300), (b"b", 0), (b"c", 210), (b"d", 320)]
        .iter()
        .map(|(key, window_start_ms)| window_key(&key[..], *window_start_ms))
        .collect();
    stores
        .restore(
            "store",
            keys[..3]
                .iter()
                .map(|key| (key.as_slice(), Some(&b"1"[..]))),
            3,
        )
        .unwrap();
    assert_eq!(store.observed_stream_time_ms(), 300);
    assert_eq!(
        show_windows(windows(store.all(Direction::Forward).unwrap())),
        "c@210=1 a@300=1"
    );
    stores
        .restore(
            "store",
            [(keys[2].as_slice(), None), (&keys[3], Some(&b"2"[..]))],
            5,
        )
        .unwrap();
    assert_eq!(
        show_windows(windows(store.all(Direction::Forward).unwrap())),
        "a@300=1 d@320=2"
    );
    assert_eq!(stores.positions().offset("store"), Some(5));
}

pub(crate) fn a_changelog_that_is_not_of_windows_is_refused_whole(subject: &Subject) {
    let (mut stores, store) = subject.window();
    let (good, negative) = (window_key(b"a", 7), window_key(b"a", -7));
    for bad in [&b"short"[..], &negative] {
        let piece = [(good.as_slice(), Some(&b"1"[..])), (bad, Some(b"1"))];
        let error = stores.restore("store", piece, 2).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::InvalidWindowKey { .. } | StoreError::NegativeWindowStart { .. }
            ),
            "{error}"
        );
        assert_eq!(windows(store.all(Direction::Forward).unwrap()), []);
        assert_eq!(store.observed_stream_time_ms(), -1);
        assert_eq!(stores.positions().offset("store"), None);
    }
}

/// What may happen to a task's stores besides puts.
#[derive(Clone, Debug)]
enum Event<W> {
    Write(W),
    Restore(Vec<W>),
    Commit,
    Discard,
    /// Closed without a word and opened again; only where something stays.
    Reopen,
}

fn event<W: Clone + std::fmt::Debug + 'static>(
    write: impl Strategy<Value = W> + Clone + 'static,
) -> impl Strategy<Value = Event<W>> {
    prop_oneof![
        12 => write.clone().prop_map(Event::Write),
        1 => prop::collection::vec(write, 0..6).prop_map(Event::Restore),
        2 => Just(Event::Commit),
        1 => Just(Event::Discard),
        1 => Just(Event::Reopen),
    ]
}

fn key() -> impl Strategy<Value = Vec<u8>> + Clone {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff)], 0..4)
}

fn value() -> impl Strategy<Value = Option<Vec<u8>>> + Clone {
    prop::option::weighted(0.8, prop::collection::vec(any::<u8>(), 0..20))
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![
        key().prop_map(Included),
        key().prop_map(Excluded),
        Just(Unbounded)
    ]
}

fn direction() -> impl Strategy<Value = Direction> {
    prop_oneof![Just(Direction::Forward), Just(Direction::Backward)]
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn check_property<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("{failure}");
    }
}

pub(crate) fn key_value_store_does_what_a_sorted_map_does(subject: &Subject) {
    // With what is restored in bulk, or not.
    let events = (
        prop::collection::vec(event((key(), value())), 0..80),
        any::<bool>(),
    );
    let queries = prop::collection::vec((bound(), bound(), direction()), 1..5);
    check_property((events, queries), |((events, bulk), queries)| {
        let subject = Subject::new(subject.backend);
        let (mut stores, mut store) = subject.key_value();
        if bulk {
            stores.begin_bulk("store").unwrap();
        }
        let mut committed: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut model = committed.clone();
        let mut position = 0;
        let apply = |model: &mut BTreeMap<Vec<u8>, Vec<u8>>,
                     (key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        };
        for event in events {
            position += 1;
            match event {
                Event::Write(write) => {
                    store.put(&write.0, write.1.as_deref()).unwrap();
                    apply(&mut model, &write);
                }
                Event::Restore(piece) => {
                    let records = piece
                        .iter()
                        .map(|(key, value)| (key.as_slice(), value.as_deref()));
                    if stores.uncommitted_bytes() > 0 {
                        prop_assert!(stores.restore("store", records, position).is_err());
                    } else {
                        stores.restore("store", records, position).unwrap();
                        // A commit of nothing waits for what is restored in bulk.
                        stores.commit(&Positions::default()).unwrap();
                        piece.iter().for_each(|write| apply(&mut model, write));
                        committed = model.clone();
                    }
                }
                Event::Commit => {
                    commit(&mut stores);
                    committed = model.clone();
                }
                Event::Discard => {
                    stores.discard_uncommitted();
                    model = committed.clone();
                }
                Event::Reopen if subject.backend == Backend::InMemory => {}
                Event::Reopen => {
                    drop((stores, store));
                    (stores, store) = subject.key_value();
                    if bulk {
                        stores.begin_bulk("store").unwrap();
                    }
                    model = committed.clone();
                }
            }
            for (from, to, direction) in &queries {
                let found = pairs(
                    store
                        .range(borrowed(from), borrowed(to), *direction)
                        .unwrap(),
                );
                let mut expected: Vec<Pair> = model
                    .iter()
                    .filter(|(key, _)| {
                        std::ops::RangeBounds::contains(
                            &(borrowed(from), borrowed(to)),
                            key.as_slice(),
                        )
                    })
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                if *direction == Direction::Backward {
                    expected.reverse();
                }
                prop_assert_eq!(found, expected);
            }
        }
        for (from, _, _) in &queries {
            if let Included(key) = from {
                prop_assert_eq!(value_of(&store, key), model.get(key).cloned());
                let expected: Vec<Pair> = model
                    .iter()
                    .filter(|(found, _)| found.starts_with(key))
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                prop_assert_eq!(pairs(store.prefix_scan(key).unwrap()), expected);
            }
        }
        Ok(())
    });
}

/// What a window store should do: a map in the order of iteration (segment, then window key), and a stream time.
#[derive(Clone)]
struct WindowModel {
    entries: BTreeMap<(i64, Vec<u8>), WindowEntry>,
    stream_time_ms: i64,
}

impl WindowModel {
    fn put(&mut self, key: &[u8], start: i64, value: Option<&[u8]>) -> PutOutcome {
        self.stream_time_ms = self.stream_time_ms.max(start);
        let segment = start / SEGMENT_INTERVAL_MS;
        if segment < (self.stream_time_ms - RETENTION_MS).max(0) / SEGMENT_INTERVAL_MS {
            return PutOutcome::Expired;
        }
        let place = (segment, window_key(key, start));
        match value {
            Some(value) => self
                .entries
                .insert(place, (key.to_vec(), start, value.to_vec())),
            None => self.entries.remove(&place),
        };
        PutOutcome::Stored
    }

    fn find(
        &self,
        wanted: impl Fn(&[u8]) -> bool,
        (from_ms, to_ms): (i64, i64),
        direction: Direction,
    ) -> Vec<WindowEntry> {
        let mut found: Vec<WindowEntry> = self
            .entries
            .values()
            .filter(|(key, start, _)| {
                wanted(key)
                    && (from_ms..=to_ms).contains(start)
                    && *start > self.stream_time_ms - RETENTION_MS
            })
            .cloned()
            .collect();
        if direction == Direction::Backward {
            found.reverse();
        }
        found
    }
}

pub(crate) fn window_store_does_what_a_sorted_map_with_retention_does(subject: &Subject) {
    // Starts wander upwards with the number of the event, and back by more than the retention.
    let write = (key(), -130..60i64, value());
    let events = (prop::collection::vec(event(write), 0..80), any::<bool>());
    let times = (-10..400i64, 0..200i64).prop_map(|(from, length)| (from, from + length));
    let queries = prop::collection::vec((key(), bound(), bound(), times, direction()), 1..5);
    check_property((events, queries), |((events, bulk), queries)| {
        let subject = Subject::new(subject.backend);
        let (mut stores, mut store) = subject.window();
        if bulk {
            stores.begin_bulk("store").unwrap();
        }
        let mut committed = WindowModel {
            entries: BTreeMap::new(),
            stream_time_ms: -1,
        };
        let mut model = committed.clone();
        for (number, event) in events.into_iter().enumerate() {
            let start_of = |drift: i64| (5 * number as i64 + drift).max(0);
            match event {
                Event::Write((key, drift, value)) => {
                    let outcome = store.put(&key, start_of(drift), value.as_deref()).unwrap();
                    prop_assert_eq!(outcome, model.put(&key, start_of(drift), value.as_deref()));
                }
                Event::Restore(piece) => {
                    let piece: Vec<_> = piece
                        .iter()
                        .map(|(key, drift, value)| {
                            let window_start_ms = start_of(*drift);
                            (
                                window_key(key, window_start_ms),
                                key,
                                window_start_ms,
                                value.as_deref(),
                            )
                        })
                        .collect();
                    let records = piece
                        .iter()
                        .map(|(bytes, _, _, value)| (bytes.as_slice(), *value));
                    if stores.uncommitted_bytes() > 0 {
                        prop_assert!(stores.restore("store", records, 0).is_err());
                    } else {
                        stores.restore("store", records, 0).unwrap();
                        // A commit of nothing waits for what is restored in bulk.
                        stores.commit(&Positions::default()).unwrap();
                        for (_, key, start, value) in piece {
                            let _ = model.put(key, start, value);
                        }
                        committed = model.clone();
                    }
                }
                Event::Commit => {
                    commit(&mut stores);
                    committed = model.clone();
                }
                Event::Discard => {
                    stores.discard_uncommitted();
                    model = committed.clone();
                }
                Event::Reopen if subject.backend == Backend::InMemory => {}
                Event::Reopen => {
                    drop((stores, store));
                    (stores, store) = subject.window();
                    if bulk {
                        stores.begin_bulk("store").unwrap();
                    }
                    model = committed.clone();
                }
            }
            prop_assert_eq!(store.observed_stream_time_ms(), model.stream_time_ms);
            for (key, from, to, times, direction) in &queries {
                let found = store.fetch(key, times.0, times.1, *direction).unwrap();
                prop_assert_eq!(
                    windows(found),
                    model.find(|found| found == key, *times, *direction)
                );
                let found = store
                    .fetch_range(borrowed(from), borrowed(to), times.0, times.1, *direction)
                    .unwrap();
                let wanted = |found: &[u8]| {
                    std::ops::RangeBounds::contains(&(borrowed(from), borrowed(to)), found)
                };
                prop_assert_eq!(windows(found), model.find(wanted, *times, *direction));
                let expected = model.find(|found| found == key, (times.0, times.0), *direction);
                prop_assert_eq!(
                    window_of(&store, key, times.0),
                    expected.into_iter().next().map(|(_, _, value)| value)
                );
            }
            prop_assert_eq!(
                windows(store.all(Direction::Forward).unwrap()),
                model.find(|_| true, (0, i64::MAX), Direction::Forward)
            );
        }
        Ok(())
    });
}
