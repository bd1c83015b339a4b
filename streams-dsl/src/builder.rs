//! `StreamsBuilder`: where a program begins, and becomes a topology.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use brooklet_streams_core::error::TopologyError;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::SharedSerde;
use brooklet_streams_core::topology::{Consumed, Topology};
use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, StoreBuilder, StoreKey};

use crate::global_ktable::GlobalKTable;
use crate::kstream::KStream;
use crate::ktable::KTable;
use crate::null::{NullCheck, OrNull};
use crate::operators::row_store::RowStore;
use crate::operators::table_source::TableSource;
use crate::options::Materialized;
use crate::plan::lower::{self, Lowering};
use crate::plan::naming::{self, Name};
use crate::plan::{Handle, Lower, NodeId, NodeKind, Plan, locked};
use crate::rows::InStore;

/// Declares streams and tables, and builds the topology that they and their operators make. A handle: clones declare into the same topology.
#[derive(Clone, Default)]
pub struct StreamsBuilder {
    plan: Arc<Mutex<Plan>>,
}

/// One topic or several.
pub trait Topics {
    /// Their names.
    fn topics(self) -> Vec<String>;
}

impl Topics for &str {
    fn topics(self) -> Vec<String> {
        vec![self.to_owned()]
    }
}

impl Topics for String {
    fn topics(self) -> Vec<String> {
        vec![self]
    }
}

impl<T: Into<String>, const N: usize> Topics for [T; N] {
    fn topics(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl<T: Into<String>> Topics for Vec<T> {
    fn topics(self) -> Vec<String> {
        self.into_iter().map(Into::into).collect()
    }
}

impl StreamsBuilder {
    /// An empty declaration.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a topic, or several, as a stream of independent records, without order between topics.
    ///
    /// Two streams of the same topics are read once; the options of the first hold, and they must agree on where to begin
    /// (`Consumed::offset_reset`).
    pub fn stream<K: Datum, V: Datum>(
        &self,
        topics: impl Topics,
        consumed: Consumed<K, V>,
    ) -> KStream<K, V> {
        let topics = topics.topics();
        let mut plan = locked(&self.plan);
        let name = Name::automatic(plan.names.node(naming::STREAM_SOURCE))
            .given(consumed.name().map(str::to_owned));
        let (key, value) = (
            Arc::clone(consumed.key_serde()),
            Arc::clone(consumed.value_serde()),
        );
        let kind = NodeKind::StreamSource {
            topics: topics.clone(),
            types: TypeId::of::<(K, V)>(),
            offset_reset: consumed.auto_offset_reset(),
        };
        let lower: Lower = Arc::new(move |id, lowering| {
            let node = match lowering.decisions.same_as(id) {
                Some(first) => lowering.output::<K, V>(first)?,
                None => lowering.topology.add_source(
                    lowering.name(id),
                    topics.clone(),
                    consumed.clone(),
                )?,
            };
            lowering.set_output(id, node);
            Ok(())
        });
        let id = plan.add(kind, name, Vec::new(), lower);
        KStream::new(Handle::new(&self.plan, id), Some(key), Some(value))
    }

    /// Reads a topic as a table: each record is a row, and the last of a key, by offset, holds. A null value deletes the row; a null key is dropped
    /// and counted.
    ///
    /// The rows are kept only when a join looks them up. [`StreamsBuilder::table_with`] keeps them under a name.
    pub fn table<K: StoreKey, V: Datum>(
        &self,
        topic: impl Into<String>,
        consumed: Consumed<K, V>,
    ) -> KTable<K, V> {
        let value = Arc::clone(consumed.value_serde());
        self.table_with(topic, consumed, Materialized::of(value))
    }

    /// As [`StreamsBuilder::table`], with a store as `materialized` says. Its serdes hold for the store and its changelog.
    pub fn table_with<K: StoreKey, V: Datum>(
        &self,
        topic: impl Into<String>,
        consumed: Consumed<K, V>,
        materialized: Materialized<K, V>,
    ) -> KTable<K, V> {
        let (name, table) = self.table_topic(topic.into(), consumed, materialized);
        let (key, value) = (Arc::clone(&table.key), table.value.clone());
        let (keys, queryable) = (NullCheck::of(&key), table.queryable);
        let kind = NodeKind::TableSource {
            store: table.store.name().to_owned(),
            materialized: queryable,
        };
        let store: Arc<dyn StoreBuilder> = Arc::new(table.store.clone());
        let lower: Lower = Arc::new(move |id, lowering| {
            let records = lowering.topology.add_source(
                table.source_name(id, lowering),
                [table.topic.as_str()],
                table.consumed.clone(),
            )?;
            let kept = lowering.plan.store_behind(id).is_some();
            let store_name: Option<Arc<str>> = kept.then(|| store.name().into());
            let (keys, sends_old) = (keys.clone(), lowering.decisions.sends_old(id));
            let supplier = move || TableSource {
                rows: store_name
                    .as_ref()
                    .map(|name| RowStore::<K, V>::new(Arc::clone(name), sends_old)),
                keys: keys.clone(),
            };
            lowering.add_processor(id, supplier, &[records], kept.then_some(&store))?;
            Ok(())
        });
        let id = locked(&self.plan).add(kind, name, Vec::new(), lower);
        KTable::new(
            Handle::new(&self.plan, id),
            key,
            Some(value),
            Arc::new(InStore),
            queryable,
        )
    }

    /// Reads all partitions of a topic into a table of every instance (KIP-99). It is loaded to the end before streams are processed, has no
    /// changelog, and is not in step with the streams' event time.
    pub fn global_table<K: StoreKey, V: Datum>(
        &self,
        topic: impl Into<String>,
        consumed: Consumed<K, V>,
    ) -> GlobalKTable<K, V> {
        let value = Arc::clone(consumed.value_serde());
        self.global_table_with(topic, consumed, Materialized::of(value))
    }

    /// As [`StreamsBuilder::global_table`], with a store as `materialized` says. It has no changelog in any case, since its topic is one.
    pub fn global_table_with<K: StoreKey, V: Datum>(
        &self,
        topic: impl Into<String>,
        consumed: Consumed<K, V>,
        materialized: Materialized<K, V>,
    ) -> GlobalKTable<K, V> {
        let (name, table) = self.table_topic(topic.into(), consumed, materialized);
        let (key, queryable) = (Arc::clone(&table.key), table.queryable);
        let store_name: Arc<str> = table.store.name().into();
        let kind = NodeKind::GlobalTable {
            store: store_name.to_string(),
        };
        let store = table.store.clone().caching(false).logging(false);
        let lower: Lower = Arc::new(move |id, lowering| {
            let name = lowering.name(id);
            lowering.topology.add_global_store(
                store.clone(),
                table.source_name(id, lowering),
                table.topic.as_str(),
                table.consumed.clone(),
                name,
            )
        });
        let id = locked(&self.plan).add(kind, name, Vec::new(), lower);
        GlobalKTable {
            at: Handle::new(&self.plan, id),
            key,
            store: store_name,
            queryable,
            types: PhantomData,
        }
    }

    /// What a table and a global table have in common. Names are taken in Kafka's order: store, source, node.
    fn table_topic<K: StoreKey, V: Datum>(
        &self,
        topic: String,
        consumed: Consumed<K, V>,
        materialized: Materialized<K, V>,
    ) -> (Name, TableTopic<K, V>) {
        let Materialized {
            name: store_name,
            key: store_key,
            value: store_value,
            store: options,
        } = materialized;
        let queryable = store_name.is_some();
        let mut plan = locked(&self.plan);
        let store_name = store_name.unwrap_or_else(|| plan.names.store(&format!("{topic}-")));
        let source = plan.names.node(naming::STREAM_SOURCE);
        let name = Name::automatic(plan.names.node(naming::TABLE_SOURCE))
            .given(consumed.name().map(str::to_owned));
        let key = Arc::clone(consumed.key_serde());
        let store_key = store_key.unwrap_or_else(|| Arc::clone(&key));
        let store = KeyValueStoreBuilder::shared(store_name, store_key, store_value);
        let table = TableTopic {
            topic,
            source,
            key,
            value: Arc::clone(consumed.value_serde()),
            queryable,
            store: options.key_value(store),
            consumed: nullable(consumed),
        };
        (name, table)
    }

    /// Adds a store for [`KStream::process`], which names it.
    pub fn add_state_store(&self, store: impl StoreBuilder) {
        let name = Name::automatic(store.name().to_owned());
        let store: Arc<dyn StoreBuilder> = Arc::new(store);
        let lower: Lower = Arc::new(move |_id, lowering| {
            lowering.topology.add_shared_state_store(Arc::clone(&store))
        });
        locked(&self.plan).add(NodeKind::End, name, Vec::new(), lower);
    }

    /// The topology of everything declared until now. Sources of the same topics are read once, tables whose rows nobody looks up are not
    /// kept, and old values travel only to where somebody wants them.
    ///
    /// # Errors
    /// What the program got wrong: a name or topic used twice, a malformed name, windows that cannot be, a serde that is missing.
    pub fn build(&self) -> Result<Topology, TopologyError> {
        lower::lower(&locked(&self.plan))
    }
}

/// A topic that is read as a table.
struct TableTopic<K, V> {
    topic: String,
    /// The automatic name of the source.
    source: String,
    key: SharedSerde<K>,
    value: SharedSerde<V>,
    /// The user has named the store.
    queryable: bool,
    store: KeyValueStoreBuilder<K, V>,
    consumed: Consumed<K, Option<V>>,
}

impl<K, V> TableTopic<K, V> {
    /// What the source of the table's node is called.
    fn source_name(&self, id: NodeId, lowering: &Lowering<'_>) -> String {
        lowering
            .given_name(id)
            .map_or_else(|| self.source.clone(), |name| format!("{name}-source"))
    }
}

/// A table's topic: a null value deletes.
fn nullable<K: Datum, V: Datum>(consumed: Consumed<K, V>) -> Consumed<K, Option<V>> {
    let value: SharedSerde<Option<V>> = Arc::new(OrNull(Arc::clone(consumed.value_serde())));
    consumed.map_value(value, Option::as_ref)
}

impl fmt::Debug for StreamsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamsBuilder").finish_non_exhaustive()
    }
}
