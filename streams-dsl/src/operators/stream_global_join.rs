//! `join`, `left_join` of a stream with a global table: a closure finds the table's key, so the stream keeps its own, which may be null.
//!
//! Null values of the stream are dropped and counted. Where the closure finds no key, the inner join drops and counts the record, the left
//! join sends it on without a row.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{GlobalKeyValueStore, StoreKey};

use super::stream_table_join::Joiner;
use crate::null::NullCheck;
use crate::outcome::JoinKey;

pub(crate) struct StreamGlobalJoin<V, KT: StoreKey, VT: Datum, S, F> {
    /// Finds the table's key.
    pub(crate) select: Arc<S>,
    pub(crate) joiner: Arc<F>,
    pub(crate) store_name: Arc<str>,
    pub(crate) store: Option<GlobalKeyValueStore<KT, VT>>,
    pub(crate) keys: NullCheck<KT>,
    pub(crate) values: NullCheck<V>,
    /// A left join.
    pub(crate) left: bool,
}

impl<K, V, KT, VT, VR, R, S, F> Processor<K, V, K, VR> for StreamGlobalJoin<V, KT, VT, S, F>
where
    K: Datum,
    V: Datum,
    KT: StoreKey + JoinKey<R>,
    VT: Datum,
    VR: Datum,
    S: Fn(&K, &V) -> R + 'static,
    F: Joiner<K, V, VT, VR>,
{
    fn init(&mut self, context: &mut InitContext<'_, K, VR>) -> Result<(), ProcessError> {
        self.store = Some(context.global_store(&self.store_name)?);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, VR>,
    ) -> Result<(), ProcessError> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        if self.values.is_null(&value) {
            context.drop_record(DropReason::NullValue);
            return Ok(());
        }
        let selected = (self.select)(&key, &value);
        let joined = match KT::of(&selected).filter(|key| !self.keys.is_null(key)) {
            Some(table_key) => {
                let store = self.store.as_ref().ok_or_else(|| {
                    ProcessError::new("a record came before the store was opened")
                })?;
                store.read_with(table_key, |row| {
                    (self.joiner)(&key, value, row.map(|row| &row.value))
                })?
            }
            None if self.left => (self.joiner)(&key, value, None),
            None => {
                context.drop_record(DropReason::NullKey);
                return Ok(());
            }
        };
        match joined {
            Some(value) => context.forward(Record {
                key,
                value,
                timestamp,
                headers,
            }),
            None => Ok(()),
        }
    }
}
