//! What `describe()` prints: Kafka Streams' text, byte for byte (KIP-120), which visualisers read and people paste into issues.
//!
//! Its order of nodes is that of Kafka Streams' code, and so are its quirks:
//! 1. Nodes of a sub-topology are printed by size of what hangs below them, largest first, then by name. A node that can be reached in two
//!    ways counts twice.
//! 2. Names behind the arrows are in the same order, but of the sizes at the moment an edge was entered. Edges are entered node by node in
//!    the order of a Java hash map, and kept in a Java tree set that is not told when sizes change.
//! 3. Topics of a source and stores of a processor are in the order of a Java hash set.

use std::collections::BTreeMap;
use std::fmt;

use super::Topology;
use super::graph::{Graph, NodeKind};
use super::java_order::{TreeSet, hash_order};
use super::subtopology::Subtopology;

/// A topology as text; `Display` prints what Kafka Streams' `TopologyDescription` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopologyDescription {
    text: String,
}

impl fmt::Display for TopologyDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Topology {
    /// Describes the topology as Kafka Streams does.
    pub fn describe(&self) -> TopologyDescription {
        let mut text = String::from("Topologies:\n ");
        for subtopology in self.graph.subtopologies() {
            text.push_str("  ");
            if subtopology.global {
                describe_global(&self.graph, &subtopology, &mut text)
            } else {
                describe(&self.graph, &subtopology, &mut text)
            }
        }
        TopologyDescription { text }
    }
}

/// One node with its edges as Kafka Streams collects them.
struct Described {
    /// Index in the graph.
    index: usize,
    size: i32,
    /// Places in the list of described nodes.
    parents: TreeSet,
    children: TreeSet,
}

fn describe(graph: &Graph, subtopology: &Subtopology, text: &mut String) {
    let names: Vec<&str> = subtopology
        .nodes
        .iter()
        .map(|index| &*graph.node(*index).name)
        .collect();
    let mut nodes: Vec<Described> = hash_order(&names)
        .into_iter()
        .filter_map(|place| subtopology.nodes.get(place))
        .map(|index| Described {
            index: *index,
            size: 1,
            parents: TreeSet::default(),
            children: TreeSet::default(),
        })
        .collect();

    for place in 0..nodes.len() {
        let Some(index) = nodes.get(place).map(|node| node.index) else {
            continue;
        };
        for parent in &graph.node(index).parents {
            let Some(parent) = nodes.iter().position(|node| node.index == *parent) else {
                continue;
            };
            enter(graph, &mut nodes, place, parent, |node| &mut node.parents);
            enter(graph, &mut nodes, parent, place, |node| &mut node.children);
            let size = nodes.get(place).map_or(0, |node| node.size);
            grow(&mut nodes, parent, size);
        }
    }

    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by(|one, other| compare(graph, &nodes, *one, *other));
    text.push_str(&format!("Sub-topology: {}\n", subtopology.id));
    for node in order.iter().filter_map(|place| nodes.get(*place)) {
        let list = |places: &TreeSet| {
            let names: Vec<&str> = places
                .in_order()
                .into_iter()
                .filter_map(|place| nodes.get(place))
                .map(|node| &*graph.node(node.index).name)
                .collect();
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        };
        text.push_str("    ");
        text.push_str(&head(graph, node.index));
        if !matches!(graph.node(node.index).kind, NodeKind::Sink { .. }) {
            text.push_str(&format!("\n      --> {}", list(&node.children)));
        }
        if !matches!(graph.node(node.index).kind, NodeKind::Source { .. }) {
            text.push_str(&format!("\n      <-- {}", list(&node.parents)));
        }
        text.push('\n');
    }
    text.push('\n');
}

fn describe_global(graph: &Graph, subtopology: &Subtopology, text: &mut String) {
    text.push_str(&format!(
        "Sub-topology: {} for global store (will not generate tasks)\n",
        subtopology.id
    ));
    for index in &subtopology.nodes {
        let node = graph.node(*index);
        text.push_str(&format!("    {}\n", head(graph, *index)));
        let names = |indexes: &[usize]| {
            indexes
                .iter()
                .map(|index| graph.node(*index).name.to_string())
                .collect::<Vec<_>>()
                .join(", ")
        };
        if matches!(node.kind, NodeKind::Source { .. }) {
            text.push_str(&format!("      --> {}\n", names(&node.children)));
        } else {
            text.push_str(&format!(
                "      --> none\n      <-- {}\n",
                names(&node.parents)
            ));
        }
    }
}

/// The node's line.
fn head(graph: &Graph, index: usize) -> String {
    let node = graph.node(index);
    let set = |names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let ordered: Vec<&str> = hash_order(&names)
            .into_iter()
            .filter_map(|place| names.get(place).copied())
            .collect();
        ordered.join(", ")
    };
    match &node.kind {
        NodeKind::Source { topics, .. } => {
            format!("Source: {} (topics: [{}])", node.name, set(topics))
        }
        NodeKind::Processor { .. } => {
            format!("Processor: {} (stores: [{}])", node.name, set(&node.stores))
        }
        NodeKind::Sink {
            topic: Some(topic), ..
        } => format!("Sink: {} (topic: {topic})", node.name),
        NodeKind::Sink { topic: None, .. } => {
            format!("Sink: {} (extractor class: closure)", node.name)
        }
    }
}

/// Enters `member` into a set of `owner`, compared by the sizes of this moment.
fn enter(
    graph: &Graph,
    nodes: &mut [Described],
    owner: usize,
    member: usize,
    set: fn(&mut Described) -> &mut TreeSet,
) {
    let Some(node) = nodes.get_mut(owner) else {
        return;
    };
    let mut entered = std::mem::take(set(node));
    entered.insert(member, |one, other| compare(graph, nodes, one, other));
    if let Some(node) = nodes.get_mut(owner) {
        *set(node) = entered;
    }
}

/// Adds to the size of a node and of all that are known to be above it, once for each way.
///
/// Nodes are visited from the last of the topology to the first. Parents come before their children there, so all ways to a node have met
/// when its turn comes, and it is visited once; there may be as many ways as 2 to the power of the nodes.
fn grow(nodes: &mut [Described], place: usize, by: i32) {
    let mut due = BTreeMap::new();
    if let Some(node) = nodes.get(place) {
        due.insert(node.index, (place, by));
    }
    while let Some((_, (place, by))) = due.pop_last() {
        let Some(node) = nodes.get_mut(place) else {
            continue;
        };
        node.size = node.size.wrapping_add(by);
        for parent in node.parents.in_order() {
            if let Some(above) = nodes.get(parent) {
                let (_, growth) = due.entry(above.index).or_insert((parent, 0));
                *growth = growth.wrapping_add(by);
            }
        }
    }
}

fn compare(graph: &Graph, nodes: &[Described], one: usize, other: usize) -> std::cmp::Ordering {
    let key = |place: usize| {
        nodes
            .get(place)
            .map(|node| (node.size, &*graph.node(node.index).name))
    };
    match (key(one), key(other)) {
        (Some((one_size, one_name)), Some((other_size, other_name))) => other_size
            .cmp(&one_size)
            .then_with(|| one_name.cmp(other_name)),
        _ => std::cmp::Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use crate::error::{ProcessError, TopologyError};
    use crate::processor::{Processor, ProcessorContext};
    use crate::record::Record;
    use crate::topology::{Consumed, Node, Produced, Topology, TopologyBuilder};
    use crate::typed_store::KeyValueStoreBuilder;

    type Text = Node<String, String>;

    struct Pass;

    impl Processor<String, String, String, String> for Pass {
        fn process(
            &mut self,
            record: Record<String, String>,
            context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            context.forward(record)
        }
    }

    /// One line of a case: `source NAME TOPICS`, `processor NAME PARENTS`, `sink NAME TOPIC PARENTS`, `store NAME USERS`,
    /// `global STORE SOURCE TOPIC PROCESSOR`.
    fn declare(
        builder: &mut TopologyBuilder,
        nodes: &mut HashMap<String, Text>,
        line: &str,
    ) -> Result<(), TopologyError> {
        let words: Vec<&str> = line.split(' ').collect();
        let named = |names: &str| -> Vec<Text> {
            names
                .split(',')
                .map(|name| *nodes.get(name).unwrap())
                .collect()
        };
        match words.as_slice() {
            ["source", name, topics] => {
                let node = builder.add_source(
                    *name,
                    topics.split(','),
                    Consumed::<String, String>::default(),
                )?;
                nodes.insert((*name).to_owned(), node);
            }
            ["processor", name, parents] => {
                let node = builder.add_processor(*name, || Pass, &named(parents))?;
                nodes.insert((*name).to_owned(), node);
            }
            ["sink", name, topic, parents] => {
                builder.add_sink(*name, *topic, Produced::default(), &named(parents))?;
            }
            ["store", name, users] => {
                builder.add_state_store(KeyValueStoreBuilder::<String, String>::new(*name))?;
                for user in named(users) {
                    builder.connect(user, &[name])?;
                }
            }
            ["global", store, source, topic, processor] => {
                let store = KeyValueStoreBuilder::<String, String>::new(*store);
                builder.add_global_store::<String, String>(
                    store,
                    *source,
                    *topic,
                    Consumed::default(),
                    *processor,
                )?;
            }
            _ => panic!("not a line of a case: {line}"),
        }
        Ok(())
    }

    /// Recorded from Kafka Streams 4.3.1: chains, diamonds, shared and global stores, and forty random graphs.
    #[test]
    fn descriptions_are_those_of_kafka_streams() {
        let mut cases = 0;
        for case in include_str!("testdata/describe.txt").split_terminator("====\n") {
            let (declaration, expected) = case.split_once("----\n").unwrap();
            let mut builder = Topology::builder();
            let mut nodes = HashMap::new();
            for line in declaration.lines().filter(|line| !line.starts_with('#')) {
                declare(&mut builder, &mut nodes, line).unwrap();
            }
            assert_eq!(
                builder.build().unwrap().describe().to_string(),
                expected,
                "{declaration}"
            );
            cases += 1;
        }
        assert_eq!(cases, 44);
    }

    #[test]
    fn a_node_with_more_ways_to_it_than_can_be_walked_is_described() {
        let mut builder = TopologyBuilder::default();
        let consumed = Consumed::<String, String>::default();
        let mut last = builder.add_source("read", ["in"], consumed).unwrap();
        for number in 0..64 {
            let beside = builder
                .add_processor(format!("beside{number}"), || Pass, &[last])
                .unwrap();
            last = builder
                .add_processor(format!("both{number}"), || Pass, &[last, beside])
                .unwrap();
        }
        let text = builder.build().unwrap().describe().to_string();
        assert!(
            text.contains(
                "Processor: both63 (stores: [])\n      --> none\n      <-- both62, beside63\n"
            ),
            "{text}"
        );
    }
}
