//! The graph that a builder leaves behind: nodes by index, parents before children.

use std::sync::Arc;

use super::options::AutoOffsetReset;
use crate::task::{BuildNode, BuildSource};
use crate::typed_store::StoreBuilder;

/// A node's place in its topology, counted from zero in order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub(crate) usize);

/// Everything that was declared.
#[derive(Default)]
pub(crate) struct Graph {
    /// In order of declaration, so every parent comes before its children.
    pub(crate) nodes: Vec<GraphNode>,
    /// In order of declaration.
    pub(crate) stores: Vec<DeclaredStore>,
    /// In order of declaration.
    pub(crate) internal_topics: Vec<InternalTopicSpec>,
    /// Groups of source nodes that must have the same number of partitions.
    pub(crate) copartition_groups: Vec<Vec<usize>>,
}

pub(crate) struct GraphNode {
    pub(crate) name: Arc<str>,
    pub(crate) parents: Vec<usize>,
    /// In order of declaration, which is the order of forwarding.
    pub(crate) children: Vec<usize>,
    /// Names of the stores it may use, in order of connection.
    pub(crate) stores: Vec<String>,
    pub(crate) kind: NodeKind,
}

pub(crate) enum NodeKind {
    Source {
        topics: Vec<String>,
        offset_reset: Option<AutoOffsetReset>,
        /// Whether it reads all partitions, for a global store.
        global: bool,
        build: Arc<dyn BuildSource>,
    },
    Processor {
        build: Arc<dyn BuildNode>,
    },
    Sink {
        /// `None`: an extractor chooses it for each record.
        topic: Option<String>,
        build: Arc<dyn BuildNode>,
    },
}

pub(crate) struct DeclaredStore {
    pub(crate) builder: Arc<dyn StoreBuilder>,
    /// The topic that a global store holds; `None` for a store of tasks.
    pub(crate) global_topic: Option<String>,
}

impl DeclaredStore {
    pub(crate) fn name(&self) -> &str {
        self.builder.name()
    }
}

/// A repartition topic, without the application's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InternalTopicSpec {
    pub(crate) name: String,
    /// Asked for by the user (`Repartitioned::partitions`), else derived.
    pub(crate) partitions: Option<i32>,
}

impl Graph {
    pub(crate) fn node(&self, index: usize) -> &GraphNode {
        #[allow(
            clippy::indexing_slicing,
            reason = "indexes are made by the builder only, and nodes are never removed"
        )]
        &self.nodes[index]
    }

    pub(crate) fn node_named(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| &*node.name == name)
    }

    pub(crate) fn store(&self, name: &str) -> Option<&DeclaredStore> {
        self.stores.iter().find(|store| store.name() == name)
    }

    pub(crate) fn is_internal(&self, topic: &str) -> bool {
        self.internal_topics
            .iter()
            .any(|internal| internal.name == topic)
    }

    /// The topic's name on the cluster: internal ones carry the application's id.
    pub(crate) fn cluster_topic(&self, application_id: &str, topic: &str) -> String {
        if self.is_internal(topic) {
            format!("{application_id}-{topic}")
        } else {
            topic.to_owned()
        }
    }

    /// The sources that `index` gets its records from.
    pub(crate) fn sources_above(&self, index: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut open = vec![index];
        while let Some(index) = open.pop() {
            match seen.get_mut(index) {
                Some(seen) if !*seen => *seen = true,
                _ => continue,
            }
            let node = self.node(index);
            if matches!(node.kind, NodeKind::Source { .. }) {
                found.push(index);
            }
            open.extend(&node.parents);
        }
        found.sort_unstable();
        found
    }
}
