//! One typed store: what a read, a put, an update and a flush do, with and without cache. Written once for key-value and window stores.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_state_stores::{ChangelogRecord, ChangelogSink, PutOutcome, StoreError, timestamped};

use super::backing::Backing;
use super::{FlushListener, Flushed, StoreKey, ValueAndTimestamp, Written};
use crate::cache::entries::{Entries, Entry, Stored};
use crate::cache::{CachedStore, Oldest, ThreadCache};
use crate::error::ProcessError;
use crate::processor::{DropReason, TaskContext};
use crate::record::{Datum, RecordMetadata};
use crate::serde::{Payload, SharedSerde};

/// A failure of a store's bytes or serdes, with the store's name.
#[derive(Debug, thiserror::Error)]
#[error("store {store}: {what}{source}")]
struct StoreFailure {
    store: Arc<str>,
    /// `key: `, `value: `, or nothing.
    what: &'static str,
    source: Box<dyn Error + Send + Sync>,
}

/// Gives deletes, which have no timestamp in the store's bytes, that of the record that deletes.
pub(super) struct Stamped {
    pub(super) sink: Box<dyn ChangelogSink>,
    pub(super) timestamp: Rc<Cell<i64>>,
}

impl ChangelogSink for Stamped {
    fn log(&mut self, record: ChangelogRecord<'_>) -> Result<(), StoreError> {
        let timestamp_ms = record.timestamp_ms.or(Some(self.timestamp.get()));
        self.sink.log(ChangelogRecord {
            timestamp_ms,
            ..record
        })
    }
}

/// A typed store of one task. Handles share it.
pub(super) struct Store<K, V, B: Backing<K>> {
    name: Arc<str>,
    is_cached: bool,
    core: RefCell<Core<K, V, B>>,
    /// Beside the core, which the listener may read while it runs.
    listener: RefCell<Option<SharedListener<B::FlushKey, V>>>,
}

type SharedListener<K, V> = Rc<RefCell<Box<dyn FlushListener<K, V>>>>;

pub(super) struct Core<K, V, B> {
    name: Arc<str>,
    /// The changelog's name, which serdes get as topic.
    topic: Arc<str>,
    keys: SharedSerde<K>,
    values: SharedSerde<V>,
    pub(super) backing: B,
    /// What the changelog of a delete is stamped with.
    delete_timestamp: Rc<Cell<i64>>,
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
    pub(super) cache: Option<Cache<K, V>>,
}

pub(super) struct Cache<K, V> {
    pub(super) entries: Entries<K, V>,
    /// Places of dirty entries, in the order in which they became so.
    dirty: VecDeque<u32>,
    thread: Rc<ThreadCache>,
    has_listener: bool,
    wants_old: bool,
    /// Average serialised size of key and value, for entries whose size is not known.
    bytes_average: usize,
    charged: usize,
}

/// What a store is made of.
pub(super) struct Parts<K, V, B> {
    pub(super) name: Arc<str>,
    pub(super) topic: Arc<str>,
    pub(super) keys: SharedSerde<K>,
    pub(super) values: SharedSerde<V>,
    pub(super) backing: B,
    pub(super) delete_timestamp: Rc<Cell<i64>>,
    pub(super) cache: Option<Rc<ThreadCache>>,
}

impl<K: StoreKey, V: Datum, B: Backing<K>> Store<K, V, B> {
    pub(super) fn new(parts: Parts<K, V, B>) -> Self {
        let cache = parts.cache.map(|thread| Cache {
            entries: Entries::default(),
            dirty: VecDeque::new(),
            thread,
            has_listener: false,
            wants_old: false,
            bytes_average: 0,
            charged: 0,
        });
        Self {
            name: Arc::clone(&parts.name),
            is_cached: cache.is_some(),
            core: RefCell::new(Core {
                name: parts.name,
                topic: parts.topic,
                keys: parts.keys,
                values: parts.values,
                backing: parts.backing,
                delete_timestamp: parts.delete_timestamp,
                key_bytes: Vec::new(),
                value_bytes: Vec::new(),
                cache,
            }),
            listener: RefCell::new(None),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn is_cached(&self) -> bool {
        self.is_cached
    }

    pub(super) fn set_flush_listener(&self, listener: Box<dyn FlushListener<B::FlushKey, V>>) {
        if let Some(cache) = &mut self.core.borrow_mut().cache {
            cache.has_listener = true;
            cache.wants_old = listener.wants_old();
            *self.listener.borrow_mut() = Some(Rc::new(RefCell::new(listener)));
        }
    }

    /// The store's inside. Taken while a closure of `update` or `read_with` runs, which must not use the same store.
    #[inline]
    pub(super) fn core(&self) -> Result<RefMut<'_, Core<K, V, B>>, ProcessError> {
        self.core.try_borrow_mut().map_err(|_| {
            ProcessError::new(format!(
                "store {}: used from inside an update or a read of itself",
                self.name
            ))
        })
    }

    pub(super) fn read_with<R>(
        &self,
        key: &K,
        window_start: i64,
        f: impl FnOnce(Option<&ValueAndTimestamp<V>>) -> R,
    ) -> Result<R, ProcessError> {
        let core = &mut *self.core()?;
        if !core.backing.is_visible(window_start) {
            return Ok(f(None));
        }
        if core.cache.is_none() {
            return Ok(f(core.load(key, window_start)?.as_ref()));
        }
        let place = core.find_or_load(key, window_start)?;
        match &core.cache {
            Some(cache) => Ok(f(cache.entries.entry(place).value.as_ref())),
            None => Ok(f(None)),
        }
    }

    pub(super) fn put(
        &self,
        key: &K,
        window_start: i64,
        value: Option<V>,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Written<V>, ProcessError> {
        let core = &mut *self.core()?;
        let known = match &core.cache {
            Some(cache) => cache.entries.find(key, window_start),
            None => None,
        };
        // Here, where whoever puts it hears of it, not at the flush. A key that the cache knows was looked at before.
        if known.is_none() && core.keys.is_null(key) {
            return Err(core.null_key());
        }
        if core.expires(window_start, task)? {
            return Ok(Written::Expired);
        }
        let value = core.without_null(value);
        let Some(cache) = &mut core.cache else {
            return core.write_through(key, window_start, value, timestamp, task);
        };
        let used = cache.thread.tick();
        let place = match known {
            Some(place) => {
                cache.entries.touch(place, used);
                let entry = cache.entries.entry_mut(place);
                let old = entry.value.take();
                if !entry.is_dirty {
                    entry.stored = match old {
                        None => Stored::Absent,
                        Some(old) => Stored::Present(cache.wants_old.then_some(old.value)),
                    };
                }
                place
            }
            // Nothing is read: at the flush, if anybody wants to know.
            None => cache.insert(Entry::new(key.clone(), window_start, None), used),
        };
        cache.updated(place, value, timestamp, used, task);
        Ok(Written::Cached)
    }

    pub(super) fn update(
        &self,
        key: &K,
        window_start: i64,
        task: &mut TaskContext,
        f: impl FnOnce(Option<ValueAndTimestamp<V>>) -> Result<(Option<V>, i64), ProcessError>,
    ) -> Result<Written<V>, ProcessError> {
        let core = &mut *self.core()?;
        if core.expires(window_start, task)? {
            return Ok(Written::Expired);
        }
        let is_visible = core.backing.is_visible(window_start);
        if core.cache.is_none() {
            let current = if is_visible {
                core.load(key, window_start)?
            } else {
                None
            };
            let (value, timestamp) = f(current)?;
            let value = core.without_null(value);
            return core.write_through(key, window_start, value, timestamp, task);
        }
        let place = core.find_or_load(key, window_start)?;
        let Core {
            cache: Some(cache),
            values,
            ..
        } = core
        else {
            unreachable!("a cache was there above")
        };
        let entry = cache.entries.entry_mut(place);
        let current = entry.value.take();
        let copy = if cache.thread.updates_may_continue() {
            current.clone()
        } else {
            None
        };
        if !entry.is_dirty {
            entry.stored = match &current {
                None => Stored::Absent,
                Some(current) => Stored::Present(cache.wants_old.then(|| current.value.clone())),
            };
        }
        // Should the closure panic, the entry stays as if it were lost.
        entry.is_lost = true;
        match f(current.filter(|_| is_visible)) {
            Ok((value, timestamp)) => {
                let value = value.filter(|value| !values.is_null(value));
                let used = cache.entries.used(place);
                cache.updated(place, value, timestamp, used, task);
                Ok(Written::Cached)
            }
            Err(error) => {
                if cache.thread.updates_may_continue() {
                    entry.value = copy;
                    entry.is_lost = false;
                    if !entry.is_dirty {
                        entry.stored = Stored::Unknown;
                    }
                } else if !entry.is_dirty {
                    // The store has it still.
                    cache.remove(place);
                }
                Err(error)
            }
        }
    }

    /// Flushes what is dirty now: `first`, then the rest in the order of their latest updates.
    fn flush(&self, first: Option<u32>, task: &mut TaskContext) -> Result<(), ProcessError> {
        let count = match &mut self.core()?.cache {
            Some(cache) => cache.sort_dirty(first),
            None => 0,
        };
        let listener = if count > 0 {
            self.listener.borrow().clone()
        } else {
            None
        };
        // What a listener makes dirty again comes behind these, and waits for the next flush.
        for _ in 0..count {
            let change = self.core()?.flush_next()?;
            let (Some((change, metadata)), Some(listener)) = (change, &listener) else {
                continue;
            };
            let mut listener = listener.try_borrow_mut().map_err(|_| {
                ProcessError::new(format!(
                    "store {}: flushed from inside its own flush",
                    self.name
                ))
            })?;
            let current = (
                std::mem::replace(&mut task.metadata, metadata),
                std::mem::replace(&mut task.record_timestamp, change.timestamp),
                std::mem::replace(&mut task.headers, change.headers.clone()),
            );
            let result = listener.flushed(change, task);
            (task.metadata, task.record_timestamp, task.headers) = current;
            result?;
        }
        Ok(())
    }
}

impl<K: StoreKey, V: Datum, B: Backing<K>> CachedStore for Store<K, V, B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_dirty(&self) -> bool {
        self.core
            .borrow()
            .cache
            .as_ref()
            .is_some_and(|cache| !cache.dirty.is_empty())
    }

    fn flush(&self, task: &mut TaskContext) -> Result<(), ProcessError> {
        Store::flush(self, None, task)
    }

    fn oldest(&self) -> Option<Oldest> {
        let core = self.core.borrow();
        let entries = &core.cache.as_ref()?.entries;
        let place = entries.oldest()?;
        Some(Oldest {
            used: entries.used(place),
            is_dirty: entries.entry(place).is_dirty,
        })
    }

    fn drop_oldest(&self) {
        let mut core = self.core.borrow_mut();
        let Some(cache) = &mut core.cache else { return };
        if let Some(place) = cache.entries.oldest()
            && !cache.entries.entry(place).is_dirty
        {
            cache.remove(place);
        }
    }

    fn evict_oldest(&self, task: &mut TaskContext) -> Result<(), ProcessError> {
        let dirty = self.core()?.cache.as_ref().and_then(|cache| {
            let place = cache.entries.oldest()?;
            cache.entries.entry(place).is_dirty.then_some(place)
        });
        if dirty.is_some() {
            self.flush(dirty, task)?;
        }
        // A listener may have used the entry again; then it is no longer the oldest, and the next one goes.
        self.drop_oldest();
        Ok(())
    }
}

impl<K: StoreKey, V: Datum, B: Backing<K>> Core<K, V, B> {
    pub(super) fn failure(
        &self,
        what: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> ProcessError {
        ProcessError::new(StoreFailure {
            store: Arc::clone(&self.name),
            what,
            source: source.into(),
        })
    }

    /// A value that its serde writes as null is a delete.
    #[inline]
    fn without_null(&self, value: Option<V>) -> Option<V> {
        value.filter(|value| !self.values.is_null(value))
    }

    /// Observes the window of a put; counts and tells when the store no longer keeps it.
    #[inline]
    fn expires(&mut self, window_start: i64, task: &mut TaskContext) -> Result<bool, ProcessError> {
        match self.backing.observe(window_start) {
            Ok(PutOutcome::Stored) => Ok(false),
            Ok(PutOutcome::Expired) => {
                task.drop_record(DropReason::ExpiredWindow);
                Ok(true)
            }
            Err(error) => Err(ProcessError::new(error)),
        }
    }

    #[cold]
    fn null_key(&self) -> ProcessError {
        self.failure("", "the key is null")
    }

    /// Bytes of a key as the store has them.
    pub(super) fn serialise_key(&self, key: &K, out: &mut Vec<u8>) -> Result<(), ProcessError> {
        out.clear();
        if self.keys.is_null(key) {
            return Err(self.null_key());
        }
        self.keys
            .serialize(&self.topic, key, out)
            .map_err(|error| self.failure("key: ", error))
    }

    pub(super) fn deserialise_key(&self, bytes: &[u8]) -> Result<K, ProcessError> {
        self.keys
            .deserialize(&self.topic, Payload::from(bytes))
            .map_err(|error| self.failure("key: ", error))
    }

    pub(super) fn deserialise_value(
        &self,
        bytes: &[u8],
    ) -> Result<ValueAndTimestamp<V>, ProcessError> {
        let (timestamp, value) =
            timestamped::split(bytes).map_err(|error| self.failure("", error))?;
        let value = self
            .values
            .deserialize(&self.topic, Payload::from(value))
            .map_err(|error| self.failure("value: ", error))?;
        Ok(ValueAndTimestamp { value, timestamp })
    }

    fn key_to_buffer(&mut self, key: &K) -> Result<(), ProcessError> {
        let mut bytes = std::mem::take(&mut self.key_bytes);
        let result = self.serialise_key(key, &mut bytes);
        self.key_bytes = bytes;
        result
    }

    /// Reads from the store, past the cache. Leaves the serialised key and value in the buffers.
    pub(super) fn load(
        &mut self,
        key: &K,
        window_start: i64,
    ) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        self.key_to_buffer(key)?;
        match self
            .backing
            .read(&self.key_bytes, window_start, &mut self.value_bytes)
        {
            Ok(false) => Ok(None),
            Ok(true) => self.deserialise_value(&self.value_bytes).map(Some),
            Err(error) => Err(self.failure("", error)),
        }
    }

    /// Writes to the store and its changelog. Leaves the serialised key and value in the buffers.
    fn write(
        &mut self,
        key: &K,
        window_start: i64,
        value: Option<&V>,
        timestamp: i64,
    ) -> Result<PutOutcome, ProcessError> {
        self.key_to_buffer(key)?;
        self.value_bytes.clear();
        if let Some(value) = value {
            self.value_bytes.extend_from_slice(&timestamp.to_be_bytes());
            let result = self
                .values
                .serialize(&self.topic, value, &mut self.value_bytes);
            result.map_err(|error| self.failure("value: ", error))?;
        }
        self.delete_timestamp.set(timestamp);
        let bytes = value.map(|_| self.value_bytes.as_slice());
        self.backing
            .put(&self.key_bytes, window_start, bytes)
            .map_err(|error| self.failure("", error))
    }

    fn write_through(
        &mut self,
        key: &K,
        window_start: i64,
        value: Option<V>,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Written<V>, ProcessError> {
        match self.write(key, window_start, value.as_ref(), timestamp)? {
            PutOutcome::Stored => Ok(Written::Stored(value)),
            PutOutcome::Expired => {
                task.drop_record(DropReason::ExpiredWindow);
                Ok(Written::Expired)
            }
        }
    }

    /// The place of a key's entry, which is loaded when it is not there.
    fn find_or_load(&mut self, key: &K, window_start: i64) -> Result<u32, ProcessError> {
        let Some(cache) = &mut self.cache else {
            unreachable!("store {} has no cache", self.name)
        };
        let used = cache.thread.tick();
        if let Some(place) = cache.entries.find(key, window_start) {
            cache.entries.touch(place, used);
            let entry = cache.entries.entry(place);
            if entry.is_lost {
                return Err(self.failure(
                    "",
                    "an update failed while it had the value; the task has to be closed",
                ));
            }
            return Ok(place);
        }
        let value = self.load(key, window_start)?;
        let value_bytes = self.value_bytes.len();
        let Some(cache) = &mut self.cache else {
            unreachable!("a cache was there above")
        };
        let place = cache.insert(Entry::new(key.clone(), window_start, value), used);
        cache.measured(place, self.key_bytes.len(), value_bytes);
        Ok(place)
    }

    /// Writes the next dirty entry. Returns what the listener is to hear, with the record context of the latest update.
    #[allow(clippy::type_complexity)] // Both are taken apart at once.
    fn flush_next(
        &mut self,
    ) -> Result<Option<(Flushed<B::FlushKey, V>, Option<RecordMetadata>)>, ProcessError> {
        let Some(mut cache) = self.cache.take() else {
            return Ok(None);
        };
        let result = match cache.dirty.front().copied() {
            Some(place) => self.flush_entry(&mut cache, place),
            None => Ok(None),
        };
        if result.is_ok() {
            cache.dirty.pop_front();
        }
        self.cache = Some(cache);
        result
    }

    #[allow(clippy::type_complexity)] // As above.
    fn flush_entry(
        &mut self,
        cache: &mut Cache<K, V>,
        place: u32,
    ) -> Result<Option<(Flushed<B::FlushKey, V>, Option<RecordMetadata>)>, ProcessError> {
        let entry = cache.entries.entry_mut(place);
        if entry.is_lost {
            return Err(self.failure("", "an update failed while it had a value that is not stored; the task has to be closed"));
        }
        // What the store has must be known to tell the old value, or whether there is anything to delete.
        if matches!(entry.stored, Stored::Unknown)
            && cache.has_listener
            && (cache.wants_old || entry.value.is_none())
        {
            entry.stored = match self.load(&entry.key, entry.window_start)? {
                None => Stored::Absent,
                Some(stored) => Stored::Present(cache.wants_old.then_some(stored.value)),
            };
        }
        let is_change = entry.value.is_some() || !matches!(entry.stored, Stored::Absent);
        if is_change {
            let value = entry.value.as_ref().map(|value| &value.value);
            // A window that has expired since it was put is not late: nobody counts it.
            let (PutOutcome::Stored | PutOutcome::Expired) =
                self.write(&entry.key, entry.window_start, value, entry.timestamp)?;
        }
        entry.is_dirty = false;
        let (metadata, headers) = (entry.metadata.take(), std::mem::take(&mut entry.headers));
        let old = match std::mem::replace(&mut entry.stored, Stored::Unknown) {
            Stored::Present(old) => old,
            Stored::Unknown | Stored::Absent => None,
        };
        let change = (is_change && cache.has_listener).then(|| Flushed {
            key: self.backing.flush_key(&entry.key, entry.window_start),
            new: entry.value.as_ref().map(|value| value.value.clone()),
            old,
            timestamp: entry.timestamp,
            headers,
        });
        if is_change {
            cache.measured(place, self.key_bytes.len(), self.value_bytes.len());
        } else {
            cache.recharge(place);
        }
        Ok(change.map(|change| (change, metadata)))
    }

    /// The value of a key, from the cache or the store, without loading it into the cache. For scans.
    pub(super) fn peek(
        &mut self,
        key: &K,
        window_start: i64,
    ) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        match self.cached(key, window_start)? {
            Some(value) => Ok(value),
            None => self.load(key, window_start),
        }
    }

    /// What the cache knows of a key's value; the outer `None` when it knows nothing.
    #[allow(clippy::option_option)] // Absent and unknown are two things.
    pub(super) fn cached(
        &self,
        key: &K,
        window_start: i64,
    ) -> Result<Option<Option<ValueAndTimestamp<V>>>, ProcessError> {
        let Some(cache) = &self.cache else {
            return Ok(None);
        };
        let Some(place) = cache.entries.find(key, window_start) else {
            return Ok(None);
        };
        let entry = cache.entries.entry(place);
        if entry.is_lost {
            return Err(self.failure(
                "",
                "an update failed while it had the value; the task has to be closed",
            ));
        }
        Ok(Some(entry.value.clone()))
    }

    /// Dirty keys with their windows.
    pub(super) fn dirty_keys(&self) -> impl Iterator<Item = (&K, i64)> {
        self.cache.iter().flat_map(|cache| {
            cache.dirty.iter().map(|place| {
                let entry = cache.entries.entry(*place);
                (&entry.key, entry.window_start)
            })
        })
    }
}

impl<K: StoreKey, V: Datum> Cache<K, V> {
    /// Orders what is dirty for a flush, and says how much it is.
    fn sort_dirty(&mut self, first: Option<u32>) -> usize {
        let entries = &self.entries;
        self.dirty
            .make_contiguous()
            .sort_unstable_by_key(|place| (Some(*place) != first, entries.entry(*place).updated));
        self.dirty.len()
    }

    /// Adds an entry of a size that is not known yet.
    fn insert(&mut self, entry: Entry<K, V>, used: u64) -> u32 {
        let place = self.entries.insert(entry, used);
        self.entries.entry_mut(place).value_bytes = self.bytes_average;
        self.recharge(place);
        place
    }

    fn remove(&mut self, place: u32) {
        let entry = self.entries.remove(place);
        self.thread.recharge(entry.charged, 0);
        self.charged -= entry.charged;
    }

    /// The entry has a new value of a size that is not known yet.
    #[inline]
    fn updated(
        &mut self,
        place: u32,
        value: Option<V>,
        timestamp: i64,
        used: u64,
        task: &TaskContext,
    ) {
        let entry = self.entries.entry_mut(place);
        entry.value = value.map(|value| ValueAndTimestamp { value, timestamp });
        entry.is_lost = false;
        entry.timestamp = timestamp;
        entry.updated = used;
        match (&mut entry.metadata, &task.metadata) {
            // The usual case, without counting references.
            (Some(mine), Some(current)) if Arc::ptr_eq(&mine.topic, &current.topic) => {
                (mine.partition, mine.offset) = (current.partition, current.offset);
            }
            (mine, current) => mine.clone_from(current),
        }
        if !(entry.headers.is_empty() && task.headers.is_empty()) {
            entry.headers.clone_from(&task.headers);
        }
        if !entry.is_dirty {
            entry.is_dirty = true;
            self.dirty.push_back(place);
            self.recharge(place);
        }
    }

    /// The entry's serialised size is known.
    fn measured(&mut self, place: u32, key_bytes: usize, value_bytes: usize) {
        let entry = self.entries.entry_mut(place);
        (entry.key_bytes, entry.value_bytes) = (key_bytes, value_bytes);
        self.recharge(place);
        // A moving average over some eight entries.
        self.bytes_average = match self.bytes_average {
            0 => key_bytes + value_bytes,
            average => (average * 7 + key_bytes + value_bytes).div_ceil(8),
        };
    }

    fn recharge(&mut self, place: u32) {
        let entry = self.entries.entry_mut(place);
        let after = entry.cost();
        let before = std::mem::replace(&mut entry.charged, after);
        self.thread.recharge(before, after);
        self.charged = self.charged - before + after;
    }
}

impl<K, V> Drop for Cache<K, V> {
    fn drop(&mut self) {
        self.thread.recharge(self.charged, 0);
    }
}
