//! The records of a streams group, in Kafka's formats (KIP-1071). Keys are classic, values flexible: compact lengths, and tagged fields
//! at the end of each struct.
//!
//! ```text
//! key    version i16, group, then
//!        17  group
//!        19  member metadata: member id
//!        20  target assignment epoch
//!        21  target assignment: member id
//!        22  current assignment: member id
//!        23  topology
//! value  version i16 (written: 0), then
//!        17  epoch i32, metadata hash i64, tag 0: validated topology epoch i32 (unless -1), tag 1: assignment configs [name, value] (null)
//!        19  instance id (null), rack id (null), client id, client host, rebalance timeout i32, topology epoch i32, process id,
//!            endpoint (an i8: -1 is null, 1 is there): host, port u16; client tags [key, value]
//!        20  epoch i32, tag 0: timestamp i64 (unless 0)
//!        21  active, standby, warm-up, each [sub-topology, partitions [i32]]
//!        22  epoch i32, previous epoch i32, state i8; active, standby, warm-up, then the same to be revoked, each
//!            [sub-topology, partitions [i32], tag 0: epochs [i32], of active tasks]
//!        23  epoch i32, sub-topologies [id, sources [], source expressions [], changelogs [topic], repartition sinks [],
//!            repartition sources [topic], copartition groups [sources [i16], expressions [i16], repartition sources [i16]]]
//!            topic: name, partitions i32, replication factor i16, configs [name, value]
//! ```
//! A null value is a tombstone.

use std::collections::{BTreeMap, BTreeSet};

use super::super::records::RecordError;
use super::super::records::bytes::{
    put_compact_length, put_compact_string, put_i8, put_i16, put_i32, put_i64, put_string,
    put_tags, take_compact_array, take_compact_length, take_compact_string, take_i8, take_i16,
    take_i32, take_i64, take_string, take_tags,
};
use super::reconcile::{CurrentAssignment, MemberState};
use super::tasks::{ActiveTasks, Assigned, Assignment, TaskSet};
use super::topology::{CopartitionGroup, InternalTopic, Subtopology, Topology};

/// A record of one streams group; `None` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamsRecord {
    /// The group has a new epoch.
    Group(Option<GroupEpoch>),
    /// What a member says of itself.
    Member(String, Option<MemberMetadata>),
    /// There is a new target assignment.
    TargetEpoch(Option<TargetEpoch>),
    /// What a member should have.
    Target(String, Option<Assignment>),
    /// What a member has.
    Current(String, Option<CurrentAssignment>),
    /// What the application is.
    Topology(Option<Topology>),
}

/// The epoch of a group, which counts the changes that may change the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEpoch {
    pub(crate) epoch: i32,
    /// Of the topics that the topology needs.
    pub(crate) metadata_hash: i64,
    /// Epoch of the topology that the topics are right for; -1 if they are not.
    pub(crate) validated_topology_epoch: i32,
    /// What the assignor was configured with.
    pub(crate) assignment_configs: BTreeMap<String, String>,
}

/// The epoch of the target assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEpoch {
    pub(crate) epoch: i32,
    pub(crate) timestamp_ms: i64,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberMetadata {
    pub(crate) instance_id: Option<String>,
    pub(crate) rack_id: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) topology_epoch: i32,
    pub(crate) process_id: String,
    pub(crate) user_endpoint: Option<(String, u16)>,
    pub(crate) client_tags: BTreeMap<String, String>,
}

impl StreamsRecord {
    /// Whether it says that something is no more.
    pub(crate) fn is_tombstone(&self) -> bool {
        matches!(
            self,
            Self::Group(None)
                | Self::Member(_, None)
                | Self::TargetEpoch(None)
                | Self::Target(_, None)
                | Self::Current(_, None)
                | Self::Topology(None)
        )
    }

    fn key_version(&self) -> i16 {
        match self {
            Self::Group(_) => 17,
            Self::Member(..) => 19,
            Self::TargetEpoch(_) => 20,
            Self::Target(..) => 21,
            Self::Current(..) => 22,
            Self::Topology(_) => 23,
        }
    }

    /// Key and value, as they lie in the log.
    pub(crate) fn encode(&self, group: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = Vec::new();
        put_i16(&mut key, self.key_version());
        put_string(&mut key, Some(group));
        if let Self::Member(id, _) | Self::Target(id, _) | Self::Current(id, _) = self {
            put_string(&mut key, Some(id));
        }
        let value = match self {
            Self::Group(value) => value.as_ref().map(encode_group),
            Self::Member(_, value) => value.as_ref().map(encode_member),
            Self::TargetEpoch(value) => value.as_ref().map(encode_target_epoch),
            Self::Target(_, value) => value.as_ref().map(encode_target),
            Self::Current(_, value) => value.as_ref().map(encode_current),
            Self::Topology(value) => value.as_ref().map(encode_topology),
        };
        (key, value)
    }

    /// The group and the record of a key, whose version has been taken off, and a value.
    pub(crate) fn decode(
        key_version: i16,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(String, Self), RecordError> {
        const KEY: RecordError = RecordError::Malformed("key");
        let mut key = key;
        let group = take_string(&mut key).flatten().ok_or(KEY)?;
        let mut member = || take_string(&mut key).flatten().ok_or(KEY);
        let record = match key_version {
            17 => Self::Group(decode("streams group", value, decode_group)?),
            19 => Self::Member(member()?, decode("streams member", value, decode_member)?),
            20 => Self::TargetEpoch(decode("target epoch", value, decode_target_epoch)?),
            21 => Self::Target(
                member()?,
                decode("target assignment", value, decode_target)?,
            ),
            22 => Self::Current(
                member()?,
                decode("current assignment", value, decode_current)?,
            ),
            23 => Self::Topology(decode("topology", value, decode_topology)?),
            other => return Err(RecordError::UnknownVersion("key", other)),
        };
        Ok((group, record))
    }
}

fn decode<T>(
    name: &'static str,
    value: Option<&[u8]>,
    fields: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Result<Option<T>, RecordError> {
    let Some(mut input) = value else {
        return Ok(None);
    };
    match take_i16(&mut input) {
        Some(0) => fields(&mut input)
            .map(Some)
            .ok_or(RecordError::Malformed(name)),
        Some(version) => Err(RecordError::UnknownVersion(name, version)),
        None => Err(RecordError::Malformed(name)),
    }
}

/// A value of version zero.
fn value() -> Vec<u8> {
    vec![0, 0]
}

fn encode_group(group: &GroupEpoch) -> Vec<u8> {
    let mut out = value();
    put_i32(&mut out, group.epoch);
    put_i64(&mut out, group.metadata_hash);
    let validated = group.validated_topology_epoch.to_be_bytes();
    let mut configs = Vec::new();
    put_pairs(&mut configs, group.assignment_configs.iter());
    let mut tags: Vec<(u32, &[u8])> = Vec::new();
    if group.validated_topology_epoch != -1 {
        tags.push((0, &validated));
    }
    tags.push((1, &configs));
    put_tags(&mut out, &tags);
    out
}

fn decode_group(input: &mut &[u8]) -> Option<GroupEpoch> {
    let mut group = GroupEpoch {
        epoch: take_i32(input)?,
        metadata_hash: take_i64(input)?,
        validated_topology_epoch: -1,
        assignment_configs: BTreeMap::new(),
    };
    for (tag, mut content) in take_tags(input)? {
        match tag {
            0 => group.validated_topology_epoch = take_i32(&mut content)?,
            // Null is the same as empty.
            1 if content != [0] => {
                group.assignment_configs = take_pairs(&mut content)?.into_iter().collect();
            }
            _ => {}
        }
    }
    Some(group)
}

fn encode_member(member: &MemberMetadata) -> Vec<u8> {
    let mut out = value();
    put_compact_string(&mut out, member.instance_id.as_deref());
    put_compact_string(&mut out, member.rack_id.as_deref());
    put_compact_string(&mut out, Some(&member.client_id));
    put_compact_string(&mut out, Some(&member.client_host));
    put_i32(&mut out, member.rebalance_timeout_ms);
    put_i32(&mut out, member.topology_epoch);
    put_compact_string(&mut out, Some(&member.process_id));
    match &member.user_endpoint {
        None => put_i8(&mut out, -1),
        Some((host, port)) => {
            put_i8(&mut out, 1);
            put_compact_string(&mut out, Some(host));
            out.extend_from_slice(&port.to_be_bytes());
            put_tags(&mut out, &[]);
        }
    }
    put_pairs(&mut out, member.client_tags.iter());
    put_tags(&mut out, &[]);
    out
}

fn decode_member(input: &mut &[u8]) -> Option<MemberMetadata> {
    let mut member = MemberMetadata {
        instance_id: take_compact_string(input)?,
        rack_id: take_compact_string(input)?,
        client_id: take_compact_string(input)??,
        client_host: take_compact_string(input)??,
        rebalance_timeout_ms: take_i32(input)?,
        topology_epoch: take_i32(input)?,
        process_id: take_compact_string(input)??,
        ..MemberMetadata::default()
    };
    if take_i8(input)? >= 0 {
        let host = take_compact_string(input)??;
        // A port is the only unsigned number: its bits are those of an i16.
        let port = take_i16(input)? as u16;
        take_tags(input)?;
        member.user_endpoint = Some((host, port));
    }
    member.client_tags = take_pairs(input)?.into_iter().collect();
    take_tags(input)?;
    Some(member)
}

fn encode_target_epoch(target: &TargetEpoch) -> Vec<u8> {
    let mut out = value();
    put_i32(&mut out, target.epoch);
    let timestamp = target.timestamp_ms.to_be_bytes();
    match target.timestamp_ms {
        0 => put_tags(&mut out, &[]),
        _ => put_tags(&mut out, &[(0, &timestamp)]),
    }
    out
}

fn decode_target_epoch(input: &mut &[u8]) -> Option<TargetEpoch> {
    let mut target = TargetEpoch {
        epoch: take_i32(input)?,
        timestamp_ms: 0,
    };
    for (tag, mut content) in take_tags(input)? {
        if tag == 0 {
            target.timestamp_ms = take_i64(&mut content)?;
        }
    }
    Some(target)
}

fn encode_target(target: &Assignment) -> Vec<u8> {
    let mut out = value();
    for tasks in [&target.active, &target.standby, &target.warmup] {
        put_tasks(&mut out, tasks);
    }
    put_tags(&mut out, &[]);
    out
}

fn decode_target(input: &mut &[u8]) -> Option<Assignment> {
    let target = Assignment {
        active: take_tasks(input)?,
        standby: take_tasks(input)?,
        warmup: take_tasks(input)?,
    };
    take_tags(input)?;
    Some(target)
}

fn encode_current(current: &CurrentAssignment) -> Vec<u8> {
    let mut out = value();
    put_i32(&mut out, current.member_epoch);
    put_i32(&mut out, current.previous_member_epoch);
    put_i8(&mut out, current.state.code());
    for assigned in [&current.assigned, &current.pending_revocation] {
        put_active_tasks(&mut out, &assigned.active);
        put_tasks(&mut out, &assigned.standby);
        put_tasks(&mut out, &assigned.warmup);
    }
    put_tags(&mut out, &[]);
    out
}

fn decode_current(input: &mut &[u8]) -> Option<CurrentAssignment> {
    let member_epoch = take_i32(input)?;
    let previous_member_epoch = take_i32(input)?;
    let state = MemberState::of_code(take_i8(input)?);
    let mut assigned = || {
        Some(Assigned {
            active: take_active_tasks(input, member_epoch)?,
            standby: take_tasks(input)?,
            warmup: take_tasks(input)?,
        })
    };
    let current = CurrentAssignment {
        member_epoch,
        previous_member_epoch,
        state,
        assigned: assigned()?,
        pending_revocation: assigned()?,
    };
    take_tags(input)?;
    Some(current)
}

fn encode_topology(topology: &Topology) -> Vec<u8> {
    let mut out = value();
    put_i32(&mut out, topology.epoch);
    put_array(&mut out, &topology.subtopologies, |out, subtopology| {
        put_compact_string(out, Some(&subtopology.id));
        put_names(out, &subtopology.source_topics);
        put_names(out, &subtopology.source_topic_regex);
        put_array(out, &subtopology.changelog_topics, put_topic);
        put_names(out, &subtopology.repartition_sink_topics);
        put_array(out, &subtopology.repartition_source_topics, put_topic);
        put_array(out, &subtopology.copartition_groups, |out, group| {
            for indexes in [
                &group.source_topics,
                &group.source_topic_regex,
                &group.repartition_source_topics,
            ] {
                put_array(out, indexes, |out, index| put_i16(out, *index));
            }
            put_tags(out, &[]);
        });
        put_tags(out, &[]);
    });
    put_tags(&mut out, &[]);
    out
}

fn decode_topology(input: &mut &[u8]) -> Option<Topology> {
    let epoch = take_i32(input)?;
    let subtopologies = take_compact_array(input, |input| {
        let subtopology = Subtopology {
            id: take_compact_string(input)??,
            source_topics: take_names(input)?,
            source_topic_regex: take_names(input)?,
            changelog_topics: take_compact_array(input, take_topic)?,
            repartition_sink_topics: take_names(input)?,
            repartition_source_topics: take_compact_array(input, take_topic)?,
            copartition_groups: take_compact_array(input, |input| {
                let group = CopartitionGroup {
                    source_topics: take_compact_array(input, take_i16)?,
                    source_topic_regex: take_compact_array(input, take_i16)?,
                    repartition_source_topics: take_compact_array(input, take_i16)?,
                };
                take_tags(input)?;
                Some(group)
            })?,
        };
        take_tags(input)?;
        Some(subtopology)
    })?;
    take_tags(input)?;
    Some(Topology {
        epoch,
        subtopologies,
    })
}

fn put_topic(out: &mut Vec<u8>, topic: &InternalTopic) {
    put_compact_string(out, Some(&topic.name));
    put_i32(out, topic.partition_count);
    put_i16(out, topic.replication_factor);
    put_pairs(out, topic.configs.iter().map(|(name, value)| (name, value)));
    put_tags(out, &[]);
}

fn take_topic(input: &mut &[u8]) -> Option<InternalTopic> {
    let topic = InternalTopic {
        name: take_compact_string(input)??,
        partition_count: take_i32(input)?,
        replication_factor: take_i16(input)?,
        configs: take_pairs(input)?,
    };
    take_tags(input)?;
    Some(topic)
}

fn put_array<T>(out: &mut Vec<u8>, elements: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    put_compact_length(out, Some(elements.len()));
    for element in elements {
        put(out, element);
    }
}

fn put_names(out: &mut Vec<u8>, names: &[String]) {
    put_array(out, names, |out, name| put_compact_string(out, Some(name)));
}

fn take_names(input: &mut &[u8]) -> Option<Vec<String>> {
    take_compact_array(input, |input| take_compact_string(input)?)
}

fn put_pairs<'a>(
    out: &mut Vec<u8>,
    pairs: impl ExactSizeIterator<Item = (&'a String, &'a String)>,
) {
    put_compact_length(out, Some(pairs.len()));
    for (name, value) in pairs {
        put_compact_string(out, Some(name));
        put_compact_string(out, Some(value));
        put_tags(out, &[]);
    }
}

fn take_pairs(input: &mut &[u8]) -> Option<Vec<(String, String)>> {
    take_compact_array(input, |input| {
        let pair = (take_compact_string(input)??, take_compact_string(input)??);
        take_tags(input)?;
        Some(pair)
    })
}

fn put_partitions<'a>(out: &mut Vec<u8>, partitions: impl ExactSizeIterator<Item = &'a i32>) {
    put_compact_length(out, Some(partitions.len()));
    for partition in partitions {
        put_i32(out, *partition);
    }
}

fn put_tasks(out: &mut Vec<u8>, tasks: &TaskSet) {
    put_compact_length(out, Some(tasks.len()));
    for (subtopology, partitions) in tasks {
        put_compact_string(out, Some(subtopology));
        put_partitions(out, partitions.iter());
        put_tags(out, &[]);
    }
}

fn take_tasks(input: &mut &[u8]) -> Option<TaskSet> {
    let mut tasks = TaskSet::new();
    let length = take_compact_length(input)??;
    for _ in 0..length {
        let subtopology = take_compact_string(input)??;
        let partitions: BTreeSet<_> = take_compact_array(input, take_i32)?.into_iter().collect();
        take_tags(input)?;
        if !partitions.is_empty() {
            tasks.insert(subtopology, partitions);
        }
    }
    Some(tasks)
}

fn put_active_tasks(out: &mut Vec<u8>, tasks: &ActiveTasks) {
    put_compact_length(out, Some(tasks.len()));
    for (subtopology, partitions) in tasks {
        put_compact_string(out, Some(subtopology));
        put_partitions(out, partitions.keys());
        let mut epochs = Vec::new();
        put_partitions(&mut epochs, partitions.values());
        put_tags(out, &[(0, &epochs)]);
    }
}

/// Where a record has no epochs, by an earlier version of Kafka, the tasks are as old as the member's epoch.
fn take_active_tasks(input: &mut &[u8], member_epoch: i32) -> Option<ActiveTasks> {
    let mut tasks = ActiveTasks::new();
    let length = take_compact_length(input)??;
    for _ in 0..length {
        let subtopology = take_compact_string(input)??;
        let partitions = take_compact_array(input, take_i32)?;
        let mut epochs = Vec::new();
        for (tag, mut content) in take_tags(input)? {
            if tag == 0 && content != [0] {
                epochs = take_compact_array(&mut content, take_i32)?;
            }
        }
        if epochs.len() != partitions.len() {
            epochs = vec![member_epoch; partitions.len()];
        }
        if !partitions.is_empty() {
            tasks.insert(subtopology, partitions.into_iter().zip(epochs).collect());
        }
    }
    Some(tasks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::super::tasks::testing::tasks;
    use super::*;

    fn task_set() -> impl Strategy<Value = TaskSet> {
        prop::collection::btree_map(
            "[a-z0-9]{0,3}",
            prop::collection::btree_set(any::<i32>(), 1..3),
            0..3,
        )
    }

    fn assigned() -> impl Strategy<Value = Assigned> {
        let active = prop::collection::btree_map(
            "[a-z0-9]{0,3}",
            prop::collection::btree_map(any::<i32>(), any::<i32>(), 1..3),
            0..3,
        );
        (active, task_set(), task_set()).prop_map(|(active, standby, warmup)| Assigned {
            active,
            standby,
            warmup,
        })
    }

    fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map(".{0,4}", ".{0,4}", 0..3)
    }

    fn topic() -> impl Strategy<Value = InternalTopic> {
        (".{0,4}", any::<i32>(), any::<i16>(), pairs()).prop_map(
            |(name, partition_count, replication_factor, configs)| InternalTopic {
                name,
                partition_count,
                replication_factor,
                configs: configs.into_iter().collect(),
            },
        )
    }

    fn topology() -> impl Strategy<Value = Topology> {
        let names = || prop::collection::vec(".{0,4}", 0..3);
        let topics = || prop::collection::vec(topic(), 0..3);
        let indexes = || prop::collection::vec(any::<i16>(), 0..3);
        let group = (indexes(), indexes(), indexes()).prop_map(
            |(source_topics, source_topic_regex, repartition_source_topics)| CopartitionGroup {
                source_topics,
                source_topic_regex,
                repartition_source_topics,
            },
        );
        let subtopology = (
            ".{0,4}",
            names(),
            names(),
            topics(),
            names(),
            topics(),
            prop::collection::vec(group, 0..2),
        )
            .prop_map(
                |(
                    id,
                    source_topics,
                    source_topic_regex,
                    changelog_topics,
                    repartition_sink_topics,
                    repartition_source_topics,
                    copartition_groups,
                )| Subtopology {
                    id,
                    source_topics,
                    source_topic_regex,
                    changelog_topics,
                    repartition_sink_topics,
                    repartition_source_topics,
                    copartition_groups,
                },
            );
        (any::<i32>(), prop::collection::vec(subtopology, 0..3)).prop_map(
            |(epoch, subtopologies)| Topology {
                epoch,
                subtopologies,
            },
        )
    }

    fn record() -> impl Strategy<Value = StreamsRecord> {
        let group = (any::<i32>(), any::<i64>(), any::<i32>(), pairs()).prop_map(
            |(epoch, metadata_hash, validated_topology_epoch, assignment_configs)| GroupEpoch {
                epoch,
                metadata_hash,
                validated_topology_epoch,
                assignment_configs,
            },
        );
        let member = (
            prop::option::of(".{0,4}"),
            prop::option::of((".{0,4}", any::<u16>())),
            pairs(),
            any::<i32>(),
        )
            .prop_map(
                |(instance_id, user_endpoint, client_tags, rebalance_timeout_ms)| MemberMetadata {
                    instance_id,
                    client_id: "c".into(),
                    client_host: "/h".into(),
                    rebalance_timeout_ms,
                    process_id: "p".into(),
                    user_endpoint,
                    client_tags,
                    ..MemberMetadata::default()
                },
            );
        let current = (
            any::<i32>(),
            any::<i32>(),
            prop::sample::select(vec![1, 2, 3, 127]),
            assigned(),
            assigned(),
        )
            .prop_map(
                |(member_epoch, previous_member_epoch, state, assigned, pending_revocation)| {
                    CurrentAssignment {
                        member_epoch,
                        previous_member_epoch,
                        state: MemberState::of_code(state),
                        assigned,
                        pending_revocation,
                    }
                },
            );
        let target =
            (task_set(), task_set(), task_set()).prop_map(|(active, standby, warmup)| Assignment {
                active,
                standby,
                warmup,
            });
        let target_epoch =
            (any::<i32>(), any::<i64>()).prop_map(|(epoch, timestamp_ms)| TargetEpoch {
                epoch,
                timestamp_ms,
            });
        prop_oneof![
            prop::option::of(group).prop_map(StreamsRecord::Group),
            (".{0,4}", prop::option::of(member))
                .prop_map(|(id, value)| StreamsRecord::Member(id, value)),
            prop::option::of(target_epoch).prop_map(StreamsRecord::TargetEpoch),
            (".{0,4}", prop::option::of(target))
                .prop_map(|(id, value)| StreamsRecord::Target(id, value)),
            (".{0,4}", prop::option::of(current))
                .prop_map(|(id, value)| StreamsRecord::Current(id, value)),
            prop::option::of(topology()).prop_map(StreamsRecord::Topology),
        ]
    }

    fn decode_all(
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(String, StreamsRecord), RecordError> {
        let mut key = key;
        let version = take_i16(&mut key).ok_or(RecordError::Malformed("key"))?;
        StreamsRecord::decode(version, key, value)
    }

    proptest! {
        #[test]
        fn a_record_decodes_to_itself(record in record()) {
            let (key, value) = record.encode("g");
            prop_assert_eq!(decode_all(&key, value.as_deref()), Ok(("g".to_owned(), record)));
        }

        #[test]
        fn garbage_never_panics(version in 17..24_i16, key in prop::collection::vec(any::<u8>(), 0..16), mut value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = StreamsRecord::decode(version, &key, Some(&value));
            value.splice(0..0, [0, 0]);
            let _ = StreamsRecord::decode(version, &[0, 1, b'g', 0, 1, b'm'], Some(&value));
        }

        #[test]
        fn a_record_that_is_cut_short_is_refused(record in record(), cut in 1..16_usize) {
            let (key, value) = record.encode("g");
            if let Some(value) = value {
                let short = &value[..value.len() - cut.min(value.len())];
                prop_assert!(decode_all(&key, Some(short)).is_err());
            }
        }
    }

    fn check(record: StreamsRecord, key: &[u8], value: &[u8]) {
        assert_eq!(
            record.encode("g"),
            (key.to_vec(), Some(value.to_vec())),
            "{record:?}"
        );
    }

    #[test]
    fn records_are_the_bytes_that_kafka_writes() {
        let group = GroupEpoch {
            epoch: 2,
            metadata_hash: 3,
            validated_topology_epoch: 0,
            assignment_configs: BTreeMap::from([("n".to_owned(), "1".to_owned())]),
        };
        let value = [
            0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 4, 0, 0, 0, 0, 1, 6, 2, 2, b'n', 2,
            b'1', 0,
        ];
        check(
            StreamsRecord::Group(Some(group)),
            &[0, 17, 0, 1, b'g'],
            &value,
        );
        let member = MemberMetadata {
            rack_id: Some("r".into()),
            client_id: "c".into(),
            client_host: "/".into(),
            rebalance_timeout_ms: 9,
            process_id: "p".into(),
            user_endpoint: Some(("h".into(), 65535)),
            client_tags: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            ..MemberMetadata::default()
        };
        let value = [
            0, 0, 0, 2, b'r', 2, b'c', 2, b'/', 0, 0, 0, 9, 0, 0, 0, 0, 2, b'p', 1, 2, b'h', 255,
            255, 0, 2, 2, b'k', 2, b'v', 0, 0,
        ];
        check(
            StreamsRecord::Member("m".into(), Some(member)),
            &[0, 19, 0, 1, b'g', 0, 1, b'm'],
            &value,
        );
        let epoch = TargetEpoch {
            epoch: 4,
            timestamp_ms: 5,
        };
        check(
            StreamsRecord::TargetEpoch(Some(epoch)),
            &[0, 20, 0, 1, b'g'],
            &[0, 0, 0, 0, 0, 4, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5],
        );
        let target = Assignment {
            active: tasks(&["0_1", "0_2"]),
            ..Assignment::default()
        };
        let value = [0, 0, 2, 2, b'0', 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 1, 1, 0];
        check(
            StreamsRecord::Target("m".into(), Some(target)),
            &[0, 21, 0, 1, b'g', 0, 1, b'm'],
            &value,
        );
        let current = CurrentAssignment {
            member_epoch: 7,
            previous_member_epoch: 6,
            state: MemberState::UnrevokedTasks,
            assigned: Assigned {
                active: BTreeMap::from([("0".to_owned(), BTreeMap::from([(1, 6)]))]),
                ..Assigned::default()
            },
            pending_revocation: Assigned {
                standby: tasks(&["0_3"]),
                ..Assigned::default()
            },
        };
        let value = [
            0, 0, 0, 0, 0, 7, 0, 0, 0, 6, 2, 2, 2, b'0', 2, 0, 0, 0, 1, 1, 0, 5, 2, 0, 0, 0, 6, 1,
            1, 1, 2, 2, b'0', 2, 0, 0, 0, 3, 0, 1, 0,
        ];
        check(
            StreamsRecord::Current("m".into(), Some(current)),
            &[0, 22, 0, 1, b'g', 0, 1, b'm'],
            &value,
        );
        let changelog = InternalTopic {
            name: "l".into(),
            replication_factor: -1,
            configs: vec![("a".into(), "b".into())],
            ..InternalTopic::default()
        };
        let topology = Topology {
            epoch: 1,
            subtopologies: vec![Subtopology {
                id: "0".into(),
                source_topics: vec!["s".into()],
                changelog_topics: vec![changelog],
                copartition_groups: vec![CopartitionGroup {
                    source_topics: vec![0],
                    ..CopartitionGroup::default()
                }],
                ..Subtopology::default()
            }],
        };
        let value = [
            0, 0, 0, 0, 0, 1, 2, 2, b'0', 2, 2, b's', 1, 2, 2, b'l', 0, 0, 0, 0, 255, 255, 2, 2,
            b'a', 2, b'b', 0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 0, 0, 0,
        ];
        check(
            StreamsRecord::Topology(Some(topology)),
            &[0, 23, 0, 1, b'g'],
            &value,
        );
        assert_eq!(
            StreamsRecord::Group(None).encode("g"),
            (vec![0, 17, 0, 1, b'g'], None)
        );
    }

    #[test]
    fn tasks_without_epochs_are_as_old_as_the_member() {
        let mut value = vec![
            0, 0, 0, 0, 0, 7, 0, 0, 0, 6, 1, 2, 2, b'0', 2, 0, 0, 0, 1, 0,
        ];
        value.extend([1, 1, 1, 1, 1, 0]);
        let (_, record) =
            StreamsRecord::decode(22, &[0, 1, b'g', 0, 1, b'm'], Some(&value)).unwrap();
        let StreamsRecord::Current(_, Some(current)) = record else {
            panic!("{record:?}")
        };
        assert_eq!(
            current.assigned.active,
            BTreeMap::from([("0".to_owned(), BTreeMap::from([(1, 7)]))])
        );
    }
}
