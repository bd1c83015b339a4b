//! `KStream`: a stream of independent records, and its operators.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorSupplier, TaskContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::serde::{HasSerde, SharedSerde, default_serde};
use brooklet_streams_core::topology::{InternalTopic, Node, Partitioner, Produced, TopicChoice};
use brooklet_streams_core::typed_store::StoreKey;

use crate::branched::SplitStream;
use crate::global_ktable::GlobalKTable;
use crate::grouped::KGroupedStream;
use crate::ktable::KTable;
use crate::null::NullCheck;
use crate::operators::filter::Filter;
use crate::operators::flat_map::{FlatMap, FlatMapValues};
use crate::operators::map::{Map, MapValues, SelectKey};
use crate::operators::pass_through::PassThrough;
use crate::operators::peek::{ForEach, Peek};
use crate::operators::present::{PresentKeys, PresentValues, RepartitionFilter};
use crate::operators::stream_global_join::StreamGlobalJoin;
use crate::operators::stream_table_join::{Joiner, StreamTableJoin};
use crate::options::{Grouped, Joined, Repartitioned};
use crate::outcome::{JoinKey, Verdict};
use crate::plan::naming::{self, Name, RepartitionNumbers};
use crate::plan::{Handle, Lower, NodeId, NodeKind, Prefix};

/// A stream of independent records: a nameable, cheaply cloned handle on a node of the plan.
///
/// `K` and `V` mean present. A stream that carries nulls has `Option<K>` or `Option<V>`; a null read into a type without null drops the
/// record, which is counted. Every operator makes a new node below this one, so a stream can be used more than once:
///
/// ```
/// use brooklet_streams_dsl::{Consumed, KStream, Produced, StreamsBuilder};
///
/// fn shout(words: &KStream<String, String>) -> KStream<String, String> {
///     words.map_values(|_key, word| word.to_uppercase())
/// }
///
/// # fn main() -> Result<(), brooklet_streams_dsl::TopologyError> {
/// let builder = StreamsBuilder::new();
/// let words = builder.stream::<String, String>("words", Consumed::default());
/// shout(&words).to("loud", Produced::default());
/// words.filter(|_key, word| word.len() < 4).to("short", Produced::default());
/// let topology = builder.build()?;
/// assert!(topology.describe().to_string().contains("--> KSTREAM-FILTER-0000000003, KSTREAM-MAPVALUES-0000000001"));
/// # Ok(())
/// # }
/// ```
pub struct KStream<K, V> {
    pub(crate) at: Handle,
    /// Known from where the keys were read or grouped.
    pub(crate) key: Option<SharedSerde<K>>,
    /// Known from where the values were read.
    pub(crate) value: Option<SharedSerde<V>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for KStream<K, V> {
    fn clone(&self) -> Self {
        Self {
            at: self.at.clone(),
            key: self.key.clone(),
            value: self.value.clone(),
            types: PhantomData,
        }
    }
}

impl<K, V> fmt::Debug for KStream<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KStream")
            .field(&self.at.plan().node(self.at.id()).name.as_str())
            .finish()
    }
}

/// What `for_each` leaves: nothing follows, but it can be named.
pub struct Terminal(Handle);

impl Terminal {
    /// Names the node.
    pub fn named(self, name: impl Into<String>) {
        self.0.plan().give_name(self.0.id(), name.into());
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Terminal")
            .field(&self.0.plan().node(self.0.id()).name.as_str())
            .finish()
    }
}

/// Any closure's error as the one that the engine reports.
fn failed(error: impl Into<Box<dyn Error + Send + Sync>>) -> ProcessError {
    ProcessError::new(error)
}

impl<K: Datum, V: Datum> KStream<K, V> {
    pub(crate) fn new(
        at: Handle,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
    ) -> Self {
        Self {
            at,
            key,
            value,
            types: PhantomData,
        }
    }

    /// Names the node that the last call made, in `describe()`, metrics and errors. Otherwise it is called as Kafka Streams calls it.
    pub fn named(self, name: impl Into<String>) -> Self {
        self.at.plan().give_name(self.at.id(), name.into());
        self
    }

    /// A child node with this processor.
    fn child<K2: Datum, V2: Datum, P>(
        &self,
        kind: NodeKind,
        prefix: &str,
        supplier: impl Fn() -> P + Send + Sync + 'static,
    ) -> Handle
    where
        P: Processor<K, V, K2, V2>,
    {
        self.at.child(kind, prefix, declare(supplier))
    }

    /// Records that the predicate accepts. It returns `bool`, or a `Result` of it.
    pub fn filter<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, true)
    }

    /// Records that the predicate rejects.
    pub fn filter_not<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, false)
    }

    fn filtered<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        passes: bool,
    ) -> Self {
        let predicate = Arc::new(predicate);
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, move || Filter {
            predicate: Arc::clone(&predicate),
            passes,
        });
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Another key and value for each record. The keys count as new: a grouping or join that follows goes through a repartition topic.
    pub fn map<K2: Datum, V2: Datum>(
        &self,
        mapper: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::map`], with a closure that can fail.
    pub fn try_map<K2: Datum, V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn mapped<K2: Datum, V2: Datum>(
        &self,
        mapper: impl Fn(K, V) -> Result<(K2, V2), ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K2, V2, _>(NodeKind::NewKey, naming::MAP, move || {
            Map(Arc::clone(&mapper))
        });
        KStream::new(at, None, None)
    }

    /// Another value for each record.
    pub fn map_values<V2: Datum>(
        &self,
        mapper: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::map_values`], with a closure that can fail.
    pub fn try_map_values<V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(&K, V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn values_mapped<V2: Datum>(
        &self,
        mapper: impl Fn(&K, V) -> Result<V2, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K, V2, _>(NodeKind::SameKey, naming::MAP_VALUES, move || {
            MapValues(Arc::clone(&mapper))
        });
        KStream::new(at, self.key.clone(), None)
    }

    /// Any number of keys and values for each record, each at the record's time. The keys count as new.
    pub fn flat_map<K2: Datum, V2: Datum, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.flat_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::flat_map`], with a closure that can fail.
    pub fn try_flat_map<
        K2: Datum,
        V2: Datum,
        I: IntoIterator<Item = (K2, V2)> + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    >(
        &self,
        mapper: impl Fn(K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.flat_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn flat_mapped<K2: Datum, V2: Datum, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(K, V) -> Result<I, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K2, V2, _>(NodeKind::NewKey, naming::FLAT_MAP, move || {
            FlatMap(Arc::clone(&mapper))
        });
        KStream::new(at, None, None)
    }

    /// Any number of values for each record, under its key and at its time.
    pub fn flat_map_values<V2: Datum, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_flat_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::flat_map_values`], with a closure that can fail.
    pub fn try_flat_map_values<
        V2: Datum,
        I: IntoIterator<Item = V2> + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    >(
        &self,
        mapper: impl Fn(&K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_flat_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn values_flat_mapped<V2: Datum, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> Result<I, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K, V2, _>(NodeKind::SameKey, naming::FLAT_MAP_VALUES, move || {
            FlatMapValues(Arc::clone(&mapper))
        });
        KStream::new(at, self.key.clone(), None)
    }

    /// Another key for each record: a grouping or join that follows goes through a repartition topic. The key may be an `Option`.
    pub fn select_key<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.rekeyed(move |key, value| Ok(selector(key, value)))
    }

    /// As [`KStream::select_key`], with a closure that can fail.
    pub fn try_select_key<K2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        selector: impl Fn(&K, &V) -> Result<K2, E> + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.rekeyed(move |key, value| selector(key, value).map_err(failed))
    }

    fn rekeyed<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> Result<K2, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        let selector = Arc::new(selector);
        let at = self.child::<K2, V, _>(NodeKind::NewKey, naming::KEY_SELECT, move || {
            SelectKey(Arc::clone(&selector))
        });
        KStream::new(at, None, self.value.clone())
    }

    /// The same records; the closure sees each of them. It may see one again after a failure.
    #[must_use]
    pub fn peek(&self, action: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        let action = Arc::new(action);
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::PEEK, move || {
            Peek(Arc::clone(&action))
        });
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Calls the closure with each record; nothing follows. It may see a record again after a failure.
    pub fn for_each(&self, action: impl Fn(&K, &V) + Send + Sync + 'static) -> Terminal {
        self.each(move |key, value| {
            action(key, value);
            Ok(())
        })
    }

    /// As [`KStream::for_each`], with a closure that can fail.
    pub fn try_for_each<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        action: impl Fn(&K, &V) -> Result<(), E> + Send + Sync + 'static,
    ) -> Terminal {
        self.each(move |key, value| action(key, value).map_err(failed))
    }

    fn each(
        &self,
        action: impl Fn(&K, &V) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Terminal {
        let action = Arc::new(action);
        Terminal(
            self.child::<(), (), _>(NodeKind::End, naming::FOR_EACH, move || {
                ForEach(Arc::clone(&action))
            }),
        )
    }

    /// This stream and another as one, without order between them.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let at = if self.at.same_plan(&other.at, "merge") {
            let mut plan = self.at.plan();
            let name = Name::automatic(plan.names.node(naming::MERGE));
            let (one, two) = (self.at.id(), other.at.id());
            let lower: Lower = Arc::new(move |id, lowering| {
                let parents = [lowering.output::<K, V>(one)?, lowering.output::<K, V>(two)?];
                let node: Node<K, V> =
                    lowering
                        .topology
                        .add_processor(lowering.name(id), || PassThrough, &parents)?;
                lowering.set_output(id, node);
                Ok(())
            });
            let id = plan.add(NodeKind::Merge, name, vec![one, two], lower);
            drop(plan);
            self.at.at(id)
        } else {
            self.at.clone()
        };
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Splits the stream into branches: each record goes to the first whose predicate accepts it (KIP-418).
    pub fn split(&self) -> SplitStream<K, V> {
        SplitStream::new(self.clone())
    }

    /// Writes the stream to a topic, which must exist.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let words = builder.stream::<String, String>("words", Consumed::default());
    /// words.to("copies", Produced::default().named("copy"));
    /// ```
    pub fn to(&self, topic: impl Into<String>, produced: Produced<K, V>) {
        let topic = topic.into();
        self.sink(move || TopicChoice::Fixed(topic.clone()), produced);
    }

    /// Writes each record to the topic that the closure names, which must exist (KIP-303).
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let words = builder.stream::<String, String>("words", Consumed::default());
    /// words.to_dynamic(|record, _task| format!("words-of-{}", record.value.len()), Produced::default());
    /// ```
    pub fn to_dynamic(
        &self,
        topic: impl Fn(&Record<K, V>, &TaskContext) -> String + Send + Sync + 'static,
        produced: Produced<K, V>,
    ) {
        let topic = Arc::new(topic);
        self.sink(
            move || {
                let topic = Arc::clone(&topic);
                TopicChoice::dynamic(move |record, task| topic(record, task))
            },
            produced,
        );
    }

    fn sink(
        &self,
        topic: impl Fn() -> TopicChoice<K, V> + Send + Sync + 'static,
        produced: Produced<K, V>,
    ) {
        let mut plan = self.at.plan();
        let name = Name::automatic(plan.names.node(naming::SINK))
            .given(produced.name().map(str::to_owned));
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            lowering
                .topology
                .add_sink(lowering.name(id), topic(), produced.clone(), &[parent])?;
            Ok(())
        });
        plan.add(NodeKind::End, name, vec![self.at.id()], lower);
    }

    /// Writes the stream to an internal topic by key and reads it back (KIP-221). Groupings and joins do so by themselves where it is needed.
    pub fn repartition(&self, repartitioned: Repartitioned<K, V>) -> Self {
        let Repartitioned {
            key,
            value,
            name,
            partitions,
            partitioner,
        } = repartitioned;
        let prefix = match name {
            Some(name) => name,
            None => self.at.plan().names.node(naming::REPARTITION),
        };
        let topic = RepartitionTopic {
            prefix: Prefix::Name(prefix),
            key,
            value,
            partitions,
            partitioner,
            keeps_null_keys: false,
        };
        let (key, value) = (Arc::clone(&topic.key), Arc::clone(&topic.value));
        let numbers = RepartitionNumbers::take(&mut self.at.plan().names);
        let at = topic.add_below(&self.at, numbers);
        Self::new(at, Some(key), Some(value))
    }

    /// Groups records by the keys they have. A key that is null drops the record when it is aggregated, which is counted.
    pub fn group_by_key(&self) -> KGroupedStream<K, V>
    where
        K: HasSerde,
        V: HasSerde,
    {
        let key = self.key.clone().unwrap_or_else(default_serde::<K>);
        let value = self.value.clone().unwrap_or_else(default_serde::<V>);
        KGroupedStream::new(self.at.clone(), key, value, None)
    }

    /// As [`KStream::group_by_key`], with serdes or a name.
    pub fn group_by_key_with(&self, grouped: Grouped<K, V>) -> KGroupedStream<K, V> {
        let Grouped {
            key,
            value,
            name,
            own,
        } = grouped;
        let (own_key, own_value) = own.unzip();
        let key = key.or_else(|| self.key.clone()).or(own_key);
        let value = value.or_else(|| self.value.clone()).or(own_value);
        self.grouped("group_by_key_with", key, value, name)
    }

    /// Groups records by the key that the closure gives them: through a repartition topic. The key may be an `Option`; `None` drops the
    /// record, before the topic, and is counted.
    pub fn group_by<K2: Datum + HasSerde>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KGroupedStream<K2, V>
    where
        V: HasSerde,
    {
        self.select_key(selector).group_by_key()
    }

    /// As [`KStream::group_by`], with serdes or a name, which is also that of the node which selects the key.
    pub fn group_by_with<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
        grouped: Grouped<K2, V>,
    ) -> KGroupedStream<K2, V> {
        let Grouped {
            key,
            value,
            name,
            own,
        } = grouped;
        let (own_key, own_value) = own.unzip();
        let key = key.or(own_key);
        let value = value.or_else(|| self.value.clone()).or(own_value);
        let rekeyed = self.select_key(selector);
        if let Some(name) = &name {
            rekeyed.at.plan().give_name(rekeyed.at.id(), name.clone());
        }
        rekeyed.grouped("group_by_with", key, value, name)
    }

    fn grouped(
        &self,
        verb: &str,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
        name: Option<String>,
    ) -> KGroupedStream<K, V> {
        let missing = match (&key, &value) {
            (None, _) => Some("keys"),
            (_, None) => Some("values"),
            _ => None,
        };
        if let Some(missing) = missing {
            let mut plan = self.at.plan();
            let node = plan.node(self.at.id()).name.as_str().to_owned();
            plan.report(format!("{verb} of {node}: no serde is known for the {missing}; give both with Grouped::with(key, value)"));
        }
        KGroupedStream::new(
            self.at.clone(),
            key.unwrap_or_else(unknown_serde),
            value.unwrap_or_else(unknown_serde),
            name,
        )
    }

    /// Joins each record with the row of its key as it is when the record is processed; a record without a row is left out. The table's
    /// updates cause no output. Both must have the same number of partitions; a re-keyed stream is repartitioned before.
    ///
    /// The stream's keys are the table's, or `Option`s of them.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let cities = builder.table::<String, String>("city-of-user", Consumed::default());
    /// builder
    ///     .stream::<String, String>("clicks", Consumed::default())
    ///     .join(&cities, |page, city| format!("{page} from {city}"))
    ///     .to("clicks-with-city", Produced::default());
    /// ```
    pub fn join<KT, VT: Datum, VR: Datum>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(V, &VT) -> VR + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
        K: HasSerde,
        V: HasSerde,
    {
        self.join_table(
            table,
            move |_key: &K, value, row: Option<&VT>| row.map(|row| joiner(value, row)),
            self.own_serdes(),
            false,
        )
    }

    /// As [`KStream::join`], with a closure that sees the key, and serdes or a name.
    pub fn join_with<KT, VT: Datum, VR: Datum>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(&K, V, &VT) -> VR + Send + Sync + 'static,
        joined: Joined<K, V>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        self.join_table(
            table,
            move |key: &K, value, row: Option<&VT>| row.map(|row| joiner(key, value, row)),
            joined,
            false,
        )
    }

    /// As [`KStream::join`], but a record without a row is joined with `None`.
    pub fn left_join<KT, VT: Datum, VR: Datum>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(V, Option<&VT>) -> VR + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
        K: HasSerde,
        V: HasSerde,
    {
        self.join_table(
            table,
            move |_key: &K, value, row: Option<&VT>| Some(joiner(value, row)),
            self.own_serdes(),
            true,
        )
    }

    /// As [`KStream::left_join`], with a closure that sees the key, and serdes or a name.
    pub fn left_join_with<KT, VT: Datum, VR: Datum>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(&K, V, Option<&VT>) -> VR + Send + Sync + 'static,
        joined: Joined<K, V>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        self.join_table(
            table,
            move |key: &K, value, row: Option<&VT>| Some(joiner(key, value, row)),
            joined,
            true,
        )
    }

    /// The serdes of the simple joins.
    fn own_serdes(&self) -> Joined<K, V>
    where
        K: HasSerde,
        V: HasSerde,
    {
        Joined {
            own: Some((default_serde(), default_serde())),
            ..Joined::default()
        }
    }

    fn join_table<KT, VT: Datum, VR: Datum>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Joiner<K, V, VT, VR>,
        joined: Joined<K, V>,
        left: bool,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        let Joined {
            key,
            value,
            name,
            own,
        } = joined;
        let (own_key, own_value) = own.unzip();
        let key = key.or_else(|| self.key.clone()).or(own_key);
        let value = value.or_else(|| self.value.clone()).or(own_value);
        let verb = if left { "left_join" } else { "join" };
        let keys = NullCheck::of(&table.key);
        let values = NullCheck::of_known(value.as_ref());
        let same_plan = self.at.same_plan(&table.at, verb);
        let left_side =
            self.repartitioned_for_join(verb, key.clone(), value, name.as_deref(), left);
        let rows = Arc::clone(&table.rows);
        let table_id = table.at.id();
        let joiner = Arc::new(joiner);
        let lower: Lower = Arc::new(move |id, lowering| {
            let stream = lowering.parent::<K, V>(id)?;
            let table = lowering.output::<KT, crate::Change<VT>>(table_id)?;
            let store = lowering.store_behind(table_id)?;
            let (joiner, rows, store_name) = (
                Arc::clone(&joiner),
                Arc::clone(&rows),
                Arc::<str>::from(store.as_str()),
            );
            let (keys, values) = (keys.clone(), values.clone());
            let supplier = move || StreamTableJoin {
                joiner: Arc::clone(&joiner),
                store_name: Arc::clone(&store_name),
                rows: Arc::clone(&rows),
                open: None,
                keys: keys.clone(),
                values: values.clone(),
                left,
            };
            let node: Node<K, VR> =
                lowering
                    .topology
                    .add_processor(lowering.name(id), supplier, &[stream])?;
            lowering.topology.connect(node, &[&store])?;
            lowering
                .topology
                .copartition([stream.index(), table.index()])?;
            lowering.set_output(id, node);
            Ok(())
        });
        let mut plan = self.at.plan();
        let node_name = Name::automatic(plan.names.node(if left {
            naming::LEFT_JOIN
        } else {
            naming::JOIN
        }))
        .given(name);
        if same_plan {
            plan.materialize(table_id);
        }
        let id = plan.add(NodeKind::SameKey, node_name, vec![left_side], lower);
        drop(plan);
        KStream::new(self.at.at(id), key, None)
    }

    /// The stream behind a repartition topic when it has been re-keyed. Joins without a name share one.
    fn repartitioned_for_join(
        &self,
        verb: &str,
        key: Option<SharedSerde<K>>,
        value: Option<SharedSerde<V>>,
        name: Option<&str>,
        left: bool,
    ) -> NodeId {
        let stream = self.at.id();
        let mut plan = self.at.plan();
        if !plan.needs_repartition(stream) {
            return stream;
        }
        let numbers = RepartitionNumbers::take(&mut plan.names);
        if let (None, Some(shared)) = (name, plan.join_repartition(stream)) {
            if left {
                plan.keep_null_keys(shared);
            }
            return shared;
        }
        let (Some(key), Some(value)) = (key, value) else {
            let node = plan.node(stream).name.as_str().to_owned();
            plan.report(format!("{verb} of {node}: it has new keys, and its repartition topic needs serdes; give them with Joined::with(key, value)"));
            return stream;
        };
        drop(plan);
        let prefix = name.map_or(Prefix::Node(stream), |name| Prefix::Name(name.to_owned()));
        let topic = RepartitionTopic {
            prefix,
            key,
            value,
            partitions: None,
            partitioner: None,
            keeps_null_keys: left,
        };
        let repartition = topic.add_below(&self.at, numbers).id();
        self.at
            .plan()
            .remember_join_repartition(stream, repartition);
        repartition
    }

    /// Joins each record with the row of a global table whose key the closure finds; a record without a key or row is left out. The stream
    /// keeps its key and needs no repartitioning (KIP-99).
    pub fn join_global<KT, VT, VR, R>(
        &self,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Fn(V, &VT) -> VR + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        self.join_global_table(
            table,
            select,
            move |_key: &K, value, row: Option<&VT>| row.map(|row| joiner(value, row)),
            false,
        )
    }

    /// As [`KStream::join_global`], but a record without a key or row is joined with `None`.
    pub fn left_join_global<KT, VT, VR, R>(
        &self,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Fn(V, Option<&VT>) -> VR + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        self.join_global_table(
            table,
            select,
            move |_key: &K, value, row: Option<&VT>| Some(joiner(value, row)),
            true,
        )
    }

    fn join_global_table<KT, VT, VR, R>(
        &self,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Joiner<K, V, VT, VR>,
        left: bool,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        self.at.same_plan(
            &table.at,
            if left {
                "left_join_global"
            } else {
                "join_global"
            },
        );
        let keys = NullCheck::of(&table.key);
        let values = NullCheck::of(&self.value.clone().unwrap_or_else(default_serde::<V>));
        let store_name = Arc::clone(&table.store);
        let (select, joiner) = (Arc::new(select), Arc::new(joiner));
        let supplier = move || StreamGlobalJoin {
            select: Arc::clone(&select),
            joiner: Arc::clone(&joiner),
            store_name: Arc::clone(&store_name),
            store: None,
            keys: keys.clone(),
            values: values.clone(),
            left,
        };
        // Kafka Streams names both kinds so.
        let at = self.child::<K, VR, _>(NodeKind::SameKey, naming::LEFT_JOIN, supplier);
        KStream::new(at, self.key.clone(), None)
    }

    /// Runs a processor of the Processor API on the stream, with stores that were added to the builder (KIP-820). The keys it forwards count as
    /// new.
    pub fn process<K2: Datum, V2: Datum, S>(&self, supplier: S, stores: &[&str]) -> KStream<K2, V2>
    where
        S: ProcessorSupplier<K, V, K2, V2>,
    {
        let supplier = Arc::new(supplier);
        let stores: Vec<String> = stores.iter().map(|store| (*store).to_owned()).collect();
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let supplier = Arc::clone(&supplier);
            let node: Node<K2, V2> = lowering.topology.add_processor(
                lowering.name(id),
                move || supplier.processor(),
                &[parent],
            )?;
            let stores: Vec<&str> = stores.iter().map(String::as_str).collect();
            lowering.topology.connect(node, &stores)?;
            lowering.set_output(id, node);
            Ok(())
        });
        KStream::new(
            self.at.child(NodeKind::NewKey, naming::PROCESSOR, lower),
            None,
            None,
        )
    }
}

impl<K: Datum, V: Datum> KStream<Option<K>, V> {
    /// The records that have a key. Those without are dropped and counted.
    pub fn present_keys(&self) -> KStream<K, V> {
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, || PresentKeys);
        KStream::new(at, None, self.value.clone())
    }
}

impl<K: Datum, V: Datum> KStream<K, Option<V>> {
    /// The records that have a value. Those without are dropped and counted.
    pub fn present_values(&self) -> KStream<K, V> {
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, || PresentValues);
        KStream::new(at, self.key.clone(), None)
    }
}

/// Declares a processor below a node's only parent.
pub(crate) fn declare<K: Datum, V: Datum, K2: Datum, V2: Datum, P>(
    supplier: impl Fn() -> P + Send + Sync + 'static,
) -> Lower
where
    P: Processor<K, V, K2, V2>,
{
    let supplier = Arc::new(supplier);
    Arc::new(move |id, lowering| {
        let parent = lowering.parent::<K, V>(id)?;
        let supplier = Arc::clone(&supplier);
        let node: Node<K2, V2> =
            lowering
                .topology
                .add_processor(lowering.name(id), move || supplier(), &[parent])?;
        lowering.set_output(id, node);
        Ok(())
    })
}

/// An internal topic by key, with the nodes around it.
pub(crate) struct RepartitionTopic<K, V> {
    pub(crate) prefix: Prefix,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<Arc<Partitioner<K, V>>>,
    pub(crate) keeps_null_keys: bool,
}

impl<K: Datum, V: Datum> RepartitionTopic<K, V> {
    /// Adds it to the plan, below a stream.
    pub(crate) fn add_below(self, stream: &Handle, numbers: RepartitionNumbers) -> Handle {
        let Self {
            prefix,
            key,
            value,
            partitions,
            partitioner,
            keeps_null_keys,
        } = self;
        let nulls = NullCheck::of(&key);
        let kind = NodeKind::Repartition {
            prefix,
            keeps_null_keys,
        };
        let name = Name::automatic(numbers.source().to_owned());
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let names = lowering.repartition_names(id, &numbers)?;
            let keys = (!lowering.keeps_null_keys(id)).then(|| nulls.clone());
            lowering
                .topology
                .add_internal_topic(InternalTopic::repartition(names.topic.as_str(), partitions))?;
            let filter = lowering.topology.add_processor(
                names.filter,
                move || RepartitionFilter { keys: keys.clone() },
                &[parent],
            )?;
            let mut produced = Produced::shared(Arc::clone(&key), Arc::clone(&value));
            if let Some(partitioner) = &partitioner {
                let partitioner = Arc::clone(partitioner);
                produced = produced.partitioner(move |topic, key, value, partitions| {
                    partitioner(topic, key, value, partitions)
                });
            }
            lowering
                .topology
                .add_sink(names.sink, names.topic.as_str(), produced, &[filter])?;
            let consumed = brooklet_streams_core::topology::Consumed::shared(
                Arc::clone(&key),
                Arc::clone(&value),
            );
            let source = lowering
                .topology
                .add_source(names.source, [names.topic], consumed)?;
            lowering.set_output(id, source);
            Ok(())
        });
        let id = stream.plan().add(kind, name, vec![stream.id()], lower);
        stream.at(id)
    }
}

/// Stands in for a serde whose absence has been reported: building the topology fails before anything uses it.
fn unknown_serde<T: 'static>() -> SharedSerde<T> {
    Arc::new(crate::null::Unknown)
}
