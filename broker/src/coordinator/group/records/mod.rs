//! The records of `__consumer_offsets`, in Kafka's formats. Big-endian; a string is its length as i16 (-1 is null) and its bytes, bytes
//! have an i32 length.
//!
//! ```text
//! key    version i16
//!        1  offset commit: group, topic, partition i32
//!        2  group metadata: group
//!        3–8, 16  of consumer groups: `consumer::records`
//!        17, 19–23  of streams groups: `streams::records`
//! offset commit value, version i16 (written: 3)
//!        0  offset i64, metadata, commit timestamp i64
//!        1  offset i64, metadata, commit timestamp i64, expire timestamp i64
//!        2  offset i64, metadata, commit timestamp i64
//!        3  offset i64, leader epoch i32, metadata, commit timestamp i64
//! group metadata value, version i16 (written: 3)
//!        protocol type, generation i32, protocol (null), leader (null), state timestamp i64 (v2+),
//!        members i32: member id, instance id (null, v3+), client id, client host, rebalance timeout i32 (v1+),
//!                     session timeout i32, subscription bytes, assignment bytes
//! ```
//! A null value is a tombstone.

use ::bytes::Bytes;

use super::consumer::records::ConsumerRecord;
use super::streams::records::StreamsRecord;

pub(crate) mod bytes;

use bytes::{
    put_bytes, put_i16, put_i32, put_i64, put_string, take_bytes, take_i16, take_i32, take_i64,
    take_string,
};

/// A record of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupRecord {
    /// An offset was committed, or (`None`) removed.
    OffsetCommit {
        /// Of which group.
        group: String,
        /// Of which topic.
        topic: String,
        /// Of which partition.
        partition: i32,
        /// What was committed.
        value: Option<CommittedOffset>,
    },
    /// Something of a consumer group.
    Consumer {
        /// Which group.
        group: String,
        /// What.
        record: ConsumerRecord,
    },
    /// A group has a new generation, or (`None`) is removed.
    GroupMetadata {
        /// Which group.
        group: String,
        /// Its members and their assignments.
        value: Option<GroupMetadata>,
    },
    /// Something of a streams group.
    Streams {
        /// Which group.
        group: String,
        /// What.
        record: StreamsRecord,
    },
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to be consumed.
    pub offset: i64,
    /// Leader epoch of the last consumed record; -1 if the client did not say.
    pub leader_epoch: i32,
    /// The client's own note.
    pub metadata: String,
    /// When it was committed.
    pub commit_timestamp_ms: i64,
}

/// A generation of a classic group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupMetadata {
    /// `consumer`, `connect` or what the members say.
    pub protocol_type: String,
    /// Number of the generation.
    pub generation: i32,
    /// The chosen assignor.
    pub protocol: Option<String>,
    /// Member id of the leader.
    pub leader: Option<String>,
    /// Since when the group is in its state.
    pub state_timestamp_ms: i64,
    /// The members.
    pub members: Vec<MemberMetadata>,
}

/// A member of a generation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberMetadata {
    /// Given by the coordinator.
    pub member_id: String,
    /// Given by the user, for a static member.
    pub instance_id: Option<String>,
    /// From the request header.
    pub client_id: String,
    /// Address of the client.
    pub client_host: String,
    /// How long it may take to rejoin.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// Its metadata for the chosen protocol.
    pub subscription: Bytes,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

/// Why a record cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A key or value of a version that this broker does not know.
    #[error("unknown {0} version {1}")]
    UnknownVersion(&'static str, i16),
    /// Bytes are missing or left over.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

impl GroupRecord {
    /// Whether it is about a committed offset, not about a group.
    pub(crate) fn is_offset(&self) -> bool {
        matches!(self, Self::OffsetCommit { .. })
    }

    /// Records of a streams group.
    pub(crate) fn streams(group: &str, records: Vec<StreamsRecord>) -> Vec<Self> {
        let of_group = |record| Self::Streams {
            group: group.to_owned(),
            record,
        };
        records.into_iter().map(of_group).collect()
    }

    /// Key and value, as they lie in the log.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let mut key = Vec::new();
        match self {
            Self::OffsetCommit {
                group,
                topic,
                partition,
                value,
            } => {
                put_i16(&mut key, 1);
                put_string(&mut key, Some(group));
                put_string(&mut key, Some(topic));
                put_i32(&mut key, *partition);
                let value = value.as_ref().map(|value| {
                    let mut out = Vec::new();
                    put_i16(&mut out, 3);
                    put_i64(&mut out, value.offset);
                    put_i32(&mut out, value.leader_epoch);
                    put_string(&mut out, Some(&value.metadata));
                    put_i64(&mut out, value.commit_timestamp_ms);
                    out
                });
                (key, value)
            }
            Self::Consumer { group, record } => record.encode(group),
            Self::GroupMetadata { group, value } => {
                put_i16(&mut key, 2);
                put_string(&mut key, Some(group));
                (key, value.as_ref().map(encode_group))
            }
            Self::Streams { group, record } => record.encode(group),
        }
    }

    /// The record of a key and a value.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, RecordError> {
        const KEY: RecordError = RecordError::Malformed("key");
        let mut input = key;
        let version = take_i16(&mut input).ok_or(KEY)?;
        match version {
            0 | 1 => {
                let group = take_string(&mut input).flatten().ok_or(KEY)?;
                let topic = take_string(&mut input).flatten().ok_or(KEY)?;
                let partition = take_i32(&mut input).ok_or(KEY)?;
                let value = value.map(decode_offset).transpose()?;
                Ok(Self::OffsetCommit {
                    group,
                    topic,
                    partition,
                    value,
                })
            }
            2 => {
                let group = take_string(&mut input).flatten().ok_or(KEY)?;
                let value = value.map(decode_group).transpose()?;
                Ok(Self::GroupMetadata { group, value })
            }
            3..=8 | 16 => {
                let (group, record) = ConsumerRecord::decode(version, input, value)?;
                Ok(Self::Consumer { group, record })
            }
            17 | 19..=23 => {
                let (group, record) = StreamsRecord::decode(version, input, value)?;
                Ok(Self::Streams { group, record })
            }
            other => Err(RecordError::UnknownVersion("key", other)),
        }
    }
}

fn decode_offset(value: &[u8]) -> Result<CommittedOffset, RecordError> {
    let mut input = value;
    let version = take_i16(&mut input).ok_or(RecordError::Malformed("offset commit"))?;
    if !(0..=3).contains(&version) {
        return Err(RecordError::UnknownVersion("offset commit", version));
    }
    let mut decode = || {
        Some(CommittedOffset {
            offset: take_i64(&mut input)?,
            leader_epoch: if version >= 3 {
                take_i32(&mut input)?
            } else {
                -1
            },
            metadata: take_string(&mut input)??,
            commit_timestamp_ms: take_i64(&mut input)?,
        })
    };
    decode().ok_or(RecordError::Malformed("offset commit"))
}

fn encode_group(value: &GroupMetadata) -> Vec<u8> {
    let mut out = Vec::new();
    put_i16(&mut out, 3);
    put_string(&mut out, Some(&value.protocol_type));
    put_i32(&mut out, value.generation);
    put_string(&mut out, value.protocol.as_deref());
    put_string(&mut out, value.leader.as_deref());
    put_i64(&mut out, value.state_timestamp_ms);
    put_i32(&mut out, value.members.len() as i32);
    for member in &value.members {
        put_string(&mut out, Some(&member.member_id));
        put_string(&mut out, member.instance_id.as_deref());
        put_string(&mut out, Some(&member.client_id));
        put_string(&mut out, Some(&member.client_host));
        put_i32(&mut out, member.rebalance_timeout_ms);
        put_i32(&mut out, member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out
}

fn decode_group(value: &[u8]) -> Result<GroupMetadata, RecordError> {
    let mut input = value;
    let version = take_i16(&mut input).ok_or(RecordError::Malformed("group metadata"))?;
    if !(0..=3).contains(&version) {
        return Err(RecordError::UnknownVersion("group metadata", version));
    }
    let mut decode = || {
        let mut group = GroupMetadata {
            protocol_type: take_string(&mut input)??,
            generation: take_i32(&mut input)?,
            protocol: take_string(&mut input)?,
            leader: take_string(&mut input)?,
            state_timestamp_ms: if version >= 2 {
                take_i64(&mut input)?
            } else {
                -1
            },
            members: Vec::new(),
        };
        for _ in 0..take_i32(&mut input)? {
            group.members.push(MemberMetadata {
                member_id: take_string(&mut input)??,
                instance_id: if version >= 3 {
                    take_string(&mut input)?
                } else {
                    None
                },
                client_id: take_string(&mut input)??,
                client_host: take_string(&mut input)??,
                rebalance_timeout_ms: if version >= 1 {
                    take_i32(&mut input)?
                } else {
                    -1
                },
                session_timeout_ms: take_i32(&mut input)?,
                subscription: take_bytes(&mut input)?,
                assignment: take_bytes(&mut input)?,
            });
        }
        Some(group)
    };
    decode().ok_or(RecordError::Malformed("group metadata"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn member() -> impl Strategy<Value = MemberMetadata> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from);
        (
            ".{0,8}",
            prop::option::of(".{0,8}"),
            any::<i32>(),
            any::<i32>(),
            bytes(),
            bytes(),
        )
            .prop_map(
                |(
                    member_id,
                    instance_id,
                    rebalance_timeout_ms,
                    session_timeout_ms,
                    subscription,
                    assignment,
                )| MemberMetadata {
                    member_id,
                    instance_id,
                    client_id: "c".into(),
                    client_host: "/h".into(),
                    rebalance_timeout_ms,
                    session_timeout_ms,
                    subscription,
                    assignment,
                },
            )
    }

    fn record() -> impl Strategy<Value = GroupRecord> {
        let offset = (any::<i64>(), any::<i32>(), ".{0,8}", any::<i64>()).prop_map(
            |(offset, leader_epoch, metadata, commit_timestamp_ms)| CommittedOffset {
                offset,
                leader_epoch,
                metadata,
                commit_timestamp_ms,
            },
        );
        let group = (
            any::<i32>(),
            prop::option::of(".{0,8}"),
            prop::collection::vec(member(), 0..3),
        )
            .prop_map(|(generation, protocol, members)| GroupMetadata {
                protocol_type: "consumer".into(),
                generation,
                protocol,
                leader: None,
                state_timestamp_ms: 7,
                members,
            });
        prop_oneof![
            (".{0,8}", ".{0,8}", any::<i32>(), prop::option::of(offset)).prop_map(
                |(group, topic, partition, value)| {
                    GroupRecord::OffsetCommit {
                        group,
                        topic,
                        partition,
                        value,
                    }
                }
            ),
            (".{0,8}", prop::option::of(group))
                .prop_map(|(group, value)| GroupRecord::GroupMetadata { group, value }),
        ]
    }

    proptest! {
        #[test]
        fn a_record_decodes_to_itself(record in record()) {
            let (key, value) = record.encode();
            prop_assert_eq!(GroupRecord::decode(&key, value.as_deref()), Ok(record));
        }

        #[test]
        fn garbage_never_panics(key in prop::collection::vec(any::<u8>(), 0..32), value in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = GroupRecord::decode(&key, Some(&value));
        }
    }

    #[test]
    fn an_offset_commit_is_the_bytes_that_kafka_writes() {
        let value = CommittedOffset {
            offset: 5,
            leader_epoch: 0,
            metadata: "m".into(),
            commit_timestamp_ms: 9,
        };
        let record = GroupRecord::OffsetCommit {
            group: "g".into(),
            topic: "t".into(),
            partition: 3,
            value: Some(value),
        };
        let (key, value) = record.encode();
        assert_eq!(key, [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
        assert_eq!(
            value.unwrap(),
            [
                0, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 9
            ]
        );
    }

    #[test]
    fn an_unknown_version_is_named() {
        assert_eq!(
            GroupRecord::decode(&[0, 9], None),
            Err(RecordError::UnknownVersion("key", 9))
        );
    }
}
