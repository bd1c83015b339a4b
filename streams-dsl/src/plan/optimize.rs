//! Decisions that need the whole plan: pure functions over it.

use std::collections::HashMap;

use brooklet_streams_core::error::TopologyError;

use super::{NodeId, NodeKind, Plan};

/// What was decided, beside the plan.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    /// Sources that read the topics of an earlier source: that one does their work.
    same_as: HashMap<NodeId, NodeId>,
    /// By node: whether its changes carry old values.
    sends_old: Vec<bool>,
}

impl Decisions {
    /// The earlier source that does this one's work.
    pub(crate) fn same_as(&self, source: NodeId) -> Option<NodeId> {
        self.same_as.get(&source).copied()
    }

    /// Whether the changes out of this table carry old values.
    pub(crate) fn sends_old(&self, table: NodeId) -> bool {
        self.sends_old.get(table.0).copied().unwrap_or(false)
    }
}

/// Decides.
///
/// # Errors
/// The first thing that the program got wrong.
pub(crate) fn decide(plan: &Plan) -> Result<Decisions, TopologyError> {
    if let Some(problem) = plan.problems.first() {
        return Err(TopologyError::Invalid(problem.clone()));
    }
    Ok(Decisions {
        same_as: shared_sources(plan)?,
        sends_old: old_values(plan),
    })
}

/// Streams of the same topics are read once.
fn shared_sources(plan: &Plan) -> Result<HashMap<NodeId, NodeId>, TopologyError> {
    let mut first_of: HashMap<Vec<&str>, NodeId> = HashMap::new();
    let mut same_as = HashMap::new();
    for id in plan.ids() {
        let NodeKind::StreamSource { topics, types } = &plan.node(id).kind else {
            continue;
        };
        let mut sorted: Vec<&str> = topics.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let Some(&first) = first_of.get(&sorted) else {
            first_of.insert(sorted, id);
            continue;
        };
        if !matches!(&plan.node(first).kind, NodeKind::StreamSource { types: of_first, .. } if of_first == types)
        {
            return Err(TopologyError::Invalid(format!(
                "topic {} is read twice with different types, by {} and {}; read it once, and map the values",
                sorted.join(", "),
                plan.node(first).name.as_str(),
                plan.node(id).name.as_str()
            )));
        }
        same_as.insert(id, first);
    }
    Ok(same_as)
}

/// A filter of rows that are kept somewhere wants to know the old ones: then it can tell the rows that it never passed on, and their
/// tombstones stay away (Kafka's KAFKA-10077).
fn old_values(plan: &Plan) -> Vec<bool> {
    let mut sends_old = vec![false; plan.nodes.len()];
    for id in plan.ids() {
        if !matches!(plan.node(id).kind, NodeKind::TableFilter) || plan.store_behind(id).is_none() {
            continue;
        }
        let mut wanted = plan.node(id).parents.clone();
        while let Some(table) = wanted.pop() {
            let Some(sends) = sends_old.get_mut(table.0) else {
                continue;
            };
            *sends = true;
            let node = plan.node(table);
            if matches!(node.kind, NodeKind::TableFilter | NodeKind::TableMapValues) {
                wanted.extend(&node.parents);
            }
        }
    }
    sends_old
}
