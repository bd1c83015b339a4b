//! `filter`, `filter_not`: passes on the records that a predicate accepts.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use crate::outcome::Verdict;

pub(crate) struct Filter<F> {
    pub(crate) predicate: Arc<F>,
    /// The verdict that passes: `false` for `filter_not`.
    pub(crate) passes: bool,
}

impl<K: Datum, V: Datum, R: Verdict, F: Fn(&K, &V) -> R + 'static> Processor<K, V, K, V>
    for Filter<F>
{
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        if (self.predicate)(&record.key, &record.value).verdict()? == self.passes {
            context.forward(record)
        } else {
            Ok(())
        }
    }
}
