//! `KTable::to_stream`: the new rows, `None` for a deleted one.

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use super::parts;
use crate::change::Change;

pub(crate) struct ToStream;

impl<K: Datum, V: Datum> Processor<K, Change<V>, K, Option<V>> for ToStream {
    fn process(
        &mut self,
        record: Record<K, Change<V>>,
        context: &mut ProcessorContext<'_, K, Option<V>>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        context.forward(rest.with(key, value.new))
    }
}
