//! `split`: each record goes to the first branch whose predicate accepts it, else to the default branch, if there is one (KIP-418).

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

/// A branch's predicate, as the splitter holds it: branches have different closures.
pub(crate) type Predicate<K, V> = dyn Fn(&K, &V) -> Result<bool, ProcessError> + Send + Sync;

/// The splitter. Its children are the branches, in order, the default one last.
pub(crate) struct Split<K, V> {
    pub(crate) predicates: Arc<[Arc<Predicate<K, V>>]>,
    pub(crate) has_default: bool,
}

impl<K: Datum, V: Datum> Processor<K, V, K, V> for Split<K, V> {
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        for (branch, predicate) in self.predicates.iter().enumerate() {
            if predicate(&record.key, &record.value)? {
                return context.forward_to(branch, record);
            }
        }
        if self.has_default {
            context.forward_to(self.predicates.len(), record)
        } else {
            Ok(())
        }
    }
}
