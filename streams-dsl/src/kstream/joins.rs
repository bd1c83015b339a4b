//! Joins of a stream with tables.

use std::error::Error;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::{HasSerde, default_serde};
use brooklet_streams_core::typed_store::StoreKey;

use super::topics::RepartitionTopic;
use super::{KStream, failed};
use crate::change::Change;
use crate::global_ktable::GlobalKTable;
use crate::ktable::KTable;
use crate::null::NullCheck;
use crate::operators::stream_join::{InGlobalTable, InTable, Joiner, StreamJoin};
use crate::options::Joined;
use crate::options::stream_serdes::{KnownSerdes, StreamSerdes};
use crate::outcome::JoinKey;
use crate::plan::naming::{self, Name, RepartitionNumbers};
use crate::plan::{Lower, NodeId, NodeKind, Prefix};

/// Which records come out of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Those with a row.
    Inner,
    /// All.
    Left,
}

/// The joiner of an inner join: only called with a row.
fn inner<K, V, VT: 'static, VR>(
    joiner: impl Fn(&K, V, &VT) -> Result<VR, ProcessError> + Send + Sync + 'static,
) -> impl Joiner<K, V, VT, VR> {
    move |key: &K, value: V, row: Option<&VT>| row.map(|row| joiner(key, value, row)).transpose()
}

/// The joiner of a left join.
fn left<K, V, VT: 'static, VR>(
    joiner: impl Fn(&K, V, Option<&VT>) -> Result<VR, ProcessError> + Send + Sync + 'static,
) -> impl Joiner<K, V, VT, VR> {
    move |key: &K, value: V, row: Option<&VT>| joiner(key, value, row).map(Some)
}

impl<K: Datum, V: Datum> KStream<K, V> {
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
        let joiner = inner(move |_: &K, value, row: &VT| Ok(joiner(value, row)));
        self.join_table(Side::Inner, table, joiner, StreamSerdes::own())
    }

    /// As [`KStream::join`], with a closure that can fail.
    pub fn try_join<KT, VT: Datum, VR: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(V, &VT) -> Result<VR, E> + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
        K: HasSerde,
        V: HasSerde,
    {
        let joiner = inner(move |_: &K, value, row: &VT| joiner(value, row).map_err(failed));
        self.join_table(Side::Inner, table, joiner, StreamSerdes::own())
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
        let joiner = inner(move |key: &K, value, row: &VT| Ok(joiner(key, value, row)));
        self.join_table(Side::Inner, table, joiner, joined.0)
    }

    /// As [`KStream::join_with`], with a closure that can fail.
    pub fn try_join_with<KT, VT: Datum, VR: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(&K, V, &VT) -> Result<VR, E> + Send + Sync + 'static,
        joined: Joined<K, V>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        let joiner = inner(move |key: &K, value, row: &VT| joiner(key, value, row).map_err(failed));
        self.join_table(Side::Inner, table, joiner, joined.0)
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
        let joiner = left(move |_: &K, value, row: Option<&VT>| Ok(joiner(value, row)));
        self.join_table(Side::Left, table, joiner, StreamSerdes::own())
    }

    /// As [`KStream::left_join`], with a closure that can fail.
    pub fn try_left_join<KT, VT: Datum, VR: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(V, Option<&VT>) -> Result<VR, E> + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
        K: HasSerde,
        V: HasSerde,
    {
        let joiner = left(move |_: &K, value, row: Option<&VT>| joiner(value, row).map_err(failed));
        self.join_table(Side::Left, table, joiner, StreamSerdes::own())
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
        let joiner = left(move |key: &K, value, row: Option<&VT>| Ok(joiner(key, value, row)));
        self.join_table(Side::Left, table, joiner, joined.0)
    }

    /// As [`KStream::left_join_with`], with a closure that can fail.
    pub fn try_left_join_with<KT, VT: Datum, VR: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &KTable<KT, VT>,
        joiner: impl Fn(&K, V, Option<&VT>) -> Result<VR, E> + Send + Sync + 'static,
        joined: Joined<K, V>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        let joiner =
            left(move |key: &K, value, row: Option<&VT>| joiner(key, value, row).map_err(failed));
        self.join_table(Side::Left, table, joiner, joined.0)
    }

    fn join_table<KT, VT: Datum, VR: Datum>(
        &self,
        side: Side,
        table: &KTable<KT, VT>,
        joiner: impl Joiner<K, V, VT, VR>,
        serdes: StreamSerdes<K, V>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<K>,
    {
        let (verb, prefix) = match side {
            Side::Inner => ("join", naming::JOIN),
            Side::Left => ("left_join", naming::LEFT_JOIN),
        };
        let serdes = serdes.or(self.key.as_ref(), self.value.as_ref());
        let keys = NullCheck::of(&table.key);
        let values = NullCheck::of_known(serdes.value.as_ref());
        let same_plan = self.at.same_plan(&table.at, verb);
        let stream_id = self.repartitioned_for_join(verb, &serdes, side);
        let rows = Arc::clone(&table.rows);
        let table_id = table.at.id();
        let joiner = Arc::new(joiner);
        let lower: Lower = Arc::new(move |id, lowering| {
            let stream = lowering.parent::<K, V>(id)?;
            let table = lowering.output::<KT, Change<VT>>(table_id)?;
            let store = lowering.store_behind(table_id)?;
            let store_name: Arc<str> = store.as_str().into();
            let (joiner, rows) = (Arc::clone(&joiner), Arc::clone(&rows));
            let (keys, values) = (keys.clone(), values.clone());
            let supplier = move || StreamJoin {
                table: InTable {
                    store_name: Arc::clone(&store_name),
                    rows: Arc::clone(&rows),
                    open: None,
                },
                joiner: Arc::clone(&joiner),
                keys: keys.clone(),
                values: values.clone(),
                left: side == Side::Left,
            };
            let node = lowering.add_processor::<K, V, K, VR>(id, supplier, &[stream], None)?;
            lowering.topology.connect(node, &[&store])?;
            lowering
                .topology
                .copartition([stream.index(), table.index()])
        });
        let mut plan = self.at.plan();
        let name = Name::automatic(plan.names.node(prefix)).given(serdes.name);
        if same_plan {
            plan.materialize(table_id);
        }
        let id = plan.add(NodeKind::SameKey, name, vec![stream_id], lower);
        drop(plan);
        KStream::new(self.at.at(id), serdes.key, None)
    }

    /// The stream behind a repartition topic when it has been re-keyed. Joins without a name share one.
    fn repartitioned_for_join(&self, verb: &str, serdes: &KnownSerdes<K, V>, side: Side) -> NodeId {
        let KnownSerdes { key, value, name } = serdes;
        let stream = self.at.id();
        let mut plan = self.at.plan();
        if !plan.needs_repartition(stream) {
            return stream;
        }
        let numbers = RepartitionNumbers::take(&mut plan.names);
        if let (None, Some(shared)) = (name, plan.join_repartition(stream)) {
            if side == Side::Left {
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
        let topic = RepartitionTopic {
            prefix: name.clone().map_or(Prefix::Node(stream), Prefix::Name),
            key: Arc::clone(key),
            value: Arc::clone(value),
            partitions: None,
            partitioner: None,
            keeps_null_keys: side == Side::Left,
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
        let joiner = inner(move |_: &K, value, row: &VT| Ok(joiner(value, row)));
        self.join_global_table(Side::Inner, table, select, joiner)
    }

    /// As [`KStream::join_global`], with a joiner that can fail.
    pub fn try_join_global<KT, VT, VR, R, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Fn(V, &VT) -> Result<VR, E> + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        let joiner = inner(move |_: &K, value, row: &VT| joiner(value, row).map_err(failed));
        self.join_global_table(Side::Inner, table, select, joiner)
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
        let joiner = left(move |_: &K, value, row: Option<&VT>| Ok(joiner(value, row)));
        self.join_global_table(Side::Left, table, select, joiner)
    }

    /// As [`KStream::left_join_global`], with a joiner that can fail.
    pub fn try_left_join_global<KT, VT, VR, R, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Fn(V, Option<&VT>) -> Result<VR, E> + Send + Sync + 'static,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        let joiner = left(move |_: &K, value, row: Option<&VT>| joiner(value, row).map_err(failed));
        self.join_global_table(Side::Left, table, select, joiner)
    }

    fn join_global_table<KT, VT, VR, R>(
        &self,
        side: Side,
        table: &GlobalKTable<KT, VT>,
        select: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        joiner: impl Joiner<K, V, VT, VR>,
    ) -> KStream<K, VR>
    where
        KT: StoreKey + JoinKey<R>,
        VT: Datum,
        VR: Datum,
        R: 'static,
        V: HasSerde,
    {
        let verb = match side {
            Side::Inner => "join_global",
            Side::Left => "left_join_global",
        };
        self.at.same_plan(&table.at, verb);
        let keys = NullCheck::of(&table.key);
        let values = NullCheck::of(&self.value.clone().unwrap_or_else(default_serde::<V>));
        let store_name = Arc::clone(&table.store);
        let (select, joiner) = (Arc::new(select), Arc::new(joiner));
        let supplier = move || StreamJoin {
            table: InGlobalTable {
                select: Arc::clone(&select),
                store_name: Arc::clone(&store_name),
                store: None,
            },
            joiner: Arc::clone(&joiner),
            keys: keys.clone(),
            values: values.clone(),
            left: side == Side::Left,
        };
        // Kafka Streams names both kinds so.
        let at = self.child::<K, VR, _>(NodeKind::SameKey, naming::LEFT_JOIN, supplier);
        KStream::new(at, self.key.clone(), None)
    }
}
