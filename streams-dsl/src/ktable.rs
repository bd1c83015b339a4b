//! `KTable`: a stream of changes of rows, and its operators.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::SharedSerde;
use brooklet_streams_core::topology::Node;
use brooklet_streams_core::typed_store::StoreKey;

use crate::change::Change;
use crate::kstream::{KStream, declare};
use crate::operators::table_filter::TableFilter;
use crate::operators::table_map_values::TableMapValues;
use crate::operators::to_stream::ToStream;
use crate::outcome::Verdict;
use crate::plan::naming;
use crate::plan::{Handle, Lower, NodeKind};
use crate::rows::{Filtered, Mapped, Rows};

/// A table: the latest row of each key. A nameable, cheaply cloned handle on a node of the plan.
///
/// A table that was aggregated is kept in a store; one that was read from a topic only when its store is named or rows of it are looked up by a
/// join; a filtered or mapped one is computed from the table it comes from.
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
        self.filtered(predicate, true)
    }

    /// The rows that the predicate rejects; otherwise as [`KTable::filter`].
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
        let parent_id = self.at.id();
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
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, Change<V>>(id)?;
            let (knows_old, sends_old) = (
                lowering.decisions.sends_old(parent_id),
                lowering.decisions.sends_old(id),
            );
            let predicate = Arc::clone(&predicate);
            let supplier = move || TableFilter {
                predicate: Arc::clone(&predicate),
                passes,
                knows_old,
                sends_old,
            };
            let node: Node<K, Change<V>> =
                lowering
                    .topology
                    .add_processor(lowering.name(id), supplier, &[parent])?;
            lowering.set_output(id, node);
            Ok(())
        });
        let at = self
            .at
            .child(NodeKind::TableFilter, naming::TABLE_FILTER, lower);
        Self::new(
            at,
            Arc::clone(&self.key),
            self.value.clone(),
            Arc::new(rows),
            false,
        )
    }

    /// Another value for each row. The closure is not called for deleted rows; it may be called again for a row that is looked up.
    pub fn map_values<V2: Datum>(
        &self,
        mapper: impl Fn(&K, &V) -> V2 + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.values_mapped(move |key, row| Ok(mapper(key, row)))
    }

    /// As [`KTable::map_values`], with a closure that can fail.
    pub fn try_map_values<V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(&K, &V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        self.values_mapped(move |key, row| mapper(key, row).map_err(ProcessError::new))
    }

    fn values_mapped<V2: Datum>(
        &self,
        mapper: impl Fn(&K, &V) -> Result<V2, ProcessError> + Send + Sync + 'static,
    ) -> KTable<K, V2> {
        let mapper = Arc::new(mapper);
        let rows = Mapped {
            parent: Arc::clone(&self.rows),
            mapper: Arc::clone(&mapper),
        };
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, Change<V>>(id)?;
            let sends_old = lowering.decisions.sends_old(id);
            let mapper = Arc::clone(&mapper);
            let supplier = move || TableMapValues {
                mapper: Arc::clone(&mapper),
                sends_old,
            };
            let node: Node<K, Change<V2>> =
                lowering
                    .topology
                    .add_processor(lowering.name(id), supplier, &[parent])?;
            lowering.set_output(id, node);
            Ok(())
        });
        let at = self
            .at
            .child(NodeKind::TableMapValues, naming::TABLE_MAP_VALUES, lower);
        KTable::new(at, Arc::clone(&self.key), None, Arc::new(rows), false)
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
