//! `GlobalKTable`: a topic kept in full by every instance, to be joined with.

use std::fmt;
use std::sync::Arc;

use brooklet_streams_core::serde::SharedSerde;

use crate::plan::Handle;

/// All rows of a topic, in every instance, whatever partition they are in. Streams look rows up in it by any key
/// ([`KStream::join_global`](crate::KStream::join_global)); it is not in step with their event time.
pub struct GlobalKTable<K, V> {
    pub(crate) at: Handle,
    pub(crate) key: SharedSerde<K>,
    pub(crate) store: Arc<str>,
    /// The user has named its store.
    pub(crate) queryable: bool,
    pub(crate) types: std::marker::PhantomData<fn() -> V>,
}

impl<K, V> GlobalKTable<K, V> {
    /// Name of the store to query; `None` unless it was named with `Materialized`.
    pub fn queryable_store_name(&self) -> Option<&str> {
        self.queryable.then_some(&*self.store)
    }
}

impl<K, V> Clone for GlobalKTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            at: self.at.clone(),
            key: Arc::clone(&self.key),
            store: Arc::clone(&self.store),
            queryable: self.queryable,
            types: std::marker::PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for GlobalKTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GlobalKTable").field(&self.store).finish()
    }
}
