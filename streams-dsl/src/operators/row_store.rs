//! The store of a table's rows, as the table's operator uses it: each row is written, and told on, at once or when the cache is flushed.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{InitContext, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{StoreKey, TimestampedKeyValueStore, Written};

use super::changes::ForwardChanges;
use super::{opened, parts};
use crate::change::Change;

pub(crate) struct RowStore<K: StoreKey, V: Datum> {
    name: Arc<str>,
    store: Option<TimestampedKeyValueStore<K, V>>,
    /// Somebody downstream wants old values.
    sends_old: bool,
}

impl<K: StoreKey, V: Datum> RowStore<K, V> {
    /// The store of this name, which must be connected to the node.
    pub(crate) fn new(name: Arc<str>, sends_old: bool) -> Self {
        Self {
            name,
            store: None,
            sends_old,
        }
    }

    /// To be called in the operator's `init`.
    pub(crate) fn open(
        &mut self,
        context: &mut InitContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        let store = context.key_value_store::<K, V>(&self.name)?;
        if let Some(listener) = ForwardChanges::below(context, self.sends_old) {
            store.set_flush_listener(Box::new(listener));
        }
        self.store = Some(store);
        Ok(())
    }

    /// Sets a row, or deletes it, and tells.
    #[inline]
    pub(crate) fn put(
        &self,
        row: Record<K, Option<V>>,
        context: &mut ProcessorContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(row);
        let store = opened(&self.store)?;
        let timestamp = rest.timestamp;
        let mut old = None;
        let written = if self.sends_old && !store.is_cached() {
            store.update(&key, context, |row| {
                old = row.map(|row| row.value);
                Ok((value, timestamp))
            })?
        } else {
            store.put(&key, value, timestamp, context)?
        };
        match written {
            Written::Stored(new) => context.forward(rest.with(key, Change { new, old })),
            Written::Cached | Written::Expired => Ok(()),
        }
    }
}
