//! What StreamsGroupDescribe shows of a group.

use super::records::MemberMetadata;
use super::tasks::Assignment;
use super::topology::Topology;
use super::{State, StreamsGroup};

/// A group as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) state: State,
    pub(crate) epoch: i32,
    pub(crate) target_epoch: i32,
    /// With the partition counts that internal topics have, where these could be derived.
    pub(crate) topology: Option<Topology>,
    pub(crate) members: Vec<MemberDescription>,
}

/// A member as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemberDescription {
    pub(crate) id: String,
    pub(crate) epoch: i32,
    pub(crate) metadata: MemberMetadata,
    pub(crate) assignment: Assignment,
    pub(crate) target: Assignment,
}

impl StreamsGroup {
    pub(crate) fn describe(&self) -> Description {
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            id: id.clone(),
            epoch: member.current.member_epoch,
            metadata: member.metadata.clone(),
            assignment: member.current.assigned.tasks(),
            target: self.target.get(id).cloned().unwrap_or_default(),
        });
        Description {
            state: self.state(),
            epoch: self.epoch,
            target_epoch: self.target_epoch.epoch,
            topology: self.described_topology(),
            members: members.collect(),
        }
    }

    fn described_topology(&self) -> Option<Topology> {
        let mut topology = self.topology.as_deref()?.clone();
        let configured = self
            .soft
            .configured
            .as_ref()
            .and_then(|(_, configured)| configured.ready());
        for subtopology in &mut topology.subtopologies {
            subtopology.source_topics.sort();
            subtopology.repartition_sink_topics.sort();
            for topics in [
                &mut subtopology.repartition_source_topics,
                &mut subtopology.changelog_topics,
            ] {
                topics.sort_by(|left, right| left.name.cmp(&right.name));
            }
            let Some(configured) = configured.and_then(|of| of.get(&subtopology.id)) else {
                continue;
            };
            for (topics, configured) in [
                (
                    &mut subtopology.repartition_source_topics,
                    &configured.repartition_source_topics,
                ),
                (
                    &mut subtopology.changelog_topics,
                    &configured.changelog_topics,
                ),
            ] {
                for topic in topics {
                    if let Some(configured) = configured.get(&topic.name) {
                        topic.partition_count = configured.partition_count;
                    }
                }
            }
        }
        topology
            .subtopologies
            .sort_by(|left, right| left.id.cmp(&right.id));
        Some(topology)
    }
}
