//! Which topics a topology needs beside its own, with how many partitions, and the tasks that follow: pure values.
//!
//! How many partitions:
//! 1. A repartition topic with a number of its own has that number.
//! 2. Any other gets as many as the widest source topic of the sub-topologies that write into it. Those may be repartition topics in turn,
//!    so this goes round until nothing changes; a circle that hangs in the air is an error.
//! 3. In each co-partition group the topics that exist must agree, with each other and with repartition topics that have a number of
//!    their own. The other repartition topics of the group take that number, or the highest among them when nobody fixes one.
//! 4. A sub-topology has as many tasks as its widest source topic has partitions, and so have its changelogs.

use std::collections::BTreeMap;
use std::sync::Arc;

use brooklet_state_stores::{StoreKind, StoreSpec};

use super::graph::{DeclaredStore, Graph, NodeKind};
use super::options::AutoOffsetReset;
use super::{Subtopology, TaskId, Topology};
use crate::client::{NewTopic, TopicPartition};
use crate::error::TopologyError;

/// Kafka Streams' `windowstore.changelog.additional.retention.ms`.
pub const WINDOW_STORE_ADDITIONAL_RETENTION_MS: i64 = 86_400_000;

/// Takes the cluster's default.
const REPLICATION_FACTOR_DEFAULT: i16 = -1;

/// A task that a topology has, and what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskInputs {
    /// The task.
    pub id: TaskId,
    /// Its partitions, in order of the sources' declaration.
    pub inputs: Vec<TopicPartition>,
}

/// The changelog of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangelogTopic {
    /// The store.
    pub store: String,
    /// Its changelog's name on the cluster.
    pub topic: String,
}

/// A store that every instance keeps whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalStore {
    /// The store.
    pub store: String,
    /// The topic that it holds.
    pub topic: String,
    /// The sub-topology that keeps it.
    pub subtopology: u32,
}

impl Topology {
    /// The connected parts, in order of their numbers.
    pub fn subtopologies(&self) -> Vec<Subtopology> {
        self.graph.subtopologies()
    }

    /// Topics that must exist before the application starts, global ones included, sorted.
    pub fn source_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self
            .graph
            .sources()
            .flat_map(|(_, topics)| topics.iter())
            .filter(|topic| !self.graph.is_internal(topic))
            .cloned()
            .collect();
        topics.sort_unstable();
        topics
    }

    /// Topics that sinks write and that must exist, sorted; those that an extractor chooses are unknown.
    pub fn sink_topics(&self) -> Vec<String> {
        let fixed = |kind: &NodeKind| match kind {
            NodeKind::Sink {
                topic: Some(topic), ..
            } if !self.graph.is_internal(topic) => Some(topic.clone()),
            _ => None,
        };
        let mut topics: Vec<String> = self
            .graph
            .nodes
            .iter()
            .filter_map(|node| fixed(&node.kind))
            .collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// The stores that every instance keeps whole.
    pub fn global_stores(&self) -> Vec<GlobalStore> {
        let mut found = Vec::new();
        for subtopology in self
            .subtopologies()
            .iter()
            .filter(|subtopology| subtopology.global)
        {
            for store in self.graph.stores_of(subtopology) {
                if let Some(topic) = &store.global_topic {
                    found.push(GlobalStore {
                        store: store.name().to_owned(),
                        topic: topic.clone(),
                        subtopology: subtopology.id,
                    });
                }
            }
        }
        found
    }

    /// What the topic's source said about where to begin, by the topic's name on the cluster.
    pub fn offset_reset(&self, application_id: &str, topic: &str) -> Option<AutoOffsetReset> {
        self.graph.nodes.iter().find_map(|node| match &node.kind {
            NodeKind::Source {
                topics,
                offset_reset,
                ..
            } if topics
                .iter()
                .any(|name| self.graph.cluster_topic(application_id, name) == topic) =>
            {
                *offset_reset
            }
            _ => None,
        })
    }

    /// Whether the topic, by its name on the cluster, is a repartition topic of this application.
    pub fn is_repartition_topic(&self, application_id: &str, topic: &str) -> bool {
        self.graph
            .internal_topics
            .iter()
            .any(|internal| self.graph.cluster_topic(application_id, &internal.name) == topic)
    }

    /// What to open for a task of this sub-topology.
    pub fn store_specs(&self, subtopology: u32) -> Vec<StoreSpec> {
        self.graph
            .subtopology(subtopology)
            .map_or_else(Vec::new, |found| {
                self.graph
                    .stores_of(&found)
                    .map(|store| store.builder.spec())
                    .collect()
            })
    }

    /// The changelogs of a sub-topology's stores; stores without one and global stores are not among them.
    pub fn changelogs(&self, application_id: &str, subtopology: u32) -> Vec<ChangelogTopic> {
        let Some(found) = self.graph.subtopology(subtopology) else {
            return Vec::new();
        };
        let logged = self
            .graph
            .stores_of(&found)
            .filter(|store| store.is_logged());
        logged
            .map(|store| ChangelogTopic {
                store: store.name().to_owned(),
                topic: changelog_topic(application_id, store.name()),
            })
            .collect()
    }

    /// The repartition and changelog topics that the topology needs, with partitions and settings, repartition topics first.
    /// `partitions` knows the number of partitions of the topics that exist.
    ///
    /// # Errors
    /// When a source topic does not exist, or topics that must agree in their number of partitions do not; both are named.
    pub fn internal_topics(
        &self,
        application_id: &str,
        partitions: impl Fn(&str) -> Option<i32>,
        window_additional_retention_ms: i64,
    ) -> Result<Vec<NewTopic>, TopologyError> {
        let counts = self.graph.partition_counts(&partitions)?;
        let mut topics = Vec::new();
        for internal in &self.graph.internal_topics {
            let configs = [
                ("cleanup.policy", "delete"),
                ("message.timestamp.type", "CreateTime"),
                ("retention.ms", "-1"),
                ("segment.bytes", "52428800"),
            ];
            topics.push(NewTopic {
                name: self.graph.cluster_topic(application_id, &internal.name),
                partitions: counts.get(&internal.name).copied().unwrap_or(1),
                replication_factor: REPLICATION_FACTOR_DEFAULT,
                configs: configs
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .collect(),
            });
        }
        for subtopology in self.subtopologies() {
            let tasks = self.graph.task_count(&subtopology, &counts);
            for store in self
                .graph
                .stores_of(&subtopology)
                .filter(|store| store.is_logged())
            {
                topics.push(NewTopic {
                    name: changelog_topic(application_id, store.name()),
                    partitions: tasks,
                    replication_factor: REPLICATION_FACTOR_DEFAULT,
                    configs: changelog_configs(store, window_additional_retention_ms),
                });
            }
        }
        Ok(topics)
    }

    /// The tasks of the topology, in order of their ids. `partitions` knows the number of partitions of the topics that exist; those of
    /// repartition topics are derived as in [`Topology::internal_topics`].
    ///
    /// # Errors
    /// As [`Topology::internal_topics`].
    pub fn tasks(
        &self,
        application_id: &str,
        partitions: impl Fn(&str) -> Option<i32>,
    ) -> Result<Vec<TaskInputs>, TopologyError> {
        let counts = self.graph.partition_counts(&partitions)?;
        let mut tasks = Vec::new();
        for subtopology in self.processing_subtopologies() {
            for partition in 0..self.graph.task_count(&subtopology, &counts) {
                let reads = |topic: &str| counts.get(topic).is_some_and(|count| partition < *count);
                tasks.push(self.task(application_id, &subtopology, partition, reads));
            }
        }
        Ok(tasks)
    }

    /// The tasks of a driver whose topics have one partition each, also those that are declared with more: so nothing can disagree.
    pub(crate) fn tasks_of_one_partition(&self, application_id: &str) -> Vec<TaskInputs> {
        self.processing_subtopologies()
            .map(|subtopology| self.task(application_id, &subtopology, 0, |_| true))
            .collect()
    }

    fn processing_subtopologies(&self) -> impl Iterator<Item = Subtopology> + use<> {
        self.subtopologies()
            .into_iter()
            .filter(|subtopology| !subtopology.global)
    }

    fn task(
        &self,
        application_id: &str,
        subtopology: &Subtopology,
        partition: i32,
        reads: impl Fn(&str) -> bool,
    ) -> TaskInputs {
        let topics = self.graph.source_topics_of(subtopology);
        let input = |topic: &String| {
            TopicPartition::new(self.graph.cluster_topic(application_id, topic), partition)
        };
        TaskInputs {
            id: TaskId {
                subtopology: subtopology.id,
                partition,
            },
            inputs: topics.filter(|topic| reads(topic)).map(input).collect(),
        }
    }
}

/// `<application>-<store>-changelog`.
pub(crate) fn changelog_topic(application_id: &str, store: &str) -> String {
    format!("{application_id}-{store}-changelog")
}

/// Kafka Streams' settings of a changelog, with the store's own over them, sorted by name.
fn changelog_configs(
    store: &DeclaredStore,
    window_additional_retention_ms: i64,
) -> Vec<(String, String)> {
    let kind = store.builder.spec().kind;
    let cleanup_policy = match kind {
        StoreKind::Window { .. } => "compact,delete",
        _ => "compact",
    };
    let mut configs = BTreeMap::from([
        ("message.timestamp.type".to_owned(), "CreateTime".to_owned()),
        ("cleanup.policy".to_owned(), cleanup_policy.to_owned()),
    ]);
    configs.extend(store.builder.changelog_configs().unwrap_or_default());
    if let StoreKind::Window { retention_ms, .. } = kind {
        // Whatever the store's own settings say. Kafka keeps windows longer than the store does, so that clock drift between broker and
        // records takes nothing away too early.
        configs.insert(
            "retention.ms".to_owned(),
            retention_ms
                .saturating_add(window_additional_retention_ms)
                .to_string(),
        );
    }
    configs.into_iter().collect()
}

impl DeclaredStore {
    pub(crate) fn is_logged(&self) -> bool {
        self.global_topic.is_none() && self.builder.changelog_configs().is_some()
    }
}

impl Graph {
    fn sources(&self) -> impl Iterator<Item = (usize, &Vec<String>)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(index, node)| match &node.kind {
                NodeKind::Source { topics, .. } => Some((index, topics)),
                _ => None,
            })
    }

    pub(crate) fn subtopology(&self, id: u32) -> Option<Subtopology> {
        self.subtopologies()
            .into_iter()
            .find(|subtopology| subtopology.id == id)
    }

    /// The stores that nodes of a sub-topology are connected to, in order of the nodes: upstream first.
    pub(crate) fn stores_of(
        &self,
        subtopology: &Subtopology,
    ) -> impl Iterator<Item = &DeclaredStore> {
        let mut names: Vec<&str> = Vec::new();
        for name in subtopology
            .nodes
            .iter()
            .flat_map(|index| &self.node(*index).stores)
        {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names.into_iter().filter_map(|name| self.store(name))
    }

    /// Source topics without the application's prefix, in order of declaration.
    fn source_topics_of<'a>(
        &'a self,
        subtopology: &'a Subtopology,
    ) -> impl Iterator<Item = &'a String> {
        self.sources()
            .filter(|(index, _)| subtopology.nodes.contains(index))
            .flat_map(|(_, topics)| topics)
    }

    fn task_count(&self, subtopology: &Subtopology, counts: &BTreeMap<String, i32>) -> i32 {
        self.source_topics_of(subtopology)
            .filter_map(|topic| counts.get(topic))
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// Number of partitions of every source topic, by its name without prefix.
    fn partition_counts(
        &self,
        partitions: &impl Fn(&str) -> Option<i32>,
    ) -> Result<BTreeMap<String, i32>, TopologyError> {
        let mut counts = BTreeMap::new();
        for topic in self
            .sources()
            .flat_map(|(_, topics)| topics)
            .filter(|topic| !self.is_internal(topic))
        {
            let count = partitions(topic).ok_or_else(|| {
                TopologyError::Invalid(format!(
                    "source topic {topic} does not exist; create it first"
                ))
            })?;
            counts.insert(topic.clone(), count);
        }
        for internal in &self.internal_topics {
            counts.extend(
                internal
                    .partitions
                    .map(|count| (internal.name.clone(), count)),
            );
        }

        let subtopologies = self.subtopologies();
        loop {
            let unknown: Vec<&str> = self
                .internal_topics
                .iter()
                .map(|topic| topic.name.as_str())
                .filter(|name| !counts.contains_key(*name))
                .collect();
            if unknown.is_empty() {
                break;
            }
            let widest = |whole: bool| -> Vec<(String, i32)> {
                let count = |topic: &&str| {
                    Some((
                        (*topic).to_owned(),
                        self.widest_writer(topic, &subtopologies, &counts, whole)?,
                    ))
                };
                unknown.iter().filter_map(count).collect()
            };
            // A sub-topology may write a topic and read it back: then what is known of its sources decides, as in Kafka Streams.
            let found = Some(widest(true))
                .filter(|found| !found.is_empty())
                .unwrap_or_else(|| widest(false));
            if found.is_empty() {
                let topics = unknown.join(", ");
                return Err(TopologyError::Invalid(format!(
                    "the number of partitions of {topics} depends on itself; give one of them a number of partitions"
                )));
            }
            counts.extend(found);
        }
        for group in &self.copartition_groups {
            self.copartition(group, &mut counts)?;
        }
        Ok(counts)
    }

    /// Partitions of the widest source topic of those that write into `topic`; `None` while one (`whole`) or all of them are unknown.
    fn widest_writer(
        &self,
        topic: &str,
        subtopologies: &[Subtopology],
        counts: &BTreeMap<String, i32>,
        whole: bool,
    ) -> Option<i32> {
        let writes = |index: &usize| matches!(&self.node(*index).kind, NodeKind::Sink { topic: Some(name), .. } if name == topic);
        let mut widest = None;
        for subtopology in subtopologies
            .iter()
            .filter(|subtopology| subtopology.nodes.iter().any(writes))
        {
            for source in self.source_topics_of(subtopology) {
                match counts.get(source) {
                    Some(count) => widest = widest.max(Some(*count)),
                    None if whole => return None,
                    None => {}
                }
            }
        }
        widest
    }

    fn copartition(
        &self,
        group: &[usize],
        counts: &mut BTreeMap<String, i32>,
    ) -> Result<(), TopologyError> {
        let topics: Vec<&String> = self
            .sources()
            .filter(|(index, _)| group.contains(index))
            .flat_map(|(_, topics)| topics)
            .collect();
        let derived = |topic: &str| {
            self.internal_topics
                .iter()
                .any(|internal| internal.name == topic && internal.partitions.is_none())
        };
        let mut fixed: Option<(&String, i32)> = None;
        for topic in topics.iter().filter(|topic| !derived(topic)) {
            let Some(count) = counts.get(*topic).copied() else {
                continue;
            };
            match fixed {
                Some((other, others)) if others != count => {
                    return Err(TopologyError::Invalid(format!(
                        "topics {other} ({others} partitions) and {topic} ({count} partitions) are joined, so they must have the same number of partitions; \
                         repartition one of them"
                    )));
                }
                _ => fixed = Some((topic, count)),
            }
        }
        let highest = topics
            .iter()
            .filter_map(|topic| counts.get(*topic))
            .copied()
            .max();
        let Some(count) = fixed.map(|(_, count)| count).or(highest) else {
            return Ok(());
        };
        for topic in topics.iter().filter(|topic| derived(topic)) {
            counts.insert((*topic).clone(), count);
        }
        Ok(())
    }

    /// The topics of a source, by their names on the cluster, each with the source that reads it.
    pub(crate) fn source_by_topic(&self, application_id: &str) -> BTreeMap<Arc<str>, usize> {
        self.sources()
            .flat_map(|(index, topics)| {
                topics
                    .iter()
                    .map(move |topic| (self.cluster_topic(application_id, topic).into(), index))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::processor::{Processor, ProcessorContext};
    use crate::record::Record;
    use crate::topology::{Consumed, InternalTopic, Node, Produced, TopologyBuilder};
    use crate::typed_store::{KeyValueStoreBuilder, WindowStoreBuilder};

    struct Ends;

    impl Processor<String, String, String, String> for Ends {
        fn process(
            &mut self,
            _record: Record<String, String>,
            _context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), crate::ProcessError> {
            Ok(())
        }
    }

    fn source(builder: &mut TopologyBuilder, topic: &str) -> Node<String, String> {
        builder
            .add_source(format!("read-{topic}"), [topic], Consumed::default())
            .unwrap()
    }

    /// Writes `from` into a repartition topic, and reads that.
    fn repartition(
        builder: &mut TopologyBuilder,
        from: Node<String, String>,
        topic: &str,
        partitions: Option<i32>,
    ) -> Node<String, String> {
        builder
            .add_internal_topic(InternalTopic::repartition(topic, partitions))
            .unwrap();
        builder
            .add_sink(
                format!("write-{topic}"),
                topic,
                Produced::default(),
                &[from],
            )
            .unwrap();
        source(builder, topic)
    }

    fn cluster<'a>(topics: &'a [(&'a str, i32)]) -> impl Fn(&str) -> Option<i32> + 'a {
        move |topic| {
            topics
                .iter()
                .find(|(name, _)| *name == topic)
                .map(|(_, partitions)| *partitions)
        }
    }

    fn counts(
        topology: &Topology,
        topics: &[(&str, i32)],
    ) -> Result<Vec<(String, i32)>, TopologyError> {
        let topics = topology.internal_topics("app", cluster(topics), 1_000)?;
        Ok(topics
            .into_iter()
            .map(|topic| (topic.name, topic.partitions))
            .collect())
    }

    fn named(counts: &[(&str, i32)]) -> Vec<(String, i32)> {
        counts
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn repartition_topics_are_as_wide_as_what_is_written_into_them_through_chains() {
        let mut builder = Topology::builder();
        let (a, b) = (source(&mut builder, "a"), source(&mut builder, "b"));
        let both = builder.add_processor("both", || Ends, &[a, b]).unwrap();
        let first = repartition(&mut builder, both, "first", None);
        let second = repartition(&mut builder, first, "second", None);
        repartition(&mut builder, second, "third", Some(9));
        let topology = builder.build().unwrap();
        let expected = named(&[("app-first", 6), ("app-second", 6), ("app-third", 9)]);
        assert_eq!(counts(&topology, &[("a", 3), ("b", 6)]).unwrap(), expected);
    }

    #[test]
    fn a_topic_that_does_not_exist_is_named() {
        let mut builder = Topology::builder();
        source(&mut builder, "a");
        let error = counts(&builder.build().unwrap(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "source topic a does not exist; create it first"
        );
    }

    #[test]
    fn a_repartition_topic_that_feeds_itself_needs_a_number() {
        let mut builder = Topology::builder();
        builder
            .add_internal_topic(InternalTopic::repartition("loop", None))
            .unwrap();
        let read = source(&mut builder, "loop");
        builder
            .add_sink("write", "loop", Produced::default(), &[read])
            .unwrap();
        let error = counts(&builder.build().unwrap(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the number of partitions of loop depends on itself; give one of them a number of partitions"
        );
    }

    #[test]
    fn copartitioned_topics_must_agree_and_repartition_topics_follow_them() {
        let join = |partitions: Option<i32>| {
            let mut builder = Topology::builder();
            let (stream, table) = (
                source(&mut builder, "stream"),
                source(&mut builder, "table"),
            );
            let moved = repartition(&mut builder, stream, "moved", partitions);
            let joined = builder
                .add_processor("join", || Ends, &[moved, table])
                .unwrap();
            builder.copartition([joined.index()]).unwrap();
            builder.build().unwrap()
        };
        let cluster = [("stream", 2), ("table", 5)];
        assert_eq!(
            counts(&join(None), &cluster).unwrap(),
            named(&[("app-moved", 5)])
        );
        assert_eq!(
            counts(&join(Some(5)), &cluster).unwrap(),
            named(&[("app-moved", 5)])
        );
        assert_eq!(
            counts(&join(Some(4)), &cluster).unwrap_err().to_string(),
            "topics table (5 partitions) and moved (4 partitions) are joined, so they must have the same number of partitions; repartition one of them"
        );
    }

    #[test]
    fn repartition_topics_that_are_joined_take_the_wider_number() {
        let mut builder = Topology::builder();
        let (a, b) = (source(&mut builder, "a"), source(&mut builder, "b"));
        let (a, b) = (
            repartition(&mut builder, a, "one", None),
            repartition(&mut builder, b, "two", None),
        );
        builder.add_processor("join", || Ends, &[a, b]).unwrap();
        builder.copartition([a.index(), b.index()]).unwrap();
        let topology = builder.build().unwrap();
        assert_eq!(
            counts(&topology, &[("a", 2), ("b", 7)]).unwrap(),
            named(&[("app-one", 7), ("app-two", 7)])
        );
    }

    #[test]
    fn tasks_are_as_many_as_the_widest_source_has_partitions_and_so_are_changelogs() {
        let mut builder = Topology::builder();
        let (a, b) = (source(&mut builder, "a"), source(&mut builder, "b"));
        let both = builder.add_processor("both", || Ends, &[a, b]).unwrap();
        builder
            .add_state_store(KeyValueStoreBuilder::<String, String>::new("kept").in_memory())
            .unwrap();
        builder
            .add_state_store(
                KeyValueStoreBuilder::<String, String>::new("not-logged")
                    .in_memory()
                    .logging(false),
            )
            .unwrap();
        builder
            .add_state_store(
                WindowStoreBuilder::<String, String>::new("windows", 5_000, 1_000).in_memory(),
            )
            .unwrap();
        builder
            .connect(both, &["kept", "not-logged", "windows"])
            .unwrap();
        let other = repartition(&mut builder, both, "moved", Some(1));
        builder.add_processor("end", || Ends, &[other]).unwrap();
        let topology = builder.build().unwrap();

        let sizes = [("a", 2), ("b", 1)];
        let tasks = topology.tasks("app", cluster(&sizes)).unwrap();
        let tasks: Vec<String> = tasks
            .iter()
            .map(|task| {
                format!(
                    "{}: {}",
                    task.id,
                    task.inputs
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" ")
                )
            })
            .collect();
        assert_eq!(tasks, ["0_0: a-0 b-0", "0_1: a-1", "1_0: app-moved-0"]);

        let topics = topology
            .internal_topics("app", cluster(&sizes), 1_000)
            .unwrap();
        let topics: Vec<String> = topics
            .iter()
            .map(|topic| {
                let configs: Vec<String> = topic
                    .configs
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                format!("{} {} {}", topic.name, topic.partitions, configs.join(" "))
            })
            .collect();
        assert_eq!(
            topics,
            [
                "app-moved 1 cleanup.policy=delete message.timestamp.type=CreateTime retention.ms=-1 segment.bytes=52428800",
                "app-kept-changelog 2 cleanup.policy=compact message.timestamp.type=CreateTime",
                "app-windows-changelog 2 cleanup.policy=compact,delete message.timestamp.type=CreateTime retention.ms=6000",
            ]
        );
        assert_eq!(topology.source_topics(), ["a", "b"]);
        assert!(topology.is_repartition_topic("app", "app-moved"));
    }

    #[test]
    fn a_global_store_makes_no_task_and_needs_no_changelog() {
        let mut builder = Topology::builder();
        let store = KeyValueStoreBuilder::<String, String>::new("planes").in_memory();
        builder
            .add_global_store::<String, String>(
                store,
                "read-planes",
                "planes-topic",
                Consumed::default(),
                "keep-planes",
            )
            .unwrap();
        source(&mut builder, "flights");
        let topology = builder.build().unwrap();
        let cluster = cluster(&[("flights", 1), ("planes-topic", 3)]);
        let tasks = topology.tasks("app", &cluster).unwrap();
        assert_eq!(
            tasks
                .iter()
                .map(|task| task.id.to_string())
                .collect::<Vec<_>>(),
            ["1_0"]
        );
        assert_eq!(topology.internal_topics("app", &cluster, 0).unwrap(), []);
        let expected = GlobalStore {
            store: "planes".to_owned(),
            topic: "planes-topic".to_owned(),
            subtopology: 0,
        };
        assert_eq!(topology.global_stores(), [expected]);
    }
}
