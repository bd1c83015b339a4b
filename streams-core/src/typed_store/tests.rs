//! Typed stores over in-memory bytes stores: cached ones against uncached ones and a model, and the rules of the cache one by one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use brooklet_state_stores::key_schema::WindowKey;
use brooklet_state_stores::{
    ChangelogRecord, ChangelogSink, Memory, Positions, StoreError, Stores,
};
use proptest::prelude::*;

use super::*;
use crate::processor::DropReason;
use crate::record::{Headers, RecordMetadata};
use crate::serde::{
    Deserializer, Nullable, Payload, SerdeError, Serializer, Utf8, Windowed, default_serde,
};
use crate::topology::TaskId;

/// The one place in these tests that knows how a task's context is made.
fn task_context() -> TaskContext {
    TaskContext::new(
        TaskId {
            subtopology: 0,
            partition: 0,
        },
        crate::task::ErrorResponse::Fail,
        0,
    )
}

/// Key, value and timestamp of each changelog record.
type Log = Rc<RefCell<Vec<(Vec<u8>, Option<Vec<u8>>, i64)>>>;

struct LogSink(Log);

impl ChangelogSink for LogSink {
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
        let timestamp = record
            .timestamp_ms
            .expect("typed stores know the timestamp");
        self.0.borrow_mut().push((
            record.key.to_vec(),
            record.value.map(<[u8]>::to_vec),
            timestamp,
        ));
        Ok(())
    }
}

type Heard<K, V> = Rc<RefCell<Vec<Flushed<K, V>>>>;

/// Keeps what it hears.
struct Hears<K, V>(Heard<K, V>);

impl<K: 'static, V: 'static> FlushListener<K, V> for Hears<K, V> {
    fn wants_old(&self) -> bool {
        true
    }

    fn flushed(
        &mut self,
        change: Flushed<K, V>,
        _task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        self.0.borrow_mut().push(change);
        Ok(())
    }
}

/// Does `f`, and does not want old values.
struct OnFlush<F>(F);

impl<K: 'static, V: 'static, F> FlushListener<K, V> for OnFlush<F>
where
    F: FnMut(Flushed<K, V>, &mut TaskContext) -> Result<(), ProcessError> + 'static,
{
    fn wants_old(&self) -> bool {
        false
    }

    fn flushed(
        &mut self,
        change: Flushed<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        (self.0)(change, task)
    }
}

/// A task with one store.
struct Fixture {
    stores: Stores,
    thread: Rc<ThreadCache>,
    caches: TaskCaches,
    task: TaskContext,
    built: BuiltStore,
    log: Log,
}

impl Fixture {
    fn new(builder: &dyn StoreBuilder, thread: &Rc<ThreadCache>) -> Self {
        let stores = Stores::open(None, &[builder.spec()], &Memory::new(1 << 20)).unwrap();
        let mut caches = TaskCaches::new(thread);
        let log = Log::default();
        let site = StoreSite {
            stores: &stores,
            changelog_topic: "app-store-changelog".into(),
            changelog: Some(Box::new(LogSink(Rc::clone(&log)))),
            caches: &mut caches,
        };
        let built = builder.build(site).unwrap();
        Self {
            stores,
            thread: Rc::clone(thread),
            caches,
            task: task_context(),
            built,
            log,
        }
    }

    /// The task takes a record with a header that says its offset.
    fn at_offset(&mut self, offset: i64) {
        self.task.headers = Headers::default();
        self.task.headers.push(format!("offset {offset}"), None);
        self.task.metadata = Some(RecordMetadata {
            topic: "in".into(),
            partition: 0,
            offset,
        });
    }

    /// What the task does between two records.
    fn between_records(&mut self) {
        if self.caches.wants_eviction() {
            self.caches.evict(&mut self.task).unwrap();
        }
    }

    fn flush(&mut self) {
        self.caches.flush(&mut self.task).unwrap();
    }
}

fn counts(is_cached: bool) -> KeyValueStoreBuilder<String, i64> {
    KeyValueStoreBuilder::new("counts")
        .in_memory()
        .caching(is_cached)
}

fn key_value(
    bytes_max: usize,
) -> (
    Fixture,
    TimestampedKeyValueStore<String, i64>,
    Heard<String, i64>,
) {
    let fixture = Fixture::new(&counts(true), &ThreadCache::new(bytes_max, true));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    let heard = Heard::default();
    store.set_flush_listener(Box::new(Hears(Rc::clone(&heard))));
    (fixture, store, heard)
}

fn key(number: u8) -> String {
    format!("key-{number}")
}

// ## Against a model

#[derive(Clone, Debug)]
enum Op {
    Put(u8, Option<i64>, i64),
    /// Adds to the value; deletes it when the sum divides by three.
    Add(u8, i64, i64),
    FailingAdd(u8),
    PutIfAbsent(u8, i64, i64),
    Delete(u8, i64),
    Read(u8),
    Range(u8, u8, bool),
    Flush,
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    let (key, value, timestamp) = (0..12_u8, -5..5_i64, 0..50_i64);
    prop_oneof![
        4 => (key.clone(), proptest::option::of(value.clone()), timestamp.clone()).prop_map(|(k, v, t)| Op::Put(k, v, t)),
        6 => (key.clone(), value.clone(), timestamp.clone()).prop_map(|(k, v, t)| Op::Add(k, v, t)),
        1 => key.clone().prop_map(Op::FailingAdd),
        1 => (key.clone(), value, timestamp.clone()).prop_map(|(k, v, t)| Op::PutIfAbsent(k, v, t)),
        1 => (key.clone(), timestamp).prop_map(|(k, t)| Op::Delete(k, t)),
        3 => key.clone().prop_map(Op::Read),
        2 => (key.clone(), key, any::<bool>()).prop_map(|(a, b, reverse)| Op::Range(a, b, reverse)),
        1 => Just(Op::Flush),
        1 => Just(Op::Commit),
    ]
}

/// What a store should have, and what should have been emitted of it.
#[derive(Default)]
struct Model {
    current: BTreeMap<String, ValueAndTimestamp<i64>>,
    emitted: BTreeMap<String, i64>,
    /// Timestamp of the latest update of each key.
    updated: BTreeMap<String, i64>,
}

impl Model {
    fn put(&mut self, key: &str, value: Option<i64>, timestamp: i64) {
        self.updated.insert(key.to_owned(), timestamp);
        match value {
            Some(value) => self
                .current
                .insert(key.to_owned(), ValueAndTimestamp::new(value, timestamp)),
            None => self.current.remove(key),
        };
    }

    /// A flushed change is the latest value, against what was emitted last, and not nothing against nothing.
    fn hear(&mut self, change: Flushed<String, i64>) {
        assert_eq!(
            change.new,
            self.current.get(&change.key).map(|current| current.value),
            "new value of {}",
            change.key
        );
        assert_eq!(
            change.old,
            self.emitted.get(&change.key).copied(),
            "old value of {}",
            change.key
        );
        assert!(
            change.new.is_some() || change.old.is_some(),
            "nothing became nothing: {}",
            change.key
        );
        assert_eq!(
            change.timestamp, self.updated[&change.key],
            "timestamp of {}",
            change.key
        );
        match change.new {
            Some(new) => self.emitted.insert(change.key, new),
            None => self.emitted.remove(&change.key),
        };
    }
}

fn apply(
    op: &Op,
    store: &TimestampedKeyValueStore<String, i64>,
    fixture: &mut Fixture,
    model: &mut Model,
) {
    let task = &mut fixture.task;
    match *op {
        Op::Put(k, value, timestamp) => {
            let written = store.put(&key(k), value, timestamp, task).unwrap();
            assert_eq!(
                written,
                if store.is_cached() {
                    Written::Cached
                } else {
                    Written::Stored(value)
                }
            );
            model.put(&key(k), value, timestamp);
        }
        Op::Add(k, amount, timestamp) => {
            let mut result = None;
            let written = store
                .update(&key(k), task, |current| {
                    assert_eq!(current, model.current.get(&key(k)).copied());
                    let sum = current.map_or(0, |current| current.value) + amount;
                    result = (sum % 3 != 0).then_some(sum);
                    Ok((result, timestamp))
                })
                .unwrap();
            assert_eq!(
                written,
                if store.is_cached() {
                    Written::Cached
                } else {
                    Written::Stored(result)
                }
            );
            model.put(&key(k), result, timestamp);
        }
        Op::FailingAdd(k) => {
            let error = store
                .update(&key(k), task, |_| Err(ProcessError::new("boom")))
                .unwrap_err();
            assert_eq!(error.to_string(), "boom");
        }
        Op::PutIfAbsent(k, value, timestamp) => {
            let found = store
                .put_if_absent(&key(k), value, timestamp, task)
                .unwrap();
            assert_eq!(found, model.current.get(&key(k)).copied());
            if found.is_none() {
                model.put(&key(k), Some(value), timestamp);
            }
        }
        Op::Delete(k, timestamp) => {
            assert_eq!(
                store.delete(&key(k), timestamp, task).unwrap(),
                model.current.get(&key(k)).copied()
            );
            model.put(&key(k), None, timestamp);
        }
        Op::Read(k) => assert_eq!(
            store.read(&key(k)).unwrap(),
            model.current.get(&key(k)).copied()
        ),
        Op::Range(a, b, reverse) => {
            let (from, to) = (key(a).min(key(b)), key(a).max(key(b)));
            let mut expected: Vec<_> = model
                .current
                .range(from.clone()..=to.clone())
                .map(|(k, v)| (k.clone(), *v))
                .collect();
            let range = if reverse {
                store.reverse_range(from..=to)
            } else {
                store.range(from..=to)
            };
            if reverse {
                expected.reverse();
            }
            assert_eq!(
                range.unwrap().collect::<Result<Vec<_>, _>>().unwrap(),
                expected
            );
        }
        Op::Flush => fixture.flush(),
        Op::Commit => {
            fixture.flush();
            fixture.stores.commit(&Positions::default()).unwrap();
        }
    }
}

/// What the changelog says a store has.
fn replayed(log: &Log) -> BTreeMap<Vec<u8>, (Vec<u8>, i64)> {
    let mut content = BTreeMap::new();
    for (key, value, timestamp) in log.borrow().iter() {
        match value {
            Some(value) => content.insert(key.clone(), (value.clone(), *timestamp)),
            None => content.remove(key),
        };
    }
    content
}

proptest! {
    #[test]
    fn a_store_equals_the_model_cached_or_not(ops in proptest::collection::vec(op(), 0..120), bytes_max in 0..4_000_usize, is_cached: bool) {
        let thread = ThreadCache::new(bytes_max, true);
        let mut fixture = Fixture::new(&counts(is_cached), &thread);
        let store = fixture.built.key_value::<String, i64>().unwrap();
        prop_assert_eq!(store.is_cached(), is_cached && bytes_max > 0);
        let heard = Heard::default();
        store.set_flush_listener(Box::new(Hears(Rc::clone(&heard))));
        let mut model = Model::default();
        for op in &ops {
            let logged = fixture.log.borrow().len();
            apply(op, &store, &mut fixture, &mut model);
            if store.is_cached() && !matches!(op, Op::Flush | Op::Commit) {
                prop_assert!(heard.borrow().is_empty(), "{op:?} emitted");
                prop_assert_eq!(fixture.log.borrow().len(), logged, "{:?} wrote", op);
            }
            fixture.between_records();
            prop_assert!(fixture.thread.bytes() <= bytes_max);
            heard.borrow_mut().drain(..).for_each(|change| model.hear(change));
        }
        fixture.flush();
        heard.borrow_mut().drain(..).for_each(|change| model.hear(change));
        if store.is_cached() {
            let current: BTreeMap<_, _> = model.current.iter().map(|(key, current)| (key.clone(), current.value)).collect();
            prop_assert_eq!(&model.emitted, &current, "a flush emits all");
        }

        let expected: Vec<_> = model.current.iter().map(|(key, value)| (key.clone(), *value)).collect();
        prop_assert_eq!(store.all().unwrap().collect::<Result<Vec<_>, _>>().unwrap(), expected);
        let bytes = model.current.iter().map(|(key, current)| {
            (key.clone().into_bytes(), (current.value.to_be_bytes().to_vec(), current.timestamp))
        });
        prop_assert_eq!(replayed(&fixture.log), bytes.clone().collect::<BTreeMap<_, _>>());
        let stored = fixture.stores.key_value("counts").unwrap();
        let mut value = Vec::new();
        for (key, (plain, timestamp)) in bytes {
            prop_assert!(stored.read(&key, &mut value).unwrap());
            prop_assert_eq!(&value, &[timestamp.to_be_bytes().to_vec(), plain].concat());
        }

        let Fixture { built, caches, .. } = fixture;
        drop((store, built, caches));
        prop_assert_eq!(thread.bytes(), 0, "a closed task gives its bytes back");
    }

    #[test]
    fn a_cached_window_store_equals_an_uncached_one(
        ops in proptest::collection::vec((0..8_u8, 0..3_u8, 0..14_i64, 1..5_i64), 0..100),
        bytes_max in 1..4_000_usize,
    ) {
        // Retention is two segments, so windows get hidden, and then expire.
        let builder = |is_cached| WindowStoreBuilder::<String, i64>::new("windows", 120_000, 30_000).in_memory().caching(is_cached);
        let mut fixtures = [false, true].map(|is_cached| Fixture::new(&builder(is_cached), &ThreadCache::new(bytes_max, false)));
        let stores = [0, 1].map(|at| fixtures[at].built.window::<String, i64>().unwrap());
        for (kind, k, start, value) in ops {
            let start = start * 30_000;
            let [uncached, cached] = [0, 1].map(|at| {
                let (store, fixture) = (&stores[at], &mut fixtures[at]);
                let outcome = match kind {
                    0 => matches!(store.put(&key(k), start, Some(value), start, &mut fixture.task).unwrap(), Written::Expired).to_string(),
                    1 => matches!(store.put(&key(k), start, None, start, &mut fixture.task).unwrap(), Written::Expired).to_string(),
                    2 | 3 => {
                        let mut seen = None;
                        let written = store.update(&key(k), start, &mut fixture.task, |current| {
                            seen = current;
                            Ok((Some(current.map_or(0, |current| current.value) + value), start))
                        });
                        format!("{} {seen:?}", matches!(written.unwrap(), Written::Expired))
                    }
                    4 => format!("{:?}", store.read(&key(k), start).unwrap()),
                    5 => format!("{:?}", store.fetch(&key(k), start, start + value * 30_000).unwrap()),
                    6 => format!("{:?}", store.fetch_all(start, start + value * 60_000).unwrap().collect::<Result<Vec<_>, _>>().unwrap()),
                    _ => {
                        fixture.flush();
                        String::new()
                    }
                };
                fixture.between_records();
                assert!(!store.is_cached() || fixture.thread.bytes() <= bytes_max);
                outcome
            });
            prop_assert_eq!(uncached, cached);
        }
        fixtures[1].flush();
        let [uncached, cached] = [0, 1].map(|at| stores[at].all().unwrap().collect::<Result<Vec<_>, _>>().unwrap());
        prop_assert_eq!(&uncached, &cached);
        let [uncached_drops, cached_drops] = [0, 1].map(|at| fixtures[at].task.dropped.of(DropReason::ExpiredWindow));
        prop_assert_eq!(uncached_drops, cached_drops);
        let changelog = replayed(&fixtures[1].log);
        for (windowed, current) in cached {
            let mut bytes = Vec::new();
            WindowKey { key: windowed.key.as_bytes(), window_start_ms: windowed.window.start, sequence: 0 }.append_to(&mut bytes);
            prop_assert_eq!(changelog.get(&bytes), Some(&(current.value.to_be_bytes().to_vec(), current.timestamp)));
        }
    }
}

// ## Rule by rule

fn flushed(key: &str, new: Option<i64>, old: Option<i64>, timestamp: i64) -> Flushed<String, i64> {
    Flushed {
        key: key.to_owned(),
        new,
        old,
        timestamp,
        headers: Headers::default(),
    }
}

/// The reduce of case CACHE-1: texts are joined, and a text that ends in `-` deletes.
#[test]
fn updates_between_two_commits_are_emitted_as_one() {
    let builder = KeyValueStoreBuilder::<String, String>::new("reduced")
        .in_memory()
        .caching(true);
    let mut fixture = Fixture::new(&builder, &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, String>().unwrap();
    let heard = Heard::default();
    store.set_flush_listener(Box::new(Hears(Rc::clone(&heard))));
    let mut step = |key: &str, values: &str, timestamp: i64| {
        for value in values.split(',') {
            let reduce = |current: Option<ValueAndTimestamp<String>>| {
                Ok(match current {
                    None => (Some(value.to_owned()), timestamp),
                    Some(_) if value.ends_with('-') => (None, timestamp),
                    Some(current) => (
                        Some(current.value + value),
                        current.timestamp.max(timestamp),
                    ),
                })
            };
            assert_eq!(
                store
                    .update(&key.to_owned(), &mut fixture.task, reduce)
                    .unwrap(),
                Written::Cached
            );
        }
        fixture.flush();
        let heard: Vec<_> = heard
            .borrow_mut()
            .drain(..)
            .map(|change| (change.key, change.new, change.old, change.timestamp))
            .collect();
        heard
    };
    let change = |key: &str, new: Option<&str>, old: Option<&str>, timestamp| {
        vec![(
            key.to_owned(),
            new.map(str::to_owned),
            old.map(str::to_owned),
            timestamp,
        )]
    };
    assert_eq!(step("k", "1,2,3", 10), change("k", Some("123"), None, 10));
    assert_eq!(
        step("k", "4", 5),
        change("k", Some("1234"), Some("123"), 10)
    );
    assert_eq!(step("q", "1,-", 20), []);
    assert_eq!(step("k", "-", 30), change("k", None, Some("1234"), 30));
    assert_eq!(step("k", "5,-,6", 1), change("k", Some("6"), None, 1));
    assert_eq!(step("k", "-,7", 2), change("k", Some("7"), Some("6"), 2));
    let stamps: Vec<_> = fixture
        .log
        .borrow()
        .iter()
        .map(|(key, value, timestamp)| (key[0], value.is_some(), *timestamp))
        .collect();
    assert_eq!(
        stamps,
        [
            (b'k', true, 10),
            (b'k', true, 10),
            (b'k', false, 30),
            (b'k', true, 1),
            (b'k', true, 2)
        ]
    );
}

#[test]
fn a_flush_is_in_the_order_of_the_latest_updates() {
    let (mut fixture, store, heard) = key_value(1 << 20);
    for (key, timestamp) in [("a", 1), ("b", 2), ("c", 3), ("a", 4)] {
        let _ = store
            .put(
                &key.to_owned(),
                Some(timestamp),
                timestamp,
                &mut fixture.task,
            )
            .unwrap();
    }
    store.read(&"b".to_owned()).unwrap();
    fixture.flush();
    let order: Vec<_> = heard
        .borrow()
        .iter()
        .map(|change| change.key.clone())
        .collect();
    assert_eq!(order, ["b", "c", "a"]);
}

#[test]
fn a_listener_sees_the_record_context_of_the_latest_update() {
    let mut fixture = Fixture::new(&counts(true), &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    let offsets = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&offsets);
    store.set_flush_listener(Box::new(OnFlush(
        move |change: Flushed<String, i64>, task: &mut TaskContext| {
            assert_eq!(change.old, None, "not wanted");
            assert_eq!(task.record_timestamp(), change.timestamp);
            assert_eq!(task.headers, change.headers);
            let header = change
                .headers
                .iter()
                .next()
                .map(|header| header.key.clone());
            seen.borrow_mut().push((
                change.key,
                task.record_metadata().map(|metadata| metadata.offset),
                header,
            ));
            Ok(())
        },
    )));
    for (offset, key) in [(1, "a"), (2, "b"), (3, "a")] {
        fixture.at_offset(offset);
        let _ = store
            .put(&key.to_owned(), Some(1), offset, &mut fixture.task)
            .unwrap();
    }
    (fixture.task.metadata, fixture.task.headers) = (None, Headers::default());
    let _ = store
        .put(&"punctuated".to_owned(), Some(1), 0, &mut fixture.task)
        .unwrap();
    fixture.at_offset(9);
    fixture.flush();
    let expected = [
        ("b", Some(2), Some("offset 2")),
        ("a", Some(3), Some("offset 3")),
        ("punctuated", None, None),
    ];
    assert_eq!(
        *offsets.borrow(),
        expected.map(|(key, offset, header)| (key.to_owned(), offset, header.map(str::to_owned)))
    );
    assert_eq!(
        fixture
            .task
            .metadata
            .as_ref()
            .map(|metadata| metadata.offset),
        Some(9),
        "the task's own context is back"
    );
    assert!(fixture.task.headers.last("offset 9").is_some());
}

#[test]
fn an_eviction_flushes_the_oldest_first_then_all_that_is_dirty() {
    let (mut fixture, store, heard) = key_value(1_200);
    for number in 0..3 {
        let _ = store
            .put(&key(number), Some(i64::from(number)), 0, &mut fixture.task)
            .unwrap();
    }
    store.read(&key(0)).unwrap();
    let mut number = 3;
    while !fixture.caches.wants_eviction() {
        let _ = store
            .put(&key(number), Some(i64::from(number)), 0, &mut fixture.task)
            .unwrap();
        number += 1;
    }
    assert!(heard.borrow().is_empty());
    fixture.between_records();
    let order: Vec<_> = heard
        .borrow()
        .iter()
        .map(|change| change.key.clone())
        .collect();
    let expected: Vec<_> = [1, 0].into_iter().chain(2..number).map(key).collect();
    assert_eq!(order, expected);
    assert!(fixture.thread.bytes() <= 1_200);
    fixture.flush();
    assert_eq!(
        heard.borrow().len(),
        expected.len(),
        "what is flushed is clean"
    );
}

#[test]
fn an_eviction_of_a_clean_entry_flushes_nothing() {
    let (mut fixture, store, heard) = key_value(1_200);
    let _ = store.put(&key(0), Some(0), 0, &mut fixture.task).unwrap();
    fixture.flush();
    heard.borrow_mut().clear();
    let mut number = 1;
    while !fixture.caches.wants_eviction() {
        let _ = store
            .put(&key(number), Some(1), 0, &mut fixture.task)
            .unwrap();
        number += 1;
    }
    fixture.between_records();
    assert!(!fixture.caches.wants_eviction());
    assert_eq!(*heard.borrow(), []);
    assert_eq!(
        store.read(&key(0)).unwrap(),
        Some(ValueAndTimestamp::new(0, 0)),
        "the store has it"
    );
}

#[test]
fn other_tasks_lose_old_clean_entries_and_are_asked_to_flush_old_dirty_ones() {
    let thread = ThreadCache::new(2_500, false);
    let [mut first, mut second] = [0, 1].map(|_| Fixture::new(&counts(true), &thread));
    let [of_first, of_second] =
        [&first, &second].map(|fixture| fixture.built.key_value::<String, i64>().unwrap());
    let fill = |store: &TimestampedKeyValueStore<String, i64>, fixture: &mut Fixture| {
        for number in 0..=99 {
            let _ = store
                .put(&key(number), Some(1), 0, &mut fixture.task)
                .unwrap();
            fixture.between_records();
        }
    };
    fill(&of_first, &mut first);
    first.flush();
    let logged = first.log.borrow().len();
    fill(&of_second, &mut second);
    assert!(thread.bytes() <= 2_500);
    assert_eq!(
        first.log.borrow().len(),
        logged,
        "clean entries were just dropped"
    );
    assert!(!first.caches.wants_eviction());

    // One entry of the second's is dirty, and older than all that the first adds now.
    second.flush();
    let _ = of_second
        .put(&key(0), Some(2), 0, &mut second.task)
        .unwrap();
    second.between_records();
    fill(&of_first, &mut first);
    assert!(second.caches.wants_eviction(), "asked to flush");
    second.between_records();
    assert!(!second.caches.wants_eviction());
    assert_eq!(replayed(&second.log).len(), 100);
}

#[test]
fn a_flush_fills_and_flushes_the_stores_below() {
    let thread = ThreadCache::new(1 << 20, false);
    let (upstream, downstream) = (
        counts(true),
        KeyValueStoreBuilder::<String, i64>::new("below")
            .in_memory()
            .caching(true),
    );
    let stores = Stores::open(
        None,
        &[upstream.spec(), downstream.spec()],
        &Memory::new(1 << 20),
    )
    .unwrap();
    let mut caches = TaskCaches::new(&thread);
    let mut task = task_context();
    let builders: [&dyn StoreBuilder; 2] = [&upstream, &downstream];
    let [above, below] = builders.map(|builder| {
        let site = StoreSite {
            stores: &stores,
            changelog_topic: "t".into(),
            changelog: None,
            caches: &mut caches,
        };
        builder
            .build(site)
            .unwrap()
            .key_value::<String, i64>()
            .unwrap()
    });
    let target = below.clone();
    above.set_flush_listener(Box::new(OnFlush(
        move |change: Flushed<String, i64>, task: &mut TaskContext| {
            target
                .put(&change.key, change.new, change.timestamp, task)
                .map(|_| ())
        },
    )));
    let heard = Heard::default();
    below.set_flush_listener(Box::new(Hears(Rc::clone(&heard))));
    let _ = above.put(&key(1), Some(7), 3, &mut task).unwrap();
    caches.flush(&mut task).unwrap();
    assert_eq!(*heard.borrow(), [flushed("key-1", Some(7), None, 3)]);
}

#[test]
fn a_flush_that_feeds_itself_is_an_error() {
    let mut fixture = Fixture::new(&counts(true), &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    let itself = store.clone();
    store.set_flush_listener(Box::new(OnFlush(
        move |change: Flushed<String, i64>, task: &mut TaskContext| {
            itself
                .put(
                    &change.key,
                    change.new.map(|value| value + 1),
                    change.timestamp,
                    task,
                )
                .map(|_| ())
        },
    )));
    let _ = store.put(&key(1), Some(7), 3, &mut fixture.task).unwrap();
    let error = fixture
        .caches
        .flush(&mut fixture.task)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "flushing store counts changes it again: its records reach a node that writes to it"
    );
}

#[test]
fn an_error_of_a_listener_leaves_the_rest_dirty() {
    let mut fixture = Fixture::new(&counts(true), &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    let fails = Rc::new(Cell::new(true));
    let failing = Rc::clone(&fails);
    let heard: Heard<String, i64> = Heard::default();
    let hears = Rc::clone(&heard);
    store.set_flush_listener(Box::new(OnFlush(
        move |change: Flushed<String, i64>, _: &mut TaskContext| {
            if failing.get() {
                return Err(ProcessError::new("downstream"));
            }
            hears.borrow_mut().push(change);
            Ok(())
        },
    )));
    for number in 1..=3 {
        let _ = store
            .put(&key(number), Some(1), 0, &mut fixture.task)
            .unwrap();
    }
    assert_eq!(
        fixture
            .caches
            .flush(&mut fixture.task)
            .unwrap_err()
            .to_string(),
        "downstream"
    );
    fails.set(false);
    fixture.flush();
    assert_eq!(
        *heard.borrow(),
        [
            flushed("key-2", Some(1), None, 0),
            flushed("key-3", Some(1), None, 0)
        ]
    );
}

#[test]
fn a_failed_update_leaves_the_value_when_the_handler_may_continue() {
    let (mut fixture, store, heard) = key_value(1 << 20);
    let fail = |fixture: &mut Fixture| {
        store
            .update(&key(1), &mut fixture.task, |_| {
                Err(ProcessError::new("boom"))
            })
            .unwrap_err()
    };
    let _ = store.put(&key(1), Some(1), 5, &mut fixture.task).unwrap();
    fail(&mut fixture);
    assert_eq!(
        store.read(&key(1)).unwrap(),
        Some(ValueAndTimestamp::new(1, 5)),
        "while it is dirty"
    );
    fixture.flush();
    fail(&mut fixture);
    fixture.flush();
    assert_eq!(
        *heard.borrow(),
        [flushed("key-1", Some(1), None, 5)],
        "a failed update of a clean value is none"
    );
}

#[test]
fn a_failed_update_loses_only_what_is_not_stored_when_the_task_has_to_end() {
    let mut fixture = Fixture::new(&counts(true), &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    let fail = |fixture: &mut Fixture| {
        store
            .update(&key(1), &mut fixture.task, |_| {
                Err(ProcessError::new("boom"))
            })
            .unwrap_err()
    };
    let _ = store.put(&key(1), Some(1), 5, &mut fixture.task).unwrap();
    fixture.flush();
    fail(&mut fixture);
    assert_eq!(
        store.read(&key(1)).unwrap(),
        Some(ValueAndTimestamp::new(1, 5)),
        "the store has it"
    );
    let _ = store.put(&key(1), Some(2), 6, &mut fixture.task).unwrap();
    fail(&mut fixture);
    let lost = "store counts: an update failed while it had";
    assert!(
        store
            .read(&key(1))
            .unwrap_err()
            .to_string()
            .starts_with(lost)
    );
    assert!(
        fixture
            .caches
            .flush(&mut fixture.task)
            .unwrap_err()
            .to_string()
            .starts_with(lost)
    );
    assert!(
        store
            .all()
            .unwrap()
            .any(|entry| entry.is_err_and(|error| error.to_string().starts_with(lost)))
    );
}

#[test]
fn a_window_at_the_end_of_time_is_found_once() {
    let builder = WindowStoreBuilder::<String, i64>::new("windows", 120_000, 1).in_memory();
    let mut fixture = Fixture::new(&builder, &ThreadCache::new(0, false));
    let store = fixture.built.window::<String, i64>().unwrap();
    let _ = store
        .put(&key(1), i64::MAX, Some(7), 9, &mut fixture.task)
        .unwrap();
    let found: Result<Vec<_>, _> = store.all().unwrap().take(3).collect();
    assert_eq!(found.unwrap().len(), 1);
}

#[test]
fn a_store_cannot_be_used_inside_its_own_update() {
    let (mut fixture, store, _) = key_value(1 << 20);
    let same = store.clone();
    let error = store
        .update(&key(1), &mut fixture.task, |_| {
            same.read(&key(1)).map(|_| (None, 0))
        })
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "store counts: used from inside an update or a read of itself"
    );
}

static SERDE_CALLS: AtomicUsize = AtomicUsize::new(0);

/// Counts what it does.
struct Counting;

impl Serializer<String> for Counting {
    fn serialize(&self, topic: &str, value: &String, out: &mut Vec<u8>) -> Result<(), SerdeError> {
        assert_eq!(topic, "app-store-changelog");
        SERDE_CALLS.fetch_add(1, Ordering::SeqCst);
        Utf8.serialize(topic, value, out)
    }
}

impl Deserializer<String> for Counting {
    fn deserialize(&self, topic: &str, data: Payload<'_>) -> Result<String, SerdeError> {
        SERDE_CALLS.fetch_add(1, Ordering::SeqCst);
        Utf8.deserialize(topic, data)
    }
}

#[test]
fn a_hit_calls_no_serde_and_an_absent_key_is_looked_for_once() {
    let builder = KeyValueStoreBuilder::<String, String>::with("counted", Counting, Counting)
        .in_memory()
        .caching(true);
    let mut fixture = Fixture::new(&builder, &ThreadCache::new(1 << 20, false));
    let store = fixture.built.key_value::<String, String>().unwrap();
    assert_eq!(store.read(&key(1)).unwrap(), None);
    assert_eq!(
        SERDE_CALLS.load(Ordering::SeqCst),
        1,
        "the key, to ask the store"
    );
    for _ in 0..5 {
        assert_eq!(
            store
                .read(&key(2).replace('2', "1"))
                .unwrap()
                .map(|value| value.value.len()),
            None
        );
    }
    for length in 1..=5 {
        let append = |current: Option<ValueAndTimestamp<String>>| {
            Ok((
                Some(current.map_or(String::new(), |c| c.value) + "x"),
                length,
            ))
        };
        let _ = store.update(&key(1), &mut fixture.task, append).unwrap();
    }
    assert_eq!(
        store
            .read_with(&key(1), |value| value.map(|value| value.value.len()))
            .unwrap(),
        Some(5)
    );
    assert_eq!(SERDE_CALLS.load(Ordering::SeqCst), 1);
    fixture.flush();
    assert_eq!(SERDE_CALLS.load(Ordering::SeqCst), 3, "key and value, once");
}

#[test]
fn a_value_that_is_written_as_null_deletes() {
    for is_cached in [false, true] {
        let values = Nullable(Utf8);
        let builder =
            KeyValueStoreBuilder::<String, Option<String>>::with("nullable", Utf8, values)
                .in_memory()
                .caching(is_cached);
        let mut fixture = Fixture::new(&builder, &ThreadCache::new(1 << 20, false));
        let store = fixture.built.key_value::<String, Option<String>>().unwrap();
        let _ = store
            .put(&key(1), Some(Some("x".to_owned())), 1, &mut fixture.task)
            .unwrap();
        fixture.flush();
        let _ = store
            .put(&key(1), Some(None), 2, &mut fixture.task)
            .unwrap();
        assert_eq!(store.read(&key(1)).unwrap(), None);
        fixture.flush();
        assert_eq!(
            fixture.log.borrow().last().unwrap(),
            &(key(1).into_bytes(), None, 2)
        );
    }
}

#[test]
fn a_long_scan_sees_what_was_there_and_what_is_written_meanwhile_or_not() {
    for is_cached in [false, true] {
        let mut fixture = Fixture::new(&counts(is_cached), &ThreadCache::new(1 << 20, false));
        let store = fixture.built.key_value::<String, i64>().unwrap();
        let keys: Vec<_> = (0..1_000).map(|number| format!("{number:04}")).collect();
        for (at, key) in keys.iter().enumerate() {
            let _ = store.put(key, Some(1), 0, &mut fixture.task).unwrap();
            if at == 600 {
                fixture.flush();
            }
        }
        let mut seen = Vec::new();
        for entry in store.all().unwrap() {
            let (key, current) = entry.unwrap();
            let _ = store
                .put(&key, Some(current.value + 1), 1, &mut fixture.task)
                .unwrap();
            seen.push(key);
        }
        assert_eq!(seen, keys);
        assert!(
            store.reverse_all().unwrap().map(Result::unwrap).eq(keys
                .iter()
                .rev()
                .map(|key| (key.clone(), ValueAndTimestamp::new(2, 1))))
        );
        assert_eq!(store.range(key(5)..key(5)).unwrap().count(), 0);
    }
}

#[test]
fn windows_are_told_with_their_ends() {
    let builder = WindowStoreBuilder::<String, i64>::new("windows", 60_000, 10)
        .in_memory()
        .caching(true);
    let mut fixture = Fixture::new(&builder, &ThreadCache::new(1 << 20, false));
    let store = fixture.built.window::<String, i64>().unwrap();
    let heard: Heard<Windowed<String>, i64> = Heard::default();
    store.set_flush_listener(Box::new(Hears(Rc::clone(&heard))));
    let _ = store
        .put(&key(1), 20, Some(1), 21, &mut fixture.task)
        .unwrap();
    let _ = store
        .put(&key(1), 30, Some(2), 31, &mut fixture.task)
        .unwrap();
    fixture.flush();
    let told: Vec<_> = heard
        .borrow()
        .iter()
        .map(|change| format!("{}={:?}", change.key, change.new))
        .collect();
    assert_eq!(told, ["[key-1@20/30]=Some(1)", "[key-1@30/40]=Some(2)"]);
    let error = store
        .put(&key(1), -1, Some(1), 0, &mut fixture.task)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "store windows: window start -1 ms is negative"
    );
}

#[test]
fn errors_name_the_store_and_what_was_expected() {
    let fixture = Fixture::new(&counts(false), &ThreadCache::new(0, false));
    let store = fixture.built.key_value::<String, i64>().unwrap();
    fixture
        .stores
        .key_value("counts")
        .unwrap()
        .put(b"short", Some(&[0; 10]))
        .unwrap();
    assert_eq!(
        store.read(&"short".to_owned()).unwrap_err().to_string(),
        "store counts: value: i64 has 8 bytes, found 2"
    );
    fixture
        .stores
        .key_value("counts")
        .unwrap()
        .put(b"\xff", Some(&[0; 16]))
        .unwrap();
    let errors: Vec<_> = store
        .all()
        .unwrap()
        .filter_map(Result::err)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(
        errors,
        ["store counts: value: i64 has 8 bytes, found 2"],
        "an iteration ends at its first error"
    );
    let error = fixture
        .built
        .window::<String, i64>()
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        error,
        "store counts is a key-value store of alloc::string::String and i64, not a window store of alloc::string::String and i64"
    );
    let error = fixture
        .built
        .key_value::<String, i32>()
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        error,
        "store counts is a key-value store of alloc::string::String and i64, not a key-value store of alloc::string::String and i32"
    );
}

#[test]
fn a_null_key_is_an_error_where_it_is_used_also_with_a_cache() {
    for (cache_bytes, cached) in [(0, false), (1 << 20, true)] {
        let builder = KeyValueStoreBuilder::<Option<String>, i64>::shared(
            "nulls",
            default_serde(),
            default_serde(),
        )
        .in_memory()
        .caching(true);
        let mut fixture = Fixture::new(&builder, &ThreadCache::new(cache_bytes, false));
        let store = fixture.built.key_value::<Option<String>, i64>().unwrap();
        assert_eq!(store.is_cached(), cached);
        let task = &mut fixture.task;
        let errors = [
            store.put(&None, Some(1), 0, task).unwrap_err(),
            store.put(&None, None, 0, task).unwrap_err(),
            store
                .update(&None, task, |_| panic!("there is nothing to update"))
                .unwrap_err(),
            store.read(&None).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), "store nulls: the key is null");
        }
        // None of them is met again.
        let _ = store.put(&Some("a".to_owned()), Some(1), 0, task).unwrap();
        fixture.flush();
    }
}

#[test]
fn the_changelog_can_be_switched_off_and_configured() {
    let builder = counts(true);
    assert_eq!(builder.changelog_configs(), Some(Vec::new()));
    assert_eq!(builder.clone().logging(false).changelog_configs(), None);
    let configured = builder
        .changelog_config("segment.bytes", "1048576")
        .logging(true);
    assert_eq!(
        configured.changelog_configs(),
        Some(vec![("segment.bytes".to_owned(), "1048576".to_owned())])
    );
    let _: Arc<dyn StoreBuilder> = Arc::new(configured);
}
