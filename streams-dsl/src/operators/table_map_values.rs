//! `KTable::map_values`: another value for each row; a deleted row stays deleted, and the closure is not asked.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::StoreKey;

use super::parts;
use super::row_store::RowStore;
use crate::change::Change;

/// The closure is the user's, made fallible.
pub(crate) struct TableMapValues<K: StoreKey, V2: Datum, F> {
    pub(crate) mapper: Arc<F>,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
    /// Where the rows made are kept; `None`: nowhere.
    pub(crate) rows: Option<RowStore<K, V2>>,
}

impl<K, V, V2, F> Processor<K, Change<V>, K, Change<V2>> for TableMapValues<K, V2, F>
where
    K: StoreKey,
    V: Datum,
    V2: Datum,
    F: Fn(&K, &V) -> Result<V2, ProcessError> + 'static,
{
    fn init(&mut self, context: &mut InitContext<'_, K, Change<V2>>) -> Result<(), ProcessError> {
        self.rows.iter_mut().try_for_each(|rows| rows.open(context))
    }

    fn process(
        &mut self,
        record: Record<K, Change<V>>,
        context: &mut ProcessorContext<'_, K, Change<V2>>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let map = |row: Option<V>| row.map(|row| (self.mapper)(&key, &row)).transpose();
        let new = map(value.new)?;
        if let Some(rows) = &self.rows {
            return rows.put(rest.with(key, new), context);
        }
        let old = if self.sends_old {
            map(value.old)?
        } else {
            None
        };
        context.forward(rest.with(key, Change { new, old }))
    }
}
