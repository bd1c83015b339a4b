//! `KTable::map_values`: another value for each row; a deleted row stays deleted, and the closure is not asked.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use crate::change::Change;

/// The closure is the user's, made fallible.
pub(crate) struct TableMapValues<F> {
    pub(crate) mapper: Arc<F>,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
}

impl<K, V, V2, F> Processor<K, Change<V>, K, Change<V2>> for TableMapValues<F>
where
    K: Datum,
    V: Datum,
    V2: Datum,
    F: Fn(&K, &V) -> Result<V2, ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, Change<V>>,
        context: &mut ProcessorContext<'_, K, Change<V2>>,
    ) -> Result<(), ProcessError> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let map = |row: Option<V>| row.map(|row| (self.mapper)(&key, &row)).transpose();
        let new = map(value.new)?;
        let old = if self.sends_old {
            map(value.old)?
        } else {
            None
        };
        context.forward(Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        })
    }
}
