//! `map`, `map_values`, `select_key` and their fallible twins: one record in, one out.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use super::parts;

/// Another key and value. The closure is the user's, made fallible.
pub(crate) struct Map<F>(pub(crate) Arc<F>);

impl<K, V, K2, V2, F> Processor<K, V, K2, V2> for Map<F>
where
    K: Datum,
    V: Datum,
    K2: Datum,
    V2: Datum,
    F: Fn(K, V) -> Result<(K2, V2), ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K2, V2>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let (key, value) = (self.0)(key, value)?;
        context.forward(rest.with(key, value))
    }
}

/// Another value.
pub(crate) struct MapValues<F>(pub(crate) Arc<F>);

impl<K, V, V2, F> Processor<K, V, K, V2> for MapValues<F>
where
    K: Datum,
    V: Datum,
    V2: Datum,
    F: Fn(&K, V) -> Result<V2, ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V2>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let value = (self.0)(&key, value)?;
        context.forward(rest.with(key, value))
    }
}

/// Another key.
pub(crate) struct SelectKey<F>(pub(crate) Arc<F>);

impl<K, V, K2, F> Processor<K, V, K2, V> for SelectKey<F>
where
    K: Datum,
    V: Datum,
    K2: Datum,
    F: Fn(&K, &V) -> Result<K2, ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K2, V>,
    ) -> Result<(), ProcessError> {
        let key = (self.0)(&record.key, &record.value)?;
        context.forward(record.with_key(key))
    }
}
