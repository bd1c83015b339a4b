//! What a Streams application says of itself, and what follows from it: how many tasks there are, and which internal topics with how
//! many partitions.
//!
//! Partition counts are derived in this order:
//! 1. Every source topic has to exist.
//! 2. A repartition topic has the partitions that the application asks for, or else as many as the largest source of a sub-topology that
//!    writes to it. Such a source may be a repartition topic itself: repeated until nothing is missing. No progress is an invalid topology.
//! 3. Topics of a copartition group get the same count: that of its source topics, which have to agree; of repartition topics alone, the
//!    count that is asked for, or the largest.
//! 4. A changelog topic has as many as the largest source of its sub-topology, and so many tasks has that.
//!
//! A topic that exists counts with the partitions that it has, and has to have those that it should have.
//!
//! ## Only the copartition group's own counts bind it
//! Apache Kafka 4.3 checks a group of repartition topics against every count that is asked for anywhere in the topology, so that two
//! unrelated `repartition` calls with different counts break a join beside them. Here only the group's own topics are compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::PARTITIONS_MAX;

/// The topology of an application, as its first member told it.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    pub(crate) epoch: i32,
    pub(crate) subtopologies: Vec<Subtopology>,
}

/// A connected part of a topology.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Subtopology {
    pub(crate) id: String,
    pub(crate) source_topics: Vec<String>,
    pub(crate) source_topic_regex: Vec<String>,
    pub(crate) changelog_topics: Vec<InternalTopic>,
    pub(crate) repartition_sink_topics: Vec<String>,
    pub(crate) repartition_source_topics: Vec<InternalTopic>,
    pub(crate) copartition_groups: Vec<CopartitionGroup>,
}

/// A topic that the broker creates for the application.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct InternalTopic {
    pub(crate) name: String,
    /// Zero where the broker decides.
    pub(crate) partition_count: i32,
    /// Zero for the broker's default.
    pub(crate) replication_factor: i16,
    pub(crate) configs: Vec<(String, String)>,
}

/// Topics that must have the same number of partitions, as indexes into the lists of their sub-topology.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct CopartitionGroup {
    pub(crate) source_topics: Vec<i16>,
    pub(crate) source_topic_regex: Vec<i16>,
    pub(crate) repartition_source_topics: Vec<i16>,
}

/// Why a topology cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidTopology(pub(crate) String);

/// A topology with the numbers that follow from the topics there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfiguredTopology {
    /// `None` while they cannot be told.
    pub(crate) subtopologies: Option<BTreeMap<String, ConfiguredSubtopology>>,
    /// To be created, by name.
    pub(crate) missing_topics: BTreeMap<String, InternalTopic>,
    /// Why tasks cannot be assigned yet.
    pub(crate) problem: Option<(Problem, String)>,
}

/// What is wrong with the topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    MissingSourceTopics,
    IncorrectlyPartitioned,
    MissingInternalTopics,
}

/// A sub-topology with its tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfiguredSubtopology {
    pub(crate) task_count: i32,
    /// Source topics, repartition topics included.
    pub(crate) source_topics: BTreeSet<String>,
    /// With the counts that they have to have.
    pub(crate) repartition_source_topics: BTreeMap<String, InternalTopic>,
    /// With the counts that they have to have.
    pub(crate) changelog_topics: BTreeMap<String, InternalTopic>,
}

impl ConfiguredSubtopology {
    /// Whether its tasks keep state, so that they have standbys.
    pub(crate) fn is_stateful(&self) -> bool {
        !self.changelog_topics.is_empty()
    }
}

impl ConfiguredTopology {
    /// The sub-topologies, if tasks can be assigned.
    pub(crate) fn ready(&self) -> Option<&BTreeMap<String, ConfiguredSubtopology>> {
        match self.problem {
            None => self.subtopologies.as_ref(),
            Some(_) => None,
        }
    }
}

impl PartialEq for Topology {
    /// The order of sub-topologies means nothing.
    fn eq(&self, other: &Self) -> bool {
        let sorted = |topology: &Self| {
            let mut subtopologies = topology.subtopologies.clone();
            subtopologies.sort();
            subtopologies
        };
        self.epoch == other.epoch
            && self.subtopologies.len() == other.subtopologies.len()
            && (self.subtopologies == other.subtopologies || sorted(self) == sorted(other))
    }
}

impl Eq for Topology {}

impl Topology {
    /// Every topic that has to exist, internal ones included.
    pub(crate) fn required_topics(&self) -> BTreeSet<&str> {
        let mut topics = BTreeSet::new();
        for subtopology in &self.subtopologies {
            topics.extend(subtopology.sources());
            topics.extend(
                subtopology
                    .changelog_topics
                    .iter()
                    .map(|topic| topic.name.as_str()),
            );
        }
        topics
    }

    /// The sub-topology that reads a topic.
    pub(crate) fn reader_of(&self, topic: &str) -> Option<&Subtopology> {
        self.subtopologies
            .iter()
            .find(|subtopology| subtopology.sources().any(|source| source == topic))
    }

    /// What can be told without looking at topics.
    pub(crate) fn check(&self) -> Result<(), InvalidTopology> {
        let invalid = |reason: String| Err(InvalidTopology(reason));
        let mut ids = BTreeSet::new();
        for subtopology in &self.subtopologies {
            let id = &subtopology.id;
            if !ids.insert(id) {
                return invalid(format!("sub-topology {id} is there more than once"));
            }
            if subtopology.sources().next().is_none() {
                return invalid(format!("sub-topology {id} has no source topics"));
            }
            for topic in &subtopology.changelog_topics {
                if topic.partition_count != 0 {
                    return invalid(format!(
                        "changelog topic {} asks for {} partitions: its number is not for the application to choose",
                        topic.name, topic.partition_count
                    ));
                }
            }
            for topic in &subtopology.repartition_source_topics {
                if !(0..=PARTITIONS_MAX).contains(&topic.partition_count) {
                    return invalid(format!(
                        "repartition topic {} asks for {} partitions",
                        topic.name, topic.partition_count
                    ));
                }
            }
            let internal = subtopology.changelog_topics.iter();
            for topic in internal.chain(&subtopology.repartition_source_topics) {
                if topic.replication_factor < -1 {
                    return invalid(format!(
                        "internal topic {} asks for {} replicas",
                        topic.name, topic.replication_factor
                    ));
                }
            }
            for group in &subtopology.copartition_groups {
                if subtopology.copartitioned(group).is_none() {
                    return invalid(format!(
                        "a copartition group of sub-topology {id} names topics that are not there"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Derives tasks and internal topics. `partition_count` knows the topics there are.
    pub(crate) fn configure(
        &self,
        partition_count: impl Fn(&str) -> Option<i32>,
    ) -> Result<ConfiguredTopology, InvalidTopology> {
        match self.derive(&partition_count) {
            Ok((subtopologies, missing_topics)) => {
                let problem = (!missing_topics.is_empty()).then(|| {
                    let names = summary(missing_topics.keys().map(String::as_str));
                    (
                        Problem::MissingInternalTopics,
                        format!("internal topics are missing: {names}"),
                    )
                });
                Ok(ConfiguredTopology {
                    subtopologies: Some(subtopologies),
                    missing_topics,
                    problem,
                })
            }
            Err(Stop::Problem(problem, detail)) => Ok(ConfiguredTopology {
                subtopologies: None,
                missing_topics: BTreeMap::new(),
                problem: Some((problem, detail)),
            }),
            Err(Stop::Invalid(invalid)) => Err(invalid),
        }
    }

    #[allow(clippy::type_complexity, reason = "two maps, named by the caller")]
    fn derive(
        &self,
        existing: &impl Fn(&str) -> Option<i32>,
    ) -> Result<
        (
            BTreeMap<String, ConfiguredSubtopology>,
            BTreeMap<String, InternalTopic>,
        ),
        Stop,
    > {
        let sources = self.subtopologies.iter().flat_map(|of| &of.source_topics);
        let missing: BTreeSet<_> = sources
            .map(String::as_str)
            .filter(|topic| existing(topic).is_none())
            .collect();
        if !missing.is_empty() {
            let detail = format!(
                "source topics are missing: {}",
                summary(missing.into_iter())
            );
            return Err(Stop::Problem(Problem::MissingSourceTopics, detail));
        }
        let mut counts = Counts {
            existing,
            decided: self.repartition_counts(existing)?,
        };
        self.enforce_copartitioning(&mut counts)?;
        let mut subtopologies = BTreeMap::new();
        for subtopology in &self.subtopologies {
            // Every source exists or was decided above.
            let largest = subtopology
                .sources()
                .filter_map(|topic| counts.of(topic))
                .max();
            let Some(task_count) = largest else {
                let reason = format!("sub-topology {} has no source topics", subtopology.id);
                return Err(Stop::Invalid(InvalidTopology(reason)));
            };
            for topic in &subtopology.changelog_topics {
                counts.decided.insert(topic.name.clone(), task_count);
            }
            let with_count = |topic: &InternalTopic| {
                let count = match topic.partition_count {
                    0 => counts
                        .decided
                        .get(&topic.name)
                        .copied()
                        .unwrap_or(task_count),
                    fixed => fixed,
                };
                let topic = InternalTopic {
                    partition_count: count,
                    ..topic.clone()
                };
                (topic.name.clone(), topic)
            };
            let configured = ConfiguredSubtopology {
                task_count,
                source_topics: subtopology.sources().map(str::to_owned).collect(),
                repartition_source_topics: subtopology
                    .repartition_source_topics
                    .iter()
                    .map(with_count)
                    .collect(),
                changelog_topics: subtopology
                    .changelog_topics
                    .iter()
                    .map(with_count)
                    .collect(),
            };
            subtopologies.insert(subtopology.id.clone(), configured);
        }
        let mut missing = BTreeMap::new();
        for subtopology in subtopologies.values() {
            let internal = subtopology.repartition_source_topics.values();
            for topic in internal.chain(subtopology.changelog_topics.values()) {
                match existing(&topic.name) {
                    None => {
                        missing.insert(topic.name.clone(), topic.clone());
                    }
                    Some(found) if found != topic.partition_count => {
                        let detail = format!(
                            "topic {} has {found} partitions, it should have {}",
                            topic.name, topic.partition_count
                        );
                        return Err(Stop::Problem(Problem::IncorrectlyPartitioned, detail));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok((subtopologies, missing))
    }

    fn repartition_counts(
        &self,
        existing: &impl Fn(&str) -> Option<i32>,
    ) -> Result<BTreeMap<String, i32>, Stop> {
        let mut decided: BTreeMap<String, i32> = self
            .subtopologies
            .iter()
            .flat_map(|of| &of.repartition_source_topics)
            .filter(|topic| topic.partition_count != 0)
            .map(|topic| (topic.name.clone(), topic.partition_count))
            .collect();
        loop {
            let (mut is_missing, mut is_progress) = (false, false);
            for subtopology in &self.subtopologies {
                for sink in &subtopology.repartition_sink_topics {
                    if decided.contains_key(sink) {
                        continue;
                    }
                    let repartitioned = subtopology.repartition_source_topics.iter();
                    let known = repartitioned
                        .filter_map(|topic| decided.get(&topic.name).copied())
                        .chain(
                            subtopology
                                .source_topics
                                .iter()
                                .filter_map(|topic| existing(topic)),
                        );
                    match known.max() {
                        Some(count) => {
                            decided.insert(sink.clone(), count);
                            is_progress = true;
                        }
                        None => is_missing = true,
                    }
                }
            }
            if !is_missing {
                break;
            }
            if !is_progress {
                let reason =
                    "partitions of repartition topics cannot be derived: they depend on each other";
                return Err(Stop::Invalid(InvalidTopology(reason.into())));
            }
        }
        let mut read = self
            .subtopologies
            .iter()
            .flat_map(|of| &of.repartition_source_topics);
        match read.find(|topic| !decided.contains_key(&topic.name)) {
            None => Ok(decided),
            Some(topic) => {
                let reason = format!("nothing writes to repartition topic {}", topic.name);
                Err(Stop::Invalid(InvalidTopology(reason)))
            }
        }
    }

    fn enforce_copartitioning(
        &self,
        counts: &mut Counts<'_, impl Fn(&str) -> Option<i32>>,
    ) -> Result<(), Stop> {
        // Repartition topics, and whether the application chose their number.
        let repartition: BTreeMap<&str, bool> = self
            .subtopologies
            .iter()
            .flat_map(|of| &of.repartition_source_topics)
            .map(|topic| (topic.name.as_str(), topic.partition_count != 0))
            .collect();
        for subtopology in &self.subtopologies {
            for group in &subtopology.copartition_groups {
                let Some(topics) = subtopology.copartitioned(group) else {
                    let reason = "a copartition group names topics that are not there";
                    return Err(Stop::Invalid(InvalidTopology(reason.into())));
                };
                let known = topics.iter().copied();
                let (internal, external): (Vec<_>, Vec<_>) = known
                    .filter_map(|topic| Some((topic, counts.of(topic)?)))
                    .partition(|(topic, _)| repartition.contains_key(topic));
                let fixed = || {
                    let fixed = internal
                        .iter()
                        .filter(|(topic, _)| repartition.get(topic).copied().unwrap_or(false));
                    fixed.copied().collect::<Vec<_>>()
                };
                let wanted = if !external.is_empty() {
                    same(&external)?
                } else if !fixed().is_empty() {
                    same(&fixed())?
                } else {
                    internal.iter().map(|(_, count)| *count).max()
                };
                let Some(wanted) = wanted else { continue };
                for (topic, count) in fixed() {
                    if count != wanted {
                        let detail = format!(
                            "repartition topic {topic} asks for {count} partitions, the topics it is joined with have {wanted}"
                        );
                        return Err(Stop::Problem(Problem::IncorrectlyPartitioned, detail));
                    }
                }
                let internal: Vec<_> = internal
                    .iter()
                    .map(|(topic, _)| (*topic).to_owned())
                    .collect();
                for topic in internal {
                    counts.decided.insert(topic, wanted);
                }
            }
        }
        Ok(())
    }
}

impl Subtopology {
    /// Topics it reads, repartition topics included.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &str> {
        let internal = self.repartition_source_topics.iter();
        self.source_topics
            .iter()
            .map(String::as_str)
            .chain(internal.map(|topic| topic.name.as_str()))
    }

    /// The names of a copartition group; `None` if an index is wrong.
    fn copartitioned(&self, group: &CopartitionGroup) -> Option<BTreeSet<&str>> {
        let at = |index: &i16| usize::try_from(*index).ok();
        let source = |index| Some(self.source_topics.get(at(index)?)?.as_str());
        let repartition = |index| {
            Some(
                self.repartition_source_topics
                    .get(at(index)?)?
                    .name
                    .as_str(),
            )
        };
        let sources = group.source_topics.iter().map(source);
        sources
            .chain(group.repartition_source_topics.iter().map(repartition))
            .collect()
    }
}

/// Partitions of topics: as they are, or else as decided.
struct Counts<'a, F> {
    existing: &'a F,
    decided: BTreeMap<String, i32>,
}

impl<F: Fn(&str) -> Option<i32>> Counts<'_, F> {
    fn of(&self, topic: &str) -> Option<i32> {
        (self.existing)(topic).or_else(|| self.decided.get(topic).copied())
    }
}

/// Why tasks cannot be derived.
enum Stop {
    /// Not yet: topics have to change.
    Problem(Problem, String),
    /// Never.
    Invalid(InvalidTopology),
}

/// The count that all have, `None` of none.
fn same(topics: &[(&str, i32)]) -> Result<Option<i32>, Stop> {
    let Some((_, first)) = topics.first() else {
        return Ok(None);
    };
    if topics.iter().all(|(_, count)| count == first) {
        return Ok(Some(*first));
    }
    let counts: Vec<_> = topics
        .iter()
        .map(|(topic, count)| format!("{topic} has {count}"))
        .collect();
    let detail = format!("topics differ in their partitions: {}", counts.join(", "));
    Err(Stop::Problem(Problem::IncorrectlyPartitioned, detail))
}

/// Names in a message: a few, and how many more.
fn summary<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 3;
    let more = names.len().saturating_sub(SHOWN_MAX);
    let shown: Vec<_> = names.take(SHOWN_MAX).collect();
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    /// `0: a b r*4 > s t [a r] | log`: reads topics a and b and repartition topic r, which asks for 4 partitions, writes to repartition
    /// topics s and t, copartitions a and r, keeps a store with changelog topic log. A `~` marks a repartition topic without a count.
    fn parse(text: &str) -> Topology {
        let subtopologies = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let (id, rest) = line.split_once(':').unwrap();
                let (rest, logs) = rest.split_once('|').unwrap_or((rest, ""));
                let (rest, groups) = rest.split_once('[').unwrap_or((rest, ""));
                let (sources, sinks) = rest.split_once('>').unwrap_or((rest, ""));
                let mut subtopology = Subtopology {
                    id: id.to_owned(),
                    ..Subtopology::default()
                };
                for source in sources.split_whitespace() {
                    if let Some((name, count)) = source.split_once('*') {
                        subtopology
                            .repartition_source_topics
                            .push(internal(name, count.parse().unwrap()));
                    } else if let Some(name) = source.strip_prefix('~') {
                        subtopology
                            .repartition_source_topics
                            .push(internal(name, 0));
                    } else {
                        subtopology.source_topics.push(source.to_owned());
                    }
                }
                subtopology.repartition_sink_topics =
                    sinks.split_whitespace().map(str::to_owned).collect();
                for group in groups.split('[') {
                    let names: Vec<_> = group
                        .trim()
                        .trim_end_matches(']')
                        .split_whitespace()
                        .collect();
                    if names.is_empty() {
                        continue;
                    }
                    let mut copartition = CopartitionGroup::default();
                    for name in names {
                        let source = subtopology
                            .source_topics
                            .iter()
                            .position(|topic| topic == name);
                        let repartition = subtopology
                            .repartition_source_topics
                            .iter()
                            .position(|topic| topic.name == name);
                        match (source, repartition) {
                            (Some(index), _) => copartition.source_topics.push(index as i16),
                            (None, Some(index)) => {
                                copartition.repartition_source_topics.push(index as i16)
                            }
                            (None, None) => copartition.source_topics.push(99),
                        }
                    }
                    subtopology.copartition_groups.push(copartition);
                }
                subtopology.changelog_topics = logs
                    .split_whitespace()
                    .map(|name| internal(name, 0))
                    .collect();
                subtopology
            });
        Topology {
            epoch: 0,
            subtopologies: subtopologies.collect(),
        }
    }

    fn internal(name: &str, partition_count: i32) -> InternalTopic {
        InternalTopic {
            name: name.into(),
            partition_count,
            ..InternalTopic::default()
        }
    }

    /// Topics as `a=4 b=2`; what is derived as `0:4 1:2 create r=4 log=4`, or the problem.
    fn check(topology: &str, topics: &str, expected: &str) {
        let topology = parse(topology);
        let topics: BTreeMap<&str, i32> = topics
            .split_whitespace()
            .map(|topic| topic.split_once('=').unwrap())
            .map(|(name, count)| (name, count.parse().unwrap()))
            .collect();
        let configured = topology
            .check()
            .and_then(|()| topology.configure(|topic| topics.get(topic).copied()));
        let found = match configured {
            Err(invalid) => format!("invalid: {invalid}"),
            Ok(configured) => match (&configured.subtopologies, &configured.problem) {
                (Some(subtopologies), problem) => {
                    let tasks: Vec<_> = subtopologies
                        .iter()
                        .map(|(id, of)| format!("{id}:{}", of.task_count))
                        .collect();
                    let missing = &configured.missing_topics;
                    assert_eq!(
                        problem.as_ref().map(|(problem, _)| *problem),
                        (!missing.is_empty()).then_some(Problem::MissingInternalTopics)
                    );
                    let missing: Vec<_> = missing
                        .values()
                        .map(|topic| format!("{}={}", topic.name, topic.partition_count))
                        .collect();
                    if missing.is_empty() {
                        tasks.join(" ")
                    } else {
                        format!("{} create {}", tasks.join(" "), missing.join(" "))
                    }
                }
                (None, Some((problem, detail))) => format!("{problem:?}: {detail}"),
                (None, None) => panic!("neither ready nor why: {configured:?}"),
            },
        };
        assert_eq!(found, expected, "topics {topics:?}");
    }

    #[test]
    fn a_subtopology_has_as_many_tasks_as_its_largest_source_and_so_have_its_changelogs() {
        check("0: a b | log", "a=3 b=5", "0:5 create log=5");
        check("0: a b | log", "a=3 b=5 log=5", "0:5");
        check("0: a | x y", "a=2 y=2", "0:2 create x=2");
    }

    #[test]
    fn repartition_topics_follow_the_sources_of_those_who_write_to_them() {
        check("0: a > r \n 1: ~r | log", "a=4", "0:4 1:4 create log=4 r=4");
        // Through two of them, whatever the order in which the sub-topologies come.
        check(
            "0: a > r \n 1: ~r > s \n 2: ~s",
            "a=6",
            "0:6 1:6 2:6 create r=6 s=6",
        );
        check(
            "0: ~s \n 1: ~r > s \n 2: a > r",
            "a=6",
            "0:6 1:6 2:6 create r=6 s=6",
        );
        // The largest of its sources, or what the application asks for.
        check("0: a b > r \n 1: ~r", "a=2 b=7", "0:7 1:7 create r=7");
        check(
            "0: a > r \n 1: r*3 | log",
            "a=8",
            "0:8 1:3 create log=3 r=3",
        );
        // One that exists stays as it is, if it is as it should be.
        check("0: a > r \n 1: ~r | log", "a=4 r=4 log=4", "0:4 1:4");
        check(
            "0: a > r \n 1: ~r",
            "a=4 r=2",
            "IncorrectlyPartitioned: topic r has 2 partitions, it should have 4",
        );
    }

    #[test]
    fn missing_source_topics_are_named() {
        check(
            "0: a b",
            "a=1",
            "MissingSourceTopics: source topics are missing: b",
        );
        check(
            "0: a b c d e",
            "",
            "MissingSourceTopics: source topics are missing: a, b, c and 2 more",
        );
    }

    #[test]
    fn copartitioned_topics_have_the_same_partitions() {
        check("0: a b [a b]", "a=3 b=3", "0:3");
        check(
            "0: a b [a b]",
            "a=3 b=4",
            "IncorrectlyPartitioned: topics differ in their partitions: a has 3, b has 4",
        );
        // A repartition topic takes the count of the topic that it is joined with.
        check(
            "0: a > r \n 1: b ~r [b r] | log",
            "a=9 b=4",
            "0:9 1:4 create log=4 r=4",
        );
        // Two repartition topics: the larger.
        check(
            "0: a > r \n 1: b > s \n 2: ~r ~s [r s]",
            "a=2 b=5",
            "0:2 1:5 2:5 create r=5 s=5",
        );
        // One of them asks for its count: the other follows.
        check(
            "0: a > r \n 1: b > s \n 2: r*3 ~s [r s]",
            "a=2 b=5",
            "0:2 1:5 2:3 create r=3 s=3",
        );
        check(
            "0: a > r \n 1: b > s \n 2: r*3 s*4 [r s]",
            "a=2 b=5",
            "IncorrectlyPartitioned: topics differ in their partitions: r has 3, s has 4",
        );
        check(
            "0: a > r \n 1: b r*3 [b r]",
            "a=2 b=5",
            "IncorrectlyPartitioned: repartition topic r asks for 3 partitions, the topics it is joined with have 5",
        );
        // Counts that are asked for elsewhere do not matter.
        check(
            "0: a > r s x y \n 1: ~r ~s [r s] \n 2: x*2 \n 3: y*7",
            "a=4",
            "0:4 1:4 2:2 3:7 create r=4 s=4 x=2 y=7",
        );
    }

    #[test]
    fn changelogs_of_the_wrong_size_are_reported() {
        check(
            "0: a | log",
            "a=4 log=3",
            "IncorrectlyPartitioned: topic log has 3 partitions, it should have 4",
        );
    }

    #[test]
    fn topologies_that_cannot_be_are_refused() {
        check(
            "0: ~r > s \n 1: ~s > r",
            "",
            "invalid: partitions of repartition topics cannot be derived: they depend on each other",
        );
        check(
            "0: a \n 1: ~r",
            "a=1",
            "invalid: nothing writes to repartition topic r",
        );
        check("0: > r", "", "invalid: sub-topology 0 has no source topics");
        check(
            "0: a \n 0: a",
            "a=1",
            "invalid: sub-topology 0 is there more than once",
        );
        check(
            "0: a [a b]",
            "a=1",
            "invalid: a copartition group of sub-topology 0 names topics that are not there",
        );
        check(
            "0: a r*-1",
            "a=1",
            "invalid: repartition topic r asks for -1 partitions",
        );
        let mut topology = parse("0: a | log");
        topology.subtopologies[0].changelog_topics[0].partition_count = 2;
        assert!(topology.check().is_err());
    }

    #[test]
    fn topologies_are_equal_whatever_the_order_of_their_parts() {
        assert_eq!(parse("0: a \n 1: b"), parse("1: b \n 0: a"));
        assert_ne!(parse("0: a \n 1: b"), parse("1: b \n 0: c"));
    }
}
