//! `flat_map`, `flat_map_values` and their fallible twins: one record in, any number out.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use super::parts;

/// Any number of keys and values.
pub(crate) struct FlatMap<F>(pub(crate) Arc<F>);

impl<K, V, K2, V2, I, F> Processor<K, V, K2, V2> for FlatMap<F>
where
    K: Datum,
    V: Datum,
    K2: Datum,
    V2: Datum,
    I: IntoIterator<Item = (K2, V2)>,
    F: Fn(K, V) -> Result<I, ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K2, V2>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        for (key, value) in (self.0)(key, value)? {
            context.forward(rest.clone().with(key, value))?;
        }
        Ok(())
    }
}

/// Any number of values under the same key, which is cloned for all but the last.
pub(crate) struct FlatMapValues<F>(pub(crate) Arc<F>);

impl<K, V, V2, I, F> Processor<K, V, K, V2> for FlatMapValues<F>
where
    K: Datum,
    V: Datum,
    V2: Datum,
    I: IntoIterator<Item = V2>,
    F: Fn(&K, V) -> Result<I, ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V2>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let mut values = (self.0)(&key, value)?.into_iter();
        let Some(mut last) = values.next() else {
            return Ok(());
        };
        for value in values {
            let earlier = std::mem::replace(&mut last, value);
            context.forward(rest.clone().with(key.clone(), earlier))?;
        }
        context.forward(rest.with(key, last))
    }
}
