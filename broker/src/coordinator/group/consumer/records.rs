//! The records of a consumer group, in Kafka's formats (KIP-848). Keys are classic, values flexible.
//!
//! ```text
//! key    version i16, group, then
//!        3   group epoch
//!        4   topic metadata; written by Kafka before 4.0, of which only the tombstone is left
//!        5   member subscription: member id
//!        6   target assignment epoch
//!        7   target assignment: member id
//!        8   current assignment: member id
//!        16  resolved regular expression: the expression
//! value  version i16 (written: 0), then
//!        3   epoch i32, tag 0: metadata hash i64
//!        5   instance id (null), rack id (null), client id, client host, topic names [], regular expression (null),
//!            rebalance timeout i32, assignor (null), tag 0 (an i8 1 first): session timeout i32, protocols [name, metadata bytes]
//!        6   epoch i32, tag 0: timestamp i64
//!        7   partitions [topic id, partitions [i32]]
//!        8   epoch i32, previous epoch i32, state i8, assigned and pending revocation, each
//!            [topic id, partitions [i32], tag 0: epochs []]
//!        16  topic names [], metadata version i64, timestamp i64
//! ```
//! A tag is written where its value is not zero or absent, as Kafka does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use uuid::Uuid;

use super::super::records::RecordError;
use super::super::records::bytes::{
    put_compact_bytes, put_compact_length, put_compact_string, put_i8, put_i16, put_i32, put_i64,
    put_string, put_tags, put_uuid, take_compact_array, take_compact_bytes, take_compact_length,
    take_compact_string, take_i8, take_i16, take_i32, take_i64, take_string, take_tags, take_uuid,
};

/// Partitions by topic.
pub type Partitions = BTreeMap<Uuid, BTreeSet<i32>>;

/// Partitions by topic, each with the member epoch at which it was assigned.
pub type PartitionEpochs = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// A record of a consumer group. A value of `None` is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsumerRecord {
    /// The group has an epoch, or is removed.
    Epoch(Option<GroupEpoch>),
    /// What Kafka knew of the topics before 4.0, as it lies there.
    TopicMetadata(Option<Bytes>),
    /// What a member subscribes to.
    Subscription {
        /// Of whom.
        member_id: String,
        /// What it said.
        value: Option<Subscription>,
    },
    /// The epoch that the target assignment was computed for.
    TargetEpoch(Option<TargetEpoch>),
    /// What a member shall have.
    Target {
        /// Who.
        member_id: String,
        /// What.
        value: Option<Partitions>,
    },
    /// What a member has.
    Current {
        /// Who.
        member_id: String,
        /// What.
        value: Option<Current>,
    },
    /// The topics that match a regular expression.
    Regex {
        /// The expression.
        regex: String,
        /// What it matched.
        value: Option<ResolvedRegex>,
    },
}

/// The epoch of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupEpoch {
    /// Rises with every change that asks for another assignment.
    pub epoch: i32,
    /// Of the subscribed topics as they were then.
    pub metadata_hash: i64,
}

/// The epoch of a target assignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TargetEpoch {
    /// The group epoch that it is for.
    pub epoch: i32,
    /// When it was computed.
    pub timestamp_ms: i64,
}

/// What a member said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Of a static member.
    pub instance_id: Option<String>,
    /// Where it runs.
    pub rack_id: Option<String>,
    /// From the request header.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// Subscribed by name.
    pub topics: BTreeSet<String>,
    /// Subscribed by regular expression; empty or `None`: by none.
    pub regex: Option<String>,
    /// How long it may take to revoke.
    pub rebalance_timeout_ms: i32,
    /// The assignor it asks for.
    pub assignor: Option<String>,
    /// What a member that speaks the classic protocol has besides.
    pub classic: Option<ClassicMember>,
}

/// A member that speaks the classic protocol.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassicMember {
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Its assignors and its metadata for each, in its order of preference.
    pub protocols: Vec<(String, Bytes)>,
}

/// Where a member is on its way to its target. The numbers are Kafka's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MemberState {
    /// It has what it shall have.
    #[default]
    Stable,
    /// It has to give up partitions before it advances.
    UnrevokedPartitions,
    /// Others have to give up partitions that it shall get.
    UnreleasedPartitions,
    /// Written by a later version.
    Unknown(i8),
}

impl MemberState {
    fn number(self) -> i8 {
        match self {
            Self::Stable => 1,
            Self::UnrevokedPartitions => 2,
            Self::UnreleasedPartitions => 3,
            Self::Unknown(number) => number,
        }
    }

    fn of(number: i8) -> Self {
        match number {
            1 => Self::Stable,
            2 => Self::UnrevokedPartitions,
            3 => Self::UnreleasedPartitions,
            other => Self::Unknown(other),
        }
    }
}

/// What a member has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// The epoch the member is told.
    pub epoch: i32,
    /// The one before: what a member says whose last answer was lost.
    pub previous_epoch: i32,
    /// Where it is on its way.
    pub state: MemberState,
    /// Its partitions.
    pub assigned: PartitionEpochs,
    /// Partitions that it still has and has to give up.
    pub revoking: PartitionEpochs,
}

/// What a regular expression matched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedRegex {
    /// Names of topics.
    pub topics: BTreeSet<String>,
    /// Of the metadata that was searched.
    pub version: i64,
    /// When.
    pub timestamp_ms: i64,
}

impl ConsumerRecord {
    /// Whether it removes something.
    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Epoch(value) => value.is_none(),
            Self::TopicMetadata(value) => value.is_none(),
            Self::Subscription { value, .. } => value.is_none(),
            Self::TargetEpoch(value) => value.is_none(),
            Self::Target { value, .. } => value.is_none(),
            Self::Current { value, .. } => value.is_none(),
            Self::Regex { value, .. } => value.is_none(),
        }
    }

    /// Key and value, as they lie in the log.
    pub fn encode(&self, group: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        let (version, suffix) = match self {
            Self::Epoch(_) => (3, None),
            Self::TopicMetadata(_) => (4, None),
            Self::Subscription { member_id, .. } => (5, Some(member_id)),
            Self::TargetEpoch(_) => (6, None),
            Self::Target { member_id, .. } => (7, Some(member_id)),
            Self::Current { member_id, .. } => (8, Some(member_id)),
            Self::Regex { regex, .. } => (16, Some(regex)),
        };
        let mut key = Vec::new();
        put_i16(&mut key, version);
        put_string(&mut key, Some(group));
        if let Some(suffix) = suffix {
            put_string(&mut key, Some(suffix));
        }
        (key, self.encode_value())
    }

    fn encode_value(&self) -> Option<Vec<u8>> {
        let mut out = vec![0, 0];
        match self {
            Self::TopicMetadata(value) => return value.as_ref().map(|value| value.to_vec()),
            Self::Epoch(value) => {
                let value = value.as_ref()?;
                put_i32(&mut out, value.epoch);
                put_i64_tag(&mut out, value.metadata_hash);
            }
            Self::TargetEpoch(value) => {
                let value = value.as_ref()?;
                put_i32(&mut out, value.epoch);
                put_i64_tag(&mut out, value.timestamp_ms);
            }
            Self::Subscription { value, .. } => put_subscription(&mut out, value.as_ref()?),
            Self::Target { value, .. } => {
                let value = value.as_ref()?;
                put_compact_length(&mut out, Some(value.len()));
                for (topic, partitions) in value {
                    put_uuid(&mut out, *topic);
                    put_compact_length(&mut out, Some(partitions.len()));
                    for partition in partitions {
                        put_i32(&mut out, *partition);
                    }
                    put_tags(&mut out, &[]);
                }
                put_tags(&mut out, &[]);
            }
            Self::Current { value, .. } => {
                let value = value.as_ref()?;
                put_i32(&mut out, value.epoch);
                put_i32(&mut out, value.previous_epoch);
                put_i8(&mut out, value.state.number());
                put_epochs(&mut out, &value.assigned);
                put_epochs(&mut out, &value.revoking);
                put_tags(&mut out, &[]);
            }
            Self::Regex { value, .. } => {
                let value = value.as_ref()?;
                put_names(&mut out, &value.topics);
                put_i64(&mut out, value.version);
                put_i64(&mut out, value.timestamp_ms);
                put_tags(&mut out, &[]);
            }
        }
        Some(out)
    }

    /// The group and the record of what follows a key's version.
    pub fn decode(
        version: i16,
        mut key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(String, Self), RecordError> {
        const KEY: RecordError = RecordError::Malformed("key");
        let key = &mut key;
        let group = take_string(key).flatten().ok_or(KEY)?;
        let mut suffix = || take_string(key).flatten().ok_or(KEY);
        let record = match version {
            3 => Self::Epoch(decoded("group epoch", value, take_epoch)?),
            4 => Self::TopicMetadata(value.map(Bytes::copy_from_slice)),
            5 => Self::Subscription {
                member_id: suffix()?,
                value: decoded("member subscription", value, take_subscription)?,
            },
            6 => Self::TargetEpoch(decoded("target epoch", value, take_target_epoch)?),
            7 => Self::Target {
                member_id: suffix()?,
                value: decoded("target assignment", value, take_target)?,
            },
            8 => Self::Current {
                member_id: suffix()?,
                value: decoded("current assignment", value, take_current)?,
            },
            16 => Self::Regex {
                regex: suffix()?,
                value: decoded("regular expression", value, take_regex)?,
            },
            other => return Err(RecordError::UnknownVersion("key", other)),
        };
        Ok((group, record))
    }
}

/// Decodes a value after its version, or passes a tombstone through.
fn decoded<T>(
    name: &'static str,
    value: Option<&[u8]>,
    take: impl FnOnce(&mut &[u8]) -> Option<T>,
) -> Result<Option<T>, RecordError> {
    let Some(mut value) = value else {
        return Ok(None);
    };
    let version = take_i16(&mut value).ok_or(RecordError::Malformed(name))?;
    if version != 0 {
        return Err(RecordError::UnknownVersion(name, version));
    }
    take(&mut value)
        .map(Some)
        .ok_or(RecordError::Malformed(name))
}

/// The end of a struct whose only tagged field is a number that is not written when it is zero.
fn put_i64_tag(out: &mut Vec<u8>, value: i64) {
    let bytes = value.to_be_bytes();
    if value == 0 {
        put_tags(out, &[]);
    } else {
        put_tags(out, &[(0, &bytes)]);
    }
}

fn take_i64_tag(input: &mut &[u8]) -> Option<i64> {
    let tags = take_tags(input)?;
    match tags.iter().find(|(tag, _)| *tag == 0) {
        None => Some(0),
        Some((_, content)) => take_i64(&mut { *content }),
    }
}

fn put_names(out: &mut Vec<u8>, names: &BTreeSet<String>) {
    put_compact_length(out, Some(names.len()));
    for name in names {
        put_compact_string(out, Some(name));
    }
}

fn take_names(input: &mut &[u8]) -> Option<BTreeSet<String>> {
    let names = take_compact_array(input, |input| take_compact_string(input)?)?;
    Some(names.into_iter().collect())
}

fn take_epoch(input: &mut &[u8]) -> Option<GroupEpoch> {
    Some(GroupEpoch {
        epoch: take_i32(input)?,
        metadata_hash: take_i64_tag(input)?,
    })
}

fn take_target_epoch(input: &mut &[u8]) -> Option<TargetEpoch> {
    Some(TargetEpoch {
        epoch: take_i32(input)?,
        timestamp_ms: take_i64_tag(input)?,
    })
}

fn put_subscription(out: &mut Vec<u8>, value: &Subscription) {
    put_compact_string(out, value.instance_id.as_deref());
    put_compact_string(out, value.rack_id.as_deref());
    put_compact_string(out, Some(&value.client_id));
    put_compact_string(out, Some(&value.client_host));
    put_names(out, &value.topics);
    put_compact_string(out, value.regex.as_deref());
    put_i32(out, value.rebalance_timeout_ms);
    put_compact_string(out, value.assignor.as_deref());
    let Some(classic) = &value.classic else {
        return put_tags(out, &[]);
    };
    // A nullable struct has a byte in front that says that it is there.
    let mut content = vec![1];
    put_i32(&mut content, classic.session_timeout_ms);
    put_compact_length(&mut content, Some(classic.protocols.len()));
    for (name, metadata) in &classic.protocols {
        put_compact_string(&mut content, Some(name));
        put_compact_bytes(&mut content, metadata);
        put_tags(&mut content, &[]);
    }
    put_tags(&mut content, &[]);
    put_tags(out, &[(0, &content)]);
}

fn take_subscription(input: &mut &[u8]) -> Option<Subscription> {
    let mut subscription = Subscription {
        instance_id: take_compact_string(input)?,
        rack_id: take_compact_string(input)?,
        client_id: take_compact_string(input)??,
        client_host: take_compact_string(input)??,
        topics: take_names(input)?,
        regex: take_compact_string(input)?,
        rebalance_timeout_ms: take_i32(input)?,
        assignor: take_compact_string(input)?,
        classic: None,
    };
    let tags = take_tags(input)?;
    if let Some((_, content)) = tags.iter().find(|(tag, _)| *tag == 0) {
        let content = &mut { *content };
        if take_i8(content)? >= 0 {
            subscription.classic = Some(ClassicMember {
                session_timeout_ms: take_i32(content)?,
                protocols: take_compact_array(content, |content| {
                    let name = take_compact_string(content)??;
                    let metadata = take_compact_bytes(content)?;
                    take_tags(content)?;
                    Some((name, metadata))
                })?,
            });
        }
    }
    Some(subscription)
}

fn take_target(input: &mut &[u8]) -> Option<Partitions> {
    let topics = take_compact_array(input, |input| {
        let topic = take_uuid(input)?;
        let partitions = take_compact_array(input, take_i32)?;
        take_tags(input)?;
        Some((topic, partitions.into_iter().collect()))
    })?;
    Some(topics.into_iter().collect())
}

fn put_epochs(out: &mut Vec<u8>, partitions: &PartitionEpochs) {
    put_compact_length(out, Some(partitions.len()));
    for (topic, partitions) in partitions {
        put_uuid(out, *topic);
        put_compact_length(out, Some(partitions.len()));
        for partition in partitions.keys() {
            put_i32(out, *partition);
        }
        let mut epochs = Vec::new();
        put_compact_length(&mut epochs, Some(partitions.len()));
        for epoch in partitions.values() {
            put_i32(&mut epochs, *epoch);
        }
        put_tags(out, &[(0, &epochs)]);
    }
}

/// Records before 4.3 say no epochs: then it is the member's.
fn take_epochs(input: &mut &[u8], member_epoch: i32) -> Option<PartitionEpochs> {
    let topics = take_compact_array(input, |input| {
        let topic = take_uuid(input)?;
        let partitions = take_compact_array(input, take_i32)?;
        let tags = take_tags(input)?;
        let mut epochs = None;
        if let Some((_, content)) = tags.iter().find(|(tag, _)| *tag == 0) {
            let content = &mut { *content };
            if let Some(length) = take_compact_length(content)? {
                let read: Option<Vec<_>> = (0..length).map(|_| take_i32(content)).collect();
                epochs = read.filter(|epochs| epochs.len() == partitions.len());
            }
        }
        let epochs = epochs.unwrap_or_else(|| vec![member_epoch.max(0); partitions.len()]);
        Some((topic, partitions.into_iter().zip(epochs).collect()))
    })?;
    Some(topics.into_iter().collect())
}

fn take_current(input: &mut &[u8]) -> Option<Current> {
    let epoch = take_i32(input)?;
    Some(Current {
        epoch,
        previous_epoch: take_i32(input)?,
        state: MemberState::of(take_i8(input)?),
        assigned: take_epochs(input, epoch)?,
        revoking: take_epochs(input, epoch)?,
    })
}

fn take_regex(input: &mut &[u8]) -> Option<ResolvedRegex> {
    Some(ResolvedRegex {
        topics: take_names(input)?,
        version: take_i64(input)?,
        timestamp_ms: take_i64(input)?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn epochs() -> impl Strategy<Value = PartitionEpochs> {
        let partitions = prop::collection::btree_map(any::<i32>(), any::<i32>(), 1..4);
        prop::collection::btree_map(any::<u128>().prop_map(Uuid::from_u128), partitions, 0..3)
    }

    fn subscription() -> impl Strategy<Value = Subscription> {
        let text = || prop::option::of(".{0,6}");
        let protocol = (
            ".{0,6}",
            prop::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from),
        );
        let classic = (any::<i32>(), prop::collection::vec(protocol, 0..3)).prop_map(
            |(session_timeout_ms, protocols)| ClassicMember {
                session_timeout_ms,
                protocols,
            },
        );
        (
            text(),
            text(),
            prop::collection::btree_set(".{0,6}", 0..3),
            text(),
            any::<i32>(),
            text(),
            prop::option::of(classic),
        )
            .prop_map(
                |(instance_id, rack_id, topics, regex, rebalance_timeout_ms, assignor, classic)| {
                    Subscription {
                        instance_id,
                        rack_id,
                        client_id: "c".into(),
                        client_host: "/h".into(),
                        topics,
                        regex,
                        rebalance_timeout_ms,
                        assignor,
                        classic,
                    }
                },
            )
    }

    fn record() -> impl Strategy<Value = ConsumerRecord> {
        let current = (any::<i32>(), any::<i32>(), 1..=4_i8, epochs(), epochs()).prop_map(
            |(epoch, previous_epoch, state, assigned, revoking)| Current {
                epoch,
                previous_epoch,
                state: MemberState::of(state),
                assigned,
                revoking,
            },
        );
        let regex = (
            prop::collection::btree_set(".{0,6}", 0..3),
            any::<i64>(),
            any::<i64>(),
        )
            .prop_map(|(topics, version, timestamp_ms)| ResolvedRegex {
                topics,
                version,
                timestamp_ms,
            });
        let two = || prop::option::of((any::<i32>(), any::<i64>()));
        let target = epochs().prop_map(|epochs| {
            let keys = |(topic, of): (Uuid, BTreeMap<i32, i32>)| (topic, of.into_keys().collect());
            epochs.into_iter().map(keys).collect::<Partitions>()
        });
        prop_oneof![
            two().prop_map(
                |value| ConsumerRecord::Epoch(value.map(|(epoch, metadata_hash)| {
                    GroupEpoch {
                        epoch,
                        metadata_hash,
                    }
                }))
            ),
            two().prop_map(|value| {
                ConsumerRecord::TargetEpoch(value.map(|(epoch, timestamp_ms)| TargetEpoch {
                    epoch,
                    timestamp_ms,
                }))
            }),
            Just(ConsumerRecord::TopicMetadata(None)),
            (".{0,6}", prop::option::of(subscription()))
                .prop_map(|(member_id, value)| ConsumerRecord::Subscription { member_id, value }),
            (".{0,6}", prop::option::of(target))
                .prop_map(|(member_id, value)| ConsumerRecord::Target { member_id, value }),
            (".{0,6}", prop::option::of(current))
                .prop_map(|(member_id, value)| ConsumerRecord::Current { member_id, value }),
            (".{0,6}", prop::option::of(regex))
                .prop_map(|(regex, value)| ConsumerRecord::Regex { regex, value }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_decodes_to_itself(record in record()) {
            let (key, value) = record.encode("g");
            let mut rest = key.as_slice();
            let version = take_i16(&mut rest).unwrap();
            let decoded = ConsumerRecord::decode(version, rest, value.as_deref());
            prop_assert_eq!(decoded, Ok(("g".to_owned(), record)));
        }

        #[test]
        fn garbage_never_panics(version in 3..=16_i16, key in prop::collection::vec(any::<u8>(), 0..16), value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = ConsumerRecord::decode(version, &key, Some(&value));
        }
    }

    #[test]
    fn a_current_assignment_is_the_bytes_that_kafka_writes() {
        let topic = Uuid::from_u128(7);
        let record = ConsumerRecord::Current {
            member_id: "m".into(),
            value: Some(Current {
                epoch: 5,
                previous_epoch: 4,
                state: MemberState::UnrevokedPartitions,
                assigned: [(topic, [(1, 5)].into())].into(),
                revoking: PartitionEpochs::new(),
            }),
        };
        let (key, value) = record.encode("g");
        assert_eq!(key, [0, 8, 0, 1, b'g', 0, 1, b'm']);
        let mut expected = vec![0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 2, 2];
        expected.extend_from_slice(topic.as_bytes());
        // One partition, 1; one tag, 0, of five bytes: one epoch, 5; nothing is revoked; no tags.
        expected.extend_from_slice(&[2, 0, 0, 0, 1, 1, 0, 5, 2, 0, 0, 0, 5, 1, 0]);
        assert_eq!(value.unwrap(), expected);
    }

    #[test]
    fn an_assignment_without_epochs_has_the_members() {
        let topic = Uuid::from_u128(7);
        let mut value = vec![0, 0, 0, 0, 0, 5, 0, 0, 0, 4, 1, 2];
        value.extend_from_slice(topic.as_bytes());
        value.extend_from_slice(&[2, 0, 0, 0, 1, 0, 1, 0]);
        let (_, record) =
            ConsumerRecord::decode(8, &[0, 1, b'g', 0, 1, b'm'], Some(&value)).unwrap();
        let ConsumerRecord::Current {
            value: Some(current),
            ..
        } = record
        else {
            unreachable!("{record:?}");
        };
        assert_eq!(current.assigned, [(topic, [(1, 5)].into())].into());
    }
}
