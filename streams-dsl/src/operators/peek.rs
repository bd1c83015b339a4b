//! `peek` and `for_each`: calls a closure for its effect. After a failure a record is processed again, and the closure called again.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

/// Passes every record on.
pub(crate) struct Peek<F>(pub(crate) Arc<F>);

impl<K: Datum, V: Datum, F: Fn(&K, &V) + 'static> Processor<K, V, K, V> for Peek<F> {
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        (self.0)(&record.key, &record.value);
        context.forward(record)
    }
}

/// Passes nothing on.
pub(crate) struct ForEach<F>(pub(crate) Arc<F>);

impl<K, V, F> Processor<K, V, (), ()> for ForEach<F>
where
    K: Datum,
    V: Datum,
    F: Fn(&K, &V) -> Result<(), ProcessError> + 'static,
{
    fn process(
        &mut self,
        record: Record<K, V>,
        _context: &mut ProcessorContext<'_, (), ()>,
    ) -> Result<(), ProcessError> {
        (self.0)(&record.key, &record.value)
    }
}
