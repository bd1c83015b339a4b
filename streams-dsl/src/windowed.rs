//! `TimeWindowedKStream`: a stream by key and window.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::{SharedSerde, TimeWindowed, Windowed};
use brooklet_streams_core::typed_store::{StoreKey, WindowStoreBuilder};

use crate::grouped::{KGroupedStream, aggregate_fold, count_fold, reduce_fold};
use crate::ktable::KTable;
use crate::null::Nulls;
use crate::operators::aggregate::Fold;
use crate::operators::window_aggregate::WindowAggregate;
use crate::options::Materialized;
use crate::outcome::Outcome;
use crate::plan::naming;
use crate::rows::InWindowStore;
use crate::windows::TimeWindows;

/// A stream grouped by key and by windows of event time. Its aggregations are tables with one row for each key and window.
///
/// A record updates every window that contains it and is still open: a window closes when the operator's stream time, the highest event time it has
/// seen, reaches the window's end plus the grace. Each closed window that a record would belong to counts as one dropped record.
///
/// ```
/// use brooklet_streams_dsl::{Consumed, Materialized, Produced, StreamsBuilder, TimeWindows, hours, minutes};
///
/// let builder = StreamsBuilder::new();
/// builder
///     .stream::<String, String>("views", Consumed::default())
///     .group_by_key()
///     .windowed_by(TimeWindows::of_size(hours(1)).grace(minutes(10)))
///     .count(Materialized::named("views-per-hour"))
///     .to_stream()
///     .map(|page, count| (format!("{}@{}", page.key, page.window.start), count))
///     .to("views-per-hour", Produced::default());
/// ```
pub struct TimeWindowedKStream<K, V> {
    grouped: KGroupedStream<K, V>,
    windows: TimeWindows,
}

impl<K, V> Clone for TimeWindowedKStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            grouped: self.grouped.clone(),
            windows: self.windows,
        }
    }
}

impl<K, V> fmt::Debug for TimeWindowedKStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeWindowedKStream")
            .field("windows", &self.windows)
            .finish_non_exhaustive()
    }
}

impl<K: Datum, V: Datum> TimeWindowedKStream<K, V> {
    pub(crate) fn new(grouped: KGroupedStream<K, V>, windows: TimeWindows) -> Self {
        if let Some(problem) = windows.problem() {
            grouped.at.plan().report(problem);
        }
        Self { grouped, windows }
    }
}

impl<K: StoreKey, V: Datum> TimeWindowedKStream<K, V> {
    /// How many records each key has in each window.
    pub fn count(&self, materialized: Materialized<K, i64>) -> KTable<Windowed<K>, i64> {
        self.aggregated(naming::AGGREGATE, count_fold::<K, V>, materialized)
    }

    /// As [`KGroupedStream::reduce`], in each window.
    pub fn reduce<R: Outcome<V, S> + 'static, S: 'static>(
        &self,
        reducer: impl Fn(V, V) -> R + Send + Sync + 'static,
        materialized: Materialized<K, V>,
    ) -> KTable<Windowed<K>, V> {
        self.aggregated(naming::REDUCE, reduce_fold(reducer), materialized)
    }

    /// As [`KGroupedStream::aggregate`], in each window.
    pub fn aggregate<VA: Datum, R: Outcome<VA, S> + 'static, S: 'static>(
        &self,
        initializer: impl Fn() -> VA + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, VA) -> R + Send + Sync + 'static,
        materialized: Materialized<K, VA>,
    ) -> KTable<Windowed<K>, VA> {
        self.aggregated(
            naming::AGGREGATE,
            aggregate_fold(initializer, aggregator),
            materialized,
        )
    }

    fn aggregated<VA: Datum>(
        &self,
        prefix: &str,
        fold: impl Fold<K, V, VA>,
        materialized: Materialized<K, VA>,
    ) -> KTable<Windowed<K>, VA> {
        let Self { grouped, windows } = self.clone();
        let Materialized {
            name,
            key,
            value,
            store: options,
        } = materialized;
        let key = key.unwrap_or_else(|| Arc::clone(&grouped.key));
        let aggregation = grouped.aggregation(prefix, name, &key);
        let store_name = Arc::clone(&aggregation.store);
        let needed_ms = windows.size_ms().saturating_add(windows.grace_ms());
        let retention_ms = options.retention_ms.unwrap_or(needed_ms);
        if retention_ms < needed_ms {
            grouped.at.plan().report(format!(
                "the retention of window store {store_name} is {retention_ms} ms; size and grace of its windows are {needed_ms} ms together"
            ));
        }
        let builder = WindowStoreBuilder::shared(
            &*store_name,
            retention_ms,
            windows.size_ms(),
            Arc::clone(&key),
            Arc::clone(&value),
        );
        let builder = options.window(builder);
        let fold = Arc::new(fold);
        let supplier = move |nulls: &Nulls<K, V>, sends_old| WindowAggregate {
            fold: Arc::clone(&fold),
            windows,
            store_name: Arc::clone(&store_name),
            store: None,
            nulls: nulls.clone(),
            stream_time: Rc::new(Cell::new(-1)),
            sends_old,
        };
        let queryable = aggregation.is_named;
        let at = aggregation.add(builder, supplier);
        let windowed: SharedSerde<Windowed<K>> =
            Arc::new(TimeWindowed::new(key, windows.size_ms()));
        KTable::new(
            at,
            windowed,
            Some(value),
            Arc::new(InWindowStore),
            queryable,
        )
    }
}
