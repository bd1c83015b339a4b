//! `count`, `reduce`, `aggregate` without windows: one row a key. Records without key or value are dropped and counted.
//!
//! A row's time is the highest of the records in it. When the closure returns `None` the row is deleted, its time forgotten, and the next record
//! begins a new one.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{
    StoreKey, TimestampedKeyValueStore, ValueAndTimestamp, Written,
};

use super::changes::ForwardChanges;
use super::{Rest, opened, parts};
use crate::change::Change;
use crate::null::Nulls;

/// One step of an aggregation: key, value, the aggregate until now if there is one; returns the next one.
pub(crate) trait Fold<K, V, VA>:
    Fn(&K, V, Option<VA>) -> Result<Option<VA>, ProcessError> + Send + Sync + 'static
{
}
impl<K, V, VA, F: Fn(&K, V, Option<VA>) -> Result<Option<VA>, ProcessError> + Send + Sync + 'static>
    Fold<K, V, VA> for F
{
}

/// One row while a record is folded into it.
pub(crate) struct RowUpdate<VA> {
    record_timestamp: i64,
    /// The highest of the times in the row.
    row_timestamp: i64,
    keeps_old: bool,
    old: Option<VA>,
}

impl<VA: Clone> RowUpdate<VA> {
    /// By a record with this timestamp. The row before it is kept to be told only where somebody wants it and no cache remembers it.
    pub(crate) fn new(timestamp: i64, keeps_old: bool) -> Self {
        Self {
            record_timestamp: timestamp,
            row_timestamp: timestamp,
            keeps_old,
            old: None,
        }
    }

    /// Folds the record's value into the row. Returns the next one, and the time that the store is to keep: of a deletion the record's.
    #[inline]
    pub(crate) fn fold<K, V>(
        &mut self,
        fold: &impl Fold<K, V, VA>,
        key: &K,
        value: V,
        row: Option<ValueAndTimestamp<VA>>,
    ) -> Result<(Option<VA>, i64), ProcessError> {
        let state = row.map(|row| {
            self.row_timestamp = self.row_timestamp.max(row.timestamp);
            row.value
        });
        if self.keeps_old {
            self.old.clone_from(&state);
        }
        let new = fold(key, value, state)?;
        let timestamp = if new.is_some() {
            self.row_timestamp
        } else {
            self.record_timestamp
        };
        Ok((new, timestamp))
    }

    /// What the children hear of it.
    #[inline]
    pub(crate) fn told<K>(self, key: K, new: Option<VA>, rest: Rest) -> Record<K, Change<VA>> {
        let rest = Rest {
            timestamp: self.row_timestamp,
            ..rest
        };
        rest.with(key, Change { new, old: self.old })
    }
}

pub(crate) struct Aggregate<K: StoreKey, V, VA: Datum, F> {
    pub(crate) fold: Arc<F>,
    pub(crate) store_name: Arc<str>,
    pub(crate) store: Option<TimestampedKeyValueStore<K, VA>>,
    pub(crate) nulls: Nulls<K, V>,
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
        if self.nulls.drop(&record, context) {
            return Ok(());
        }
        let (key, value, rest) = parts(record);
        let store = opened(&self.store)?;
        let mut update = RowUpdate::new(rest.timestamp, self.sends_old && !store.is_cached());
        let written = store.update(&key, context, |row| {
            update.fold(&*self.fold, &key, value, row)
        })?;
        match written {
            Written::Stored(new) => context.forward(update.told(key, new, rest)),
            Written::Cached | Written::Expired => Ok(()),
        }
    }
}
