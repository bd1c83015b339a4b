//! Decisions that need the whole plan: pure functions over it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

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
    let mut first_of = HashMap::new();
    let mut same_as = HashMap::new();
    for id in plan.ids() {
        let NodeKind::StreamSource {
            topics,
            types,
            offset_reset,
        } = &plan.node(id).kind
        else {
            continue;
        };
        let mut sorted: Vec<&str> = topics.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        let differ = |first: NodeId, what: &str, way_out: &str| {
            Err(TopologyError::Invalid(format!(
                "topic {} is read twice with different {what}, by {} and {}; {way_out}",
                topics.join(", "),
                plan.node(first).name.as_str(),
                plan.node(id).name.as_str()
            )))
        };
        match first_of.entry(sorted) {
            Entry::Vacant(vacant) => {
                vacant.insert((id, types, offset_reset));
            }
            Entry::Occupied(first) => {
                let (first, first_types, first_reset) = *first.get();
                if first_types != types {
                    return differ(first, "types", "read it once, and map the values");
                }
                if first_reset != offset_reset {
                    return differ(first, "offset resets", "say the same at both");
                }
                same_as.insert(id, first);
            }
        }
    }
    Ok(same_as)
}

/// A filter of rows that are kept somewhere wants to know the old ones: then it can tell the rows that it never passed on, and their
/// tombstones stay away (Kafka's KAFKA-10077). They come from the nearest store upstream of it.
fn old_values(plan: &Plan) -> Vec<bool> {
    let mut sends_old = vec![false; plan.nodes.len()];
    for id in plan.ids() {
        let node = plan.node(id);
        let filters = matches!(node.kind, NodeKind::TableView { filters: true, .. });
        let mut wanted = node.parents.clone();
        wanted.retain(|parent| filters && plan.store_behind(*parent).is_some());
        while let Some(table) = wanted.pop() {
            if let Some(sends) = sends_old.get_mut(table.0) {
                *sends = true;
            }
            let node = plan.node(table);
            if matches!(node.kind, NodeKind::TableView { store: None, .. }) {
                wanted.extend(&node.parents);
            }
        }
    }
    sends_old
}
