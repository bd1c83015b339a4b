//! ConsumerGroupHeartbeat: a member joins, stays, changes its mind or leaves, and is told its assignment.
//!
//! 1. The member is found by its id, a static one by its instance id, and its epoch is checked: it may be one behind if what it
//!    says it has fits, since its last answer may be lost.
//! 2. What it subscribes to is noted; regular expressions are resolved.
//! 3. If subscriptions or topics have changed, the group epoch rises.
//! 4. If the group epoch is ahead of the target assignment, a new one is computed, at most once in an interval.
//! 5. The member takes its next step towards its target.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::super::metadata_hash;
use super::assign::{self, MemberSpec};
use super::reconcile::{Reconciliation, UnknownState};
use super::records::{
    ConsumerRecord, Current, GroupEpoch, PartitionEpochs, Partitions, ResolvedRegex, Subscription,
    TargetEpoch,
};
use super::{
    ConsumerGroup, ConsumerRules, Decided, LEAVE_EPOCH, Member, Refusal, STATIC_LEAVE_EPOCH, View,
    preferred_assignor, refused, removal, subscribed_names,
};
use crate::coordinator::group::GroupError;

/// Topics come and go in bursts: expressions are resolved again no sooner.
const REGEX_REFRESH_INTERVAL_MS_MIN: i64 = 1000;

/// A heartbeat. `None` is unchanged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeat {
    /// Chosen by the client, or for it.
    pub(crate) member_id: String,
    pub(crate) member_epoch: i32,
    pub(crate) instance_id: Option<String>,
    pub(crate) rack_id: Option<String>,
    pub(crate) rebalance_timeout_ms: Option<i32>,
    pub(crate) topics: Option<BTreeSet<String>>,
    pub(crate) regex: Option<String>,
    pub(crate) assignor: Option<String>,
    /// What the member has.
    pub(crate) owned: Option<Partitions>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
}

impl Heartbeat {
    pub(crate) fn leaves(&self) -> bool {
        matches!(self.member_epoch, LEAVE_EPOCH | STATIC_LEAVE_EPOCH)
    }
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeartbeatAnswer {
    pub(crate) member_id: String,
    pub(crate) member_epoch: i32,
    pub(crate) heartbeat_interval_ms: i32,
    /// If it is to be told.
    pub(crate) assignment: Option<PartitionEpochs>,
}

/// A member while it is decided about.
pub(super) struct Subject {
    pub(super) member_id: String,
    /// As it is known, or as it takes over from another of its instance id.
    pub(super) member: Member,
    /// Whose place it takes.
    pub(super) replaces: Option<String>,
}

/// The outcome of looking at subscriptions and topics.
pub(super) struct Planned {
    pub(super) epoch: i32,
    pub(super) subscription_changed: bool,
    pub(super) regexes: BTreeMap<String, ResolvedRegex>,
}

impl ConsumerGroup {
    /// Decides about a heartbeat.
    pub(crate) fn heartbeat(
        &mut self,
        request: Heartbeat,
        view: View<'_>,
    ) -> Result<Decided<HeartbeatAnswer>, Refusal> {
        if request.leaves() {
            return self.leave(&request, view);
        }
        let joins = request.member_epoch == 0;
        self.check_size(&request.member_id, view)?;
        let mut records = Vec::new();
        let subject = self.find(&request, &mut records)?;
        let is_full = request.rebalance_timeout_ms.is_some()
            && (request.topics.is_some() || request.regex.is_some())
            && request.owned.is_some();
        let owned = request.owned.clone();
        let subscription = updated(&subject.member.subscription, request);
        let planned = self.plan(&subject, &subscription, view, &mut records)?;
        let next = self.follow(
            &subject,
            &subscription,
            &planned,
            owned.as_ref(),
            view,
            &mut records,
        )?;
        self.heard_of(
            &subject.member_id,
            view.rules.session_timeout_ms,
            view.now_ms,
        );
        let tell = joins || is_full || next.assigned != subject.member.current.assigned;
        let answer = HeartbeatAnswer {
            member_id: subject.member_id,
            member_epoch: next.epoch,
            heartbeat_interval_ms: view.rules.heartbeat_interval_ms,
            assignment: tell.then_some(next.assigned),
        };
        Ok(Decided::new(records, answer))
    }

    pub(super) fn check_size(&self, member_id: &str, view: View<'_>) -> Result<(), Refusal> {
        if self.members.len() >= view.rules.size_max && !self.members.contains_key(member_id) {
            let size_max = view.rules.size_max;
            return refused(
                GroupError::MaxSizeReached,
                format!("the group has reached its maximum of {size_max} members"),
            );
        }
        Ok(())
    }

    fn find(
        &self,
        request: &Heartbeat,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Subject, Refusal> {
        let joins = request.member_epoch == 0;
        let member_id = request.member_id.clone();
        let Some(instance_id) = &request.instance_id else {
            let known = self.members.get(&member_id);
            let member = match known {
                Some(member) => member.clone(),
                None if joins => Member::unborn(),
                None => return unknown(&member_id),
            };
            check_epoch(&member, request)?;
            return Ok(Subject {
                member_id,
                member,
                replaces: None,
            });
        };
        let existing = self.static_members.get(instance_id);
        let existing = existing.and_then(|id| Some((id, self.members.get(id)?)));
        if joins {
            let Some((old_id, old)) = existing else {
                let member = self.members.get(&member_id).cloned();
                return Ok(Subject {
                    member_id,
                    member: member.unwrap_or_else(Member::unborn),
                    replaces: None,
                });
            };
            if !old.is_classic() && old.current.epoch != STATIC_LEAVE_EPOCH {
                return refused(
                    GroupError::UnreleasedInstanceId,
                    format!("instance id {instance_id} is owned by member {old_id}"),
                );
            }
            return Ok(self.replaced(old_id, member_id, records));
        }
        let Some((id, member)) = existing else {
            return refused(
                GroupError::UnknownMember,
                format!("instance id {instance_id} is not known"),
            );
        };
        check_instance(id, &member_id, instance_id)?;
        check_epoch(member, request)?;
        Ok(Subject {
            member_id,
            member: member.clone(),
            replaces: None,
        })
    }

    /// A static member is back under another id, and gets what the old one had.
    pub(super) fn replaced(
        &self,
        old_id: &str,
        member_id: String,
        records: &mut Vec<ConsumerRecord>,
    ) -> Subject {
        let mut member = self
            .members
            .get(old_id)
            .cloned()
            .unwrap_or_else(Member::unborn);
        member.current.epoch = 0;
        member.current.previous_epoch = 0;
        records.extend(removal(old_id));
        records.push(ConsumerRecord::Subscription {
            member_id: member_id.clone(),
            value: Some(member.subscription.clone()),
        });
        records.push(ConsumerRecord::Target {
            member_id: member_id.clone(),
            value: Some(self.targets.get(old_id).cloned().unwrap_or_default()),
        });
        records.push(ConsumerRecord::Current {
            member_id: member_id.clone(),
            value: Some(member.current.clone()),
        });
        Subject {
            member_id,
            member,
            replaces: Some(old_id.to_owned()),
        }
    }

    /// The other members, after the subject has come.
    fn others<'a>(
        &'a self,
        subject: &'a Subject,
    ) -> impl Iterator<Item = (&'a String, &'a Member)> + Clone {
        self.members.iter().filter(move |(id, _)| {
            **id != subject.member_id && Some(*id) != subject.replaces.as_ref()
        })
    }

    /// Notes what the member subscribes to, and raises the group epoch if that or the topics have changed.
    pub(super) fn plan(
        &mut self,
        subject: &Subject,
        subscription: &Subscription,
        view: View<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Planned, Refusal> {
        let before = &subject.member.subscription;
        let is_new = !self.members.contains_key(&subject.member_id) && subject.replaces.is_none();
        if is_new || subscription != before {
            records.push(ConsumerRecord::Subscription {
                member_id: subject.member_id.clone(),
                value: Some(subscription.clone()),
            });
        }
        let (regexes, resolved_others) =
            self.resolve_regexes(subject, subscription, view, records)?;
        let topics_changed = subscription.topics != before.topics;
        let regex_changed = subscription.regex.as_deref().unwrap_or_default()
            != before.regex.as_deref().unwrap_or_default();
        let subscription_changed = topics_changed || regex_changed || resolved_others;
        let mut epoch = self.epoch;
        if subscription_changed || self.topics_checked != Some(view.topics_version) {
            let names: BTreeSet<&str> = self
                .others(subject)
                .map(|(_, member)| &member.subscription)
                .chain([subscription])
                .flat_map(|subscription| subscribed_names(subscription, &regexes))
                .map(String::as_str)
                .collect();
            let metadata_hash = metadata_hash::of(&names, view.catalog);
            if subscription_changed || metadata_hash != self.metadata_hash {
                epoch += 1;
                records.push(ConsumerRecord::Epoch(Some(GroupEpoch {
                    epoch,
                    metadata_hash,
                })));
            }
            if self.has_topic_metadata {
                records.push(ConsumerRecord::TopicMetadata(None));
            }
            self.topics_checked = Some(view.topics_version);
        }
        Ok(Planned {
            epoch,
            subscription_changed,
            regexes,
        })
    }

    /// The expressions that the next decision has to know the matches of: all of them if one is new, which a heartbeat may bring, or if
    /// they are due.
    pub(crate) fn unresolved(
        &self,
        brought: Option<&str>,
        topics_version: u64,
        rules: &ConsumerRules,
        now_ms: i64,
    ) -> BTreeSet<String> {
        let members = self.members.values();
        let mut wanted: BTreeSet<String> = members
            .filter_map(|member| expression_of(&member.subscription))
            .chain(brought.filter(|regex| !regex.is_empty()))
            .map(str::to_owned)
            .collect();
        if !self.must_resolve(&wanted, topics_version, rules, now_ms) {
            wanted.clear();
        }
        wanted
    }

    fn must_resolve(
        &self,
        wanted: &BTreeSet<String>,
        topics_version: u64,
        rules: &ConsumerRules,
        now_ms: i64,
    ) -> bool {
        let is_due = match self.regexes_checked {
            None => true,
            Some((version, at_ms)) => {
                let age_ms = now_ms - at_ms;
                age_ms >= rules.regex_refresh_interval_ms
                    || (version != topics_version && age_ms >= REGEX_REFRESH_INTERVAL_MS_MIN)
            }
        };
        let is_new = |regex: &String| !self.regexes.contains_key(regex);
        !wanted.is_empty() && (is_due || wanted.iter().any(is_new))
    }

    /// The expressions of the group and what they match, after the subject has come. Says whether one matches other topics than before.
    fn resolve_regexes(
        &mut self,
        subject: &Subject,
        subscription: &Subscription,
        view: View<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<(BTreeMap<String, ResolvedRegex>, bool), Refusal> {
        let own = expression_of(subscription);
        if own.is_none() && self.regexes.is_empty() && !self.has_regexes() {
            return Ok((BTreeMap::new(), false));
        }
        let mut wanted: BTreeSet<String> = self
            .others(subject)
            .filter_map(|(_, member)| expression_of(&member.subscription))
            .map(str::to_owned)
            .collect();
        if let Some(own) = own {
            if !wanted.contains(own)
                && let Some(Err(refusal)) = view.matches.get(own)
            {
                return Err(refusal.clone());
            }
            wanted.insert(own.to_owned());
        }
        let mut regexes = self.regexes.clone();
        regexes.retain(|regex, _| {
            let keep = wanted.contains(regex);
            if !keep {
                records.push(ConsumerRecord::Regex {
                    regex: regex.clone(),
                    value: None,
                });
            }
            keep
        });
        if !self.must_resolve(&wanted, view.topics_version, view.rules, view.now_ms) {
            return Ok((regexes, false));
        }
        let mut changed = false;
        let mut is_complete = true;
        for regex in wanted {
            let topics = match view.matches.get(&regex) {
                Some(Ok(topics)) => topics,
                // It was compiled when its member came; an older version's is left as it is.
                Some(Err(refusal)) => {
                    tracing::warn!(message = refusal.message, "regular expression not resolved");
                    continue;
                }
                // It came after the matches were looked up: the next heartbeat has it.
                None => {
                    is_complete = false;
                    continue;
                }
            };
            let known = regexes.get(&regex);
            if known.is_some_and(|known| known.topics == **topics) {
                continue;
            }
            changed = true;
            let resolved = ResolvedRegex {
                topics: topics.as_ref().clone(),
                version: i64::try_from(view.topics_version).unwrap_or(i64::MAX),
                timestamp_ms: view.now_ms,
            };
            records.push(ConsumerRecord::Regex {
                regex: regex.clone(),
                value: Some(resolved.clone()),
            });
            regexes.insert(regex, resolved);
        }
        if is_complete {
            self.regexes_checked = Some((view.topics_version, view.now_ms));
        }
        Ok((regexes, changed))
    }

    fn has_regexes(&self) -> bool {
        let mut members = self.members.values();
        members.any(|member| expression_of(&member.subscription).is_some())
    }

    /// Computes a new target if there is to be one, and takes the member's next step towards its own.
    pub(super) fn follow(
        &self,
        subject: &Subject,
        subscription: &Subscription,
        planned: &Planned,
        owned: Option<&Partitions>,
        view: View<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Current, Refusal> {
        let interval_ms = view.rules.assignment_interval_ms;
        let may_assign = self.assignment_timestamp_ms == 0
            || view.now_ms >= self.assignment_timestamp_ms + interval_ms;
        let (target_epoch, target) = if self.assignment_epoch < planned.epoch && may_assign {
            let target = self.assign(subject, subscription, planned, view, records);
            (planned.epoch, target)
        } else {
            (self.assignment_epoch, self.target_of(subject))
        };
        self.reconcile(
            subject,
            subscription,
            planned,
            (target_epoch, &target),
            owned,
            view,
            records,
        )
    }

    /// The target that the member has, maybe of the one it replaces.
    pub(super) fn target_of(&self, subject: &Subject) -> Partitions {
        let member_id = subject.replaces.as_ref().unwrap_or(&subject.member_id);
        self.targets.get(member_id).cloned().unwrap_or_default()
    }

    #[allow(clippy::too_many_arguments, reason = "what one step looks at")]
    pub(super) fn reconcile(
        &self,
        subject: &Subject,
        subscription: &Subscription,
        planned: &Planned,
        (target_epoch, target): (i32, &Partitions),
        owned: Option<&Partitions>,
        view: View<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Result<Current, Refusal> {
        let current = &subject.member.current;
        if !planned.subscription_changed && subject.member.is_reconciled_to(target_epoch) {
            return Ok(current.clone());
        }
        let subscribed: BTreeSet<Uuid> = subscribed_names(subscription, &planned.regexes)
            .filter_map(|name| Some(view.catalog.topic(name)?.id))
            .collect();
        let step = Reconciliation {
            current,
            target_epoch,
            target,
            subscription_changed: planned.subscription_changed,
            subscribed: &subscribed,
            is_owned: |topic: &Uuid, partition| self.is_owned(topic, partition),
            owned,
        };
        let next = step.next().map_err(|UnknownState| Refusal {
            error: GroupError::FencedMemberEpoch,
            message:
                "the member is in an unknown state: it has to give up its partitions and rejoin"
                    .to_owned(),
        })?;
        if next != *current {
            records.push(ConsumerRecord::Current {
                member_id: subject.member_id.clone(),
                value: Some(next.clone()),
            });
        }
        Ok(next)
    }

    /// A new target assignment; the member's is returned.
    fn assign(
        &self,
        subject: &Subject,
        subscription: &Subscription,
        planned: &Planned,
        view: View<'_>,
        records: &mut Vec<ConsumerRecord>,
    ) -> Partitions {
        let replaces = subject.replaces.as_ref().unwrap_or(&subject.member_id);
        let own = (&subject.member_id, subscription, self.targets.get(replaces));
        let others = self
            .others(subject)
            .map(|(id, member)| (id, &member.subscription, self.targets.get(id)));
        let spec = |(id, subscription, target): (_, _, _)| {
            let subscription: &Subscription = subscription;
            let id: &String = id;
            let topics = subscribed_names(subscription, &planned.regexes)
                .filter_map(|name| view.catalog.topic(name))
                .map(|topic| (topic.id, topic.partition_count));
            let spec = MemberSpec {
                instance_id: subscription.instance_id.as_deref(),
                topics: topics.collect(),
                target,
            };
            (id.as_str(), spec)
        };
        let specs: BTreeMap<&str, MemberSpec<'_>> = others.chain([own]).map(spec).collect();
        let subscriptions = self
            .others(subject)
            .map(|(_, member)| &member.subscription)
            .chain([subscription]);
        let assignor = preferred_assignor(subscriptions, view.rules);
        let mut targets = assign::assign(assignor, &specs);
        for (member_id, target) in &targets {
            let before = specs.get(member_id.as_str()).and_then(|spec| spec.target);
            // A member that takes over has its target in a record already.
            if before != Some(target) {
                records.push(ConsumerRecord::Target {
                    member_id: member_id.clone(),
                    value: Some(target.clone()),
                });
            }
        }
        records.push(ConsumerRecord::TargetEpoch(Some(TargetEpoch {
            epoch: planned.epoch,
            timestamp_ms: view.now_ms,
        })));
        targets.remove(&subject.member_id).unwrap_or_default()
    }

    /// A member leaves, a static one maybe for a while only.
    fn leave(
        &mut self,
        request: &Heartbeat,
        view: View<'_>,
    ) -> Result<Decided<HeartbeatAnswer>, Refusal> {
        let answer = HeartbeatAnswer {
            member_id: request.member_id.clone(),
            member_epoch: request.member_epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        let member_id = match &request.instance_id {
            None if self.members.contains_key(&request.member_id) => request.member_id.clone(),
            None => return unknown(&request.member_id),
            Some(instance_id) => {
                let Some(id) = self.static_members.get(instance_id) else {
                    return refused(
                        GroupError::UnknownMember,
                        format!("instance id {instance_id} is not known"),
                    );
                };
                check_instance(id, &request.member_id, instance_id)?;
                id.clone()
            }
        };
        if request.instance_id.is_none() || request.member_epoch == LEAVE_EPOCH {
            let fenced = self.fence(&[member_id].into(), view);
            return Ok(Decided {
                records: fenced.records,
                answer,
                becomes: fenced.becomes,
            });
        }
        // It is expected back within its session, and its partitions stay its own.
        let mut current = match self.members.get(&member_id) {
            Some(member) => member.current.clone(),
            None => return unknown(&member_id),
        };
        current.epoch = STATIC_LEAVE_EPOCH;
        current.revoking = PartitionEpochs::new();
        for epoch in current.assigned.values_mut().flat_map(|of| of.values_mut()) {
            *epoch = 0;
        }
        let record = ConsumerRecord::Current {
            member_id,
            value: Some(current),
        };
        Ok(Decided::new(vec![record], answer))
    }
}

fn unknown<T>(member_id: &str) -> Result<T, Refusal> {
    refused(
        GroupError::UnknownMember,
        format!("member {member_id} is not known"),
    )
}

pub(super) fn check_instance(
    id: &str,
    received_id: &str,
    instance_id: &str,
) -> Result<(), Refusal> {
    if id == received_id {
        return Ok(());
    }
    refused(
        GroupError::FencedInstanceId,
        format!("member {received_id} with instance id {instance_id} is fenced by member {id}"),
    )
}

/// A member is at its epoch, or at the one before if what it has is part of what it was told since.
fn check_epoch(member: &Member, request: &Heartbeat) -> Result<(), Refusal> {
    let (received, current) = (request.member_epoch, &member.current);
    if received == 0 || received == current.epoch {
        return Ok(());
    }
    let has_no_more = || {
        request.owned.as_ref().is_some_and(|owned| {
            owned.iter().all(|(topic, partitions)| {
                current.assigned.get(topic).is_some_and(|assigned| {
                    partitions
                        .iter()
                        .all(|partition| assigned.contains_key(partition))
                })
            })
        })
    };
    if received < current.epoch && received == current.previous_epoch && has_no_more() {
        return Ok(());
    }
    refused(
        GroupError::FencedMemberEpoch,
        format!(
            "the member says epoch {received}, the coordinator knows {}: it has to give up its partitions and rejoin",
            current.epoch
        ),
    )
}

/// The subscription with what the request says of it.
fn updated(before: &Subscription, request: Heartbeat) -> Subscription {
    Subscription {
        instance_id: request.instance_id.or_else(|| before.instance_id.clone()),
        rack_id: request.rack_id.or_else(|| before.rack_id.clone()),
        client_id: request.client_id,
        client_host: request.client_host,
        topics: request.topics.unwrap_or_else(|| before.topics.clone()),
        regex: request.regex.or_else(|| before.regex.clone()),
        rebalance_timeout_ms: request
            .rebalance_timeout_ms
            .unwrap_or(before.rebalance_timeout_ms),
        assignor: request.assignor.or_else(|| before.assignor.clone()),
        classic: None,
    }
}

/// The expression that it subscribes by.
fn expression_of(subscription: &Subscription) -> Option<&str> {
    let regex = subscription.regex.as_deref();
    regex.filter(|regex| !regex.is_empty())
}
