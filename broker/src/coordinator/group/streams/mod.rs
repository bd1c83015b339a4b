//! Streams groups (KIP-1071): the broker assigns the tasks of a Kafka Streams application to its threads.
//!
//! 1. A member joins with the application's topology (`topology`), from which tasks and internal topics follow.
//! 2. Whatever may change the assignment bumps the group's epoch: a member that comes, changes or goes, the topics, the configs.
//! 3. A group epoch above the target's makes a new target assignment (`assignor`), in which the `warmup` of a task may come before its move.
//! 4. Each member is brought to its target over its heartbeats (`reconcile`), and so to the epoch of the target.
//!
//! `heartbeat` decides, and returns records; `replay` of a record is the only thing that changes what is durable. What is not: when members
//! were heard of, the topology's numbers (derived again from the topics), the request to shut down, task offsets, the endpoint epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Commit, CommitKind, GroupError};
use crate::metadata::GroupConfig;

pub(crate) mod assignor;
mod coordinate;
pub(crate) mod describe;
pub(crate) mod heartbeat;
pub(crate) mod reconcile;
pub(crate) mod records;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
pub(crate) mod topology;

use reconcile::{CurrentAssignment, MemberState, Owners};
use records::{GroupEpoch, MemberMetadata, StreamsRecord, TargetEpoch};
use tasks::Assignment;
use topology::{ConfiguredTopology, Topology};

/// The epoch of a static member that has left and is expected back.
const STATIC_LEAVE_EPOCH: i32 = -2;

/// The epoch of a group that nobody has joined yet, and of its target.
const FIRST_EPOCH: i32 = 1;

/// Why a streams group refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamsError {
    #[error("{0}")]
    Group(#[from] GroupError),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("{0}")]
    InvalidTopology(#[from] topology::InvalidTopology),
    #[error("{0}")]
    InvalidTopologyEpoch(String),
    #[error("{0}")]
    NotStreams(String),
    #[error("{0}")]
    FencedMemberEpoch(String),
    #[error("{0}")]
    UnreleasedInstanceId(String),
}

/// A member: a stream thread of some process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Member {
    metadata: MemberMetadata,
    current: CurrentAssignment,
}

/// A streams group.
#[derive(Debug)]
pub(crate) struct StreamsGroup {
    /// Whether anything of it is in the log.
    is_durable: bool,
    epoch: i32,
    metadata_hash: i64,
    validated_topology_epoch: i32,
    assignment_configs: BTreeMap<String, String>,
    topology: Option<Arc<Topology>>,
    members: BTreeMap<String, Member>,
    target_epoch: TargetEpoch,
    target: BTreeMap<String, Assignment>,
    /// Derived: member ids by instance id.
    static_members: BTreeMap<String, String>,
    /// Derived: who has which tasks.
    owners: Owners,
    soft: Soft,
}

/// What is not durable.
#[derive(Debug, Default)]
struct Soft {
    config: GroupConfig,
    /// The topology with its tasks, and the hash of the topics it was derived from.
    configured: Option<(i64, Arc<ConfiguredTopology>)>,
    heard_ms: HashMap<String, i64>,
    /// When a member has to have given back its tasks.
    revoked_by_ms: BTreeMap<String, i64>,
    /// Until when a new group waits for more members.
    delayed_until_ms: Option<i64>,
    /// Who asked for all to shut down.
    shutdown_by: Option<String>,
    /// Counts changes of who has what, for interactive queries.
    endpoint_epoch: i32,
}

/// The state of a group, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Empty,
    NotReady,
    Assigning,
    Reconciling,
    Stable,
}

impl State {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::NotReady => "NotReady",
            Self::Assigning => "Assigning",
            Self::Reconciling => "Reconciling",
            Self::Stable => "Stable",
        }
    }
}

impl Default for StreamsGroup {
    fn default() -> Self {
        Self {
            is_durable: false,
            epoch: FIRST_EPOCH,
            metadata_hash: 0,
            validated_topology_epoch: -1,
            assignment_configs: BTreeMap::new(),
            topology: None,
            members: BTreeMap::new(),
            target_epoch: TargetEpoch {
                epoch: FIRST_EPOCH,
                timestamp_ms: 0,
            },
            target: BTreeMap::new(),
            static_members: BTreeMap::new(),
            owners: Owners::default(),
            soft: Soft::default(),
        }
    }
}

impl StreamsGroup {
    /// Applies a record. Tombstones of what is not there change nothing: after compaction they may be all that is left. Returns whether
    /// the group is gone.
    pub(crate) fn replay(&mut self, record: &StreamsRecord, now_ms: i64) -> bool {
        self.is_durable = true;
        match record {
            StreamsRecord::Group(Some(group)) => {
                self.epoch = group.epoch;
                self.metadata_hash = group.metadata_hash;
                self.validated_topology_epoch = group.validated_topology_epoch;
                self.assignment_configs = group.assignment_configs.clone();
            }
            StreamsRecord::Group(None) => return self.members.is_empty(),
            StreamsRecord::Member(id, Some(metadata)) => {
                self.change_member(id, now_ms, |member| member.metadata = metadata.clone());
                if let Some(instance_id) = &metadata.instance_id {
                    self.static_members.insert(instance_id.clone(), id.clone());
                }
            }
            StreamsRecord::Member(id, None) => self.remove_member(id),
            StreamsRecord::Current(id, Some(current)) => {
                self.change_member(id, now_ms, |member| member.current = current.clone());
            }
            StreamsRecord::Current(id, None) => {
                if self.members.contains_key(id) {
                    self.change_member(id, now_ms, |member| {
                        member.current = CurrentAssignment::default()
                    });
                }
            }
            StreamsRecord::TargetEpoch(Some(target_epoch)) => self.target_epoch = *target_epoch,
            StreamsRecord::TargetEpoch(None) => {
                self.target_epoch = TargetEpoch {
                    epoch: -1,
                    timestamp_ms: 0,
                };
            }
            StreamsRecord::Target(id, Some(target)) => {
                self.target.insert(id.clone(), target.clone());
            }
            StreamsRecord::Target(id, None) => {
                self.target.remove(id);
            }
            StreamsRecord::Topology(topology) => {
                self.topology = topology.clone().map(Arc::new);
                // Its numbers were derived when it was decided, unless this is a restart.
                if self.topology.is_none() {
                    self.soft.configured = None;
                }
            }
        }
        false
    }

    fn change_member(&mut self, id: &str, now_ms: i64, change: impl FnOnce(&mut Member)) {
        let member = self.members.entry(id.to_owned()).or_default();
        for tasks in [&member.current.assigned, &member.current.pending_revocation] {
            self.owners.remove(&member.metadata.process_id, tasks);
        }
        change(member);
        for tasks in [&member.current.assigned, &member.current.pending_revocation] {
            self.owners.add(&member.metadata.process_id, tasks);
        }
        // After a restart a member has all its time again.
        self.soft.heard_ms.entry(id.to_owned()).or_insert(now_ms);
        if member.current.state == MemberState::UnrevokedTasks {
            let timeout_ms = i64::from(member.metadata.rebalance_timeout_ms.max(0));
            let by_ms = now_ms.saturating_add(timeout_ms);
            self.soft
                .revoked_by_ms
                .entry(id.to_owned())
                .or_insert(by_ms);
        } else {
            self.soft.revoked_by_ms.remove(id);
        }
    }

    fn remove_member(&mut self, id: &str) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        for tasks in [&member.current.assigned, &member.current.pending_revocation] {
            self.owners.remove(&member.metadata.process_id, tasks);
        }
        if let Some(instance_id) = &member.metadata.instance_id
            && self
                .static_members
                .get(instance_id)
                .is_some_and(|now| now == id)
        {
            self.static_members.remove(instance_id);
        }
        self.soft.heard_ms.remove(id);
        self.soft.revoked_by_ms.remove(id);
        if self.members.is_empty() {
            self.soft.shutdown_by = None;
        }
    }

    pub(crate) fn state(&self) -> State {
        let validated = self.validated_topology_epoch;
        if self.members.is_empty() {
            State::Empty
        } else if self
            .topology
            .as_ref()
            .is_none_or(|topology| topology.epoch != validated)
        {
            State::NotReady
        } else if self.epoch > self.target_epoch.epoch {
            State::Assigning
        } else if self
            .members
            .values()
            .all(|member| member.current.is_reconciled_to(self.target_epoch.epoch))
        {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    /// Whether it may be deleted, or become a group of another kind.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it may be forgotten without a record.
    pub(crate) fn is_unused(&self) -> bool {
        !self.is_durable
    }

    /// Topics that the application reads, while it has members.
    pub(crate) fn subscribed_topics(&self) -> BTreeSet<String> {
        let topology = self.topology.as_ref().filter(|_| !self.members.is_empty());
        let subtopologies = topology
            .into_iter()
            .flat_map(|topology| &topology.subtopologies);
        subtopologies
            .flat_map(|subtopology| subtopology.sources())
            .map(str::to_owned)
            .collect()
    }

    /// Tombstones for all that is durable of it.
    pub(crate) fn tombstones(&self) -> Vec<StreamsRecord> {
        let ids = || self.members.keys().cloned();
        let mut records: Vec<_> = ids().map(|id| StreamsRecord::Current(id, None)).collect();
        records.extend(ids().map(|id| StreamsRecord::Target(id, None)));
        records.push(StreamsRecord::TargetEpoch(None));
        records.extend(ids().map(|id| StreamsRecord::Member(id, None)));
        records.push(StreamsRecord::Group(None));
        records.push(StreamsRecord::Topology(None));
        records
    }

    /// Whether a member may commit offsets of these partitions. A transactional commit need not say who makes it.
    ///
    /// A member that has not heard of its newest epoch may commit what it was assigned at the epoch it comes with, or before: a task that
    /// has been elsewhere in between has a newer epoch, so a commit from before then is refused.
    pub(crate) fn check_commit<'a>(
        &self,
        commit: Commit<'_>,
        partitions: impl IntoIterator<Item = (&'a str, i32)>,
    ) -> Result<(), GroupError> {
        let member_epoch = commit.member.generation;
        if member_epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        if commit.kind == CommitKind::Transactional && commit.member.names_nobody() {
            return Ok(());
        }
        let member = self
            .members
            .get(&commit.member.member_id)
            .ok_or(GroupError::UnknownMember)?;
        if commit.kind == CommitKind::WithoutEpochs {
            return Err(GroupError::UnsupportedVersion);
        }
        let current = &member.current;
        if member_epoch == current.member_epoch {
            return Ok(());
        }
        if member_epoch > current.member_epoch {
            return Err(GroupError::StaleMemberEpoch);
        }
        let topology = self.topology.as_ref().ok_or(GroupError::StaleMemberEpoch)?;
        let is_assigned = |(topic, partition): (&str, i32)| {
            let subtopology = topology.reader_of(topic)?;
            let epoch_in = |tasks: &tasks::Assigned| {
                tasks.active.get(&subtopology.id)?.get(&partition).copied()
            };
            let epoch =
                epoch_in(&current.assigned).or_else(|| epoch_in(&current.pending_revocation))?;
            (epoch <= member_epoch).then_some(())
        };
        let mut partitions = partitions.into_iter();
        if partitions.all(|partition| is_assigned(partition).is_some()) {
            Ok(())
        } else {
            Err(GroupError::StaleMemberEpoch)
        }
    }

    /// Whether a member may fetch committed offsets. Who does not say that it is a member may.
    pub(crate) fn check_fetch(
        &self,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        match member_id {
            None | Some("") if member_epoch < 0 => Ok(()),
            None => Err(GroupError::UnknownMember),
            Some(id) => match self.members.get(id) {
                None => Err(GroupError::UnknownMember),
                Some(member) if member.current.member_epoch == member_epoch => Ok(()),
                Some(_) => Err(GroupError::StaleMemberEpoch),
            },
        }
    }

    /// When it has to be looked at again at the latest.
    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        let session_timeout_ms = i64::from(self.soft.config.streams_session_timeout_ms);
        let sessions = self.soft.heard_ms.values();
        sessions
            .map(|heard_ms| heard_ms.saturating_add(session_timeout_ms))
            .chain(self.soft.revoked_by_ms.values().copied())
            .chain(self.soft.delayed_until_ms)
            .min()
    }

    /// What has to be recorded because time has passed: members that are gone, and the first assignment of a new group.
    pub(crate) fn expire(&mut self, now_ms: i64) -> Vec<StreamsRecord> {
        let session_timeout_ms = i64::from(self.soft.config.streams_session_timeout_ms);
        let silent = self
            .soft
            .heard_ms
            .iter()
            .filter(|(_, heard_ms)| heard_ms.saturating_add(session_timeout_ms) <= now_ms)
            .map(|(id, _)| id);
        let slow = self
            .soft
            .revoked_by_ms
            .iter()
            .filter(|(_, by_ms)| **by_ms <= now_ms)
            .map(|(id, _)| id);
        let gone: BTreeSet<_> = silent.chain(slow).cloned().collect();
        let mut records = Vec::new();
        if self
            .soft
            .delayed_until_ms
            .is_some_and(|until_ms| until_ms <= now_ms)
        {
            self.soft.delayed_until_ms = None;
            if gone.is_empty() {
                records.extend(self.delayed_target(now_ms));
            }
        }
        // Should the records not be written, they are asked for again after a while, not at once.
        for id in &gone {
            self.soft.heard_ms.insert(id.clone(), now_ms);
            if let Some(by_ms) = self.soft.revoked_by_ms.get_mut(id) {
                *by_ms = now_ms.saturating_add(session_timeout_ms);
            }
        }
        if !gone.is_empty() {
            tracing::info!(members = ?gone, "streams group members fenced: they were silent, or kept what they had to give back");
            records.extend(self.fence(gone));
        }
        records
    }

    /// Removes members. Whoever is left is assigned their tasks.
    fn fence(&self, ids: impl IntoIterator<Item = String>) -> Vec<StreamsRecord> {
        let mut records = Vec::new();
        for id in ids {
            records.extend(removed(&id));
        }
        records.push(StreamsRecord::Group(Some(GroupEpoch {
            epoch: self.epoch + 1,
            metadata_hash: self.metadata_hash,
            validated_topology_epoch: self.validated_topology_epoch,
            assignment_configs: self.assignment_configs.clone(),
        })));
        records
    }
}

/// Tombstones for a member.
fn removed(id: &str) -> [StreamsRecord; 3] {
    [
        StreamsRecord::Current(id.to_owned(), None),
        StreamsRecord::Target(id.to_owned(), None),
        StreamsRecord::Member(id.to_owned(), None),
    ]
}
