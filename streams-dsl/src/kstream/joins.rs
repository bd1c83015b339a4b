//! Joins of a stream with tables.

use std::sync::Arc;

use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::{HasSerde, SharedSerde, default_serde};
use brooklet_streams_core::topology::Node;
use brooklet_streams_core::typed_store::StoreKey;

use super::KStream;
use super::topics::RepartitionTopic;
use crate::global_ktable::GlobalKTable;
use crate::ktable::KTable;
use crate::null::NullCheck;
use crate::operators::stream_global_join::StreamGlobalJoin;
use crate::operators::stream_table_join::{Joiner, StreamTableJoin};
use crate::options::Joined;
use crate::outcome::JoinKey;
use crate::plan::naming::{self, Name, RepartitionNumbers};
use crate::plan::{Lower, NodeId, NodeKind, Prefix};

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
}
