//! `KTable`: a stream of changes of rows, and its operators.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::Processor;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::SharedSerde;
use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, StoreBuilder, StoreKey};

use crate::change::Change;
use crate::kstream::{KStream, declare};
use crate::operators::row_store::RowStore;
use crate::operators::table_filter::TableFilter;
use crate::operators::table_map_values::TableMapValues;
use crate::operators::to_stream::ToStream;
use crate::options::Materialized;
use crate::outcome::Verdict;
use crate::plan::naming;
use crate::plan::{Handle, Lower, NodeKind};
use crate::rows::{Filtered, InStore, Mapped, Rows};

/// A table: the latest row of each key. A nameable, cheaply cloned handle on a node of the plan.
///
/// A table that was aggregated is kept in a store; one that was read from a topic only when its store is named or rows of it are looked up by a
/// join; a filtered or mapped one is computed from the table it comes from, unless it has a named store of its own.
pub struct KTable<K: StoreKey, V: Datum> {
    pub(crate) at: Handle,
    pub(crate) key: SharedSerde<K>,
    value: Option<SharedSerde<V>>,
    pub(crate) rows: Arc<dyn Rows<K, V>>,
    /// The user has named its store.
    queryable: bool,
}

impl<K: StoreKey, V: Datum> Clone for KTable<K, V> {
    fn clone(&self) -> Self {
        Self {
            at: self.at.clone(),
            key: Arc::clone(&self.key),
            value: self.value.clone(),
            rows: Arc::clone(&self.rows),
            queryable: self.queryable,
        }
    }
}

impl<K: StoreKey, V: Datum> fmt::Debug for KTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KTable")
            .field(&self.at.plan().node(self.at.id()).name.as_str())
            .finish()
    }
}

impl<K: StoreKey, V: Datum> KTable<K, V> {
    pub(crate) fn new(
        at: Handle,
        key: SharedSerde<K>,
        value: Option<SharedSerde<V>>,
        rows: Arc<dyn Rows<K, V>>,
        queryable: bool,
    ) -> Self {
        Self {
            at,
            key,
            value,
            rows,
            queryable,
        }
    }

    /// Names the node that the last call made. A table read from a topic under the name `planes` has a source node `planes-source`.
    pub fn named(self, name: impl Into<String>) -> Self {
        self.at.plan().give_name(self.at.id(), name.into());
        self
    }

    /// Name of the store to query; `None` unless it was named with `Materialized`.
    pub fn queryable_store_name(&self) -> Option<String> {
        if !self.queryable {
            return None;
        }
        self.at.plan().store_behind(self.at.id()).map(str::to_owned)
    }

    /// The rows that the predicate accepts. It returns `bool`, or a `Result` of it, and is not asked about deleted rows.
    ///
    /// A row that it rejects is deleted downstream. Where the rows of this table are kept, no tombstone follows for a row that was not there
    /// downstream either; otherwise each rejected row is one.
    pub fn filter<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, true, None)
    }

    /// The rows that the predicate rejects; otherwise as [`KTable::filter`].
    pub fn filter_not<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, false, None)
    }

    /// As [`KTable::filter`], with the rows that pass in a store of their own, when `materialized` names it: then it can be queried, and joins
    /// read it. Without a name it gives serdes only.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Materialized, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let stock = builder.table::<String, i64>("stock", Consumed::default());
    /// let scarce = stock.filter_with(|_item, pieces| *pieces < 10, Materialized::named("scarce"));
    /// assert_eq!(scarce.queryable_store_name().as_deref(), Some("scarce"));
    /// ```
    pub fn filter_with<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        materialized: Materialized<K, V>,
    ) -> Self {
        self.filtered(predicate, true, Some(materialized))
    }

    /// As [`KTable::filter_not`], with a store of its own as in [`KTable::filter_with`].
    pub fn filter_not_with<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        materialized: Materialized<K, V>,
    ) -> Self {
        self.filtered(predicate, false, Some(materialized))
    }

    fn filtered<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        passes: bool,
        materialized: Option<Materialized<K, V>>,
    ) -> Self {
        let predicate = Arc::new(predicate);
        let rows = {
            let predicate = Arc::clone(&predicate);
            let passes = move |key: &K, row: &V| {
                Ok::<_, ProcessError>(predicate(key, row).verdict()? == passes)
            };
            Filtered {
                parent: Arc::clone(&self.rows),
                passes: Arc::new(passes),
            }
        };
        let declared = View {
            filters: true,
            prefix: naming::TABLE_FILTER,
            value: self.value.clone(),
            rows: Arc::new(rows),
            materialized,
        };
        self.view(declared, move |old, rows| TableFilter {
            predicate: Arc::clone(&predicate),
            passes,
            knows_old: old.comes_in,
            sends_old: old.goes_out,
            rows,
        })
    }

    /// Another value for each row. The closure is not called for deleted rows; it may be called again for a row that is looked up.
    pub fn map_values<V2: Datum>(
        &self,
        mapper: impl Fn(&K, &V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.values_mapped(move |key, row| Ok(mapper(key, row)), None)
    }

    /// As [`KTable::map_values`], with a closure that can fail.
    pub fn try_map_values<V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(&K, &V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.values_mapped(
            move |key, row| mapper(key, row).map_err(ProcessError::new),
            None,
        )
    }

    /// As [`KTable::map_values`], with the rows made in a store of their own, when `materialized` names it: then the closure is called once for
    /// each update, the rows can be queried, and joins read them. Without a name it gives serdes only.
    pub fn map_values_with<V2: Datum>(
        &self,
        mapper: impl Fn(&K, &V) -> V2 + Send + Sync + 'static,
        materialized: Materialized<K, V2>,
    ) -> KTable<K, V2> {
        self.values_mapped(move |key, row| Ok(mapper(key, row)), Some(materialized))
    }

    /// As [`KTable::map_values_with`], with a closure that can fail.
    pub fn try_map_values_with<V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(&K, &V) -> Result<V2, E> + Send + Sync + 'static,
        materialized: Materialized<K, V2>,
    ) -> KTable<K, V2> {
        let mapper = move |key: &K, row: &V| mapper(key, row).map_err(ProcessError::new);
        self.values_mapped(mapper, Some(materialized))
    }

    fn values_mapped<V2: Datum>(
        &self,
        mapper: impl Fn(&K, &V) -> Result<V2, ProcessError> + Send + Sync + 'static,
        materialized: Option<Materialized<K, V2>>,
    ) -> KTable<K, V2> {
        let mapper = Arc::new(mapper);
        let rows = Mapped {
            parent: Arc::clone(&self.rows),
            mapper: Arc::clone(&mapper),
        };
        let declared = View {
            filters: false,
            prefix: naming::TABLE_MAP_VALUES,
            value: None,
            rows: Arc::new(rows),
            materialized,
        };
        self.view(declared, move |old, rows| TableMapValues {
            mapper: Arc::clone(&mapper),
            sends_old: old.goes_out,
            rows,
        })
    }

    /// A table made of this one's rows, one by one: computed when somebody reads it, or kept in a store of its own.
    fn view<V2: Datum, P>(
        &self,
        declared: View<K, V2>,
        supplier: impl Fn(OldValues, Option<RowStore<K, V2>>) -> P + Send + Sync + 'static,
    ) -> KTable<K, V2>
    where
        P: Processor<K, Change<V>, K, Change<V2>>,
    {
        let View {
            filters,
            prefix,
            mut value,
            mut rows,
            materialized,
        } = declared;
        let mut key = Arc::clone(&self.key);
        let mut store: Option<Arc<dyn StoreBuilder>> = None;
        if let Some(materialized) = materialized {
            key = materialized.key.unwrap_or(key);
            value = Some(Arc::clone(&materialized.value));
            match materialized.name {
                Some(name) => {
                    let builder =
                        KeyValueStoreBuilder::shared(name, Arc::clone(&key), materialized.value);
                    store = Some(Arc::new(materialized.store.key_value(builder)));
                    rows = Arc::new(InStore);
                }
                // Kafka Streams takes the number, too.
                None => drop(self.at.plan().names.store(prefix)),
            }
        }
        let kind = NodeKind::TableView {
            filters,
            store: store.as_ref().map(|store| store.name().to_owned()),
        };
        let queryable = store.is_some();
        let (parent_id, supplier) = (self.at.id(), Arc::new(supplier));
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, Change<V>>(id)?;
            let old = OldValues {
                comes_in: lowering.decisions.sends_old(parent_id),
                goes_out: lowering.decisions.sends_old(id),
            };
            let store_name: Option<Arc<str>> = store.as_ref().map(|store| store.name().into());
            let supplier = Arc::clone(&supplier);
            let supplier = move || {
                let rows = store_name
                    .as_ref()
                    .map(|name| RowStore::new(Arc::clone(name), old.goes_out));
                supplier(old, rows)
            };
            lowering.add_processor(id, supplier, &[parent], store.as_ref())?;
            Ok(())
        });
        let at = self.at.child(kind, prefix, lower);
        KTable::new(at, key, value, rows, queryable)
    }

    /// The table's changes as a stream: the new row, or `None` when it is deleted. [`KStream::present_values`] leaves the deletions out.
    pub fn to_stream(&self) -> KStream<K, Option<V>> {
        let lower = declare::<K, Change<V>, K, Option<V>, _>(|| ToStream);
        let at = self
            .at
            .child(NodeKind::ToStream, naming::TABLE_TO_STREAM, lower);
        let value = self.value.as_ref().map(|value| {
            Arc::new(crate::null::OrNull(Arc::clone(value))) as SharedSerde<Option<V>>
        });
        KStream::new(at, Some(Arc::clone(&self.key)), value)
    }
}

/// What a view is, beside its operator.
struct View<K: StoreKey, V: Datum> {
    /// It passes on some of the rows only.
    filters: bool,
    prefix: &'static str,
    value: Option<SharedSerde<V>>,
    /// How its rows are read while they are not kept.
    rows: Arc<dyn Rows<K, V>>,
    materialized: Option<Materialized<K, V>>,
}

/// Whether changes carry old values.
#[derive(Clone, Copy)]
struct OldValues {
    comes_in: bool,
    goes_out: bool,
}
