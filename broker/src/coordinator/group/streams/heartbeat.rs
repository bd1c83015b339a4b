//! The heartbeat of a streams group: how a member joins, stays, and leaves, and what it is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::assignor::{self, MemberSpec, SubtopologySpec};
use super::reconcile::{self, CurrentAssignment, StartOver};
use super::records::{GroupEpoch, MemberMetadata, StreamsRecord, TargetEpoch};
use super::tasks::{self, Assignment, TaskSet};
use super::topology::{
    ConfiguredSubtopology, ConfiguredTopology, InternalTopic, Problem, Topology,
};
use super::{Member, STATIC_LEAVE_EPOCH, StreamsError, StreamsGroup, removed};
use crate::coordinator::group::{GroupError, metadata_hash};
use crate::metadata::{Catalog, GroupConfig};

/// Name of the assignor's setting, in the group's record.
const STANDBY_REPLICAS: &str = "num.standby.replicas";

/// Failures that a status names.
const FAILURES_MAX: usize = 3;

/// A heartbeat, as a member sends it. `None` is what has not changed since its last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heartbeat {
    pub(crate) member_id: String,
    /// 0 joins, -1 leaves, -2 leaves for a while.
    pub(crate) member_epoch: i32,
    pub(crate) endpoint_epoch: i32,
    pub(crate) instance_id: Option<String>,
    pub(crate) rack_id: Option<String>,
    pub(crate) rebalance_timeout_ms: Option<i32>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) topology: Option<Topology>,
    pub(crate) owned: Option<Assignment>,
    pub(crate) process_id: Option<String>,
    pub(crate) user_endpoint: Option<(String, u16)>,
    pub(crate) client_tags: Option<BTreeMap<String, String>>,
    pub(crate) shutdown_application: bool,
    /// Internal topics that could not be created, and why.
    pub(crate) creation_failed: BTreeMap<String, String>,
}

/// What decisions depend on besides the group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) config: GroupConfig,
    pub(crate) size_max: usize,
    pub(crate) now_ms: i64,
}

/// What a member is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Answer {
    pub(crate) member_id: String,
    pub(crate) member_epoch: i32,
    pub(crate) status: Vec<(Status, String)>,
    /// Its tasks, if they have changed.
    pub(crate) tasks: Option<Assignment>,
    pub(crate) endpoint_epoch: i32,
    /// Who has what, if that has changed since the member heard of it.
    pub(crate) endpoints: Option<Vec<Endpoint>>,
}

/// What is remarkable about a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    StaleTopology,
    Topics(Problem),
    ShutdownApplication,
    AssignmentDelayed,
}

impl Status {
    /// Kafka's number for it.
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::StaleTopology => 0,
            Self::Topics(Problem::MissingSourceTopics) => 1,
            Self::Topics(Problem::IncorrectlyPartitioned) => 2,
            Self::Topics(Problem::MissingInternalTopics) => 3,
            Self::ShutdownApplication => 4,
            Self::AssignmentDelayed => 5,
        }
    }
}

/// Partitions of the source topics of a member's tasks, where it can be asked for their state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) active: Vec<(String, Vec<i32>)>,
    pub(crate) standby: Vec<(String, Vec<i32>)>,
}

impl StreamsGroup {
    /// Decides what a heartbeat comes to: records, and an answer for when they are durable.
    pub(crate) fn heartbeat(
        &mut self,
        request: Heartbeat,
        around: Surroundings<'_>,
    ) -> Result<(Vec<StreamsRecord>, Answer), StreamsError> {
        self.soft.config = around.config;
        if request.member_epoch < 0 {
            return self.leave(&request);
        }
        let is_joining = request.member_epoch == 0;
        let mut records = Vec::new();
        let mut status = Vec::new();

        // 1. The member.
        let (before, replaced) = self.find_member(&request, around.size_max, &mut records)?;
        let metadata = updated(&before.metadata, &request);
        let mut is_bumped = false;
        if metadata != before.metadata {
            is_bumped = replaced.is_none() || matters(&before.metadata, &metadata);
            records.push(StreamsRecord::Member(
                request.member_id.clone(),
                Some(metadata.clone()),
            ));
        }

        // 2. The topology.
        let is_new_topology = self.topology.is_none();
        let topology = self.topology_for(&request)?;
        if is_new_topology {
            records.push(StreamsRecord::Topology(Some(topology.as_ref().clone())));
        } else if metadata.topology_epoch < topology.epoch {
            let detail = format!(
                "topology epoch {} is behind the group's, {}",
                metadata.topology_epoch, topology.epoch
            );
            status.push((Status::StaleTopology, detail));
        }

        // 3. Its topics.
        let metadata_hash = metadata_hash::of(&topology.required_topics(), around.catalog);
        is_bumped |= metadata_hash != self.metadata_hash;
        let configured = match &self.soft.configured {
            Some((hash, configured)) if *hash == metadata_hash && !is_new_topology => {
                configured.clone()
            }
            _ => {
                let partition_count =
                    |topic: &str| Some(around.catalog.topic(topic)?.partition_count);
                let configured = Arc::new(topology.configure(partition_count)?);
                self.soft.configured = Some((metadata_hash, configured.clone()));
                configured
            }
        };
        let mut validated_topology_epoch = -1;
        if let Some(subtopologies) = configured.ready() {
            validated_topology_epoch = topology.epoch;
            check_owned(subtopologies, request.owned.as_ref())?;
        }
        is_bumped |= validated_topology_epoch != self.validated_topology_epoch;

        // 4. The group.
        let assignment_configs = assignment_configs(&around.config);
        is_bumped |= assignment_configs != self.assignment_configs;
        let mut epoch = self.epoch;
        if is_bumped {
            epoch += 1;
            records.push(StreamsRecord::Group(Some(GroupEpoch {
                epoch,
                metadata_hash,
                validated_topology_epoch,
                assignment_configs,
            })));
        }
        let delay_ms = around.config.streams_initial_rebalance_delay_ms;
        if self.members.is_empty() && delay_ms > 0 {
            let until_ms = around.now_ms.saturating_add(delay_ms);
            self.soft.delayed_until_ms.get_or_insert(until_ms);
        }

        // 5. The target.
        let (target_epoch, target) = if self.is_delayed(around.now_ms) {
            let detail = "the group waits for more members";
            status.push((Status::AssignmentDelayed, detail.to_owned()));
            (self.target_epoch.epoch, Assignment::default())
        } else if self.target_epoch.epoch >= epoch {
            (
                self.target_epoch.epoch,
                self.target_of(&request.member_id, replaced.as_deref()),
            )
        } else if !self.may_assign(around.now_ms) {
            let detail = "the last assignment was a moment ago";
            status.push((Status::AssignmentDelayed, detail.to_owned()));
            (
                self.target_epoch.epoch,
                self.target_of(&request.member_id, replaced.as_deref()),
            )
        } else {
            let joined = Joined {
                id: &request.member_id,
                metadata: &metadata,
                replaced: replaced.as_deref(),
            };
            let mut targets = self.assign(&configured, Some(joined));
            let target = targets.get(&request.member_id).cloned().unwrap_or_default();
            targets.retain(|id, target| {
                // A member that was replaced left its target to its successor, in a record above.
                let had = match &replaced {
                    Some(replaced) if *id == request.member_id => self.target.get(replaced),
                    _ => self.target.get(id),
                };
                had != Some(target)
            });
            let changed = targets
                .into_iter()
                .map(|(id, target)| StreamsRecord::Target(id, Some(target)));
            records.extend(changed);
            records.push(StreamsRecord::TargetEpoch(Some(TargetEpoch {
                epoch,
                timestamp_ms: around.now_ms,
            })));
            (epoch, target)
        };

        // 6. The way there.
        let current = if before.current.is_reconciled_to(target_epoch) {
            before.current.clone()
        } else {
            let owned = request.owned.as_ref();
            let current = &before.current;
            let process_id = &metadata.process_id;
            reconcile::reconcile(
                current,
                process_id,
                target_epoch,
                &target,
                owned,
                &self.owners,
            )
            .map_err(|StartOver| {
                let reason =
                    "the member is in a state that this broker does not know: it has to join again";
                StreamsError::FencedMemberEpoch(reason.into())
            })?
        };
        if current != before.current {
            records.push(StreamsRecord::Current(
                request.member_id.clone(),
                Some(current.clone()),
            ));
        }

        // 7. The answer.
        self.soft
            .heard_ms
            .insert(request.member_id.clone(), around.now_ms);
        if request.shutdown_application {
            self.ask_for_shutdown(&request.member_id);
        }
        let is_changed = is_joining || current.assigned != before.current.assigned;
        if is_changed && metadata.user_endpoint.is_some() {
            self.soft.endpoint_epoch += 1;
        }
        // A member that has something else may never have heard what it should have: an answer can be lost.
        let assigned = current.assigned.tasks();
        let is_told = is_changed
            || request
                .owned
                .as_ref()
                .is_some_and(|owned| *owned != assigned);
        let member = Member { metadata, current };
        let endpoints = (self.soft.endpoint_epoch != request.endpoint_epoch).then(|| {
            self.endpoints(
                &request.member_id,
                &member,
                replaced.as_deref(),
                &configured,
                around.catalog,
            )
        });
        if let Some((problem, detail)) = &configured.problem {
            let mut detail = detail.clone();
            for (topic, reason) in request.creation_failed.iter().take(FAILURES_MAX) {
                detail.push_str(&format!("; {topic} could not be created: {reason}"));
            }
            status.push((Status::Topics(*problem), detail));
        }
        if let Some(id) = &self.soft.shutdown_by {
            let detail = format!("member {id} has failed and asks all to shut down");
            status.push((Status::ShutdownApplication, detail));
        }
        let answer = Answer {
            member_id: request.member_id,
            member_epoch: member.current.member_epoch,
            status,
            tasks: is_told.then_some(assigned),
            endpoint_epoch: self.soft.endpoint_epoch,
            endpoints,
        };
        Ok((records, answer))
    }

    /// Internal topics that have to be created before tasks can be assigned, if this heartbeat may ask for them.
    pub(crate) fn missing_topics(
        &self,
        request: &Heartbeat,
        catalog: &Catalog,
    ) -> BTreeMap<String, InternalTopic> {
        let is_member = self.members.contains_key(&request.member_id);
        if request.member_epoch < 0 || (request.member_epoch > 0 && !is_member) {
            return BTreeMap::new();
        }
        let Ok(topology) = self.topology_for(request) else {
            return BTreeMap::new();
        };
        let hash = metadata_hash::of(&topology.required_topics(), catalog);
        let is_ready = |(known, configured): &(i64, Arc<ConfiguredTopology>)| {
            *known == hash && configured.ready().is_some()
        };
        if self.soft.configured.as_ref().is_some_and(is_ready) {
            return BTreeMap::new();
        }
        let partition_count = |topic: &str| Some(catalog.topic(topic)?.partition_count);
        // What is wrong with it is told by the heartbeat.
        let configured = topology.configure(partition_count);
        configured
            .map(|configured| configured.missing_topics)
            .unwrap_or_default()
    }

    fn leave(&mut self, request: &Heartbeat) -> Result<(Vec<StreamsRecord>, Answer), StreamsError> {
        let id = match &request.instance_id {
            None if self.members.contains_key(&request.member_id) => &request.member_id,
            None => return Err(GroupError::UnknownMember.into()),
            Some(instance_id) => self.static_member(instance_id, &request.member_id)?,
        };
        let mut records = Vec::new();
        match self.members.get(id) {
            // It is expected back, and its tasks wait for it. What it had still to give back is given back by leaving.
            Some(member) if request.member_epoch == STATIC_LEAVE_EPOCH => {
                let current = CurrentAssignment {
                    member_epoch: STATIC_LEAVE_EPOCH,
                    assigned: member.current.assigned.with_epochs_reset(),
                    pending_revocation: tasks::Assigned::default(),
                    ..member.current.clone()
                };
                records.push(StreamsRecord::Current(id.clone(), Some(current)));
            }
            _ => records.extend(self.fence([id.clone()])),
        }
        if request.shutdown_application {
            let id = request.member_id.clone();
            self.ask_for_shutdown(&id);
        }
        let answer = Answer {
            member_id: request.member_id.clone(),
            member_epoch: request.member_epoch,
            ..Answer::default()
        };
        Ok((records, answer))
    }

    fn ask_for_shutdown(&mut self, member_id: &str) {
        self.soft.shutdown_by.get_or_insert_with(|| {
            tracing::info!(
                member_id,
                "a member asks for the streams application to shut down"
            );
            member_id.to_owned()
        });
    }

    /// The member before this heartbeat, and, where it takes the place of a static one, the id of that.
    fn find_member(
        &self,
        request: &Heartbeat,
        size_max: usize,
        records: &mut Vec<StreamsRecord>,
    ) -> Result<(Member, Option<String>), StreamsError> {
        let id = &request.member_id;
        let of_instance = request
            .instance_id
            .as_ref()
            .and_then(|instance_id| self.static_members.get(instance_id));
        if request.member_epoch == 0 {
            if let Some(member) = self
                .members
                .get(id)
                .filter(|_| of_instance.is_none_or(|known| known == id))
            {
                return Ok((member.clone(), None));
            }
            if let Some((known, member)) =
                of_instance.and_then(|known| Some((known, self.members.get(known)?)))
            {
                if member.current.member_epoch != STATIC_LEAVE_EPOCH {
                    let reason = format!("member {known} still has the instance id");
                    return Err(StreamsError::UnreleasedInstanceId(reason));
                }
                let mut successor = member.clone();
                successor.current.member_epoch = 0;
                successor.current.previous_member_epoch = 0;
                records.extend(removed(known));
                records.push(StreamsRecord::Member(
                    id.clone(),
                    Some(successor.metadata.clone()),
                ));
                let target = self.target.get(known).cloned().unwrap_or_default();
                records.push(StreamsRecord::Target(id.clone(), Some(target)));
                records.push(StreamsRecord::Current(
                    id.clone(),
                    Some(successor.current.clone()),
                ));
                return Ok((successor, Some(known.clone())));
            }
            if self.members.len() >= size_max {
                return Err(GroupError::MaxSizeReached.into());
            }
            let new = Member {
                metadata: MemberMetadata {
                    rebalance_timeout_ms: -1,
                    topology_epoch: -1,
                    ..MemberMetadata::default()
                },
                ..Member::default()
            };
            return Ok((new, None));
        }
        let id = match &request.instance_id {
            Some(instance_id) => self.static_member(instance_id, id)?,
            None => id,
        };
        let member = self.members.get(id).ok_or(GroupError::UnknownMember)?;
        check_epoch(&member.current, request)?;
        Ok((member.clone(), None))
    }

    /// The member of an instance id, which has to be the one that asks.
    fn static_member(&self, instance_id: &str, member_id: &str) -> Result<&String, GroupError> {
        match self.static_members.get(instance_id) {
            None => Err(GroupError::UnknownMember),
            Some(known) if known == member_id => Ok(known),
            Some(_) => Err(GroupError::FencedInstanceId),
        }
    }

    /// The group's topology, or that of the request if the group has none.
    fn topology_for(&self, request: &Heartbeat) -> Result<Arc<Topology>, StreamsError> {
        match (&self.topology, &request.topology) {
            (None, None) => Err(StreamsError::InvalidRequest(
                "the group has no topology: a member has to join with it".into(),
            )),
            (None, Some(new)) => Ok(Arc::new(new.clone())),
            (Some(known), Some(new)) if new.epoch >= known.epoch && new != known.as_ref() => {
                let reason = "the topology is not the group's: it can only be changed while the group does not exist";
                Err(StreamsError::InvalidRequest(reason.into()))
            }
            (Some(known), _) => Ok(known.clone()),
        }
    }

    fn is_delayed(&mut self, now_ms: i64) -> bool {
        if self
            .soft
            .delayed_until_ms
            .is_some_and(|until_ms| until_ms <= now_ms)
        {
            self.soft.delayed_until_ms = None;
        }
        self.soft.delayed_until_ms.is_some()
    }

    /// Whether the last assignment is long enough ago.
    fn may_assign(&self, now_ms: i64) -> bool {
        let interval_ms = self.soft.config.streams_assignment_interval_ms;
        let last_ms = self.target_epoch.timestamp_ms;
        last_ms == 0 || interval_ms == 0 || now_ms >= last_ms.saturating_add(interval_ms)
    }

    fn target_of(&self, id: &str, replaced: Option<&str>) -> Assignment {
        let target = self.target.get(replaced.unwrap_or(id));
        target.cloned().unwrap_or_default()
    }

    /// The target of every member, one of which may come with this heartbeat.
    fn assign(
        &self,
        configured: &ConfiguredTopology,
        joined: Option<Joined<'_>>,
    ) -> BTreeMap<String, Assignment> {
        let mut members: BTreeMap<&str, MemberSpec<'_>> = BTreeMap::new();
        for (id, member) in &self.members {
            members.insert(
                id,
                MemberSpec {
                    process_id: &member.metadata.process_id,
                    previous: self.target.get(id),
                },
            );
        }
        if let Some(joined) = joined {
            if let Some(replaced) = joined.replaced {
                members.remove(replaced);
            }
            members.insert(
                joined.id,
                MemberSpec {
                    process_id: &joined.metadata.process_id,
                    previous: self.target.get(joined.replaced.unwrap_or(joined.id)),
                },
            );
        }
        let Some(subtopologies) = configured.ready() else {
            return members
                .keys()
                .map(|id| ((*id).to_owned(), Assignment::default()))
                .collect();
        };
        let subtopologies: Vec<_> = subtopologies
            .iter()
            .map(|(id, of)| SubtopologySpec {
                id,
                task_count: of.task_count,
                is_stateful: of.is_stateful(),
            })
            .collect();
        let standby_replicas =
            usize::try_from(self.soft.config.streams_standby_replicas).unwrap_or(0);
        assignor::assign(&members, &subtopologies, standby_replicas)
    }

    /// The first target of a group that has waited for its members.
    pub(super) fn delayed_target(&self, now_ms: i64) -> Vec<StreamsRecord> {
        let Some((_, configured)) = &self.soft.configured else {
            return Vec::new();
        };
        if self.members.is_empty() || self.epoch <= self.target_epoch.epoch {
            return Vec::new();
        }
        let mut targets = self.assign(configured, None);
        targets.retain(|id, target| self.target.get(id) != Some(target));
        let changed = targets
            .into_iter()
            .map(|(id, target)| StreamsRecord::Target(id, Some(target)));
        let mut records: Vec<_> = changed.collect();
        records.push(StreamsRecord::TargetEpoch(Some(TargetEpoch {
            epoch: self.epoch,
            timestamp_ms: now_ms,
        })));
        records
    }

    /// Who has what, with this member as it is now.
    fn endpoints(
        &self,
        id: &str,
        member: &Member,
        replaced: Option<&str>,
        configured: &ConfiguredTopology,
        catalog: &Catalog,
    ) -> Vec<Endpoint> {
        let Some(subtopologies) = &configured.subtopologies else {
            return Vec::new();
        };
        let others = self
            .members
            .iter()
            .filter(|(other, _)| *other != id && Some(other.as_str()) != replaced);
        let members = others.map(|(_, member)| member).chain([member]);
        let endpoint = |member: &Member| {
            let (host, port) = member.metadata.user_endpoint.clone()?;
            let tasks = member.current.assigned.tasks();
            Some(Endpoint {
                host,
                port,
                active: source_partitions(&tasks.active, subtopologies, catalog),
                standby: source_partitions(&tasks.standby, subtopologies, catalog),
            })
        };
        members.filter_map(endpoint).collect()
    }
}

/// A member that comes with a heartbeat, and is not replayed yet.
#[derive(Debug, Clone, Copy)]
struct Joined<'a> {
    id: &'a str,
    metadata: &'a MemberMetadata,
    replaced: Option<&'a str>,
}

/// Partitions that tasks read. A task reads no partition of a topic that has fewer.
fn source_partitions(
    tasks: &TaskSet,
    subtopologies: &BTreeMap<String, ConfiguredSubtopology>,
    catalog: &Catalog,
) -> Vec<(String, Vec<i32>)> {
    let mut read = Vec::new();
    for (subtopology, partitions) in tasks {
        let Some(subtopology) = subtopologies.get(subtopology) else {
            continue;
        };
        for topic in &subtopology.source_topics {
            let count = catalog
                .topic(topic)
                .map_or(0, |topic| topic.partition_count);
            let partitions: Vec<_> = partitions.range(..count).copied().collect();
            if !partitions.is_empty() {
                read.push((topic.clone(), partitions));
            }
        }
    }
    read
}

/// What the assignor is told, as it is recorded.
fn assignment_configs(config: &GroupConfig) -> BTreeMap<String, String> {
    let replicas = config.streams_standby_replicas.to_string();
    BTreeMap::from([(STANDBY_REPLICAS.to_owned(), replicas)])
}

/// What a member says of itself from now on.
fn updated(metadata: &MemberMetadata, request: &Heartbeat) -> MemberMetadata {
    let or = |new: &Option<String>, old: &Option<String>| new.clone().or_else(|| old.clone());
    let user_endpoint = match &request.user_endpoint {
        // Who joins tells all.
        None if request.member_epoch != 0 => metadata.user_endpoint.clone(),
        endpoint => endpoint.clone(),
    };
    MemberMetadata {
        instance_id: or(&request.instance_id, &metadata.instance_id),
        rack_id: or(&request.rack_id, &metadata.rack_id),
        client_id: request.client_id.clone(),
        client_host: request.client_host.clone(),
        rebalance_timeout_ms: request
            .rebalance_timeout_ms
            .unwrap_or(metadata.rebalance_timeout_ms),
        topology_epoch: request
            .topology
            .as_ref()
            .map_or(metadata.topology_epoch, |topology| topology.epoch),
        process_id: request
            .process_id
            .clone()
            .unwrap_or_else(|| metadata.process_id.clone()),
        user_endpoint,
        client_tags: request
            .client_tags
            .clone()
            .unwrap_or_else(|| metadata.client_tags.clone()),
    }
}

/// Whether a static member that comes back is another to the assignor.
fn matters(before: &MemberMetadata, now: &MemberMetadata) -> bool {
    before.topology_epoch != now.topology_epoch
        || before.rack_id != now.rack_id
        || before.client_tags != now.client_tags
        || before.process_id != now.process_id
}

/// Whether the member comes with its epoch; or with the one before, of which it has not heard that it ended: then it has nothing that it
/// should not have.
fn check_epoch(current: &CurrentAssignment, request: &Heartbeat) -> Result<(), StreamsError> {
    let (epoch, known) = (request.member_epoch, current.member_epoch);
    let is_behind = epoch < known
        && epoch == current.previous_member_epoch
        && request
            .owned
            .as_ref()
            .is_some_and(|owned| owned.is_within(&current.assigned));
    if epoch == known || is_behind {
        return Ok(());
    }
    let reason = format!(
        "the member comes with epoch {epoch}, it is in epoch {known}: it has to give up its tasks and join again"
    );
    Err(StreamsError::FencedMemberEpoch(reason))
}

fn check_owned(
    subtopologies: &BTreeMap<String, ConfiguredSubtopology>,
    owned: Option<&Assignment>,
) -> Result<(), StreamsError> {
    let kinds = owned
        .into_iter()
        .flat_map(|owned| [&owned.active, &owned.standby, &owned.warmup]);
    for (subtopology, partition) in kinds.flat_map(tasks::each) {
        let task_count = subtopologies.get(subtopology).map_or(0, |of| of.task_count);
        if !(0..task_count).contains(&partition) {
            let reason = format!(
                "there is no task {subtopology}_{partition}: sub-topology {subtopology} has {task_count} tasks"
            );
            return Err(StreamsError::InvalidRequest(reason));
        }
    }
    Ok(())
}
