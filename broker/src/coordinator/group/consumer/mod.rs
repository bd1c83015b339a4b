//! A consumer group (KIP-848): the coordinator assigns, members follow by heartbeats.
//!
//! 1. What members subscribe to, and the topics that are there, make the group epoch: it rises when either changes.
//! 2. For a group epoch a target assignment is computed (`assign`).
//! 3. Each member goes from what it has to its target at its own pace (`reconcile`): first it gives up, then it gets.
//!
//! `heartbeat` decides for members of this protocol, `classic_members` for those that speak the classic one, and how a group
//! becomes the other kind. All decisions look at the group as it is and return records; `replay` alone changes it. Only deadlines
//! are changed by decisions: they are not durable, and start over when the group is loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use crate::metadata::Catalog;

pub(crate) mod assign;
mod classic_members;
mod heartbeat;
mod reconcile;
pub mod records;
mod regex;

pub(crate) use heartbeat::{Heartbeat, HeartbeatAnswer};
pub(crate) use regex::{Expressions, Matches, NO_MATCHES};

use super::classic::ClassicGroup;
use super::{Commit, CommitKind, GroupError};
use assign::Assignor;
use records::{
    ConsumerRecord, Current, GroupEpoch, MemberState, PartitionEpochs, Partitions, ResolvedRegex,
    Subscription, TargetEpoch,
};

/// What a member says that leaves, and what one that comes.
pub(crate) const LEAVE_EPOCH: i32 = -1;
pub(crate) const STATIC_LEAVE_EPOCH: i32 = -2;

/// What a consumer group obeys.
#[derive(Debug, Clone)]
pub(crate) struct ConsumerRules {
    pub(crate) session_timeout_ms: i64,
    pub(crate) heartbeat_interval_ms: i32,
    pub(crate) size_max: usize,
    /// Those that members may ask for; the first is taken where none does.
    pub(crate) assignors: Vec<Assignor>,
    /// Whether a classic group may become a consumer group.
    pub(crate) upgrade: bool,
    /// Whether a consumer group may become a classic group.
    pub(crate) downgrade: bool,
    /// Between two target assignments.
    pub(crate) assignment_interval_ms: i64,
    pub(crate) regex_refresh_interval_ms: i64,
    /// `group.max.size`: of the classic group that it may become.
    pub(crate) classic_size_max: usize,
}

impl ConsumerRules {
    fn default_assignor(&self) -> Assignor {
        self.assignors.first().copied().unwrap_or(Assignor::Uniform)
    }
}

/// What a decision looks at besides the group.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) now_ms: i64,
    pub(crate) catalog: &'a Catalog,
    /// Changes whenever a topic comes, goes or grows.
    pub(crate) topics_version: u64,
    pub(crate) rules: &'a ConsumerRules,
    /// What `ConsumerGroup::unresolved` asked for, shortly before.
    pub(crate) matches: &'a Matches,
}

/// Why a request is refused, for code and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) error: GroupError,
    pub(crate) message: String,
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Self {
        Self {
            error,
            message: error.to_string(),
        }
    }
}

fn refused<T>(error: GroupError, message: String) -> Result<T, Refusal> {
    Err(Refusal { error, message })
}

/// What a decision comes to.
#[derive(Debug)]
pub(crate) struct Decided<T> {
    pub(crate) records: Vec<ConsumerRecord>,
    pub(crate) answer: T,
    /// The group ends with these records and goes on as this one.
    pub(crate) becomes: Option<Box<ClassicGroup>>,
}

impl<T> Decided<T> {
    fn new(records: Vec<ConsumerRecord>, answer: T) -> Self {
        Self {
            records,
            answer,
            becomes: None,
        }
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) subscription: Subscription,
    pub(crate) current: Current,
}

impl Member {
    /// One that has not said anything yet.
    fn unborn() -> Self {
        Self {
            subscription: Subscription {
                regex: Some(String::new()),
                rebalance_timeout_ms: -1,
                ..Subscription::default()
            },
            current: Current {
                previous_epoch: -1,
                ..Current::default()
            },
        }
    }

    pub(crate) fn is_classic(&self) -> bool {
        self.subscription.classic.is_some()
    }

    fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }
}

/// Until when a member has to do what. Not durable.
#[derive(Debug, Clone, Copy)]
struct Timers {
    session_ms: i64,
    /// At this epoch it has to revoke until then.
    rebalance: Option<(i32, i64)>,
    /// A classic member has to join again.
    join_ms: Option<i64>,
    /// A classic member has to sync.
    sync_ms: Option<i64>,
}

impl Timers {
    fn next_ms(&self) -> i64 {
        let rebalance = self.rebalance.map(|(_, deadline_ms)| deadline_ms);
        [rebalance, self.join_ms, self.sync_ms]
            .into_iter()
            .flatten()
            .fold(self.session_ms, i64::min)
    }
}

/// A group.
#[derive(Debug, Default)]
pub(crate) struct ConsumerGroup {
    epoch: i32,
    metadata_hash: i64,
    assignment_epoch: i32,
    assignment_timestamp_ms: i64,
    members: BTreeMap<String, Member>,
    targets: BTreeMap<String, Partitions>,
    regexes: BTreeMap<String, ResolvedRegex>,
    /// Kafka before 4.0 left a record that is to be removed.
    has_topic_metadata: bool,

    /// Of the members: the epoch of the one that has the partition, or has yet to give it up.
    owner_epochs: HashMap<(Uuid, i32), i32>,
    /// Of the members: member ids by instance id.
    static_members: BTreeMap<String, String>,

    /// The topics as they were when they were last compared. Not durable.
    topics_checked: Option<u64>,
    /// The topics as they were when regular expressions were last resolved, and when that was. Not durable.
    regexes_checked: Option<(u64, i64)>,
    timers: BTreeMap<String, Timers>,
}

impl ConsumerGroup {
    pub(crate) fn new() -> Self {
        Self {
            epoch: 1,
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn state_name(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.assignment_epoch {
            "Assigning"
        } else if self
            .members
            .values()
            .all(|member| member.is_reconciled_to(self.assignment_epoch))
        {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(crate) fn assignment_epoch(&self) -> i32 {
        self.assignment_epoch
    }

    pub(crate) fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    pub(crate) fn target(&self, member_id: &str) -> Option<&Partitions> {
        self.targets.get(member_id)
    }

    /// The assignor that most members ask for.
    pub(crate) fn preferred_assignor(&self, rules: &ConsumerRules) -> Assignor {
        preferred_assignor(
            self.members.values().map(|member| &member.subscription),
            rules,
        )
    }

    /// Topics that members subscribe to, by name or by expression.
    pub(crate) fn subscribed_topics(&self) -> BTreeSet<String> {
        let of = |member: &Member| {
            subscribed_names(&member.subscription, &self.regexes)
                .cloned()
                .collect::<Vec<_>>()
        };
        self.members.values().flat_map(of).collect()
    }

    /// Whether a commit for these partitions may be made by who says so: all of it, or nothing. A member of an older epoch may commit for
    /// what it has had since.
    pub(crate) fn check_commit(
        &self,
        commit: Commit<'_>,
        partitions: impl IntoIterator<Item = (Uuid, i32)>,
    ) -> Result<(), GroupError> {
        let member = commit.member;
        if member.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        if commit.kind == CommitKind::Transactional && member.names_nobody() {
            return Ok(());
        }
        let known = self
            .members
            .get(&member.member_id)
            .ok_or(GroupError::UnknownMember)?;
        if commit.kind == CommitKind::WithoutEpochs && !known.is_classic() {
            return Err(GroupError::UnsupportedVersion);
        }
        let current = &known.current;
        if member.generation == current.epoch {
            return Ok(());
        }
        let has_had = |(topic, partition): (Uuid, i32)| {
            let of = |of: &PartitionEpochs| of.get(&topic)?.get(&partition).copied();
            let assigned_epoch = of(&current.assigned).or_else(|| of(&current.revoking));
            assigned_epoch.is_some_and(|assigned_epoch| member.generation >= assigned_epoch)
        };
        if member.generation < current.epoch && partitions.into_iter().all(has_had) {
            Ok(())
        } else {
            Err(stale(known))
        }
    }

    /// Whether offsets may be read by who says so.
    pub(crate) fn check_fetch(
        &self,
        member_id: Option<&str>,
        member_epoch: i32,
    ) -> Result<(), GroupError> {
        let Some(member_id) = member_id else {
            return if member_epoch < 0 {
                Ok(())
            } else {
                Err(GroupError::UnknownMember)
            };
        };
        let known = self
            .members
            .get(member_id)
            .ok_or(GroupError::UnknownMember)?;
        if known.current.epoch == member_epoch {
            Ok(())
        } else {
            Err(stale(known))
        }
    }

    /// Tombstones for all that is durable.
    pub(crate) fn tombstones(&self) -> Vec<ConsumerRecord> {
        let mut records = Vec::new();
        let members: BTreeSet<&String> = self.members.keys().chain(self.targets.keys()).collect();
        for member_id in &members {
            records.push(ConsumerRecord::Current {
                member_id: (*member_id).clone(),
                value: None,
            });
        }
        for member_id in &members {
            records.push(ConsumerRecord::Target {
                member_id: (*member_id).clone(),
                value: None,
            });
        }
        records.push(ConsumerRecord::TargetEpoch(None));
        for member_id in members {
            records.push(ConsumerRecord::Subscription {
                member_id: member_id.clone(),
                value: None,
            });
        }
        for regex in self.regexes.keys() {
            records.push(ConsumerRecord::Regex {
                regex: regex.clone(),
                value: None,
            });
        }
        records.push(ConsumerRecord::TopicMetadata(None));
        records.push(ConsumerRecord::Epoch(None));
        records
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<i64> {
        self.timers.values().map(Timers::next_ms).min()
    }

    /// Removes the members whose time is up.
    pub(crate) fn expire(&mut self, view: View<'_>) -> Option<Decided<()>> {
        let now_ms = view.now_ms;
        let mut fenced = BTreeSet::new();
        for (member_id, timers) in &mut self.timers {
            let Some(member) = self.members.get(member_id) else {
                continue;
            };
            let due = |deadline_ms: Option<i64>| deadline_ms.is_some_and(|at_ms| at_ms <= now_ms);
            let late = timers.rebalance.is_some_and(|(epoch, deadline_ms)| {
                deadline_ms <= now_ms && epoch == member.current.epoch
            });
            if timers.session_ms <= now_ms || late || due(timers.join_ms) || due(timers.sync_ms) {
                fenced.insert(member_id.clone());
            } else if due(timers.rebalance.map(|(_, deadline_ms)| deadline_ms)) {
                timers.rebalance = None;
            }
        }
        if fenced.is_empty() {
            return None;
        }
        let decided = self.fence(&fenced, view);
        // They are not asked again before the records are replayed; if those cannot be written, they have another session.
        for member_id in &fenced {
            if let Some(timers) = self.timers.get_mut(member_id) {
                *timers = Timers {
                    session_ms: now_ms + view.rules.session_timeout_ms,
                    rebalance: None,
                    join_ms: None,
                    sync_ms: None,
                };
            }
        }
        Some(decided)
    }

    /// Removes members. If only members of the classic protocol are left, the group becomes a classic one.
    fn fence(&self, fenced: &BTreeSet<String>, view: View<'_>) -> Decided<()> {
        if let Some(classic) = self.downgraded(fenced, None, view) {
            return Decided {
                records: self.tombstones(),
                answer: (),
                becomes: Some(Box::new(classic)),
            };
        }
        let mut records = Vec::new();
        for member_id in fenced {
            records.extend(removal(member_id));
        }
        let left = || {
            self.members
                .iter()
                .filter(|(member_id, _)| !fenced.contains(*member_id))
                .map(|(_, member)| &member.subscription)
        };
        for regex in self.regexes.keys() {
            if !left().any(|subscription| subscription.regex.as_deref() == Some(regex)) {
                records.push(ConsumerRecord::Regex {
                    regex: regex.clone(),
                    value: None,
                });
            }
        }
        let topics: BTreeSet<&str> = left()
            .flat_map(|subscription| subscribed_names(subscription, &self.regexes))
            .map(String::as_str)
            .collect();
        records.push(ConsumerRecord::Epoch(Some(GroupEpoch {
            epoch: self.epoch + 1,
            metadata_hash: super::metadata_hash::of(&topics, view.catalog),
        })));
        Decided::new(records, ())
    }

    /// Applies a record that is in the log. Tombstones of what is not there change nothing: after compaction they may be all that is left.
    /// Says whether the group is gone.
    pub(crate) fn replay(
        &mut self,
        record: &ConsumerRecord,
        rules: &ConsumerRules,
        now_ms: i64,
    ) -> bool {
        match record {
            ConsumerRecord::Epoch(Some(value)) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            // Everything of the group that is before this in the log is dead, also where compaction has kept it.
            ConsumerRecord::Epoch(None) => return true,
            ConsumerRecord::TopicMetadata(value) => self.has_topic_metadata = value.is_some(),
            ConsumerRecord::TargetEpoch(value) => {
                let value = value.unwrap_or(TargetEpoch {
                    epoch: -1,
                    timestamp_ms: 0,
                });
                self.assignment_epoch = value.epoch;
                self.assignment_timestamp_ms = value.timestamp_ms;
            }
            ConsumerRecord::Target { member_id, value } => {
                match value {
                    Some(target) => self.targets.insert(member_id.clone(), target.clone()),
                    None => self.targets.remove(member_id),
                };
            }
            ConsumerRecord::Regex { regex, value } => {
                match value {
                    Some(resolved) => self.regexes.insert(regex.clone(), resolved.clone()),
                    None => self.regexes.remove(regex),
                };
            }
            ConsumerRecord::Subscription {
                member_id,
                value: Some(subscription),
            } => {
                let member = self
                    .members
                    .entry(member_id.clone())
                    .or_insert_with(Member::unborn);
                if let Some(instance_id) = &subscription.instance_id {
                    self.static_members
                        .insert(instance_id.clone(), member_id.clone());
                }
                member.subscription = subscription.clone();
                self.start_timers(member_id, rules, now_ms);
            }
            ConsumerRecord::Subscription {
                member_id,
                value: None,
            } => {
                self.timers.remove(member_id);
                let Some(member) = self.members.remove(member_id) else {
                    return false;
                };
                self.disown(&member.current);
                if let Some(instance_id) = &member.subscription.instance_id
                    && self.static_members.get(instance_id) == Some(member_id)
                {
                    self.static_members.remove(instance_id);
                }
            }
            ConsumerRecord::Current { member_id, value } => {
                let member = self.members.get_mut(member_id);
                let (before, after) = match (member, value) {
                    (None, None) => return false,
                    (None, Some(value)) => {
                        let mut member = Member::unborn();
                        member.current = value.clone();
                        self.members.insert(member_id.clone(), member);
                        (Current::default(), value.clone())
                    }
                    (Some(member), value) => {
                        let after = value.clone().unwrap_or(Current {
                            epoch: -1,
                            previous_epoch: -1,
                            ..Current::default()
                        });
                        (std::mem::replace(&mut member.current, after.clone()), after)
                    }
                };
                self.disown(&before);
                for (topic, partitions) in after.assigned.iter().chain(&after.revoking) {
                    for partition in partitions.keys() {
                        self.owner_epochs.insert((*topic, *partition), after.epoch);
                    }
                }
                self.start_timers(member_id, rules, now_ms);
            }
        }
        false
    }

    /// Partitions that a member had have no owner any more, unless somebody else has them at another epoch.
    fn disown(&mut self, current: &Current) {
        for (topic, partitions) in current.assigned.iter().chain(&current.revoking) {
            for partition in partitions.keys() {
                let key = (*topic, *partition);
                if self.owner_epochs.get(&key) == Some(&current.epoch) {
                    self.owner_epochs.remove(&key);
                }
            }
        }
    }

    /// A new member has one session; one that has to revoke has until its rebalance timeout.
    fn start_timers(&mut self, member_id: &str, rules: &ConsumerRules, now_ms: i64) {
        let Some(member) = self.members.get(member_id) else {
            return;
        };
        let timers = self
            .timers
            .entry(member_id.to_owned())
            .or_insert_with(|| Timers {
                session_ms: now_ms + session_timeout_ms(member, rules),
                rebalance: None,
                join_ms: None,
                sync_ms: None,
            });
        let current = &member.current;
        if current.state != MemberState::UnrevokedPartitions || member.is_classic() {
            timers.rebalance = None;
        } else if timers
            .rebalance
            .is_none_or(|(epoch, _)| epoch != current.epoch)
        {
            let timeout_ms = i64::from(member.subscription.rebalance_timeout_ms.max(0));
            timers.rebalance = Some((current.epoch, now_ms + timeout_ms));
        }
    }

    fn heard_of(&mut self, member_id: &str, session_timeout_ms: i64, now_ms: i64) {
        if let Some(timers) = self.timers.get_mut(member_id) {
            timers.session_ms = now_ms + session_timeout_ms;
        }
    }

    fn is_owned(&self, topic: &Uuid, partition: i32) -> bool {
        self.owner_epochs.contains_key(&(*topic, partition))
    }

    /// What is durable, to compare.
    #[cfg(test)]
    pub(crate) fn durable(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        (
            (self.epoch, self.metadata_hash),
            (self.assignment_epoch, self.assignment_timestamp_ms),
            self.members.clone(),
            self.targets.clone(),
            self.regexes.clone(),
            self.owner_epochs.clone(),
            self.static_members.clone(),
        )
    }
}

/// A member that speaks the classic protocol has generations, not epochs.
fn stale(member: &Member) -> GroupError {
    if member.is_classic() {
        GroupError::IllegalGeneration
    } else {
        GroupError::StaleMemberEpoch
    }
}

fn session_timeout_ms(member: &Member, rules: &ConsumerRules) -> i64 {
    match &member.subscription.classic {
        Some(classic) => i64::from(classic.session_timeout_ms),
        None => rules.session_timeout_ms,
    }
}

/// Names of topics, by name and by expression. Some may come twice, and some may not be there.
fn subscribed_names<'a>(
    subscription: &'a Subscription,
    regexes: &'a BTreeMap<String, ResolvedRegex>,
) -> impl Iterator<Item = &'a String> {
    let by_regex = subscription.regex.as_ref().and_then(|of| regexes.get(of));
    let by_regex = by_regex.into_iter().flat_map(|resolved| &resolved.topics);
    subscription.topics.iter().chain(by_regex)
}

fn preferred_assignor<'a>(
    subscriptions: impl Iterator<Item = &'a Subscription>,
    rules: &ConsumerRules,
) -> Assignor {
    let mut votes = vec![0_usize; rules.assignors.len()];
    for subscription in subscriptions {
        let wanted = subscription.assignor.as_deref().and_then(Assignor::by_name);
        let index = wanted.and_then(|wanted| rules.assignors.iter().position(|of| *of == wanted));
        if let Some(votes) = index.and_then(|index| votes.get_mut(index)) {
            *votes += 1;
        }
    }
    let most = votes.iter().copied().max().unwrap_or(0);
    votes
        .iter()
        .position(|votes| *votes == most)
        .and_then(|index| rules.assignors.get(index).copied())
        .unwrap_or_else(|| rules.default_assignor())
}

/// The tombstones of one member, in the order that Kafka's replay asks for.
fn removal(member_id: &str) -> [ConsumerRecord; 3] {
    let member_id = || member_id.to_owned();
    [
        ConsumerRecord::Current {
            member_id: member_id(),
            value: None,
        },
        ConsumerRecord::Target {
            member_id: member_id(),
            value: None,
        },
        ConsumerRecord::Subscription {
            member_id: member_id(),
            value: None,
        },
    ]
}

#[cfg(test)]
mod tests;
