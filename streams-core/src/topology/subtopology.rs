//! Which nodes run together: the connected components of the graph, through edges and shared stores.
//!
//! 1. Every edge unites its two nodes; every store unites the nodes connected to it. Global stores unite nothing but their own source
//!    and processor: everybody may read them.
//! 2. Components are numbered by their first node in order of declaration (Kafka Streams: upstream sub-topologies come first).
//!    Components of global stores take part in the numbering, and make no tasks.

use super::graph::{Graph, NodeKind};

/// One connected part of a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subtopology {
    /// Its number, as `describe()` prints it and task ids begin with it.
    pub id: u32,
    /// Whether it only keeps a global store, so that there are no tasks of it.
    pub global: bool,
    /// Its nodes by index, ascending.
    pub(crate) nodes: Vec<usize>,
}

impl Graph {
    pub(crate) fn subtopologies(&self) -> Vec<Subtopology> {
        let mut groups = Groups::new(self.nodes.len());
        for (index, node) in self.nodes.iter().enumerate() {
            for parent in &node.parents {
                groups.unite(*parent, index);
            }
        }
        for store in &self.stores {
            let mut users = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.stores.iter().any(|name| name == store.name()));
            if let Some((first, _)) = users.next() {
                users.for_each(|(user, _)| groups.unite(first, user));
            }
        }

        let mut found: Vec<(usize, Subtopology)> = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let root = groups.root(index);
            let position = match found.iter().position(|(of, _)| *of == root) {
                Some(position) => position,
                None => {
                    let id = u32::try_from(found.len()).unwrap_or(u32::MAX);
                    found.push((
                        root,
                        Subtopology {
                            id,
                            global: false,
                            nodes: Vec::new(),
                        },
                    ));
                    found.len() - 1
                }
            };
            if let Some((_, subtopology)) = found.get_mut(position) {
                subtopology.nodes.push(index);
                subtopology.global |= matches!(node.kind, NodeKind::Source { global: true, .. });
            }
        }
        found
            .into_iter()
            .map(|(_, subtopology)| subtopology)
            .collect()
    }
}

/// Disjoint sets of node indexes.
struct Groups(Vec<usize>);

impl Groups {
    fn new(count: usize) -> Self {
        Self((0..count).collect())
    }

    fn root(&self, mut index: usize) -> usize {
        while let Some(parent) = self.0.get(index).filter(|parent| **parent != index) {
            index = *parent;
        }
        index
    }

    fn unite(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        if let Some(parent) = self.0.get_mut(one.max(other)) {
            *parent = one.min(other);
        }
    }
}
