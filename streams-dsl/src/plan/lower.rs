//! The plan becomes a topology: each node's closure declares it, parents first.

use std::any::Any;
use std::sync::Arc;

use brooklet_streams_core::error::TopologyError;
use brooklet_streams_core::processor::ProcessorSupplier;
use brooklet_streams_core::record::Datum;
use brooklet_streams_core::topology::{Node, Topology, TopologyBuilder};
use brooklet_streams_core::typed_store::StoreBuilder;

use super::naming::RepartitionNames;
use super::optimize::{Decisions, decide};
use super::{NodeId, NodeKind, Plan, Prefix};

/// The topology of a plan.
///
/// # Errors
/// What the program got wrong, or what the topology refuses: a name used twice, a topic read twice.
pub(crate) fn lower(plan: &Plan) -> Result<Topology, TopologyError> {
    let decisions = decide(plan)?;
    let mut lowering = Lowering {
        plan,
        decisions,
        topology: Topology::builder(),
        outputs: Vec::new(),
    };
    for id in plan.ids() {
        lowering.outputs.push(None);
        (plan.node(id).lower)(id, &mut lowering)?;
    }
    lowering.topology.build()
}

/// A plan on its way to a topology.
pub(crate) struct Lowering<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) decisions: Decisions,
    pub(crate) topology: TopologyBuilder,
    /// By node of the plan: the `Node<K, V>` of the topology whose records are its output.
    outputs: Vec<Option<Box<dyn Any>>>,
}

impl Lowering<'_> {
    /// The node's name.
    pub(crate) fn name(&self, id: NodeId) -> String {
        self.plan.node(id).name.as_str().to_owned()
    }

    /// The user's name of the node.
    pub(crate) fn given_name(&self, id: NodeId) -> Option<&str> {
        self.plan.node(id).name.given.as_deref()
    }

    /// The only parent, or the first.
    ///
    /// # Errors
    /// As [`Lowering::output`].
    pub(crate) fn parent<K: Datum, V: Datum>(
        &self,
        id: NodeId,
    ) -> Result<Node<K, V>, TopologyError> {
        let parent = self
            .plan
            .node(id)
            .parents
            .first()
            .ok_or_else(|| self.lost(id))?;
        self.output(*parent)
    }

    /// What the topology has for a node of the plan.
    ///
    /// # Errors
    /// When that node has no output of these types, which the typed handles exclude.
    pub(crate) fn output<K: Datum, V: Datum>(
        &self,
        id: NodeId,
    ) -> Result<Node<K, V>, TopologyError> {
        let output = self.outputs.get(id.0).and_then(Option::as_ref);
        output
            .and_then(|output| output.downcast_ref::<Node<K, V>>())
            .copied()
            .ok_or_else(|| self.lost(id))
    }

    /// Declares the node's processor, with the store of its own that it has, if it has one.
    ///
    /// # Errors
    /// What the topology refuses: a name used twice.
    pub(crate) fn add_processor<K: Datum, V: Datum, K2: Datum, V2: Datum>(
        &mut self,
        id: NodeId,
        supplier: impl ProcessorSupplier<K, V, K2, V2>,
        parents: &[Node<K, V>],
        store: Option<&Arc<dyn StoreBuilder>>,
    ) -> Result<Node<K2, V2>, TopologyError> {
        let node = self
            .topology
            .add_processor(self.name(id), supplier, parents)?;
        if let Some(store) = store {
            self.topology.add_shared_state_store(Arc::clone(store))?;
            self.topology.connect(node, &[store.name()])?;
        }
        self.set_output(id, node);
        Ok(node)
    }

    /// Children of `id` are children of `node`.
    pub(crate) fn set_output<K: Datum, V: Datum>(&mut self, id: NodeId, node: Node<K, V>) {
        if let Some(output) = self.outputs.get_mut(id.0) {
            *output = Some(Box::new(node));
        }
    }

    /// Names around the repartition topic that `id` stands for.
    ///
    /// # Errors
    /// When it stands for none.
    pub(crate) fn repartition_names(
        &self,
        id: NodeId,
        numbers: &super::naming::RepartitionNumbers,
    ) -> Result<RepartitionNames, TopologyError> {
        if let Some(given) = self.given_name(id) {
            return Ok(numbers.resolve(given));
        }
        match &self.plan.node(id).kind {
            NodeKind::Repartition {
                prefix: Prefix::Name(name),
                ..
            } => Ok(numbers.resolve(name)),
            NodeKind::Repartition {
                prefix: Prefix::Node(node),
                ..
            } => Ok(numbers.resolve(self.plan.node(*node).name.as_str())),
            _ => Err(self.lost(id)),
        }
    }

    /// The store in which the rows behind this table are.
    ///
    /// # Errors
    /// When there is none, which those who read rows exclude by asking for it in the plan.
    pub(crate) fn store_behind(&self, table: NodeId) -> Result<String, TopologyError> {
        self.plan
            .store_behind(table)
            .map(str::to_owned)
            .ok_or_else(|| self.lost(table))
    }

    /// Whether records without a key pass this repartition.
    pub(crate) fn keeps_null_keys(&self, id: NodeId) -> bool {
        matches!(
            self.plan.node(id).kind,
            NodeKind::Repartition {
                keeps_null_keys: true,
                ..
            }
        )
    }

    fn lost(&self, id: NodeId) -> TopologyError {
        TopologyError::Invalid(format!(
            "node {} has no output of the expected types",
            self.plan.node(id).name.as_str()
        ))
    }
}
