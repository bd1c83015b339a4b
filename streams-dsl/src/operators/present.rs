//! Drops what is null, and counts it: `present_keys`, `present_values`, and the filter before a repartition topic.

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use super::parts;
use crate::null::NullCheck;

/// From optional keys to keys.
pub(crate) struct PresentKeys;

impl<K: Datum, V: Datum> Processor<Option<K>, V, K, V> for PresentKeys {
    fn process(
        &mut self,
        record: Record<Option<K>, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let Some(key) = key else {
            context.drop_record(DropReason::NullKey);
            return Ok(());
        };
        context.forward(rest.with(key, value))
    }
}

/// From optional values to values.
pub(crate) struct PresentValues;

impl<K: Datum, V: Datum> Processor<K, Option<V>, K, V> for PresentValues {
    fn process(
        &mut self,
        record: Record<K, Option<V>>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let Some(value) = value else {
            context.drop_record(DropReason::NullValue);
            return Ok(());
        };
        context.forward(rest.with(key, value))
    }
}

/// Before a repartition topic: a record without a key has no partition to go to. A left join wants it nevertheless.
pub(crate) struct RepartitionFilter<K> {
    /// `None`: everything passes.
    pub(crate) keys: Option<NullCheck<K>>,
}

impl<K: Datum, V: Datum> Processor<K, V, K, V> for RepartitionFilter<K> {
    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, V>,
    ) -> Result<(), ProcessError> {
        if self
            .keys
            .as_ref()
            .is_some_and(|keys| keys.is_null(&record.key))
        {
            context.drop_record(DropReason::NullKey);
            return Ok(());
        }
        context.forward(record)
    }
}
