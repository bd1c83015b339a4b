//! `KGroupedStream`: a stream by key, to be counted, reduced or aggregated.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use brooklet_streams_core::processor::Processor;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::SharedSerde;
use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, StoreBuilder, StoreKey};

use crate::change::Change;
use crate::kstream::RepartitionTopic;
use crate::ktable::KTable;
use crate::null::{NullCheck, Nulls};
use crate::operators::aggregate::{Aggregate, Fold};
use crate::options::Materialized;
use crate::outcome::Outcome;
use crate::plan::naming::{self, Name, RepartitionNumbers};
use crate::plan::{Handle, Lower, NodeId, NodeKind, Prefix};
use crate::rows::InStore;
use crate::windowed::TimeWindowedKStream;
use crate::windows::TimeWindows;

/// A stream grouped by key. Its aggregations are tables with one row a key; records with a null key or value are dropped and counted.
///
/// The time of a row is the highest of its records'. Each aggregation of a grouping without a name has its own repartition topic, as in
/// Kafka Streams; those of a named one share it.
pub struct KGroupedStream<K, V> {
    pub(crate) at: Handle,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    name: Option<String>,
    /// The repartition that the aggregations of a named grouping share.
    repartition: Arc<Mutex<Option<NodeId>>>,
}

impl<K, V> Clone for KGroupedStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            at: self.at.clone(),
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            name: self.name.clone(),
            repartition: Arc::clone(&self.repartition),
        }
    }
}

impl<K, V> fmt::Debug for KGroupedStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KGroupedStream")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// One step of `count`.
pub(crate) fn count_fold<K, V>(
    _key: &K,
    _value: V,
    count: Option<i64>,
) -> Result<Option<i64>, brooklet_streams_core::ProcessError> {
    Ok(Some(count.unwrap_or(0).saturating_add(1)))
}

/// One step of `reduce`: the first value is the aggregate as it is.
pub(crate) fn reduce_fold<K, V: Datum, R: Outcome<V, S>, S>(
    reducer: impl Fn(V, V) -> R + Send + Sync + 'static,
) -> impl Fold<K, V, V> {
    move |_key: &K, value: V, state: Option<V>| match state {
        Some(state) => reducer(state, value).outcome(),
        None => Ok(Some(value)),
    }
}

/// One step of `aggregate`.
pub(crate) fn aggregate_fold<K, V, VA: Datum, R: Outcome<VA, S>, S>(
    initializer: impl Fn() -> VA + Send + Sync + 'static,
    aggregator: impl Fn(&K, V, VA) -> R + Send + Sync + 'static,
) -> impl Fold<K, V, VA> {
    move |key: &K, value: V, state: Option<VA>| {
        aggregator(key, value, state.unwrap_or_else(&initializer)).outcome()
    }
}

impl<K: Datum, V: Datum> KGroupedStream<K, V> {
    pub(crate) fn new(
        at: Handle,
        key: SharedSerde<K>,
        value: SharedSerde<V>,
        name: Option<String>,
    ) -> Self {
        Self {
            at,
            key,
            value,
            name,
            repartition: Arc::new(Mutex::new(None)),
        }
    }

    /// Groups by windows of event time as well.
    pub fn windowed_by(&self, windows: TimeWindows) -> TimeWindowedKStream<K, V> {
        TimeWindowedKStream::new(self.clone(), windows)
    }

    /// The stream that is aggregated into `store`: through a repartition topic when the keys are new.
    pub(crate) fn by_key(&self, store: &str) -> NodeId {
        let mut plan = self.at.plan();
        if !plan.needs_repartition(self.at.id()) {
            return self.at.id();
        }
        let numbers = RepartitionNumbers::take(&mut plan.names);
        drop(plan);
        let mut shared = self
            .repartition
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let (Some(_), Some(repartition)) = (&self.name, *shared) {
            return repartition;
        }
        let topic = RepartitionTopic {
            prefix: Prefix::Name(self.name.clone().unwrap_or_else(|| store.to_owned())),
            key: Arc::clone(&self.key),
            value: Arc::clone(&self.value),
            partitions: None,
            partitioner: None,
            keeps_null_keys: false,
        };
        let repartition = topic.add_below(&self.at, numbers).id();
        *shared = Some(repartition);
        repartition
    }
}

impl<K: StoreKey, V: Datum> KGroupedStream<K, V> {
    /// How many records each key has. A row is never deleted.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Materialized, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let words = builder.stream::<String, String>("words", Consumed::default());
    /// words.group_by(|_key, word| word.clone()).count(Materialized::named("counts")).to_stream().to("counts", Produced::default());
    /// ```
    pub fn count(&self, materialized: Materialized<K, i64>) -> KTable<K, i64> {
        self.aggregated(naming::AGGREGATE, count_fold::<K, V>, materialized)
    }

    /// Combines the values of each key: the first as it is, then `reducer(aggregate, value)`. It returns a `V`, an `Option` (`None` deletes the
    /// row), or a `Result` of either.
    pub fn reduce<R: Outcome<V, S> + 'static, S: 'static>(
        &self,
        reducer: impl Fn(V, V) -> R + Send + Sync + 'static,
        materialized: Materialized<K, V>,
    ) -> KTable<K, V> {
        self.aggregated(naming::REDUCE, reduce_fold(reducer), materialized)
    }

    /// Folds the values of each key into an aggregate, beginning with `initializer()`. The aggregator gets the aggregate by value and returns the next
    /// one, an `Option` (`None` deletes the row), or a `Result` of either.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Materialized, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let amounts = builder.stream::<String, i64>("amounts", Consumed::default());
    /// let totals = amounts.group_by_key().aggregate(|| 0, |_key, amount, total: i64| total.checked_add(amount), Materialized::named("totals"));
    /// ```
    pub fn aggregate<VA: Datum, R: Outcome<VA, S> + 'static, S: 'static>(
        &self,
        initializer: impl Fn() -> VA + Send + Sync + 'static,
        aggregator: impl Fn(&K, V, VA) -> R + Send + Sync + 'static,
        materialized: Materialized<K, VA>,
    ) -> KTable<K, VA> {
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
    ) -> KTable<K, VA> {
        let Materialized {
            name,
            key,
            value,
            store: options,
        } = materialized;
        let key = key.unwrap_or_else(|| Arc::clone(&self.key));
        let aggregation = self.aggregation(prefix, name, &key);
        let store_name = Arc::clone(&aggregation.store);
        let builder =
            KeyValueStoreBuilder::shared(&*store_name, Arc::clone(&key), Arc::clone(&value));
        let builder = options.key_value(builder);
        let fold = Arc::new(fold);
        let supplier = move |nulls: &Nulls<K, V>, sends_old| Aggregate {
            fold: Arc::clone(&fold),
            store_name: Arc::clone(&store_name),
            store: None,
            nulls: nulls.clone(),
            sends_old,
        };
        let queryable = aggregation.is_named;
        let at = aggregation.add(builder, supplier);
        KTable::new(at, key, Some(value), Arc::new(InStore), queryable)
    }

    /// Begins an aggregation: takes its names in Kafka's order (store, node, repartition), and repartitions.
    pub(crate) fn aggregation(
        &self,
        prefix: &str,
        store: Option<String>,
        key: &SharedSerde<K>,
    ) -> Aggregation<K, V> {
        let is_named = store.is_some();
        let (store, name) = {
            let mut plan = self.at.plan();
            let store = store.unwrap_or_else(|| plan.names.store(prefix));
            (store, Name::automatic(plan.names.node(prefix)))
        };
        let parent = self.by_key(&store);
        Aggregation {
            at: self.at.at(parent),
            name,
            store: store.into(),
            is_named,
            nulls: Nulls {
                keys: NullCheck::of(key),
                values: NullCheck::of(&self.value),
            },
        }
    }
}

/// An aggregation that has its names, and its stream by key.
pub(crate) struct Aggregation<K, V> {
    at: Handle,
    name: Name,
    pub(crate) store: Arc<str>,
    /// The user has named the store.
    pub(crate) is_named: bool,
    nulls: Nulls<K, V>,
}

impl<K: StoreKey, V: Datum> Aggregation<K, V> {
    /// Adds it to the plan. The supplier is told which records to drop, and whether old values are wanted.
    pub(crate) fn add<KO: Datum, VA: Datum, P>(
        self,
        store: impl StoreBuilder,
        supplier: impl Fn(&Nulls<K, V>, bool) -> P + Send + Sync + 'static,
    ) -> Handle
    where
        P: Processor<K, V, KO, Change<VA>>,
    {
        let nulls = self.nulls;
        let (store, supplier): (Arc<dyn StoreBuilder>, _) = (Arc::new(store), Arc::new(supplier));
        let kind = NodeKind::Aggregate {
            store: self.store.to_string(),
        };
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let sends_old = lowering.decisions.sends_old(id);
            let (supplier, nulls) = (Arc::clone(&supplier), nulls.clone());
            let supplier = move || supplier(&nulls, sends_old);
            lowering.add_processor(id, supplier, &[parent], Some(&store))?;
            Ok(())
        });
        let parent = self.at.id();
        let id = self.at.plan().add(kind, self.name, vec![parent], lower);
        self.at.at(id)
    }
}
