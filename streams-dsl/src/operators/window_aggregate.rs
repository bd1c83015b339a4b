//! `count`, `reduce`, `aggregate` in tumbling and hopping windows: one row for each key and window.
//!
//! The operator has its own stream time: the highest event time that has reached it, also before a restart. A window takes records while its end is above stream
//! time less the grace; each window that does not is one late record, dropped and counted. Windows are updated in the order of their starts.
//! Records without key or value are dropped and counted (Kafka Streams passes null values to the aggregator here, and only here).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::serde::{Window, Windowed};
use brooklet_streams_core::typed_store::{StoreKey, TimestampedWindowStore, Written};

use super::aggregate::{Fold, RowUpdate};
use super::changes::ForwardChanges;
use super::{opened, parts};
use crate::change::Change;
use crate::null::Nulls;
use crate::windows::TimeWindows;

pub(crate) struct WindowAggregate<K: StoreKey, V, VA: Datum, F> {
    pub(crate) fold: Arc<F>,
    pub(crate) windows: TimeWindows,
    pub(crate) store_name: Arc<str>,
    pub(crate) store: Option<TimestampedWindowStore<K, VA>>,
    pub(crate) nulls: Nulls<K, V>,
    /// Highest event time that has come here; -1 before the first. Of the context, once there is one: committed with the offsets.
    pub(crate) stream_time: Rc<Cell<i64>>,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
}

impl<K, V, VA, F> Processor<K, V, Windowed<K>, Change<VA>> for WindowAggregate<K, V, VA, F>
where
    K: StoreKey,
    V: Datum,
    VA: Datum,
    F: Fold<K, V, VA>,
{
    fn init(
        &mut self,
        context: &mut InitContext<'_, Windowed<K>, Change<VA>>,
    ) -> Result<(), ProcessError> {
        let store = context.window_store::<K, VA>(&self.store_name)?;
        if let Some(listener) = ForwardChanges::below(context, self.sends_old) {
            store.set_flush_listener(Box::new(listener));
        }
        self.store = Some(store);
        self.stream_time = context.stream_time();
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, Windowed<K>, Change<VA>>,
    ) -> Result<(), ProcessError> {
        if self.nulls.drop(&record, context) {
            return Ok(());
        }
        let stream_time = self.stream_time.get().max(record.timestamp);
        self.stream_time.set(stream_time);
        let closed = stream_time.saturating_sub(self.windows.grace_ms());
        let size_ms = self.windows.size_ms();
        let mut open: Option<Window> = None;
        for start in self.windows.starts_of(record.timestamp) {
            let window = Window::starting_at(start, size_ms);
            if window.end <= closed {
                context.drop_record(DropReason::Late);
            } else if let Some(previous) = open.replace(window) {
                self.update(record.clone(), previous, context)?;
            }
        }
        match open {
            Some(window) => self.update(record, window, context),
            None => Ok(()),
        }
    }
}

impl<K: StoreKey, V: Datum, VA: Datum, F: Fold<K, V, VA>> WindowAggregate<K, V, VA, F> {
    fn update(
        &self,
        record: Record<K, V>,
        window: Window,
        context: &mut ProcessorContext<'_, Windowed<K>, Change<VA>>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let store = opened(&self.store)?;
        let mut update = RowUpdate::new(rest.timestamp, self.sends_old && !store.is_cached());
        let written = store.update(&key, window.start, context, |row| {
            update.fold(&*self.fold, &key, value, row)
        })?;
        match written {
            Written::Stored(new) => {
                context.forward(update.told(Windowed::new(key, window), new, rest))
            }
            Written::Cached | Written::Expired => Ok(()),
        }
    }
}
