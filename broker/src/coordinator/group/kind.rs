//! The kinds of group that live beside each other, one to an id, and what the coordinator asks of any of them.
//!
//! Each kind is a pure machine in a module of its own. A new kind is a variant here, its records in `GroupRecord`, and an arm
//! in each `match` below: the compiler names the places.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::classic::{ClassicGroup, State};
use super::consumer::ConsumerGroup;
use super::records::{CommittedOffset, GroupRecord};
use super::streams::StreamsGroup;
use super::{Commit, CommitKind, GroupError};

/// A group of any kind.
#[derive(Debug)]
pub(crate) enum Group {
    /// Its members assign by themselves (JoinGroup, SyncGroup). Also the groups that have committed offsets and never a member.
    Classic(ClassicGroup),
    /// The coordinator assigns (ConsumerGroupHeartbeat).
    Consumer(Box<ConsumerGroup>),
    /// The broker assigns the tasks of a Streams application (StreamsGroupHeartbeat).
    Streams(Box<StreamsGroup>),
}

/// How the offsets of a group expire.
#[derive(Debug)]
pub(crate) struct OffsetExpiry {
    /// Their age counts from then; from their commit if there is none.
    pub(crate) since_ms: Option<i64>,
    /// Offsets of these topics do not.
    pub(crate) subscribed: BTreeSet<String>,
}

impl Group {
    /// ListGroups' word for the kind.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Classic(_) => "classic",
            Self::Consumer(_) => "consumer",
            Self::Streams(_) => "streams",
        }
    }

    /// ListGroups' word for what the members speak.
    pub(crate) fn protocol_type(&self) -> &str {
        match self {
            Self::Classic(group) => group.protocol_type.as_deref().unwrap_or_default(),
            Self::Consumer(_) => "consumer",
            Self::Streams(_) => "streams",
        }
    }

    /// ListGroups' word for the state.
    pub(crate) fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state.name(),
            Self::Consumer(group) => group.state_name(),
            Self::Streams(group) => group.state().name(),
        }
    }

    /// Whether it may be deleted.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.state == State::Empty,
            Self::Consumer(group) => group.is_empty(),
            Self::Streams(group) => group.is_empty(),
        }
    }

    /// Whether nothing of it is durable and nobody is expected: it may be forgotten without a record.
    pub(crate) fn is_unused(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_unused(),
            Self::Consumer(_) => false,
            Self::Streams(group) => group.is_unused(),
        }
    }

    /// Whether a commit of these offsets may be made by who says so: all of it, or nothing. A member that has been replaced may not
    /// commit in a transaction either (KIP-447). `topic_id` tells a topic's id.
    pub(crate) fn check_commit(
        &mut self,
        commit: Commit<'_>,
        offsets: &[(String, i32, CommittedOffset)],
        topic_id: impl Fn(&str) -> Uuid,
        now_ms: i64,
    ) -> Result<(), GroupError> {
        let checked = match self {
            Self::Classic(group) => group.check_commit(commit, now_ms),
            Self::Consumer(group) => {
                let ids = offsets
                    .iter()
                    .map(|(topic, partition, _)| (topic_id(topic), *partition));
                group.check_commit(commit, ids)
            }
            Self::Streams(group) => {
                let names = offsets
                    .iter()
                    .map(|(topic, partition, _)| (topic.as_str(), *partition));
                group.check_commit(commit, names)
            }
        };
        checked.map_err(|error| match (commit.kind, error) {
            // An answer to a commit in a transaction has no code for an epoch that is old.
            (CommitKind::Transactional, GroupError::StaleMemberEpoch) => {
                GroupError::IllegalGeneration
            }
            (_, error) => error,
        })
    }

    /// Whether offsets may be read by who says so.
    pub(crate) fn check_fetch(
        &self,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        match self {
            Self::Classic(_) => Ok(()),
            Self::Consumer(group) => group.check_fetch(member_id, member_epoch),
            Self::Streams(group) => group.check_fetch(member_id, member_epoch),
        }
    }

    /// Topics that members subscribe to; `None` if the members' protocol does not say.
    pub(crate) fn subscribed_topics(&self) -> Option<BTreeSet<String>> {
        match self {
            Self::Classic(group) => group.subscribed_topics(),
            Self::Consumer(group) => Some(group.subscribed_topics()),
            Self::Streams(group) => Some(group.subscribed_topics()),
        }
    }

    /// Whether nobody is in it and nobody is expected.
    pub(crate) fn is_deserted(&self) -> bool {
        match self {
            Self::Classic(group) => group.state == State::Empty && !group.expects_somebody(),
            Self::Consumer(_) | Self::Streams(_) => self.is_empty(),
        }
    }

    /// How its offsets expire; `None`: not while it is like this.
    pub(crate) fn offset_expiry(&self) -> Option<OffsetExpiry> {
        match self {
            Self::Classic(group) => group.offset_expiry(),
            Self::Consumer(_) | Self::Streams(_) => Some(OffsetExpiry {
                since_ms: None,
                subscribed: self.subscribed_topics()?,
            }),
        }
    }

    /// Tombstones for all that is durable of the group itself. It has no members.
    pub(crate) fn tombstones(&self, group: &str) -> Vec<GroupRecord> {
        match self {
            Self::Classic(_) => vec![GroupRecord::GroupMetadata {
                group: group.to_owned(),
                value: None,
            }],
            Self::Consumer(live) => {
                let of = |record| GroupRecord::Consumer {
                    group: group.to_owned(),
                    record,
                };
                live.tombstones().into_iter().map(of).collect()
            }
            Self::Streams(live) => GroupRecord::streams(group, live.tombstones()),
        }
    }

    /// When the coordinator has to look at it again at the latest.
    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        match self {
            Self::Classic(group) => group.next_deadline_ms(),
            Self::Consumer(group) => group.next_deadline_ms(),
            Self::Streams(group) => group.next_deadline_ms(),
        }
    }
}
