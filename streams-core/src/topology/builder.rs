//! Declares a topology node by node; every mistake is reported where it is made.

use std::marker::PhantomData;
use std::sync::Arc;

use super::Topology;
use super::graph::{DeclaredStore, Graph, GraphNode, InternalTopicSpec, NodeIndex, NodeKind};
use super::options::{Consumed, Produced, Typed};
use crate::error::{ProcessError, TopologyError};
use crate::processor::{InitContext, Processor, ProcessorContext, ProcessorSupplier, TaskContext};
use crate::record::{Datum, Record};
use crate::task::{ProcessorFactory, SinkFactory, SourceFactory};
use crate::typed_store::{StoreBuilder, StoreKey, TimestampedKeyValueStore};

/// Longest name of a topic, a node or a store.
const NAME_BYTES_MAX: usize = 249;

/// A node that sends records of type `K, V` to its children: the handle that makes unequal types a compile error.
pub struct Node<K, V> {
    index: usize,
    typed: Typed<K, V>,
}

impl<K, V> Node<K, V> {
    fn at(index: usize) -> Self {
        Self {
            index,
            typed: PhantomData,
        }
    }

    /// Its place in the topology.
    pub fn index(&self) -> NodeIndex {
        NodeIndex(self.index)
    }
}

impl<K, V> Clone for Node<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Node<K, V> {}

impl<K, V> std::fmt::Debug for Node<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.index)
    }
}

/// Whatever names a node of a topology.
pub trait NodeIndexOf {
    /// The node's place.
    fn node_index(&self) -> NodeIndex;
}

impl NodeIndexOf for NodeIndex {
    fn node_index(&self) -> NodeIndex {
        *self
    }
}

impl<K, V> NodeIndexOf for Node<K, V> {
    fn node_index(&self) -> NodeIndex {
        self.index()
    }
}

/// Where a sink writes: one topic, or one chosen for each record (KIP-303).
pub enum TopicChoice<K, V> {
    /// Always this topic.
    Fixed(String),
    /// The topic that the closure names. It must exist.
    Dynamic(Arc<TopicExtractor<K, V>>),
}

/// Names the topic of a record.
pub type TopicExtractor<K, V> = dyn Fn(&Record<K, V>, &TaskContext) -> String + Send + Sync;

impl<K, V> TopicChoice<K, V> {
    /// The topic that the closure names for each record.
    pub fn dynamic(
        extractor: impl Fn(&Record<K, V>, &TaskContext) -> String + Send + Sync + 'static,
    ) -> Self {
        Self::Dynamic(Arc::new(extractor))
    }
}

impl<K, V> From<&str> for TopicChoice<K, V> {
    fn from(topic: &str) -> Self {
        Self::Fixed(topic.to_owned())
    }
}

impl<K, V> From<String> for TopicChoice<K, V> {
    fn from(topic: String) -> Self {
        Self::Fixed(topic)
    }
}

/// A topic of the application's own, whose name on the cluster begins with the application's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalTopic(InternalTopicSpec);

impl InternalTopic {
    /// A repartition topic. Without a number of partitions it gets as many as the widest topic that is written into it.
    pub fn repartition(name: impl Into<String>, partitions: Option<i32>) -> Self {
        Self(InternalTopicSpec {
            name: name.into(),
            partitions,
        })
    }
}

/// Declares a topology: sources, processors, sinks and stores (Kafka Streams' `Topology`).
///
/// ```
/// use brooklet_streams_core::ProcessError;
/// use brooklet_streams_core::processor::{Processor, ProcessorContext};
/// use brooklet_streams_core::record::Record;
/// use brooklet_streams_core::topology::{Consumed, Produced, Topology};
///
/// struct Shout;
///
/// impl Processor<String, String, String, String> for Shout {
///     fn process(&mut self, record: Record<String, String>, context: &mut ProcessorContext<'_, String, String>) -> Result<(), ProcessError> {
///         let loud = record.value.to_uppercase();
///         context.forward(record.with_value(loud))
///     }
/// }
///
/// # fn main() -> Result<(), brooklet_streams_core::error::TopologyError> {
/// let mut builder = Topology::builder();
/// let words = builder.add_source::<String, String>("words", ["quiet"], Consumed::default())?;
/// let shouted = builder.add_processor("shout", || Shout, &[words])?;
/// builder.add_sink("out", "loud", Produced::default(), &[shouted])?;
/// let topology = builder.build()?;
/// assert!(topology.describe().to_string().contains("Processor: shout (stores: [])"));
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
pub struct TopologyBuilder {
    graph: Graph,
}

impl TopologyBuilder {
    /// Declares a source: reads `topics`, which are one stream without order between them.
    ///
    /// # Errors
    /// When a name is taken or malformed, there is no topic, or another source reads one of the topics.
    pub fn add_source<K: Datum, V: Datum>(
        &mut self,
        name: impl Into<String>,
        topics: impl IntoIterator<Item: Into<String>>,
        consumed: Consumed<K, V>,
    ) -> Result<Node<K, V>, TopologyError> {
        let name = self.new_node_name(name.into())?;
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        if topics.is_empty() {
            return Err(TopologyError::Invalid(format!(
                "source {name} has no topic"
            )));
        }
        for (position, topic) in topics.iter().enumerate() {
            check_name(topic)?;
            let within = topics.iter().take(position).any(|other| other == topic);
            if within || self.source_of(topic).is_some() {
                let other = self.source_of(topic).unwrap_or_else(|| name.clone());
                return Err(TopologyError::Invalid(format!(
                    "source {name}: topic {topic} is already read by source {other}"
                )));
            }
        }
        let offset_reset = consumed.offset_reset;
        let build = Arc::new(SourceFactory::new(consumed));
        Ok(self.push(
            name,
            &[],
            NodeKind::Source {
                topics,
                offset_reset,
                global: false,
                build,
            },
        ))
    }

    /// Declares a processor below `parents`.
    ///
    /// # Errors
    /// When the name is taken or malformed, or there is no parent.
    pub fn add_processor<KIn: Datum, VIn: Datum, KOut: Datum, VOut: Datum>(
        &mut self,
        name: impl Into<String>,
        supplier: impl ProcessorSupplier<KIn, VIn, KOut, VOut>,
        parents: &[Node<KIn, VIn>],
    ) -> Result<Node<KOut, VOut>, TopologyError> {
        let name = self.new_node_name(name.into())?;
        let parents = self.parents(&name, parents)?;
        let build = Arc::new(ProcessorFactory::new(supplier));
        Ok(self.push(name, &parents, NodeKind::Processor { build }))
    }

    /// Declares a sink: writes what `parents` send to a topic. The topic must exist, unless it is declared as internal.
    ///
    /// # Errors
    /// When a name is taken or malformed, or there is no parent.
    pub fn add_sink<K: Datum, V: Datum>(
        &mut self,
        name: impl Into<String>,
        topic: impl Into<TopicChoice<K, V>>,
        produced: Produced<K, V>,
        parents: &[Node<K, V>],
    ) -> Result<Node<K, V>, TopologyError> {
        let name = self.new_node_name(name.into())?;
        let topic = topic.into();
        let fixed = match &topic {
            TopicChoice::Fixed(topic) => {
                check_name(topic)?;
                Some(topic.clone())
            }
            TopicChoice::Dynamic(_) => None,
        };
        let parents = self.parents(&name, parents)?;
        let build = Arc::new(SinkFactory::new(topic, produced));
        Ok(self.push(
            name,
            &parents,
            NodeKind::Sink {
                topic: fixed,
                build,
            },
        ))
    }

    /// Declares a store. No node may use it before it is connected.
    ///
    /// # Errors
    /// When the name is taken or malformed.
    pub fn add_state_store(&mut self, builder: impl StoreBuilder) -> Result<(), TopologyError> {
        self.add_shared_state_store(Arc::new(builder))
    }

    /// As [`TopologyBuilder::add_state_store`], for a builder that is shared already.
    ///
    /// # Errors
    /// When the name is taken or malformed.
    pub fn add_shared_state_store(
        &mut self,
        builder: Arc<dyn StoreBuilder>,
    ) -> Result<(), TopologyError> {
        self.push_store(DeclaredStore {
            builder,
            global_topic: None,
        })
    }

    /// Lets a processor use stores. Processors that share a store run in the same sub-topology.
    ///
    /// # Errors
    /// When the node is not a processor, or a store is not declared, or is global (those need no connection).
    pub fn connect(
        &mut self,
        node: impl NodeIndexOf,
        stores: &[&str],
    ) -> Result<(), TopologyError> {
        let index = node.node_index().0;
        for store in stores {
            match self.graph.store(store) {
                None => {
                    return Err(TopologyError::Unknown {
                        what: "store",
                        name: (*store).to_owned(),
                    });
                }
                Some(declared) if declared.global_topic.is_some() => {
                    return Err(TopologyError::Invalid(format!(
                        "global store {store} can be read by every processor without being connected"
                    )));
                }
                Some(_) => {}
            }
        }
        match self.graph.nodes.get_mut(index) {
            Some(node) if matches!(node.kind, NodeKind::Processor { .. }) => {
                for store in stores {
                    if !node.stores.iter().any(|connected| connected == store) {
                        node.stores.push((*store).to_owned());
                    }
                }
                Ok(())
            }
            Some(node) => Err(TopologyError::Invalid(format!(
                "{} is a source or a sink: stores connect to processors only",
                node.name
            ))),
            None => Err(TopologyError::Unknown {
                what: "node",
                name: index.to_string(),
            }),
        }
    }

    /// Declares a global store: each instance keeps all of `topic` in it, and every processor may read it (KIP-99). It has no changelog,
    /// since its topic is one.
    ///
    /// # Errors
    /// When a name is taken or malformed, or another source reads the topic.
    pub fn add_global_store<K: StoreKey, V: Datum>(
        &mut self,
        store: impl StoreBuilder,
        source_name: impl Into<String>,
        topic: impl Into<String>,
        consumed: Consumed<K, Option<V>>,
        processor_name: impl Into<String>,
    ) -> Result<(), TopologyError> {
        let source_name = self.new_node_name(source_name.into())?;
        let processor_name = self.new_node_name(processor_name.into())?;
        if source_name == processor_name {
            return Err(TopologyError::Duplicate {
                what: "node",
                name: processor_name,
            });
        }
        let topic = topic.into();
        check_name(&topic)?;
        if let Some(other) = self.source_of(&topic) {
            return Err(TopologyError::Invalid(format!(
                "source {source_name}: topic {topic} is already read by source {other}"
            )));
        }
        let store_name = store.name().to_owned();
        self.push_store(DeclaredStore {
            builder: Arc::new(store),
            global_topic: Some(topic.clone()),
        })?;
        let build = Arc::new(SourceFactory::new(consumed));
        let source: Node<K, Option<V>> = self.push(
            source_name,
            &[],
            NodeKind::Source {
                topics: vec![topic],
                offset_reset: None,
                global: true,
                build,
            },
        );
        let name = store_name.clone();
        let supplier = move || GlobalUpdate::<K, V> {
            name: name.clone(),
            store: None,
        };
        let processor: Node<(), ()> = self.add_processor(processor_name, supplier, &[source])?;
        if let Some(node) = self.graph.nodes.get_mut(processor.index) {
            node.stores.push(store_name);
        }
        Ok(())
    }

    /// Declares a topic of the application's own: sources and sinks that name it get the application's id in front at run time.
    ///
    /// # Errors
    /// When the name is taken or malformed, or the number of partitions is not positive.
    pub fn add_internal_topic(&mut self, topic: InternalTopic) -> Result<(), TopologyError> {
        check_name(&topic.0.name)?;
        if self.graph.is_internal(&topic.0.name) {
            return Err(TopologyError::Duplicate {
                what: "internal topic",
                name: topic.0.name,
            });
        }
        if let Some(partitions) = topic.0.partitions.filter(|partitions| *partitions < 1) {
            return Err(TopologyError::Invalid(format!(
                "internal topic {}: {partitions} partitions; there must be at least one",
                topic.0.name
            )));
        }
        self.graph.internal_topics.push(topic.0);
        Ok(())
    }

    /// Demands that the sources above these nodes have the same number of partitions: records of one key must meet in one task.
    ///
    /// # Errors
    /// When a node is not of this topology.
    pub fn copartition(
        &mut self,
        nodes: impl IntoIterator<Item = NodeIndex>,
    ) -> Result<(), TopologyError> {
        let mut sources = Vec::new();
        for NodeIndex(index) in nodes {
            if index >= self.graph.nodes.len() {
                return Err(TopologyError::Unknown {
                    what: "node",
                    name: index.to_string(),
                });
            }
            sources.extend(self.graph.sources_above(index));
        }
        sources.sort_unstable();
        sources.dedup();
        self.graph.copartition_groups.push(sources);
        Ok(())
    }

    /// The topology.
    ///
    /// # Errors
    /// When there is no source, or a store is connected to nothing.
    pub fn build(self) -> Result<Topology, TopologyError> {
        let graph = self.graph;
        if !graph
            .nodes
            .iter()
            .any(|node| matches!(node.kind, NodeKind::Source { .. }))
        {
            return Err(TopologyError::Invalid(
                "the topology has no source: there is nothing to read".to_owned(),
            ));
        }
        for store in &graph.stores {
            if !graph
                .nodes
                .iter()
                .any(|node| node.stores.iter().any(|name| name == store.name()))
            {
                return Err(TopologyError::Invalid(format!(
                    "store {} is connected to no processor: call connect(processor, &[{:?}])",
                    store.name(),
                    store.name()
                )));
            }
        }
        for topic in &graph.internal_topics {
            if !graph.nodes.iter().any(|node| matches!(&node.kind, NodeKind::Sink { topic: Some(name), .. } if *name == topic.name)) {
                return Err(TopologyError::Invalid(format!("nothing is written to internal topic {}", topic.name)));
            }
        }
        Ok(Topology {
            graph: Arc::new(graph),
        })
    }

    fn push<K, V>(&mut self, name: String, parents: &[usize], kind: NodeKind) -> Node<K, V> {
        let index = self.graph.nodes.len();
        for parent in parents {
            if let Some(parent) = self.graph.nodes.get_mut(*parent) {
                parent.children.push(index);
            }
        }
        self.graph.nodes.push(GraphNode {
            name: name.into(),
            parents: parents.to_vec(),
            children: Vec::new(),
            stores: Vec::new(),
            kind,
        });
        Node::at(index)
    }

    fn push_store(&mut self, store: DeclaredStore) -> Result<(), TopologyError> {
        check_name(store.name())?;
        if self.graph.store(store.name()).is_some() {
            return Err(TopologyError::Duplicate {
                what: "store",
                name: store.name().to_owned(),
            });
        }
        self.graph.stores.push(store);
        Ok(())
    }

    fn new_node_name(&self, name: String) -> Result<String, TopologyError> {
        check_name(&name)?;
        if self.graph.node_named(&name).is_some() {
            return Err(TopologyError::Duplicate { what: "node", name });
        }
        Ok(name)
    }

    fn parents<K, V>(
        &self,
        name: &str,
        parents: &[Node<K, V>],
    ) -> Result<Vec<usize>, TopologyError> {
        if parents.is_empty() {
            return Err(TopologyError::Invalid(format!("node {name} has no parent")));
        }
        let mut indexes = Vec::with_capacity(parents.len());
        for Node { index, .. } in parents {
            match self.graph.nodes.get(*index) {
                None => {
                    return Err(TopologyError::Unknown {
                        what: "node",
                        name: index.to_string(),
                    });
                }
                Some(parent) if matches!(parent.kind, NodeKind::Sink { .. }) => {
                    return Err(TopologyError::Invalid(format!(
                        "node {name}: its parent {} is a sink, which sends nothing",
                        parent.name
                    )));
                }
                Some(_) if indexes.contains(index) => {
                    return Err(TopologyError::Invalid(format!(
                        "node {name} names the same parent twice"
                    )));
                }
                Some(_) => indexes.push(*index),
            }
        }
        Ok(indexes)
    }

    fn source_of(&self, topic: &str) -> Option<String> {
        let reads = |node: &&GraphNode| matches!(&node.kind, NodeKind::Source { topics, .. } if topics.iter().any(|name| name == topic));
        self.graph
            .nodes
            .iter()
            .find(reads)
            .map(|node| node.name.to_string())
    }
}

/// Kafka's rule for topics (`Topic#validate`), which nodes and stores follow since topics are named after them.
pub(crate) fn check_name(name: &str) -> Result<(), TopologyError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits && name != "." && name != ".." {
        Ok(())
    } else {
        Err(TopologyError::InvalidName {
            name: name.to_owned(),
        })
    }
}

/// Keeps a global store: the last offset of a key wins, a null deletes.
struct GlobalUpdate<K: StoreKey, V: Datum> {
    name: String,
    store: Option<TimestampedKeyValueStore<K, V>>,
}

impl<K: StoreKey, V: Datum> Processor<K, Option<V>, (), ()> for GlobalUpdate<K, V> {
    fn init(&mut self, context: &mut InitContext<'_, (), ()>) -> Result<(), ProcessError> {
        self.store = Some(context.key_value_store(&self.name)?);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<K, Option<V>>,
        context: &mut ProcessorContext<'_, (), ()>,
    ) -> Result<(), ProcessError> {
        let store = self
            .store
            .as_ref()
            .ok_or_else(|| ProcessError::new("processes before it is initialised"))?;
        // Nobody listens to a global store.
        let _ = store.put(&record.key, record.value, record.timestamp, context)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::typed_store::KeyValueStoreBuilder;

    struct Ends;

    impl Processor<String, String, String, String> for Ends {
        fn process(
            &mut self,
            _record: Record<String, String>,
            _context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            Ok(())
        }
    }

    fn strings() -> Consumed<String, String> {
        Consumed::default()
    }

    /// What the last step of a declaration answers.
    fn refused(declare: impl FnOnce(&mut TopologyBuilder) -> Result<(), TopologyError>) -> String {
        let mut builder = Topology::builder();
        declare(&mut builder)
            .and_then(|()| builder.build().map(|_| ()))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn mistakes_are_reported_with_the_names_that_are_wrong() {
        assert_eq!(
            refused(|_| Ok(())),
            "the topology has no source: there is nothing to read"
        );
        assert_eq!(
            refused(|builder| {
                builder.add_source("a", ["t"], strings())?;
                builder.add_source("a", ["u"], strings()).map(|_| ())
            }),
            "node a is declared twice; give one of them another name"
        );
        assert_eq!(
            refused(|builder| {
                builder.add_source("a", ["t"], strings())?;
                builder.add_source("b", ["t"], strings()).map(|_| ())
            }),
            "source b: topic t is already read by source a"
        );
        assert_eq!(
            refused(|builder| builder.add_source("a", ["t", "t"], strings()).map(|_| ())),
            "source a: topic t is already read by source a"
        );
        assert_eq!(
            refused(|builder| builder
                .add_source("a", Vec::<String>::new(), strings())
                .map(|_| ())),
            "source a has no topic"
        );
        assert_eq!(
            refused(|builder| builder.add_source("a b", ["t"], strings()).map(|_| ())),
            "\"a b\" is not a valid name: use 1 to 249 of the letters a-z, A-Z, digits, '.', '_' and '-'"
        );
        assert_eq!(
            refused(|builder| builder.add_processor("p", || Ends, &[]).map(|_| ())),
            "node p has no parent"
        );
        assert_eq!(
            refused(|builder| {
                let source = builder.add_source("a", ["t"], strings())?;
                let sink = builder.add_sink("s", "o", Produced::default(), &[source])?;
                builder.add_processor("p", || Ends, &[sink]).map(|_| ())
            }),
            "node p: its parent s is a sink, which sends nothing"
        );
    }

    #[test]
    fn stores_must_be_declared_connected_and_of_a_processor() {
        let store = || KeyValueStoreBuilder::<String, String>::new("counts");
        assert_eq!(
            refused(|builder| {
                let source = builder.add_source("a", ["t"], strings())?;
                let processor = builder.add_processor("p", || Ends, &[source])?;
                builder.connect(processor, &["counts"])
            }),
            "store counts is not declared in this topology"
        );
        assert_eq!(
            refused(|builder| {
                builder.add_source("a", ["t"], strings())?;
                builder.add_state_store(store())
            }),
            "store counts is connected to no processor: call connect(processor, &[\"counts\"])"
        );
        assert_eq!(
            refused(|builder| {
                let source = builder.add_source("a", ["t"], strings())?;
                builder.add_state_store(store())?;
                builder.connect(source, &["counts"])
            }),
            "a is a source or a sink: stores connect to processors only"
        );
        assert_eq!(
            refused(|builder| {
                builder.add_state_store(store())?;
                builder.add_state_store(store())
            }),
            "store counts is declared twice; give one of them another name"
        );
    }

    #[test]
    fn an_internal_topic_must_be_written() {
        assert_eq!(
            refused(|builder| {
                builder.add_internal_topic(InternalTopic::repartition("moved", None))?;
                builder.add_source("a", ["moved"], strings()).map(|_| ())
            }),
            "nothing is written to internal topic moved"
        );
        assert_eq!(
            refused(
                |builder| builder.add_internal_topic(InternalTopic::repartition("moved", Some(0)))
            ),
            "internal topic moved: 0 partitions; there must be at least one"
        );
    }
}
