//! `table`: the topic's records as changes of rows. The last offset of a key wins, whatever the timestamps; a null value deletes.

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::StoreKey;

use super::parts;
use super::row_store::RowStore;
use crate::change::Change;
use crate::null::NullCheck;

pub(crate) struct TableSource<K: StoreKey, V: Datum> {
    /// `None`: nobody reads rows, so none are kept.
    pub(crate) rows: Option<RowStore<K, V>>,
    pub(crate) keys: NullCheck<K>,
}

impl<K: StoreKey, V: Datum> Processor<K, Option<V>, K, Change<V>> for TableSource<K, V> {
    fn init(&mut self, context: &mut InitContext<'_, K, Change<V>>) -> Result<(), ProcessError> {
        self.rows.iter_mut().try_for_each(|rows| rows.open(context))
    }

    fn process(
        &mut self,
        record: Record<K, Option<V>>,
        context: &mut ProcessorContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        if self.keys.is_null(&record.key) {
            context.drop_record(DropReason::NullKey);
            return Ok(());
        }
        match &self.rows {
            Some(rows) => rows.put(record, context),
            None => {
                let (key, new, rest) = parts(record);
                context.forward(rest.with(key, Change { new, old: None }))
            }
        }
    }
}
