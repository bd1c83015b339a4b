//! `join`, `left_join` of a stream with a table: each record of the stream looks up the row of its key as it is now. The table's changes
//! cause no output.
//!
//! Null values of the stream are dropped and counted. A null key finds nothing: the inner join drops and counts it, the left join sends it
//! on without a row (KIP-962).

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::StoreKey;

use crate::null::NullCheck;
use crate::outcome::JoinKey;
use crate::rows::{OpenRows, Rows};

/// Key, value, the row if there is one; returns the joined value, or `None` for no output.
pub(crate) trait Joiner<K, V, VT, VR>:
    Fn(&K, V, Option<&VT>) -> Option<VR> + Send + Sync + 'static
{
}
impl<K, V, VT, VR, F: Fn(&K, V, Option<&VT>) -> Option<VR> + Send + Sync + 'static>
    Joiner<K, V, VT, VR> for F
{
}

pub(crate) struct StreamTableJoin<V, KT: StoreKey, VT: Datum, F> {
    pub(crate) joiner: Arc<F>,
    /// The store behind the table.
    pub(crate) store_name: Arc<str>,
    pub(crate) rows: Arc<dyn Rows<KT, VT>>,
    pub(crate) open: Option<OpenRows<KT, VT>>,
    pub(crate) keys: NullCheck<KT>,
    pub(crate) values: NullCheck<V>,
    /// A left join.
    pub(crate) left: bool,
}

impl<K, V, KT, VT, VR, F> Processor<K, V, K, VR> for StreamTableJoin<V, KT, VT, F>
where
    K: Datum,
    V: Datum,
    KT: StoreKey + JoinKey<K>,
    VT: Datum,
    VR: Datum,
    F: Joiner<K, V, VT, VR>,
{
    fn init(&mut self, context: &mut InitContext<'_, K, VR>) -> Result<(), ProcessError> {
        self.open = Some(
            self.rows
                .open(&self.store_name, &|name| context.store(name))?,
        );
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
        let joined = match KT::of(&key).filter(|key| !self.keys.is_null(key)) {
            Some(table_key) => {
                let rows = self.open.as_ref().ok_or_else(|| {
                    ProcessError::new("a record came before the store was opened")
                })?;
                rows.read_with(table_key, |row| (self.joiner)(&key, value, row))?
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
