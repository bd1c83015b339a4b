//! Stores with types: serdes, the record cache and the changelog over the bytes of `state-stores`.
//!
//! | question | file |
//! |---|---|
//! | how a store is declared and made | `builder.rs` |
//! | what a processor calls | `key_value.rs`, `window.rs` |
//! | what a read, a put, an update and a flush do, cached or not | `store.rs` |
//! | which bytes store is beneath | `backing.rs` |
//! | how an iteration sees what is cached | `scan.rs` |
//!
//! A store without cache writes the store and its changelog in the put, and the processor forwards at once. With a cache both happen at
//! the flush, and a [`FlushListener`] forwards. [`Written`] says which it was.

mod backing;
mod builder;
mod key_value;
mod scan;
mod store;
#[cfg(test)]
mod tests;
mod window;

use std::hash::Hash;

pub use self::builder::{
    BuiltStore, KeyValueStoreBuilder, StoreBuilder, StoreSite, WindowStoreBuilder,
};
pub use self::key_value::{GlobalKeyValueStore, KeyValueRange, TimestampedKeyValueStore};
pub use self::window::{TimestampedWindowStore, WindowRange};
pub use crate::cache::{TaskCaches, ThreadCache};
use crate::error::ProcessError;
use crate::processor::TaskContext;
use crate::record::{Datum, Headers};

/// A key of a store. Implemented by every such type.
///
/// A cache finds entries by typed key: keys that are equal must have the same bytes, and the reverse.
pub trait StoreKey: Datum + Hash + Eq {}
impl<T: Datum + Hash + Eq> StoreKey for T {}

/// A value with the event time it is of (Kafka's `ValueAndTimestamp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueAndTimestamp<V> {
    /// The value.
    pub value: V,
    /// Its event time, in milliseconds since the epoch.
    pub timestamp: i64,
}

impl<V> ValueAndTimestamp<V> {
    /// `value` of `timestamp`, in milliseconds since the epoch.
    pub fn new(value: V, timestamp: i64) -> Self {
        Self { value, timestamp }
    }
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "what is stored at once is to be forwarded at once"]
pub enum Written<V> {
    /// The cache has it, and the flush listener will hear of it.
    Cached,
    /// The store has it, and here it is back, to be forwarded now. `None` for a delete.
    Stored(Option<V>),
    /// A window store no longer keeps that window: dropped, and counted as such.
    Expired,
}

/// Hears of the changes of a cached store, at its flushes. `K` is [`Windowed`](crate::serde::Windowed) for a window store.
pub trait FlushListener<K, V>: 'static {
    /// Whether [`Flushed::old`] is to be filled. Asked once, when the listener is set.
    fn wants_old(&self) -> bool;

    /// One key's change since the last flush. The task's record context is that of the latest update.
    ///
    /// # Errors
    /// The first failure below.
    fn flushed(
        &mut self,
        change: Flushed<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError>;
}

/// A change that a flush brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed<K, V> {
    /// The key.
    pub key: K,
    /// Its value now; `None` when it was deleted.
    pub new: Option<V>,
    /// The value that was flushed last; `None` when there was none, or when the listener does not want it.
    pub old: Option<V>,
    /// Timestamp of the latest update, in milliseconds: that of the value, or of the record that deleted it.
    pub timestamp: i64,
    /// Headers of the record that made the latest update.
    pub headers: Headers,
}
