//! Streams groups among the coordinator's groups: how a request finds its group, and how a record does.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::describe::Description;
use super::heartbeat::{Answer, Heartbeat, Surroundings};
use super::records::StreamsRecord;
use super::topology::InternalTopic;
use super::{StreamsError, StreamsGroup};
use crate::broker::Core;
use crate::coordinator::group::kind::Group;
use crate::coordinator::group::records::GroupRecord;
use crate::coordinator::group::{
    Decision, GroupCoordinator, GroupError, Groups, Reply, is_valid_group_id,
};

impl GroupCoordinator {
    /// A member of a streams group joins, is still there, or leaves; answered when what that means is durable.
    pub(crate) fn streams_heartbeat(
        &self,
        core: &Arc<Core>,
        group: &str,
        heartbeat: Heartbeat,
        reply: Reply<Result<Answer, StreamsError>>,
    ) {
        if !is_valid_group_id(group) {
            return reply(Err(GroupError::InvalidGroupId.into()));
        }
        if core.ensure_offsets_topic().is_err() {
            return reply(Err(GroupError::CoordinatorNotAvailable.into()));
        }
        let (config, now_ms) = (core.group_config(group), core.now_ms());
        let decide = |state: &mut Groups| {
            let (tombstones, replaced) =
                state.become_streams(group, heartbeat.member_epoch == 0)?;
            let Some(Group::Streams(live)) = state.groups.get_mut(group) else {
                return Err(GroupError::GroupNotFound.into());
            };
            let decided = core.read_catalog(|catalog| {
                let around = Surroundings {
                    catalog,
                    config,
                    size_max: core.config.streams_group_size_max,
                    now_ms,
                };
                live.heartbeat(heartbeat, around)
            });
            match decided {
                Ok((records, answer)) => {
                    let mut all = tombstones;
                    all.extend(GroupRecord::streams(group, records));
                    Ok(Decision {
                        records: all,
                        answer,
                    })
                }
                Err(error) => {
                    // A join that was refused leaves nothing behind.
                    match replaced {
                        Some(replaced) => {
                            state.groups.insert(group.to_owned(), replaced);
                        }
                        None => state.remove_if_unused(group),
                    }
                    Err(error)
                }
            }
        };
        self.decide(core, group, decide, reply);
    }

    /// Internal topics that a heartbeat needs and that are not there. To be created before it is decided, and not under the
    /// coordinator's lock.
    pub(crate) fn missing_streams_topics(
        &self,
        core: &Core,
        group: &str,
        heartbeat: &Heartbeat,
    ) -> BTreeMap<String, InternalTopic> {
        let state = self.lock();
        core.read_catalog(|catalog| match state.groups.get(group) {
            Some(Group::Streams(live)) => live.missing_topics(heartbeat, catalog),
            Some(other) if !other.is_empty() => BTreeMap::new(),
            _ => StreamsGroup::default().missing_topics(heartbeat, catalog),
        })
    }

    /// A streams group as it is.
    pub(crate) fn describe_streams(&self, group: &str) -> Result<Description, StreamsError> {
        match self.lock().groups.get(group) {
            Some(Group::Streams(live)) => Ok(live.describe()),
            Some(_) => Err(not_streams(group)),
            None => Err(GroupError::GroupNotFound.into()),
        }
    }
}

impl Groups {
    /// Makes room for a streams group: whoever joins may make a new one, also of a group of another kind that nobody is in. Returns the
    /// tombstones of that, and the group itself should the join be refused.
    fn become_streams(
        &mut self,
        group: &str,
        is_joining: bool,
    ) -> Result<(Vec<GroupRecord>, Option<Group>), StreamsError> {
        let tombstones = match self.groups.get(group) {
            Some(Group::Streams(_)) => return Ok((Vec::new(), None)),
            Some(other) if is_joining && other.is_empty() => other.tombstones(group),
            Some(_) => return Err(not_streams(group)),
            None if is_joining => Vec::new(),
            None => return Err(GroupError::GroupNotFound.into()),
        };
        let replaced = self
            .groups
            .insert(group.to_owned(), Group::Streams(Box::default()));
        Ok((tombstones, replaced))
    }

    /// Applies a record of a streams group.
    pub(in crate::coordinator::group) fn replay_streams(
        &mut self,
        group: &str,
        record: &StreamsRecord,
        now_ms: i64,
    ) {
        let is_tombstone = record.is_tombstone();
        let live = match self.groups.get_mut(group) {
            Some(Group::Streams(live)) => live,
            // The tombstones of a group that is no more, or of another kind by now.
            _ if is_tombstone => return,
            // A group whose offsets came first, or, at start, one that has become a streams group since.
            _ => {
                self.groups
                    .insert(group.to_owned(), Group::Streams(Box::default()));
                match self.groups.get_mut(group) {
                    Some(Group::Streams(live)) => live,
                    _ => unreachable!("it was just inserted"),
                }
            }
        };
        if live.replay(record, now_ms) {
            self.forget(group);
        }
    }
}

fn not_streams(group: &str) -> StreamsError {
    StreamsError::NotStreams(format!("group {group} is not a streams group"))
}
