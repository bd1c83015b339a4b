//! `count`, `reduce`, `aggregate` without windows: one row a key. Records without key or value are dropped and counted.
//!
//! A row's time is the highest of the records in it. When the closure returns `None` the row is deleted, its time forgotten, and the next record
//! begins a new one.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{StoreKey, TimestampedKeyValueStore, Written};

use super::changes::ForwardChanges;
use crate::change::Change;
use crate::null::NullCheck;

/// One step of an aggregation: key, value, the aggregate until now if there is one; returns the next one.
pub(crate) trait Fold<K, V, VA>:
    Fn(&K, V, Option<VA>) -> Result<Option<VA>, ProcessError> + Send + Sync + 'static
{
}
impl<K, V, VA, F: Fn(&K, V, Option<VA>) -> Result<Option<VA>, ProcessError> + Send + Sync + 'static>
    Fold<K, V, VA> for F
{
}

pub(crate) struct Aggregate<K: StoreKey, V, VA: Datum, F> {
    pub(crate) fold: Arc<F>,
    pub(crate) store_name: Arc<str>,
    pub(crate) store: Option<TimestampedKeyValueStore<K, VA>>,
    pub(crate) keys: NullCheck<K>,
    pub(crate) values: NullCheck<V>,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
}

impl<K: StoreKey, V: Datum, VA: Datum, F: Fold<K, V, VA>> Processor<K, V, K, Change<VA>>
    for Aggregate<K, V, VA, F>
{
    fn init(&mut self, context: &mut InitContext<'_, K, Change<VA>>) -> Result<(), ProcessError> {
        let store = context.key_value_store::<K, VA>(&self.store_name)?;
        if let Some(listener) = ForwardChanges::below(context, self.sends_old) {
            store.set_flush_listener(Box::new(listener));
        }
        self.store = Some(store);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, Change<VA>>,
    ) -> Result<(), ProcessError> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        if self.keys.is_null(&key) {
            context.drop_record(DropReason::NullKey);
            return Ok(());
        }
        if self.values.is_null(&value) {
            context.drop_record(DropReason::NullValue);
            return Ok(());
        }
        let store = self
            .store
            .as_ref()
            .ok_or_else(|| ProcessError::new("a record came before the store was opened"))?;
        let keeps_old = self.sends_old && !store.is_cached();
        let fold = &*self.fold;
        let mut old = None;
        let mut latest = timestamp;
        let written = store.update(&key, context, |row| {
            let state = row.map(|row| {
                latest = latest.max(row.timestamp);
                row.value
            });
            if keeps_old {
                old.clone_from(&state);
            }
            let new = fold(&key, value, state)?;
            let row_timestamp = if new.is_some() { latest } else { timestamp };
            Ok((new, row_timestamp))
        })?;
        match written {
            Written::Stored(new) => context.forward(Record {
                key,
                value: Change { new, old },
                timestamp: latest,
                headers,
            }),
            Written::Cached | Written::Expired => Ok(()),
        }
    }
}
