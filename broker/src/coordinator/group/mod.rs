//! The group coordinator: groups, their members and committed offsets, kept in `__consumer_offsets`.
//!
//! 1. A request is checked against the group (a pure state machine, one module a `kind`) and may ask for records.
//! 2. The records are appended to the group's partition of the topic, in one batch. Records of groups are replayed at once, so
//!    that the next decision sees them; records of offsets when they are durable, so that no reader sees what a crash takes back.
//! 3. When the partition's high watermark passes the batch, whoever waits is answered, in log order. A decision without records
//!    is answered after those before it, because it may tell of them.
//!
//! A batch that cannot be appended is not replayed. One that is appended and never becomes durable means that the partition has
//! failed: from then on every request of its groups is refused, until a restart replays what is on disk.
//!
//! The rounds of a classic group are soft: known to the process, restored from the group's last record after a restart, and gone
//! with the members' session timeouts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use uuid::Uuid;

use crate::broker::Core;
use crate::config::MigrationPolicy;
use crate::coordinator::pending::{self, Pending};
use crate::fault;
use crate::log::{self, AppendError, AppendOrigin, VerificationGuard};
use crate::metadata::Catalog;
use crate::protocol::record_batch::Builder;
use crate::replica::{Partition, PartitionError, Wake};

pub(crate) mod classic;
pub mod consumer;
mod expiry;
pub(crate) mod kind;
mod metadata_hash;
pub(crate) mod offsets;
pub mod records;
pub(crate) mod streams;

use classic::{Caller, ClassicGroup, Effect, Join, Joined, ReplyId, Rules, State, Synced};
use consumer::assign::Assignor;
use consumer::records::ConsumerRecord;
use consumer::{
    ConsumerGroup, ConsumerRules, Decided, Expressions, Heartbeat, HeartbeatAnswer, Matches,
    NO_MATCHES, Refusal, View,
};
use kind::Group;
use offsets::{GroupOffsets, Offsets};
use records::{CommittedOffset, GroupMetadata, GroupRecord};

/// Why the coordinator refuses. Handlers turn it into Kafka's codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum GroupError {
    #[error("the coordinator cannot write its topic")]
    CoordinatorNotAvailable,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("the generation is not the group's current one")]
    IllegalGeneration,
    #[error("the member's protocols do not match the group's")]
    InconsistentProtocol,
    #[error("the member is not known")]
    UnknownMember,
    #[error("the session timeout is outside the allowed range")]
    InvalidSessionTimeout,
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    #[error("the group has members")]
    NonEmptyGroup,
    #[error("there is no such group")]
    GroupNotFound,
    #[error("the member has to join again with its id")]
    MemberIdRequired,
    #[error("the group is full")]
    MaxSizeReached,
    #[error("another member has taken over the instance id")]
    FencedInstanceId,
    #[error("the member epoch is not the one that the member is in")]
    StaleMemberEpoch,
    #[error("the group is subscribed to the topic")]
    SubscribedToTopic,
    #[error("the request is not valid")]
    InvalidRequest,
    #[error("the member's epoch is not the one the coordinator knows")]
    FencedMemberEpoch,
    #[error("another member has the instance id")]
    UnreleasedInstanceId,
    #[error("the assignor is not supported")]
    UnsupportedAssignor,
    #[error("the regular expression is not valid")]
    InvalidRegularExpression,
    #[error("the offsets do not fit into one batch")]
    OffsetsTooLarge,
    #[error("the producer's epoch is older than the current one")]
    InvalidProducerEpoch,
    #[error("the producer has no open transaction here")]
    InvalidTransactionState,
    #[error("a member that has an epoch commits with a version of the request that knows epochs")]
    UnsupportedVersion,
}

/// Longest instance id, as Kafka has it.
const INSTANCE_ID_BYTES_MAX: usize = 249;

pub(crate) type Reply<T> = Box<dyn FnOnce(T) + Send>;
type JoinReply = Reply<Result<Joined, (GroupError, String)>>;
type SyncReply = Reply<Result<Synced, GroupError>>;
/// An answer for each member that leaves.
type LeaveReply = Reply<Result<Vec<Result<(), GroupError>>, GroupError>>;
type WriteReply = Reply<Result<(), GroupError>>;

/// Who a request says it comes from.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberRef {
    pub(crate) member_id: String,
    pub(crate) instance_id: Option<String>,
    pub(crate) generation: i32,
}

impl MemberRef {
    fn caller(&self) -> Caller<'_> {
        Caller {
            member_id: &self.member_id,
            instance_id: self.instance_id.as_deref(),
            generation: self.generation,
        }
    }

    /// Whether it says nothing of a member: as a consumer that assigns its own partitions.
    fn names_nobody(&self) -> bool {
        self.generation < 0 && self.member_id.is_empty() && self.instance_id.is_none()
    }
}

/// How offsets are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitKind {
    /// At once.
    Direct,
    /// At once, by a request that has only generations: no word of a member that has an epoch.
    WithoutEpochs,
    /// When the transaction of a producer commits.
    Transactional,
}

/// A commit, and who says it makes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit<'a> {
    pub(crate) member: &'a MemberRef,
    pub(crate) kind: CommitKind,
}

/// A request to sync.
#[derive(Debug)]
pub(crate) struct Sync {
    pub(crate) member: MemberRef,
    pub(crate) protocol_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) assignments: Vec<(String, Bytes)>,
}

/// A group, as DescribeGroups shows it.
#[derive(Debug, Clone)]
pub(crate) struct Description {
    pub(crate) state: &'static str,
    pub(crate) metadata: GroupMetadata,
}

/// A group, as ListGroups shows it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) group: String,
    pub(crate) type_name: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) state: &'static str,
}

/// Who commits offsets in a transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransactionalWriter {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    /// Leave to begin the transaction on the group's partition, if it is not open there.
    pub(crate) guard: Option<VerificationGuard>,
}

/// The coordinator of every group on this broker.
pub(crate) struct GroupCoordinator {
    rules: Rules,
    state: Mutex<Groups>,
    /// What subscriptions by regular expression match.
    expressions: Expressions,
    /// When offsets are looked at for their age; not before it is known.
    next_retention_ms: AtomicI64,
}

/// What a request to a group comes to: the records that make it so, and what to answer once they are durable.
pub(crate) struct Decision<T> {
    pub(crate) records: Vec<GroupRecord>,
    pub(crate) answer: T,
}

/// Groups by id, committed offsets, and who waits.
#[derive(Default)]
pub(crate) struct Groups {
    pub(crate) groups: HashMap<String, Group>,
    pub(crate) offsets: Offsets,
    joins: HashMap<ReplyId, JoinReply>,
    syncs: HashMap<ReplyId, SyncReply>,
    next_reply: ReplyId,
    /// Records that are appended but not yet acknowledged, by partition of the offsets topic, in log order.
    pending: Pending<Appended>,
}

/// A batch that is in the log.
struct Appended {
    /// Records that are replayed only when they are durable.
    records: Vec<GroupRecord>,
    then: Then,
}

impl Appended {
    /// Offsets that are on their way, also those in transactions.
    fn offset_records(&self) -> impl Iterator<Item = &GroupRecord> {
        let transactional = match &self.then {
            Then::Transactional(_, _, records, _) => records.as_slice(),
            _ => &[],
        };
        self.records.iter().chain(transactional)
    }

    fn is_about(&self, of: &str) -> bool {
        self.offset_records()
            .any(|record| matches!(record, GroupRecord::OffsetCommit { group, .. } if group == of))
    }
}

/// What happens when records are durable, or failed.
enum Then {
    Answer(WriteReply),
    /// Tell the group that its generation is durable.
    Persisted(String, GroupMetadata),
    /// Keep offsets until the producer's transaction ends, the first of them at this offset.
    Transactional(i64, i64, Vec<GroupRecord>, WriteReply),
    /// A producer's transaction has ended, with a commit if so.
    TransactionEnded(i64, bool),
    Nothing,
}

/// What is done after the coordinator's lock is released.
#[derive(Default)]
struct After {
    calls: Vec<Box<dyn FnOnce() + Send>>,
    wakes: Vec<Wake>,
}

impl After {
    fn call(&mut self, call: impl FnOnce() + Send + 'static) {
        self.calls.push(Box::new(call));
    }

    fn run(self) {
        for call in self.calls {
            call();
        }
        for wake in self.wakes {
            wake.wake();
        }
    }
}

impl std::fmt::Debug for GroupCoordinator {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GroupCoordinator")
            .finish_non_exhaustive()
    }
}

impl GroupCoordinator {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Mutex::default(),
            expressions: Expressions::default(),
            next_retention_ms: AtomicI64::new(i64::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replays a partition of the offsets topic, at start.
    pub(crate) fn load(
        &self,
        core: &Core,
        partition: &Partition,
        now_ms: i64,
    ) -> Result<(), PartitionError> {
        let mut state = self.lock();
        pending::load(partition, |batch, record| {
            let Some(record) = record else {
                if let Some(end) = batch.end_transaction() {
                    state.end_transaction(partition.index(), batch.producer_id(), end.commit);
                }
                return;
            };
            let Some(key) = record.key else { return };
            match GroupRecord::decode(key, record.value) {
                Ok(of_group) if batch.is_transactional() => state.offsets.replay_uncommitted(
                    partition.index(),
                    batch.producer_id(),
                    record.offset,
                    &of_group,
                ),
                Ok(record) => state.replay(core, &record, now_ms),
                // Groups of a kind that this version does not coordinate.
                Err(error) => {
                    tracing::warn!(partition = partition.index(), offset = record.offset, %error, "group record skipped");
                }
            }
        })
    }

    /// The high watermark of a partition of the offsets topic has advanced, or the partition failed.
    pub(crate) fn advance(&self, core: &Arc<Core>, partition: &Partition) {
        let mut after = After::default();
        let mut state = self.lock();
        while let Some(settled) = state.pending.take_settled(partition) {
            let (done, durable) = (settled.then, settled.is_durable);
            if durable {
                for record in &done.records {
                    state.replay_offset(record);
                }
            }
            match done.then {
                Then::Nothing => {}
                Then::Answer(reply) => {
                    after.call(move || {
                        reply(if durable {
                            Ok(())
                        } else {
                            Err(GroupError::CoordinatorNotAvailable)
                        })
                    });
                }
                Then::Transactional(producer_id, first_offset, records, reply) => {
                    for (offset, record) in (first_offset..).zip(&records) {
                        if durable {
                            state.offsets.replay_uncommitted(
                                partition.index(),
                                producer_id,
                                offset,
                                record,
                            );
                        }
                    }
                    after.call(move || {
                        reply(if durable {
                            Ok(())
                        } else {
                            Err(GroupError::CoordinatorNotAvailable)
                        })
                    });
                }
                Then::TransactionEnded(producer_id, commit) => {
                    if durable {
                        state.end_transaction(partition.index(), producer_id, commit);
                    }
                }
                Then::Persisted(group, metadata) => {
                    let now_ms = core.now_ms();
                    let effects = match state.classic(&group) {
                        Some(live) => live.persisted(&metadata, durable, &self.rules, now_ms),
                        None => Vec::new(),
                    };
                    state.perform(core, &group, effects, &mut after);
                }
            }
        }
        drop(state);
        after.run();
    }

    pub(crate) fn join(&self, core: &Arc<Core>, group: &str, join: Join, reply: JoinReply) {
        if !is_valid_group_id(group) {
            return reply(Err((GroupError::InvalidGroupId, join.member_id)));
        }
        if join
            .instance_id
            .as_ref()
            .is_some_and(|id| id.is_empty() || id.len() > INSTANCE_ID_BYTES_MAX)
        {
            return reply(Err((GroupError::InvalidRequest, join.member_id)));
        }
        if core.ensure_offsets_topic().is_err() {
            return reply(Err((GroupError::CoordinatorNotAvailable, join.member_id)));
        }
        let now_ms = core.now_ms();
        if self.is_consumer_group_with_members(group) {
            return self.join_consumer_group(core, group, join, reply);
        }
        let mut after = After::default();
        let mut state = self.lock();
        if let Some(live) = state.groups.get(group)
            && !matches!(live, Group::Classic(_))
        {
            if !live.is_empty() {
                drop(state);
                return reply(Err((GroupError::InconsistentProtocol, join.member_id)));
            }
            // It was another kind, and nobody is left.
            let records = live.tombstones(group);
            if !state.write(core, group, records, Then::Nothing, &mut after) {
                drop(state);
                return reply(Err((GroupError::CoordinatorNotAvailable, join.member_id)));
            }
        }
        if !join.member_id.is_empty() && !state.groups.contains_key(group) {
            drop(state);
            return reply(Err((GroupError::UnknownMember, join.member_id)));
        }
        let id = state.next_reply();
        state.joins.insert(id, reply);
        let live = state
            .groups
            .entry(group.to_owned())
            .or_insert_with(|| Group::Classic(ClassicGroup::new(now_ms)));
        let effects = match live {
            Group::Classic(live) => live.join(join, id, &self.rules, now_ms),
            // Between the look above and this one a member of another protocol has joined.
            Group::Consumer(_) | Group::Streams(_) => vec![Effect::Joined(
                id,
                Err((GroupError::RebalanceInProgress, join.member_id)),
            )],
        };
        state.perform(core, group, effects, &mut after);
        // A join that was refused leaves nothing behind.
        state.remove_if_unused(group);
        drop(state);
        after.run();
        core.deadlines_changed();
    }

    pub(crate) fn sync(&self, core: &Arc<Core>, group: &str, sync: Sync, reply: SyncReply) {
        if !is_valid_group_id(group) {
            return reply(Err(GroupError::InvalidGroupId));
        }
        let now_ms = core.now_ms();
        let mut after = After::default();
        let mut state = self.lock();
        if let Some(Group::Consumer(live)) = state.groups.get_mut(group) {
            let rules = core.consumer_rules(group);
            let synced = core.read_catalog(|catalog| {
                let view = view(catalog, &rules, &NO_MATCHES, now_ms);
                let (protocol_type, protocol) = (&sync.protocol_type, &sync.protocol);
                live.classic_sync(
                    sync.member.caller(),
                    protocol_type.as_deref(),
                    protocol.as_deref(),
                    view,
                )
            });
            drop(state);
            core.deadlines_changed();
            let decide = |_: &mut Groups| {
                Ok(Decision {
                    records: Vec::new(),
                    answer: synced.map_err(|refusal| refusal.error)?,
                })
            };
            return self.decide(core, group, decide, reply);
        }
        let id = state.next_reply();
        let Some(live) = state.classic(group) else {
            drop(state);
            return reply(Err(GroupError::UnknownMember));
        };
        let (protocol_type, protocol) = (sync.protocol_type.as_deref(), sync.protocol.as_deref());
        let effects = live.sync(
            sync.member.caller(),
            protocol_type,
            protocol,
            sync.assignments,
            id,
            now_ms,
        );
        state.syncs.insert(id, reply);
        state.perform(core, group, effects, &mut after);
        drop(state);
        after.run();
        core.deadlines_changed();
    }

    pub(crate) fn heartbeat(
        &self,
        core: &Arc<Core>,
        group: &str,
        member: &MemberRef,
    ) -> Result<(), GroupError> {
        if !is_valid_group_id(group) {
            return Err(GroupError::InvalidGroupId);
        }
        let mut state = self.lock();
        match state.groups.get_mut(group) {
            Some(Group::Classic(live)) => live.heartbeat(member.caller(), core.now_ms()),
            Some(Group::Consumer(live)) => {
                let rules = core.consumer_rules(group);
                let answer = core.read_catalog(|catalog| {
                    let view = view(catalog, &rules, &NO_MATCHES, core.now_ms());
                    live.classic_heartbeat(member.caller(), view)
                });
                drop(state);
                if answer.is_err() {
                    core.deadlines_changed();
                }
                answer
            }
            Some(Group::Streams(_)) | None => Err(GroupError::UnknownMember),
        }
    }

    /// Members leave: an answer for each.
    pub(crate) fn leave(
        &self,
        core: &Arc<Core>,
        group: &str,
        members: &[(String, Option<String>)],
        reply: LeaveReply,
    ) {
        if !is_valid_group_id(group) {
            return reply(Err(GroupError::InvalidGroupId));
        }
        if self.is_consumer_group_with_members(group) {
            let decide =
                |live: &mut ConsumerGroup, view: View<'_>| Ok(live.classic_leave(members, view));
            let reply: Reply<Result<_, Refusal>> =
                Box::new(move |left| reply(left.map_err(|refusal| refusal.error)));
            return self.decide_consumer(core, group, false, &NO_MATCHES, decide, reply);
        }
        let now_ms = core.now_ms();
        let mut after = After::default();
        let mut state = self.lock();
        let mut answers = Vec::with_capacity(members.len());
        for (member_id, instance_id) in members {
            let Some(live) = state.classic(group) else {
                answers.push(Err(GroupError::UnknownMember));
                continue;
            };
            let (answer, effects) =
                live.leave(member_id, instance_id.as_deref(), &self.rules, now_ms);
            answers.push(answer);
            state.perform(core, group, effects, &mut after);
        }
        drop(state);
        after.run();
        core.deadlines_changed();
        reply(Ok(answers));
    }

    /// Commits offsets, all or none of them; answered when they are durable.
    pub(crate) fn commit(
        &self,
        core: &Arc<Core>,
        group: &str,
        commit: Commit<'_>,
        offsets: Vec<(String, i32, CommittedOffset)>,
        reply: WriteReply,
    ) {
        if group.len() > i16::MAX as usize {
            return reply(Err(GroupError::InvalidGroupId));
        }
        if core.ensure_offsets_topic().is_err() {
            return reply(Err(GroupError::CoordinatorNotAvailable));
        }
        let decide = |state: &mut Groups| {
            state.check_commit(core, group, commit, &offsets)?;
            Ok(Decision {
                records: committed(group, offsets),
                answer: (),
            })
        };
        self.decide(core, group, decide, reply);
    }

    /// Looks at the committed offsets of a group.
    pub(crate) fn with_offsets<T>(
        &self,
        group: &str,
        look: impl FnOnce(Option<&GroupOffsets>) -> T,
    ) -> T {
        look(self.lock().offsets.group(group))
    }

    pub(crate) fn describe(&self, group: &str) -> Option<Description> {
        let state = self.lock();
        let Some(Group::Classic(live)) = state.groups.get(group) else {
            return None;
        };
        let mut metadata = live.metadata();
        if live.state != State::Stable {
            for member in &mut metadata.members {
                member.assignment = Bytes::new();
            }
        }
        Some(Description {
            state: live.state.name(),
            metadata,
        })
    }

    pub(crate) fn list(&self) -> Vec<Listed> {
        let state = self.lock();
        let listed = state.groups.iter().map(|(group, live)| Listed {
            group: group.clone(),
            type_name: live.type_name(),
            protocol_type: live.protocol_type().to_owned(),
            state: live.state_name(),
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by(|left, right| left.group.cmp(&right.group));
        listed
    }

    /// Removes an empty group with its offsets; answered when that is durable.
    pub(crate) fn delete(&self, core: &Arc<Core>, group: &str, reply: WriteReply) {
        let decide = |state: &mut Groups| {
            let live = state.groups.get(group).ok_or(GroupError::GroupNotFound)?;
            if !live.is_empty() {
                return Err(GroupError::NonEmptyGroup);
            }
            let mut records = state.offset_tombstones(core, group, |_, _| true);
            records.extend(live.tombstones(group));
            Ok(Decision {
                records,
                answer: (),
            })
        };
        self.decide(core, group, decide, reply);
    }

    /// Removes offsets of a group (OffsetDelete); answered when that is durable. Topics that a member subscribes to are refused.
    pub(crate) fn delete_offsets(
        &self,
        core: &Arc<Core>,
        group: &str,
        wanted: &[(String, i32)],
        reply: Reply<Result<Vec<Result<(), GroupError>>, GroupError>>,
    ) {
        let decide = |state: &mut Groups| {
            let live = state.groups.get(group).ok_or(GroupError::GroupNotFound)?;
            // Members of a protocol that says nothing of topics may be reading any.
            let subscribed = live.subscribed_topics().ok_or(GroupError::NonEmptyGroup)?;
            let answers = wanted.iter().map(|(topic, _)| {
                if subscribed.contains(topic) {
                    Err(GroupError::SubscribedToTopic)
                } else {
                    Ok(())
                }
            });
            let is_wanted = |topic: &str, partition: i32| {
                !subscribed.contains(topic)
                    && wanted
                        .iter()
                        .any(|(name, index)| name == topic && *index == partition)
            };
            Ok(Decision {
                records: state.offset_tombstones(core, group, is_wanted),
                answer: answers.collect(),
            })
        };
        self.decide(core, group, decide, reply);
    }

    /// A producer's transaction has ended on a partition of `__consumer_offsets`, with this marker.
    pub(crate) fn transaction_ended(
        &self,
        core: &Arc<Core>,
        partition: &Partition,
        producer_id: i64,
        commit: bool,
        marker: &log::Appended,
    ) {
        let mut state = self.lock();
        // The marker is in the log since before this lock was taken: records after it may be queued already.
        let ended = Appended {
            records: Vec::new(),
            then: Then::TransactionEnded(producer_id, commit),
        };
        state.pending.push(partition, marker, ended);
        drop(state);
        self.advance(core, partition);
    }

    /// Commits offsets in a producer's transaction: they count once it commits. Answered when they are durable.
    pub(crate) fn commit_in_transaction(
        &self,
        core: &Arc<Core>,
        group: &str,
        member: &MemberRef,
        writer: TransactionalWriter,
        offsets: Vec<(String, i32, CommittedOffset)>,
        reply: WriteReply,
    ) {
        let now_ms = core.now_ms();
        let mut after = After::default();
        let mut state = self.lock();
        let commit = Commit {
            member,
            kind: CommitKind::Transactional,
        };
        let checked = state.check_commit(core, group, commit, &offsets);
        let partition = core
            .offsets_partition(group)
            .ok_or(GroupError::CoordinatorNotAvailable);
        let written = checked.and(partition).and_then(|partition| {
            let records = committed(group, offsets);
            let mut builder = Builder::new()
                .producer(writer.producer_id, writer.producer_epoch, -1)
                .transactional();
            for record in &records {
                let (key, value) = record.encode();
                builder.append(now_ms, Some(&key), value.as_deref(), &[]);
            }
            let appended = partition.append_verified(
                builder.build(),
                AppendOrigin::Coordinator,
                writer.guard,
                now_ms,
            );
            match appended {
                Ok((appended, wake)) => {
                    fault::point("txn-offsets-appended");
                    Ok((partition, records, appended, wake))
                }
                Err(reason) => {
                    tracing::warn!(group, producer_id = writer.producer_id, %reason, "offsets of a transaction not written");
                    Err(match reason {
                        PartitionError::Append(AppendError::TooLarge { .. }) => {
                            GroupError::OffsetsTooLarge
                        }
                        PartitionError::Append(AppendError::InvalidProducerEpoch { .. }) => {
                            GroupError::InvalidProducerEpoch
                        }
                        PartitionError::Append(AppendError::InvalidTxnState { .. }) => {
                            GroupError::InvalidTransactionState
                        }
                        _ => GroupError::CoordinatorNotAvailable,
                    })
                }
            }
        });
        match written {
            Err(error) => {
                drop(state);
                reply(Err(error));
            }
            Ok((partition, records, appended, wake)) => {
                let then =
                    Then::Transactional(writer.producer_id, appended.base_offset, records, reply);
                let records = Vec::new();
                let of_transaction = Appended { records, then };
                state.pending.push(&partition, &appended, of_transaction);
                drop(state);
                after.wakes.push(wake);
                after.run();
                // The high watermark may have passed before this was queued.
                self.advance(core, &partition);
            }
        }
    }

    /// Partitions of a group whose committed offset an open transaction may change.
    pub(crate) fn unstable(&self, group: &str) -> BTreeSet<(String, i32)> {
        self.lock().offsets.uncommitted_keys(group).collect()
    }

    /// Removes what was committed for a topic that is no more.
    pub(crate) fn topic_deleted(&self, core: &Arc<Core>, topic: &str) {
        let mut after = After::default();
        let mut state = self.lock();
        let mut groups: BTreeSet<_> = state
            .offsets
            .groups()
            .filter(|(_, offsets)| offsets.contains_key(topic))
            .map(|(group, _)| group.to_owned())
            .collect();
        groups.extend(state.offsets.groups_with_uncommitted(topic));
        // Commits that are on their way become offsets before the tombstones that follow them remove them.
        for record in state.pending.all().flat_map(Appended::offset_records) {
            if let GroupRecord::OffsetCommit {
                group, topic: of, ..
            } = record
                && of == topic
            {
                groups.insert(group.clone());
            }
        }
        for group in groups {
            let records = state.offset_tombstones(core, &group, |name, _| name == topic);
            if !records.is_empty() {
                state.write(core, &group, records, Then::Nothing, &mut after);
            }
        }
        drop(state);
        after.run();
    }

    /// Topics with committed offsets.
    pub(crate) fn committed_topics(&self) -> BTreeSet<String> {
        let state = self.lock();
        let groups = state.offsets.groups();
        groups
            .flat_map(|(_, offsets)| offsets.keys().cloned())
            .chain(state.offsets.uncommitted_topics())
            .collect()
    }

    /// Ends what has waited for too long.
    pub(crate) fn expire(&self, core: &Arc<Core>, now_ms: i64) {
        let next_ms = self.next_retention_ms.load(Ordering::Acquire);
        if next_ms == i64::MAX || next_ms <= now_ms {
            let interval_ms = core.config.offsets_retention_check_interval_ms;
            self.next_retention_ms
                .store(now_ms.saturating_add(interval_ms), Ordering::Release);
            if next_ms != i64::MAX {
                self.expire_offsets(core, now_ms);
            }
        }
        let mut after = After::default();
        let mut state = self.lock();
        let due: Vec<_> = state
            .groups
            .iter()
            .filter(|(_, live)| {
                live.next_deadline_ms()
                    .is_some_and(|deadline_ms| deadline_ms <= now_ms)
            })
            .map(|(group, _)| group.clone())
            .collect();
        for group in due {
            let effects = match state.groups.get_mut(&group) {
                Some(Group::Classic(live)) => live.expire(&self.rules, now_ms),
                Some(Group::Streams(live)) => {
                    let records = GroupRecord::streams(&group, live.expire(now_ms));
                    if !records.is_empty() {
                        state.write(core, &group, records, Then::Nothing, &mut after);
                    }
                    Vec::new()
                }
                Some(Group::Consumer(live)) => {
                    let rules = core.consumer_rules(&group);
                    let decided = core.read_catalog(|catalog| {
                        live.expire(view(catalog, &rules, &NO_MATCHES, now_ms))
                    });
                    if let Some(decided) = decided {
                        let (records, becomes) = in_log(&group, decided.records, decided.becomes);
                        if state.write(core, &group, records, Then::Nothing, &mut after) {
                            state.become_classic(core, &group, becomes, &self.rules, &mut after);
                        }
                    }
                    Vec::new()
                }
                None => Vec::new(),
            };
            state.perform(core, &group, effects, &mut after);
            // Somebody asked to join once and never came.
            state.remove_if_unused(&group);
        }
        drop(state);
        after.run();
    }

    /// Removes offsets that have expired, and groups of which nothing is left.
    fn expire_offsets(&self, core: &Arc<Core>, now_ms: i64) {
        let mut after = After::default();
        let mut state = self.lock();
        let groups: Vec<String> = state.groups.keys().cloned().collect();
        for group in groups {
            let mut pending = state.pending.of(core.offsets_partition_index(&group));
            let is_busy = pending.any(|appended| appended.is_about(&group));
            drop(pending);
            // A commit that is on its way must not be removed by a tombstone behind it.
            let Some(live) = state.groups.get(&group).filter(|_| !is_busy) else {
                continue;
            };
            let expired = expiry::expired(
                live,
                state.offsets.group(&group),
                &state.offsets.uncommitted_keys(&group).collect(),
                core.config.offsets_retention_ms,
                now_ms,
            );
            let mut records: Vec<_> = expired
                .offsets
                .into_iter()
                .map(|(topic, partition)| GroupRecord::OffsetCommit {
                    group: group.clone(),
                    topic,
                    partition,
                    value: None,
                })
                .collect();
            if expired.group {
                records.extend(live.tombstones(&group));
            }
            if !records.is_empty() {
                tracing::info!(group, records = records.len(), "offsets expired");
                state.write(core, &group, records, Then::Nothing, &mut after);
            }
        }
        drop(state);
        after.run();
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        let retention_ms = self.next_retention_ms.load(Ordering::Acquire);
        self.lock()
            .groups
            .values()
            .filter_map(Group::next_deadline_ms)
            .chain([retention_ms])
            .min()
    }

    /// Answers everything that waits: the broker stops.
    pub(crate) fn close(&self, core: &Arc<Core>) {
        let mut after = After::default();
        let mut state = self.lock();
        let groups: Vec<_> = state.groups.keys().cloned().collect();
        for group in groups {
            let effects = match state.groups.get_mut(&group) {
                Some(Group::Classic(live)) => {
                    live.fail_all(GroupError::CoordinatorNotAvailable, core.now_ms())
                }
                Some(Group::Consumer(_) | Group::Streams(_)) | None => Vec::new(),
            };
            state.perform(core, &group, effects, &mut after);
        }
        for appended in state.pending.take_all() {
            if let Then::Answer(reply) | Then::Transactional(.., reply) = appended.then {
                after.call(move || reply(Err(GroupError::CoordinatorNotAvailable)));
            }
        }
        drop(state);
        after.run();
    }
}

/// Records of offsets that are committed.
fn committed(group: &str, offsets: Vec<(String, i32, CommittedOffset)>) -> Vec<GroupRecord> {
    let record = |(topic, partition, value)| GroupRecord::OffsetCommit {
        group: group.to_owned(),
        topic,
        partition,
        value: Some(value),
    };
    offsets.into_iter().map(record).collect()
}

impl Groups {
    /// Whether a commit may be made.
    fn check_commit(
        &mut self,
        core: &Core,
        group: &str,
        commit: Commit<'_>,
        offsets: &[(String, i32, CommittedOffset)],
    ) -> Result<(), GroupError> {
        match self.groups.get_mut(group) {
            Some(live) => {
                let topic_id =
                    |topic: &str| core.topic(topic).map_or(Uuid::nil(), |topic| topic.id);
                live.check_commit(commit, offsets, topic_id, core.now_ms())
            }
            // A consumer that assigns its own partitions needs no group; a member needs the one it is in.
            None if commit.member.generation < 0 => Ok(()),
            None if commit.kind == CommitKind::Direct => Err(GroupError::GroupNotFound),
            None => Err(GroupError::IllegalGeneration),
        }
    }

    fn next_reply(&mut self) -> ReplyId {
        self.next_reply += 1;
        self.next_reply
    }

    /// Removes a group of which nothing is durable and nobody is left.
    fn remove_if_unused(&mut self, group: &str) {
        let unused = self.groups.get(group).is_some_and(Group::is_unused);
        if unused && self.offsets.group(group).is_none() && !self.offsets.has_uncommitted(group) {
            self.groups.remove(group);
        }
    }

    /// The group of this id, if it is a classic one.
    fn classic(&mut self, group: &str) -> Option<&mut ClassicGroup> {
        match self.groups.get_mut(group)? {
            Group::Classic(live) => Some(live),
            Group::Consumer(_) | Group::Streams(_) => None,
        }
    }

    /// A consumer group goes on as a classic one, whose members are to join again.
    fn become_classic(
        &mut self,
        core: &Arc<Core>,
        group: &str,
        classic: Option<Box<ClassicGroup>>,
        rules: &Rules,
        after: &mut After,
    ) {
        let Some(mut classic) = classic else {
            return;
        };
        let effects = classic.start_rebalance(rules, core.now_ms());
        self.groups
            .insert(group.to_owned(), Group::Classic(*classic));
        self.perform(core, group, effects, after);
    }

    /// Applies a record of either kind, as at start.
    fn replay(&mut self, core: &Core, record: &GroupRecord, now_ms: i64) {
        if record.is_offset() {
            self.replay_offset(record);
        } else {
            let effects = self.replay_group(core, record, now_ms);
            debug_assert!(effects.is_empty(), "nobody waits at start: {effects:?}");
        }
    }

    /// Applies a durable record of offsets: the only thing that changes them.
    fn replay_offset(&mut self, record: &GroupRecord) {
        let GroupRecord::OffsetCommit {
            group,
            topic,
            partition,
            value,
        } = record
        else {
            return;
        };
        self.offsets
            .replay(group, topic, *partition, value.as_ref());
        if value.is_some() {
            // A group of its own assignments has no members but exists through its offsets. After compaction offsets may also
            // come before the records of their group, of whatever kind that turns out to be.
            self.groups
                .entry(group.clone())
                .or_insert_with(|| Group::Classic(ClassicGroup::new(0)));
        } else {
            self.remove_if_unused(group);
        }
    }

    /// Applies a marker: what the producer's transaction committed counts now, or is forgotten.
    fn end_transaction(&mut self, partition: i32, producer_id: i64, commit: bool) {
        for group in self.offsets.end_transaction(partition, producer_id, commit) {
            if self.offsets.group(&group).is_some() {
                self.groups
                    .entry(group)
                    .or_insert_with(|| Group::Classic(ClassicGroup::new(0)));
            } else {
                self.remove_if_unused(&group);
            }
        }
    }

    /// Applies a record of a group that is in the log. Tombstones of what is not there change nothing. Who waits for a group that ends
    /// is told by the effects.
    fn replay_group(&mut self, core: &Core, record: &GroupRecord, now_ms: i64) -> Vec<Effect> {
        match record {
            GroupRecord::OffsetCommit { .. } => {}
            GroupRecord::Consumer { group, record } => {
                self.replay_consumer(core, group, record, now_ms);
            }
            GroupRecord::GroupMetadata {
                group,
                value: Some(value),
            } => {
                let restored = ClassicGroup::restore(value, now_ms);
                self.groups.insert(group.clone(), Group::Classic(restored));
            }
            GroupRecord::GroupMetadata { group, value: None } => {
                if let Some(live) = self.classic(group) {
                    let effects = live.fail_all(GroupError::RebalanceInProgress, now_ms);
                    self.forget(group);
                    return effects;
                }
            }
            GroupRecord::Streams { group, record } => self.replay_streams(group, record, now_ms),
        }
        Vec::new()
    }

    /// A group is no more. Offsets that are left make it a simple one.
    fn forget(&mut self, group: &str) {
        self.groups.remove(group);
        if self.offsets.group(group).is_some() {
            let simple = Group::Classic(ClassicGroup::new(0));
            self.groups.insert(group.to_owned(), simple);
        }
    }

    fn replay_consumer(&mut self, core: &Core, group: &str, record: &ConsumerRecord, now_ms: i64) {
        if !record.is_tombstone() && !matches!(self.groups.get(group), Some(Group::Consumer(_))) {
            // What was there was known by its offsets only, or its tombstone has been compacted away.
            let fresh = Box::new(ConsumerGroup::new());
            self.groups.insert(group.to_owned(), Group::Consumer(fresh));
        }
        if let Some(Group::Consumer(live)) = self.groups.get_mut(group) {
            let rules = core.consumer_rules(group);
            if live.replay(record, &rules, now_ms) {
                self.forget(group);
            }
        }
    }

    fn perform(&mut self, core: &Arc<Core>, group: &str, effects: Vec<Effect>, after: &mut After) {
        for effect in effects {
            match effect {
                Effect::Joined(id, answer) => {
                    if let Some(reply) = self.joins.remove(&id) {
                        after.call(move || reply(answer));
                    }
                }
                Effect::Synced(id, answer) => {
                    if let Some(reply) = self.syncs.remove(&id) {
                        after.call(move || reply(answer));
                    }
                }
                Effect::Persist(metadata) => {
                    let record = GroupRecord::GroupMetadata {
                        group: group.to_owned(),
                        value: Some(metadata.clone()),
                    };
                    self.write(
                        core,
                        group,
                        vec![record],
                        Then::Persisted(group.to_owned(), metadata),
                        after,
                    );
                }
            }
        }
    }

    /// Appends records to the group's partition and queues what follows from it. Says whether they were appended.
    fn write(
        &mut self,
        core: &Arc<Core>,
        group: &str,
        records: Vec<GroupRecord>,
        then: Then,
        after: &mut After,
    ) -> bool {
        let now_ms = core.now_ms();
        let mut error = GroupError::CoordinatorNotAvailable;
        let appended = core.offsets_partition(group).and_then(|partition| {
            let mut builder = Builder::new();
            for record in &records {
                let (key, value) = record.encode();
                builder.append(now_ms, Some(&key), value.as_deref(), &[]);
            }
            let (appended, wake) = partition
                .append_quietly(builder.build(), AppendOrigin::Coordinator, now_ms)
                .inspect_err(|reason| {
                    tracing::error!(group, %reason, "group records not written");
                    if matches!(reason, PartitionError::Append(AppendError::TooLarge { .. })) {
                        error = GroupError::OffsetsTooLarge;
                    }
                })
                .ok()?;
            Some((partition, appended, wake))
        });
        let core = core.clone();
        match appended {
            Some((partition, appended, wake)) => {
                let (offsets, groups): (Vec<_>, Vec<_>) =
                    records.into_iter().partition(GroupRecord::is_offset);
                for record in &groups {
                    // A live classic group is ahead of the record of its generation.
                    if !matches!(record, GroupRecord::GroupMetadata { value: Some(_), .. }) {
                        let effects = self.replay_group(&core, record, now_ms);
                        self.perform(&core, group, effects, after);
                    }
                }
                let records = offsets;
                let of_group = Appended { records, then };
                self.pending.push(&partition, &appended, of_group);
                after.wakes.push(wake);
                // The high watermark may have passed before this was queued.
                after.call(move || core.groups.advance(&core, &partition));
                true
            }
            None => {
                match then {
                    Then::Nothing | Then::TransactionEnded(..) => {}
                    Then::Answer(reply) | Then::Transactional(.., reply) => {
                        after.call(move || reply(Err(error)));
                    }
                    Then::Persisted(group, metadata) => {
                        after.call(move || core.groups.not_persisted(&core, &group, &metadata))
                    }
                }
                false
            }
        }
    }

    /// Does it once what is appended to the group's partition so far is durable.
    fn when_durable(&mut self, core: &Core, group: &str, then: WriteReply, after: &mut After) {
        let answer = Appended {
            records: Vec::new(),
            then: Then::Answer(then),
        };
        let index = core.offsets_partition_index(group);
        let nothing_pending = self.pending.push_behind(index, answer);
        if let Err(Appended {
            then: Then::Answer(then),
            ..
        }) = nothing_pending
        {
            after.call(move || then(Ok(())));
        }
    }

    /// Tombstones for the offsets of a group, also for those that are on their way.
    fn offset_tombstones(
        &self,
        core: &Core,
        group: &str,
        wanted: impl Fn(&str, i32) -> bool,
    ) -> Vec<GroupRecord> {
        let mut keys = BTreeSet::new();
        for (topic, partitions) in self.offsets.group(group).into_iter().flatten() {
            keys.extend(
                partitions
                    .keys()
                    .map(|partition| (topic.clone(), *partition)),
            );
        }
        keys.extend(self.offsets.uncommitted_keys(group));
        let on_their_way = self.pending.of(core.offsets_partition_index(group));
        for record in on_their_way.flat_map(Appended::offset_records) {
            if let GroupRecord::OffsetCommit {
                group: of,
                topic,
                partition,
                value: Some(_),
            } = record
                && of == group
            {
                keys.insert((topic.clone(), *partition));
            }
        }
        let tombstone = |(topic, partition)| GroupRecord::OffsetCommit {
            group: group.to_owned(),
            topic,
            partition,
            value: None,
        };
        keys.into_iter()
            .filter(|(topic, partition)| wanted(topic, *partition))
            .map(tombstone)
            .collect()
    }
}

impl GroupCoordinator {
    /// The one way of a request whose decision is pure: decide, append, replay, and answer when it is durable.
    pub(crate) fn decide<T, E>(
        &self,
        core: &Arc<Core>,
        group: &str,
        decide: impl FnOnce(&mut Groups) -> Result<Decision<T>, E>,
        reply: Reply<Result<T, E>>,
    ) where
        T: Send + 'static,
        E: From<GroupError> + Send + 'static,
    {
        self.decide_and_become(core, group, |state| Ok((decide(state)?, None)), reply);
    }

    /// The same where the group may go on as a classic one.
    fn decide_and_become<T, E>(
        &self,
        core: &Arc<Core>,
        group: &str,
        decide: impl FnOnce(&mut Groups) -> Result<(Decision<T>, Option<Box<ClassicGroup>>), E>,
        reply: Reply<Result<T, E>>,
    ) where
        T: Send + 'static,
        E: From<GroupError> + Send + 'static,
    {
        if core
            .offsets_partition(group)
            .is_some_and(|partition| partition.has_failed())
        {
            return reply(Err(GroupError::CoordinatorNotAvailable.into()));
        }
        let mut after = After::default();
        let mut state = self.lock();
        let mut has_group_records = false;
        match decide(&mut state) {
            Err(error) => after.call(move || reply(Err(error))),
            Ok((Decision { records, answer }, becomes)) => {
                let then: WriteReply =
                    Box::new(move |written| reply(written.map(|()| answer).map_err(E::from)));
                has_group_records = !records.iter().all(GroupRecord::is_offset);
                if records.is_empty() {
                    state.when_durable(core, group, then, &mut after);
                } else if state.write(core, group, records, Then::Answer(then), &mut after) {
                    state.become_classic(core, group, becomes, &self.rules, &mut after);
                }
            }
        }
        drop(state);
        after.run();
        if has_group_records {
            core.deadlines_changed();
        }
    }

    /// A heartbeat of a member of the consumer protocol; answered when what it changes is durable.
    pub(crate) fn consumer_heartbeat(
        &self,
        core: &Arc<Core>,
        group: &str,
        request: Heartbeat,
        reply: Reply<Result<HeartbeatAnswer, Refusal>>,
    ) {
        if !is_valid_group_id(group) {
            return reply(Err(GroupError::InvalidGroupId.into()));
        }
        let joins = request.member_epoch == 0;
        if joins && core.ensure_offsets_topic().is_err() {
            return reply(Err(GroupError::CoordinatorNotAvailable.into()));
        }
        let matches = self.matches(core, group, request.regex.as_deref());
        let decide = |live: &mut ConsumerGroup, view: View<'_>| live.heartbeat(request, view);
        self.decide_consumer(core, group, joins, &matches, decide, reply);
    }

    fn is_consumer_group_with_members(&self, group: &str) -> bool {
        matches!(self.lock().groups.get(group), Some(Group::Consumer(live)) if !live.is_empty())
    }

    /// A member of the classic protocol joins a consumer group.
    fn join_consumer_group(&self, core: &Arc<Core>, group: &str, join: Join, reply: JoinReply) {
        let decide = |live: &mut ConsumerGroup, view: View<'_>| {
            let joined = live.classic_join(&join, view);
            // A refusal comes with the member id that it is about.
            match joined {
                Ok(decided) => Ok(Decided {
                    records: decided.records,
                    answer: Ok(decided.answer),
                    becomes: decided.becomes,
                }),
                Err((refusal, member_id)) => Ok(Decided {
                    records: Vec::new(),
                    answer: Err((refusal.error, member_id)),
                    becomes: None,
                }),
            }
        };
        let member_id = join.member_id.clone();
        let reply: Reply<Result<_, Refusal>> = Box::new(move |joined| {
            reply(joined.unwrap_or_else(|refusal| Err((refusal.error, member_id))));
        });
        let matches = self.matches(core, group, None);
        self.decide_consumer(core, group, false, &matches, decide, reply);
    }

    /// What the expressions match that the next decision about a group needs, with one that a heartbeat brings. Without the groups' lock.
    fn matches(&self, core: &Core, group: &str, brought: Option<&str>) -> Matches {
        let rules = core.consumer_rules(group);
        let unresolved = match self.lock().groups.get(group) {
            Some(Group::Consumer(live)) => {
                let topics_version = core.read_catalog(Catalog::topics_version);
                live.unresolved(brought, topics_version, &rules, core.now_ms())
            }
            _ => brought
                .filter(|expression| !expression.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
        };
        self.expressions.resolve(
            &unresolved,
            |lend| core.read_catalog(lend),
            || core.now_ms(),
        )
    }

    /// Decides about a consumer group. One who `joins` makes it, of nothing or of a classic group.
    fn decide_consumer<T: Send + 'static>(
        &self,
        core: &Arc<Core>,
        group: &str,
        joins: bool,
        matches: &Matches,
        decide: impl FnOnce(&mut ConsumerGroup, View<'_>) -> Result<Decided<T>, Refusal>,
        reply: Reply<Result<T, Refusal>>,
    ) {
        let rules = core.consumer_rules(group);
        let now_ms = core.now_ms();
        let decide = |state: &mut Groups| {
            core.read_catalog(|catalog| {
                let view = view(catalog, &rules, matches, now_ms);
                let mut fresh;
                let mut records = Vec::new();
                let live = match state.groups.get_mut(group) {
                    Some(Group::Consumer(live)) => live.as_mut(),
                    Some(Group::Classic(classic)) if joins && !classic.members.is_empty() => {
                        fresh = ConsumerGroup::from_classic(classic, view)?;
                        records.extend(Group::Classic(ClassicGroup::new(0)).tombstones(group));
                        records.extend(in_log(group, fresh.creation(), None).0);
                        &mut fresh
                    }
                    Some(other) if joins && other.is_empty() => {
                        if !other.is_unused() {
                            records.extend(other.tombstones(group));
                        }
                        fresh = ConsumerGroup::new();
                        &mut fresh
                    }
                    None if joins => {
                        fresh = ConsumerGroup::new();
                        &mut fresh
                    }
                    Some(_) | None => {
                        return Err(Refusal {
                            error: GroupError::GroupNotFound,
                            message: format!("group {group} is not a consumer group"),
                        });
                    }
                };
                let decided = decide(live, view)?;
                let (of_group, becomes) = in_log(group, decided.records, decided.becomes);
                records.extend(of_group);
                let answer = decided.answer;
                Ok((Decision { records, answer }, becomes))
            })
        };
        self.decide_and_become(core, group, decide, reply);
    }

    /// Looks at a consumer group, and answers when what is seen is durable.
    pub(crate) fn describe_consumer<T: Send + 'static>(
        &self,
        core: &Arc<Core>,
        group: &str,
        look: impl FnOnce(&ConsumerGroup, &ConsumerRules) -> T,
        reply: Reply<Result<T, GroupError>>,
    ) {
        let decide = |state: &mut Groups| match state.groups.get(group) {
            Some(Group::Consumer(live)) => Ok(Decision {
                records: Vec::new(),
                answer: look(live, &core.consumer_rules(group)),
            }),
            Some(_) | None => Err(GroupError::GroupNotFound),
        };
        self.decide(core, group, decide, reply);
    }

    /// Whether offsets of a group may be read by who says so.
    pub(crate) fn check_fetch(
        &self,
        group: &str,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        match self.lock().groups.get(group) {
            Some(live) => live.check_fetch(member_id, member_epoch),
            None => Ok(()),
        }
    }

    fn not_persisted(&self, core: &Arc<Core>, group: &str, metadata: &GroupMetadata) {
        let mut after = After::default();
        let mut state = self.lock();
        // Only the members are told; starting over would fail the same way.
        let effects = state
            .classic(group)
            .filter(|live| live.generation == metadata.generation)
            .map(|live| live.fail_all(GroupError::CoordinatorNotAvailable, core.now_ms()));
        state.perform(core, group, effects.unwrap_or_default(), &mut after);
        drop(state);
        after.run();
    }
}

/// Records of a consumer group as they go into the log, with the one of the classic group that it becomes.
fn in_log(
    group: &str,
    records: Vec<ConsumerRecord>,
    becomes: Option<Box<ClassicGroup>>,
) -> (Vec<GroupRecord>, Option<Box<ClassicGroup>>) {
    let of = |record| GroupRecord::Consumer {
        group: group.to_owned(),
        record,
    };
    let classic = becomes.as_ref().map(|classic| GroupRecord::GroupMetadata {
        group: group.to_owned(),
        value: Some(classic.metadata()),
    });
    (
        records.into_iter().map(of).chain(classic).collect(),
        becomes,
    )
}

fn view<'a>(
    catalog: &'a Catalog,
    rules: &'a ConsumerRules,
    matches: &'a Matches,
    now_ms: i64,
) -> View<'a> {
    View {
        now_ms,
        catalog,
        topics_version: catalog.topics_version(),
        rules,
        matches,
    }
}

impl Core {
    /// What a consumer group of this id obeys.
    pub(crate) fn consumer_rules(&self, group: &str) -> ConsumerRules {
        let config = &self.config;
        let of_group = self.group_config(group);
        let policy = config.group_consumer_migration_policy;
        let assignors = config.group_consumer_assignors.iter();
        ConsumerRules {
            session_timeout_ms: i64::from(of_group.consumer_session_timeout_ms),
            heartbeat_interval_ms: of_group.consumer_heartbeat_interval_ms,
            size_max: config.group_consumer_size_max,
            assignors: assignors
                .filter_map(|name| Assignor::by_name(name))
                .collect(),
            upgrade: matches!(
                policy,
                MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade
            ),
            downgrade: matches!(
                policy,
                MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade
            ),
            assignment_interval_ms: of_group.consumer_assignment_interval_ms,
            regex_refresh_interval_ms: config.group_consumer_regex_refresh_interval_ms,
            classic_size_max: config.group_size_max,
        }
    }
}

fn is_valid_group_id(group: &str) -> bool {
    !group.is_empty() && group.len() <= i16::MAX as usize
}

/// Java's `String.hashCode`, by which Kafka chooses a group's partition.
pub(crate) fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

/// The partition of the offsets topic that a group belongs to.
pub(crate) fn partition_of(group: &str, partition_count: i32) -> i32 {
    // Kafka's abs: the sign bit is dropped.
    (java_hash(group) & i32::MAX) % partition_count.max(1)
}

/// Configs of the offsets topic.
pub(crate) fn offsets_topic_configs() -> BTreeMap<String, String> {
    [
        ("cleanup.policy", "compact"),
        ("compression.type", "producer"),
        ("segment.bytes", "104857600"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_belongs_to_the_partition_that_kafka_chooses() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("abc"), 96354);
        assert_eq!(java_hash("hello world"), 1794106052);
        assert_eq!(partition_of("abc", 50), 4);
        // A hash below zero: "polygenelubricants" is Java's smallest integer.
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(partition_of("polygenelubricants", 50), 0);
    }
}
