//! `table`: the topic's records as changes of rows. The last offset of a key wins, whatever the timestamps; a null value deletes.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{StoreKey, TimestampedKeyValueStore, Written};

use super::changes::ForwardChanges;
use crate::change::Change;
use crate::null::NullCheck;

pub(crate) struct TableSource<K: StoreKey, V: Datum> {
    /// Its name; `None`: nobody reads rows, so none are kept.
    pub(crate) store_name: Option<Arc<str>>,
    pub(crate) store: Option<TimestampedKeyValueStore<K, V>>,
    pub(crate) keys: NullCheck<K>,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
}

impl<K: StoreKey, V: Datum> Processor<K, Option<V>, K, Change<V>> for TableSource<K, V> {
    fn init(&mut self, context: &mut InitContext<'_, K, Change<V>>) -> Result<(), ProcessError> {
        if let Some(name) = &self.store_name {
            let store = context.key_value_store::<K, V>(name)?;
            if let Some(listener) = ForwardChanges::below(context, self.sends_old) {
                store.set_flush_listener(Box::new(listener));
            }
            self.store = Some(store);
        }
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<K, Option<V>>,
        context: &mut ProcessorContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        if self.keys.is_null(&key) {
            context.drop_record(DropReason::NullKey);
            return Ok(());
        }
        let Some(store) = &self.store else {
            return context.forward(Record {
                key,
                value: Change {
                    new: value,
                    old: None,
                },
                timestamp,
                headers,
            });
        };
        let mut old = None;
        let written = if self.sends_old && !store.is_cached() {
            store.update(&key, context, |row| {
                old = row.map(|row| row.value);
                Ok((value, timestamp))
            })?
        } else {
            store.put(&key, value, timestamp, context)?
        };
        match written {
            Written::Stored(new) => context.forward(Record {
                key,
                value: Change { new, old },
                timestamp,
                headers,
            }),
            Written::Cached | Written::Expired => Ok(()),
        }
    }
}
