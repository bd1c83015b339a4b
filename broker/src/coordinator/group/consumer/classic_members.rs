//! Members of a consumer group that speak the classic protocol, and how a group becomes the other kind (on-line migration).
//!
//! To such a member the group looks classic: its epoch is the generation, its assignment comes from a sync, and a heartbeat
//! tells it to join again. It joins without waiting for others: each join is one step towards its target, and what it owns by its own
//! word (the subscription of the consumer protocol has it) is what a heartbeat would have said.
//!
//! - A classic group becomes a consumer group when a member of the consumer protocol joins: members, assignments and the
//!   generation are taken over.
//! - A consumer group becomes a classic group when its last member of the consumer protocol leaves, and its members rebalance.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::metadata_hash;
use super::heartbeat::{Subject, check_instance};
use super::records::{
    ClassicMember, ConsumerRecord, Current, GroupEpoch, MemberState, PartitionEpochs, Partitions,
    Subscription, TargetEpoch,
};
use super::{ConsumerGroup, Decided, Member, Refusal, View, refused, subscribed_names};
use crate::coordinator::group::GroupError;
use crate::coordinator::group::classic::{self, ClassicGroup, Joined, Synced};
use crate::coordinator::group::records::{GroupMetadata, MemberMetadata};
use crate::metadata::Catalog;
use crate::protocol::{
    ConsumerSubscription, consumer_assignment, consumer_subscription, encode_consumer_assignment,
};

/// What the members of a classic group speak that may become a consumer group.
const CONSUMER: &str = "consumer";

/// The answer to a classic member's join.
pub(crate) type ClassicJoin = Result<Decided<Joined>, (Refusal, String)>;
/// The answer to a classic member's sync.
pub(crate) type ClassicSync = Result<Synced, Refusal>;

impl ConsumerGroup {
    /// A member of the classic protocol joins, or joins again.
    pub(crate) fn classic_join(&mut self, join: &classic::Join, view: View<'_>) -> ClassicJoin {
        let is_unknown = join.member_id.is_empty();
        let member_id = if is_unknown {
            join.new_member_id.clone()
        } else {
            join.member_id.clone()
        };
        if is_unknown && join.member_id_required && join.instance_id.is_none() {
            self.check_classic_join(join, &member_id, view)
                .map_err(|refusal| (refusal, join.member_id.clone()))?;
            return Err((GroupError::MemberIdRequired.into(), member_id));
        }
        self.try_classic_join(join, member_id, view)
            .map_err(|refusal| (refusal, join.member_id.clone()))
    }

    fn check_classic_join(
        &self,
        join: &classic::Join,
        member_id: &str,
        view: View<'_>,
    ) -> Result<(), Refusal> {
        if !view.rules.upgrade && !view.rules.downgrade {
            return refused(
                GroupError::InconsistentProtocol,
                "the group is a consumer group, and migration is disabled".to_owned(),
            );
        }
        self.check_size(member_id, view)?;
        let classic_members = || {
            self.members
                .values()
                .filter_map(|member| member.subscription.classic.as_ref())
        };
        let is_supported = |name: &String| {
            classic_members().all(|member| member.protocols.iter().any(|(other, _)| other == name))
        };
        let supported = join.protocol_type == CONSUMER
            && join.protocols.iter().any(|(name, _)| is_supported(name));
        if !supported {
            return refused(
                GroupError::InconsistentProtocol,
                format!("the protocols of member {member_id} are not those of the group"),
            );
        }
        Ok(())
    }

    fn try_classic_join(
        &mut self,
        join: &classic::Join,
        member_id: String,
        view: View<'_>,
    ) -> Result<Decided<Joined>, Refusal> {
        self.check_classic_join(join, &member_id, view)?;
        let said = join
            .protocols
            .first()
            .and_then(|(_, metadata)| consumer_subscription(metadata));
        let Some(said) = said else {
            return refused(
                GroupError::InconsistentProtocol,
                format!("the metadata of member {member_id} is not a subscription"),
            );
        };
        let mut records = Vec::new();
        let existing = join
            .instance_id
            .as_ref()
            .and_then(|instance_id| self.static_members.get(instance_id))
            .cloned();
        let subject = match (&join.instance_id, &existing) {
            (Some(_), Some(old_id)) if join.member_id.is_empty() => {
                self.replaced(old_id, member_id, &mut records)
            }
            (Some(instance_id), Some(id)) => {
                check_instance(id, &member_id, instance_id)?;
                self.subject(member_id)
            }
            (Some(instance_id), None) if !join.member_id.is_empty() => {
                return refused(
                    GroupError::UnknownMember,
                    format!("instance id {instance_id} is not known"),
                );
            }
            _ => self.subject(member_id),
        };
        let before = &subject.member.subscription;
        let subscription = Subscription {
            instance_id: join
                .instance_id
                .clone()
                .or_else(|| before.instance_id.clone()),
            rack_id: said.rack_id.clone().or_else(|| before.rack_id.clone()),
            client_id: join.client_id.clone(),
            client_host: join.client_host.clone(),
            topics: said.topics.iter().cloned().collect(),
            regex: Some(String::new()),
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            assignor: before.assignor.clone(),
            classic: Some(ClassicMember {
                session_timeout_ms: join.session_timeout_ms,
                protocols: join.protocols.clone(),
            }),
        };
        let owned = owned_ids(&said, view.catalog);
        let planned = self.plan(&subject, &subscription, view, &mut records)?;
        let protocol = join.protocols.first().map(|(name, _)| name.clone());
        let joined = |member_id: &str, generation| Joined {
            member_id: member_id.to_owned(),
            generation,
            protocol_type: Some(CONSUMER.to_owned()),
            protocol: protocol.clone(),
            leader: String::new(),
            members: Vec::new(),
            skip_assignment: false,
        };
        // The last member of the consumer protocol is back as a classic one.
        if let Some(old_id) = &subject.replaces {
            let replaced = [old_id.clone()].into();
            let has_left = self
                .members
                .get(old_id)
                .is_some_and(|old| !old.is_classic());
            let member = Member {
                subscription: subscription.clone(),
                current: subject.member.current.clone(),
            };
            if has_left
                && let Some(classic) = self.downgraded(&replaced, Some((&subject, &member)), view)
            {
                let generation = classic.generation;
                return Ok(Decided {
                    records: self.tombstones(),
                    answer: joined(&subject.member_id, generation),
                    becomes: Some(Box::new(classic)),
                });
            }
        }
        let next = self.follow(
            &subject,
            &subscription,
            &planned,
            Some(&owned),
            view,
            &mut records,
        )?;
        if let Some(timers) = self.timers.get_mut(&subject.member_id) {
            timers.session_ms = view.now_ms + i64::from(join.session_timeout_ms);
            timers.join_ms = None;
            timers.sync_ms = Some(view.now_ms + i64::from(join.rebalance_timeout_ms.max(0)));
        }
        Ok(Decided::new(
            records,
            joined(&subject.member_id, next.epoch),
        ))
    }

    fn subject(&self, member_id: String) -> Subject {
        let member = self.members.get(&member_id).cloned();
        Subject {
            member: member.unwrap_or_else(Member::unborn),
            member_id,
            replaces: None,
        }
    }

    /// A member of the classic protocol asks for its assignment.
    pub(crate) fn classic_sync(
        &mut self,
        caller: classic::Caller<'_>,
        protocol_type: Option<&str>,
        protocol: Option<&str>,
        view: View<'_>,
    ) -> ClassicSync {
        let member = self.check_classic_member(caller)?;
        let classic = member.subscription.classic.as_ref();
        let first = classic.and_then(|classic| classic.protocols.first());
        let differs = protocol_type.is_some_and(|name| name != CONSUMER)
            || protocol.is_some_and(|name| first.is_none_or(|(first, _)| first != name));
        if differs {
            return Err(GroupError::InconsistentProtocol.into());
        }
        if self.assignment_epoch > member.current.epoch
            && member.current.state != MemberState::UnrevokedPartitions
        {
            let timeout_ms = i64::from(member.subscription.rebalance_timeout_ms.max(0));
            self.has_to_join(caller.member_id, view.now_ms + timeout_ms);
            return Err(GroupError::RebalanceInProgress.into());
        }
        let partitions: Partitions = member
            .current
            .assigned
            .iter()
            .map(|(topic, partitions)| (*topic, partitions.keys().copied().collect()))
            .collect();
        let version = first.map_or(0, |(_, metadata)| protocol_version(metadata));
        let assignment = encoded_assignment(&partitions, version, view.catalog);
        let session_ms = i64::from(classic.map_or(0, |classic| classic.session_timeout_ms));
        if let Some(timers) = self.timers.get_mut(caller.member_id) {
            timers.session_ms = view.now_ms + session_ms;
            timers.sync_ms = None;
        }
        Ok(Synced {
            protocol_type: protocol_type.map(str::to_owned),
            protocol: protocol.map(str::to_owned),
            assignment,
        })
    }

    /// A member of the classic protocol says that it is alive.
    pub(crate) fn classic_heartbeat(
        &mut self,
        caller: classic::Caller<'_>,
        view: View<'_>,
    ) -> Result<(), GroupError> {
        let now_ms = view.now_ms;
        let member = self.check_classic_member(caller)?;
        let current = &member.current;
        let has_to_join = current.epoch < self.assignment_epoch
            || self.needs_a_join(view)
            || match current.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => {
                    !self.waits_for_others(caller.member_id, member)
                }
                MemberState::Stable | MemberState::Unknown(_) => false,
            };
        let classic = member.subscription.classic.as_ref();
        let session_ms = i64::from(classic.map_or(0, |classic| classic.session_timeout_ms));
        let rebalance_ms = i64::from(member.subscription.rebalance_timeout_ms.max(0));
        self.heard_of(caller.member_id, session_ms, now_ms);
        if has_to_join {
            self.has_to_join(caller.member_id, now_ms + rebalance_ms);
            return Err(GroupError::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether there is to be a new assignment, and nobody whose heartbeat would compute it. Kafka leaves such a group as it is.
    fn needs_a_join(&self, view: View<'_>) -> bool {
        if !self.members.values().all(Member::is_classic) {
            return false;
        }
        if self.epoch > self.assignment_epoch {
            let interval_ms = view.rules.assignment_interval_ms;
            return view.now_ms >= self.assignment_timestamp_ms + interval_ms;
        }
        self.topics_checked != Some(view.topics_version)
            && self.metadata_hash != self.current_hash(view.catalog)
    }

    fn current_hash(&self, catalog: &Catalog) -> i64 {
        let names: BTreeSet<&str> = self
            .members
            .values()
            .flat_map(|member| subscribed_names(&member.subscription, &self.regexes))
            .map(String::as_str)
            .collect();
        metadata_hash::of(&names, catalog)
    }

    /// Whether a partition of the member's target is still another's.
    fn waits_for_others(&self, member_id: &str, member: &Member) -> bool {
        let target = self.targets.get(member_id);
        target.into_iter().flatten().any(|(topic, partitions)| {
            let assigned = member.current.assigned.get(topic);
            partitions.iter().any(|partition| {
                !assigned.is_some_and(|of| of.contains_key(partition))
                    && self.is_owned(topic, *partition)
            })
        })
    }

    fn has_to_join(&mut self, member_id: &str, deadline_ms: i64) {
        if let Some(timers) = self.timers.get_mut(member_id) {
            timers.join_ms.get_or_insert(deadline_ms);
        }
    }

    fn check_classic_member(&self, caller: classic::Caller<'_>) -> Result<&Member, GroupError> {
        if let Some(instance_id) = caller.instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(GroupError::UnknownMember),
                Some(id) if id != caller.member_id => return Err(GroupError::FencedInstanceId),
                Some(_) => {}
            }
        }
        let member = self.members.get(caller.member_id);
        let member = member.filter(|member| member.is_classic());
        let member = member.ok_or(GroupError::UnknownMember)?;
        if member.current.epoch != caller.generation {
            return Err(GroupError::IllegalGeneration);
        }
        Ok(member)
    }

    /// Members leave by LeaveGroup: an answer for each, and the records for all.
    pub(crate) fn classic_leave(
        &self,
        leaving: &[(String, Option<String>)],
        view: View<'_>,
    ) -> Decided<Vec<Result<(), GroupError>>> {
        let mut fenced = BTreeSet::new();
        let mut answers = Vec::with_capacity(leaving.len());
        for (member_id, instance_id) in leaving {
            let found = match instance_id {
                None if self.members.contains_key(member_id) => Ok(member_id),
                None => Err(GroupError::UnknownMember),
                Some(instance_id) => match self.static_members.get(instance_id) {
                    None => Err(GroupError::UnknownMember),
                    Some(id) if !member_id.is_empty() && id != member_id => {
                        Err(GroupError::FencedInstanceId)
                    }
                    Some(id) => Ok(id),
                },
            };
            answers.push(found.map(|id| {
                fenced.insert(id.clone());
            }));
        }
        if fenced.is_empty() {
            return Decided::new(Vec::new(), answers);
        }
        let fenced = self.fence(&fenced, view);
        Decided {
            records: fenced.records,
            answer: answers,
            becomes: fenced.becomes,
        }
    }

    /// The classic group that this becomes without the members who leave, if it is to become one.
    pub(super) fn downgraded(
        &self,
        leaving: &BTreeSet<String>,
        joining: Option<(&Subject, &Member)>,
        view: View<'_>,
    ) -> Option<ClassicGroup> {
        let mut left: BTreeMap<&String, (&String, &Member)> = self
            .members
            .iter()
            .filter(|(id, _)| !leaving.contains(*id))
            .map(|(id, member)| (id, (id, member)))
            .collect();
        if let Some((subject, member)) = joining {
            let of = subject.replaces.as_ref().unwrap_or(&subject.member_id);
            left.insert(&subject.member_id, (of, member));
        }
        if left.is_empty()
            || !view.rules.downgrade
            || left.len() > view.rules.classic_size_max
            || !left.values().all(|(_, member)| member.is_classic())
        {
            return None;
        }
        let members = left.iter().filter_map(|(id, (target_of, member))| {
            let subscription = &member.subscription;
            let classic = subscription.classic.as_ref()?;
            let (_, metadata) = classic.protocols.first()?;
            let target = self.targets.get(*target_of).cloned().unwrap_or_default();
            let version = protocol_version(metadata);
            let record = MemberMetadata {
                member_id: (*id).clone(),
                instance_id: subscription.instance_id.clone(),
                client_id: subscription.client_id.clone(),
                client_host: subscription.client_host.clone(),
                rebalance_timeout_ms: subscription.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                subscription: metadata.clone(),
                assignment: encoded_assignment(&target, version, view.catalog),
            };
            Some((record, classic.protocols.clone()))
        });
        let (members, protocols): (Vec<_>, Vec<_>) = members.unzip();
        let metadata = GroupMetadata {
            protocol_type: CONSUMER.to_owned(),
            generation: self.epoch,
            protocol: None,
            leader: members.first().map(|member| member.member_id.clone()),
            state_timestamp_ms: view.now_ms,
            members,
        };
        Some(ClassicGroup::taken_over(&metadata, protocols, view.now_ms))
    }

    /// The consumer group that a classic one becomes.
    pub(crate) fn from_classic(classic: &ClassicGroup, view: View<'_>) -> Result<Self, Refusal> {
        let no = |reason: &str| Refusal {
            error: GroupError::GroupNotFound,
            message: format!("the classic group cannot become a consumer group: {reason}"),
        };
        if !view.rules.upgrade {
            return Err(no("migration is disabled"));
        }
        if classic.protocol_type.as_deref() != Some(CONSUMER) {
            return Err(no("its members do not speak the consumer protocol"));
        }
        if classic.members.len() > view.rules.size_max {
            return Err(no("it has too many members"));
        }
        let mut group = Self {
            epoch: classic.generation,
            assignment_epoch: classic.generation,
            ..Self::default()
        };
        let mut owned = BTreeSet::new();
        let mut records = Vec::new();
        for (member_id, member) in &classic.members {
            let metadata = match &classic.protocol {
                Some(protocol) => member.metadata(protocol),
                None => member
                    .protocols
                    .first()
                    .map(|(_, metadata)| metadata.clone())
                    .unwrap_or_default(),
            };
            let said = consumer_subscription(&metadata)
                .ok_or_else(|| no("a subscription of the consumer protocol is malformed"))?;
            let mut assigned = Partitions::new();
            if !member.assignment.is_empty() {
                let (partitions, user_data) = consumer_assignment(&member.assignment)
                    .ok_or_else(|| no("an assignment of the consumer protocol is malformed"))?;
                if !user_data.is_empty() {
                    return Err(no("a custom assignor is in use"));
                }
                for (name, partitions) in partitions {
                    let Some(topic) = view.catalog.topic(&name) else {
                        continue;
                    };
                    let new = partitions.into_iter().filter(|partition| {
                        // An assignor that gives a partition to two members is not followed.
                        owned.insert((topic.id, *partition))
                    });
                    assigned.entry(topic.id).or_default().extend(new);
                }
            }
            assigned.retain(|_, partitions| !partitions.is_empty());
            let epochs = assigned.iter().map(|(topic, partitions)| {
                let with_epoch = partitions.iter().map(|of| (*of, classic.generation));
                (*topic, with_epoch.collect())
            });
            let current = Current {
                epoch: classic.generation,
                previous_epoch: classic.generation,
                state: MemberState::Stable,
                assigned: epochs.collect(),
                revoking: PartitionEpochs::new(),
            };
            let subscription = Subscription {
                instance_id: member.instance_id.clone(),
                rack_id: said.rack_id,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: said.topics.into_iter().collect(),
                regex: Some(String::new()),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(ClassicMember {
                    session_timeout_ms: member.session_timeout_ms,
                    protocols: member.protocols.clone(),
                }),
            };
            records.push((member_id.clone(), subscription, assigned, current));
        }
        for (member_id, subscription, target, current) in records {
            for record in [
                ConsumerRecord::Subscription {
                    member_id: member_id.clone(),
                    value: Some(subscription),
                },
                ConsumerRecord::Target {
                    member_id: member_id.clone(),
                    value: Some(target),
                },
                ConsumerRecord::Current {
                    member_id: member_id.clone(),
                    value: Some(current),
                },
            ] {
                group.replay(&record, view.rules, view.now_ms);
            }
        }
        group.metadata_hash = group.current_hash(view.catalog);
        Ok(group)
    }

    /// The records that make a group like this one.
    pub(crate) fn creation(&self) -> Vec<ConsumerRecord> {
        let mut records = Vec::new();
        for (member_id, member) in &self.members {
            records.push(ConsumerRecord::Subscription {
                member_id: member_id.clone(),
                value: Some(member.subscription.clone()),
            });
        }
        records.push(ConsumerRecord::Epoch(Some(GroupEpoch {
            epoch: self.epoch,
            metadata_hash: self.metadata_hash,
        })));
        for (member_id, target) in &self.targets {
            records.push(ConsumerRecord::Target {
                member_id: member_id.clone(),
                value: Some(target.clone()),
            });
        }
        records.push(ConsumerRecord::TargetEpoch(Some(TargetEpoch {
            epoch: self.assignment_epoch,
            timestamp_ms: self.assignment_timestamp_ms,
        })));
        for (member_id, member) in &self.members {
            records.push(ConsumerRecord::Current {
                member_id: member_id.clone(),
                value: Some(member.current.clone()),
            });
        }
        records
    }
}

/// The partitions that a member says it has, of topics that are there.
fn owned_ids(said: &ConsumerSubscription, catalog: &Catalog) -> Partitions {
    let mut owned = Partitions::new();
    for (name, partitions) in &said.owned {
        if let Some(topic) = catalog.topic(name) {
            owned.entry(topic.id).or_default().extend(partitions);
        }
    }
    owned
}

/// The version that a member's metadata begins with.
fn protocol_version(metadata: &Bytes) -> i16 {
    let version = metadata.first_chunk::<2>().copied();
    version.map_or(0, i16::from_be_bytes)
}

fn encoded_assignment(partitions: &Partitions, version: i16, catalog: &Catalog) -> Bytes {
    let named = partitions.iter().filter_map(|(id, partitions)| {
        let topic = catalog.topic_by_id(*id)?;
        Some((topic.name.to_string(), partitions.iter().copied().collect()))
    });
    encode_consumer_assignment(named.collect(), version)
}
