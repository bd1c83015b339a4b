//! What the calls of a program leave behind, before it becomes a topology: nodes of one enum, in the order of the calls.
//!
//! | question | file |
//! |---|---|
//! | what is a node called | `naming.rs` |
//! | which sources are one, which tables need a store, who needs old values | `optimize.rs` |
//! | how the typed nodes of the topology are made | `lower.rs` |
//!
//! Types are known where a method of a handle is called, so each node carries a closure that declares its part of the topology with
//! these types. Everything else about it is plain data.

pub(crate) mod lower;
pub(crate) mod naming;
pub(crate) mod optimize;

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brooklet_streams_core::error::TopologyError;
use brooklet_streams_core::topology::AutoOffsetReset;

use lower::Lowering;
use naming::{Name, Names};

/// A node's place in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

/// Declares a node's part of the topology.
pub(crate) type Lower =
    Arc<dyn Fn(NodeId, &mut Lowering<'_>) -> Result<(), TopologyError> + Send + Sync>;

/// The calls made on one builder and its handles.
#[derive(Default)]
pub(crate) struct Plan {
    nodes: Vec<PlanNode>,
    pub(crate) names: Names,
    /// What the program got wrong, in order; building reports the first.
    problems: Vec<String>,
    /// The repartition that the joins of a re-keyed stream share.
    join_repartitions: HashMap<NodeId, NodeId>,
}

pub(crate) struct PlanNode {
    pub(crate) kind: NodeKind,
    pub(crate) name: Name,
    pub(crate) parents: Vec<NodeId>,
    /// Something upstream has made its keys since the last topic, so they may be on the wrong partition.
    is_rekeyed: bool,
    lower: Lower,
}

/// What a node is, as far as the plan has to know.
#[derive(Debug)]
pub(crate) enum NodeKind {
    /// Reads topics as a stream.
    StreamSource {
        /// In the order given.
        topics: Vec<String>,
        /// Of its `(K, V)`.
        types: TypeId,
        /// Where to begin without a committed offset, if that was said.
        offset_reset: Option<AutoOffsetReset>,
    },
    /// Reads a topic as a table; kept in a store when somebody reads its rows.
    TableSource {
        /// The store.
        store: String,
        /// Whether it is needed: by name, or by a join downstream.
        materialized: bool,
    },
    /// Reads all partitions of a topic into a store of every instance.
    GlobalTable {
        /// The store.
        store: String,
    },
    /// A stream whose keys are its parent's: `filter`, `map_values`, `peek`, a join, a branch.
    SameKey,
    /// A stream whose keys the user's code has made: `map`, `flat_map`, `select_key`, `process`.
    NewKey,
    /// Both parents as one stream.
    Merge,
    /// Through an internal topic, by key.
    Repartition {
        /// What its topic is called after.
        prefix: Prefix,
        /// A left join wants the records without a key, too.
        keeps_null_keys: bool,
    },
    /// Rows computed from a stream, in a store.
    Aggregate {
        /// The store.
        store: String,
    },
    /// A table made of its parent's rows, one by one.
    TableView {
        /// It passes on some of them only.
        filters: bool,
        /// Where its rows are kept; `None`: they are computed when somebody reads them.
        store: Option<String>,
    },
    /// A table's changes as a stream.
    ToStream,
    /// Nothing comes out: `to`, `for_each`.
    End,
}

/// What a repartition topic is called after.
#[derive(Clone, Debug)]
pub(crate) enum Prefix {
    /// A name that is known.
    Name(String),
    /// The name of a node, which may still be given.
    Node(NodeId),
}

impl Plan {
    /// Adds a node under its parents.
    pub(crate) fn add(
        &mut self,
        kind: NodeKind,
        name: Name,
        parents: Vec<NodeId>,
        lower: Lower,
    ) -> NodeId {
        let id = NodeId(self.nodes.len());
        let is_rekeyed = match kind {
            NodeKind::NewKey => true,
            NodeKind::SameKey | NodeKind::Merge => {
                parents.iter().any(|parent| self.node(*parent).is_rekeyed)
            }
            _ => false,
        };
        self.nodes.push(PlanNode {
            kind,
            name,
            parents,
            is_rekeyed,
            lower,
        });
        id
    }

    pub(crate) fn node(&self, id: NodeId) -> &PlanNode {
        #[allow(
            clippy::indexing_slicing,
            reason = "ids are made by `add` only, and nodes are never removed"
        )]
        &self.nodes[id.0]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut PlanNode {
        #[allow(
            clippy::indexing_slicing,
            reason = "ids are made by `add` only, and nodes are never removed"
        )]
        &mut self.nodes[id.0]
    }

    fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// The user names a node.
    pub(crate) fn give_name(&mut self, id: NodeId, name: String) {
        self.node_mut(id).name.given = Some(name);
    }

    /// Remembers what the program got wrong.
    pub(crate) fn report(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Whether the keys of this stream may be on the wrong partition: something upstream has made them since the last topic.
    pub(crate) fn needs_repartition(&self, id: NodeId) -> bool {
        self.node(id).is_rekeyed
    }

    /// Somebody reads rows of this table: the nearest table upstream that can keep them does so.
    pub(crate) fn materialize(&mut self, id: NodeId) {
        let node = self.node_mut(id);
        match &mut node.kind {
            NodeKind::TableSource { materialized, .. } => *materialized = true,
            NodeKind::TableView { store: None, .. } => {
                for parent in node.parents.clone() {
                    self.materialize(parent);
                }
            }
            _ => {}
        }
    }

    /// The store in which the rows behind this table are, if they are kept.
    pub(crate) fn store_behind(&self, id: NodeId) -> Option<&str> {
        let node = self.node(id);
        match &node.kind {
            NodeKind::TableSource {
                store,
                materialized: true,
                ..
            }
            | NodeKind::GlobalTable { store }
            | NodeKind::Aggregate { store }
            | NodeKind::TableView {
                store: Some(store), ..
            } => Some(store),
            NodeKind::TableView { store: None, .. } => node
                .parents
                .first()
                .and_then(|parent| self.store_behind(*parent)),
            _ => None,
        }
    }

    /// The repartition that an earlier join of this stream has made.
    pub(crate) fn join_repartition(&self, stream: NodeId) -> Option<NodeId> {
        self.join_repartitions.get(&stream).copied()
    }

    /// Later joins of `stream` use this repartition, as in Kafka Streams.
    pub(crate) fn remember_join_repartition(&mut self, stream: NodeId, repartition: NodeId) {
        self.join_repartitions.insert(stream, repartition);
    }

    /// A left join uses this repartition.
    pub(crate) fn keep_null_keys(&mut self, repartition: NodeId) {
        if let NodeKind::Repartition {
            keeps_null_keys, ..
        } = &mut self.node_mut(repartition).kind
        {
            *keeps_null_keys = true;
        }
    }
}

/// A node of a plan, with the plan: what every handle is.
#[derive(Clone)]
pub(crate) struct Handle {
    plan: Arc<Mutex<Plan>>,
    id: NodeId,
}

impl Handle {
    pub(crate) fn new(plan: &Arc<Mutex<Plan>>, id: NodeId) -> Self {
        Self {
            plan: Arc::clone(plan),
            id,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn at(&self, id: NodeId) -> Self {
        Self {
            plan: Arc::clone(&self.plan),
            id,
        }
    }

    pub(crate) fn plan(&self) -> MutexGuard<'_, Plan> {
        locked(&self.plan)
    }

    /// Adds a child of this node, with an automatic name.
    pub(crate) fn child(&self, kind: NodeKind, prefix: &str, lower: Lower) -> Self {
        let mut plan = self.plan();
        let name = Name::automatic(plan.names.node(prefix));
        let id = plan.add(kind, name, vec![self.id], lower);
        drop(plan);
        self.at(id)
    }

    /// Whether `other` belongs to the same builder; if not, building will say so.
    pub(crate) fn same_plan(&self, other: &Self, verb: &str) -> bool {
        let same = Arc::ptr_eq(&self.plan, &other.plan);
        if !same {
            self.plan().report(format!(
                "{verb}: the two sides were made by different StreamsBuilders"
            ));
        }
        same
    }
}

/// The plan. A panic in another thread while it was held cannot have left it half changed: every change is one push.
pub(crate) fn locked(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}
