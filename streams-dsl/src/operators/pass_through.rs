//! Passes every record on: where streams merge, and below a split.

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

pub(crate) struct PassThrough;

impl<K: Datum, V: Datum> Processor<K, V, K, V> for PassThrough {
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        context.forward(record)
    }
}
