//! What a processor calls of a key-value store.

use std::ops::RangeBounds;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_state_stores::Direction;

use super::backing::KeyValueBacking;
pub use super::scan::KeyValueRange;
use super::store::Store;
use super::{FlushListener, StoreKey, ValueAndTimestamp, Written};
use crate::error::ProcessError;
use crate::processor::TaskContext;
use crate::record::Datum;

/// A key-value store of one task, typed; each value with the event time it is of (Kafka's `TimestampedKeyValueStore`).
///
/// Clones are handles on the same store. Found with `InitContext::key_value_store`.
pub struct TimestampedKeyValueStore<K: StoreKey, V: Datum>(
    pub(super) Rc<Store<K, V, KeyValueBacking>>,
);

impl<K: StoreKey, V: Datum> Clone for TimestampedKeyValueStore<K, V> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<K: StoreKey, V: Datum> TimestampedKeyValueStore<K, V> {
    /// Sets the value of `key`; `None` deletes it. So does a value that its serde writes as null.
    ///
    /// `timestamp` is that of the value; of a delete, that of the record which deletes, for the changelog and for what is forwarded.
    ///
    /// # Errors
    /// What a serde, the store or the changelog reports.
    #[inline]
    pub fn put(
        &self,
        key: &K,
        value: Option<V>,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Written<V>, ProcessError> {
        self.0.put(key, 0, value, timestamp, task)
    }

    /// Sets the value of `key` to what `f` makes of the one it has. `f` returns the new value, or `None` to delete, and the timestamp as
    /// in [`TimestampedKeyValueStore::put`]. A cached value moves through `f`: it is neither cloned nor serialised.
    ///
    /// # Errors
    /// The error of `f`, and then the store has the value it had; or what a serde, the store or the changelog reports. When the thread's
    /// cache was told that no task goes on after an error, a value that was not flushed yet is lost with the error of `f`, and each
    /// further use of it is an error.
    #[inline]
    pub fn update(
        &self,
        key: &K,
        task: &mut TaskContext,
        f: impl FnOnce(Option<ValueAndTimestamp<V>>) -> Result<(Option<V>, i64), ProcessError>,
    ) -> Result<Written<V>, ProcessError> {
        self.0.update(key, 0, task, f)
    }

    /// Sets the value of `key` unless it has one, which is returned.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::put`].
    pub fn put_if_absent(
        &self,
        key: &K,
        value: V,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        let current = self.read(key)?;
        if current.is_none() {
            let _ = self.put(key, Some(value), timestamp, task)?;
        }
        Ok(current)
    }

    /// Deletes `key` and returns the value it had. `timestamp` is that of the record which deletes.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::put`].
    pub fn delete(
        &self,
        key: &K,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        let current = self.read(key)?;
        let _ = self.put(key, None, timestamp, task)?;
        Ok(current)
    }

    /// Sets who hears of this store's flushes, in place of the one before. Without effect on a store without cache.
    pub fn set_flush_listener(&self, listener: Box<dyn FlushListener<K, V>>) {
        self.0.set_flush_listener(listener);
    }

    /// The value of `key`. Loads it into the cache, also when there is none.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read(&self, key: &K) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        self.0.read_with(key, 0, |value| value.cloned())
    }

    /// What `f` makes of the value of `key`, which is not cloned. `f` must not use this store.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read_with<R>(
        &self,
        key: &K,
        f: impl FnOnce(Option<&ValueAndTimestamp<V>>) -> R,
    ) -> Result<R, ProcessError> {
        self.0.read_with(key, 0, f)
    }

    /// Entries whose keys are between two, ascending by the keys' bytes. What is written meanwhile may be seen or not.
    ///
    /// # Errors
    /// What a serde reports of the bounds; what is met later, the iterator returns.
    pub fn range(&self, keys: impl RangeBounds<K>) -> Result<KeyValueRange<K, V>, ProcessError> {
        KeyValueRange::new(Rc::clone(&self.0), &keys, Direction::Forward)
    }

    /// As [`TimestampedKeyValueStore::range`], descending.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::range`].
    pub fn reverse_range(
        &self,
        keys: impl RangeBounds<K>,
    ) -> Result<KeyValueRange<K, V>, ProcessError> {
        KeyValueRange::new(Rc::clone(&self.0), &keys, Direction::Backward)
    }

    /// All entries, ascending by the keys' bytes. What is written meanwhile may be seen or not.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::range`].
    pub fn all(&self) -> Result<KeyValueRange<K, V>, ProcessError> {
        self.range(..)
    }

    /// As [`TimestampedKeyValueStore::all`], descending.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::range`].
    pub fn reverse_all(&self) -> Result<KeyValueRange<K, V>, ProcessError> {
        self.reverse_range(..)
    }

    /// About how many entries there are, without those that only the cache has yet.
    pub fn approximate_num_entries(&self) -> u64 {
        self.0
            .core()
            .map_or(0, |core| core.backing.0.approximate_num_entries())
    }

    /// Whether writes wait in the record cache, and a flush listener hears of them.
    pub fn is_cached(&self) -> bool {
        self.0.is_cached()
    }

    /// The store's name.
    pub fn name(&self) -> &Arc<str> {
        self.0.name()
    }

    /// The same store, only to be read.
    pub fn read_only(&self) -> GlobalKeyValueStore<K, V> {
        GlobalKeyValueStore(self.clone())
    }
}

/// The store of a global table: every task of the thread reads it, none writes it.
pub struct GlobalKeyValueStore<K: StoreKey, V: Datum>(TimestampedKeyValueStore<K, V>);

impl<K: StoreKey, V: Datum> Clone for GlobalKeyValueStore<K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: StoreKey, V: Datum> GlobalKeyValueStore<K, V> {
    /// The value of `key`.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read(&self, key: &K) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        self.0.read(key)
    }

    /// What `f` makes of the value of `key`. `f` must not use this store.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read_with<R>(
        &self,
        key: &K,
        f: impl FnOnce(Option<&ValueAndTimestamp<V>>) -> R,
    ) -> Result<R, ProcessError> {
        self.0.read_with(key, f)
    }

    /// Entries whose keys are between two, ascending by the keys' bytes.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::range`].
    pub fn range(&self, keys: impl RangeBounds<K>) -> Result<KeyValueRange<K, V>, ProcessError> {
        self.0.range(keys)
    }

    /// All entries, ascending by the keys' bytes.
    ///
    /// # Errors
    /// As [`TimestampedKeyValueStore::range`].
    pub fn all(&self) -> Result<KeyValueRange<K, V>, ProcessError> {
        self.0.all()
    }

    /// The store's name.
    pub fn name(&self) -> &Arc<str> {
        self.0.name()
    }
}
