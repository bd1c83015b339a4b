//! What a processor calls of a window store.

use std::rc::Rc;
use std::sync::Arc;

use super::backing::WindowBacking;
pub use super::scan::WindowRange;
use super::scan::windows_of;
use super::store::Store;
use super::{FlushListener, StoreKey, ValueAndTimestamp, Written};
use crate::error::ProcessError;
use crate::processor::TaskContext;
use crate::record::Datum;
use crate::serde::Windowed;

/// A window store of one task, typed; each value with the event time it is of (Kafka's `TimestampedWindowStore`).
///
/// A window is named by its start, in milliseconds since the epoch, and kept for the store's retention behind the highest start the store
/// has been given. Clones are handles on the same store. Found with `InitContext::window_store`.
pub struct TimestampedWindowStore<K: StoreKey, V: Datum>(pub(super) Rc<Store<K, V, WindowBacking>>);

impl<K: StoreKey, V: Datum> Clone for TimestampedWindowStore<K, V> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<K: StoreKey, V: Datum> TimestampedWindowStore<K, V> {
    /// Sets the value of `key` in a window; `None` deletes it. `timestamp` as in
    /// [`TimestampedKeyValueStore::put`](super::TimestampedKeyValueStore::put). A window that is no longer kept is dropped and counted.
    ///
    /// # Errors
    /// A negative `window_start`; what a serde, the store or the changelog reports.
    #[inline]
    pub fn put(
        &self,
        key: &K,
        window_start: i64,
        value: Option<V>,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<Written<V>, ProcessError> {
        self.0.put(key, window_start, value, timestamp, task)
    }

    /// Sets the value of `key` in a window to what `f` makes of the one it has, as
    /// [`TimestampedKeyValueStore::update`](super::TimestampedKeyValueStore::update). `f` is not called for a window that is no longer kept.
    ///
    /// # Errors
    /// A negative `window_start`, or as there.
    #[inline]
    pub fn update(
        &self,
        key: &K,
        window_start: i64,
        task: &mut TaskContext,
        f: impl FnOnce(Option<ValueAndTimestamp<V>>) -> Result<(Option<V>, i64), ProcessError>,
    ) -> Result<Written<V>, ProcessError> {
        self.0.update(key, window_start, task, f)
    }

    /// Sets who hears of this store's flushes, in place of the one before. Without effect on a store without cache.
    pub fn set_flush_listener(&self, listener: Box<dyn FlushListener<Windowed<K>, V>>) {
        self.0.set_flush_listener(listener);
    }

    /// The value of `key` in a window.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read(
        &self,
        key: &K,
        window_start: i64,
    ) -> Result<Option<ValueAndTimestamp<V>>, ProcessError> {
        self.0.read_with(key, window_start, |value| value.cloned())
    }

    /// What `f` makes of the value of `key` in a window, which is not cloned. `f` must not use this store.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn read_with<R>(
        &self,
        key: &K,
        window_start: i64,
        f: impl FnOnce(Option<&ValueAndTimestamp<V>>) -> R,
    ) -> Result<R, ProcessError> {
        self.0.read_with(key, window_start, f)
    }

    /// The windows of `key` that start between `from` and `to`, both inclusive, by start. On a cached store it takes time in proportion to
    /// what is dirty.
    ///
    /// # Errors
    /// What a serde or the store reports.
    pub fn fetch(
        &self,
        key: &K,
        from: i64,
        to: i64,
    ) -> Result<Vec<(i64, ValueAndTimestamp<V>)>, ProcessError> {
        windows_of(&self.0, key, from, to)
    }

    /// The windows of all keys that start between `from` and `to`, both inclusive: by segment of time, then by the keys' bytes, then by
    /// start. One segment is held in memory at a time. What is written meanwhile may be seen or not.
    ///
    /// # Errors
    /// What is met on the way, the iterator returns.
    pub fn fetch_all(&self, from: i64, to: i64) -> Result<WindowRange<K, V>, ProcessError> {
        WindowRange::new(Rc::clone(&self.0), from, to)
    }

    /// Every window that is kept, as [`TimestampedWindowStore::fetch_all`].
    ///
    /// # Errors
    /// As there.
    pub fn all(&self) -> Result<WindowRange<K, V>, ProcessError> {
        self.fetch_all(0, i64::MAX)
    }

    /// Whether writes wait in the record cache, and a flush listener hears of them.
    pub fn is_cached(&self) -> bool {
        self.0.is_cached()
    }

    /// The store's name.
    pub fn name(&self) -> &Arc<str> {
        self.0.name()
    }
}
