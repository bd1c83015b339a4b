//! ConsumerGroupDescribe (key 69), v0–v1.
//! - Epochs, members, their assignments and targets of consumer groups, each group once; v1: which protocol a member speaks.
//! - A group that is not there, or is of another kind, has error 69. What is told is durable.

use std::sync::{Arc, Mutex, PoisonError};

use kafka_wire::consumer_group_describe_response::{
    Assignment, DescribedGroup, Member, TopicPartitions,
};
use kafka_wire::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};
use uuid::Uuid;

use super::{errors, first_of_each};
use crate::broker::{Answer, Core};
use crate::coordinator::group::consumer::records::{PartitionEpochs, Partitions};
use crate::coordinator::group::consumer::{ConsumerGroup, ConsumerRules};
use crate::protocol::{StrBytes, message, wire_id};

/// Answers when the last group is described.
struct Collected {
    left: usize,
    groups: Vec<DescribedGroup>,
    answer: Option<Answer>,
}

pub(super) fn handle(core: &Arc<Core>, request: ConsumerGroupDescribeRequest, answer: Answer) {
    let ids: Vec<StrBytes> = first_of_each(request.group_ids, Clone::clone).collect();
    if ids.is_empty() {
        return answer(ConsumerGroupDescribeResponse::default().into());
    }
    let collected = Arc::new(Mutex::new(Collected {
        left: ids.len(),
        groups: vec![DescribedGroup::default(); ids.len()],
        answer: Some(answer),
    }));
    for (index, group_id) in ids.into_iter().enumerate() {
        let collected = collected.clone();
        let look = |group: &ConsumerGroup, rules: &ConsumerRules| describe(core, group, rules);
        let id = group_id.clone();
        let reply = Box::new(move |described| {
            let mut described = match described {
                Ok(described) => described,
                Err(error) => message!(DescribedGroup {
                    error_code: errors::of_group(error).code(),
                    error_message: Some(format!("group {id} is not a consumer group").into()),
                    authorized_operations: i32::MIN,
                }),
            };
            described.group_id = id;
            let mut collected = collected.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = collected.groups.get_mut(index) {
                *slot = described;
            }
            collected.left -= 1;
            if collected.left == 0
                && let Some(answer) = collected.answer.take()
            {
                let groups = std::mem::take(&mut collected.groups);
                drop(collected);
                answer(message!(ConsumerGroupDescribeResponse { groups: groups }).into());
            }
        });
        core.groups.describe_consumer(core, &group_id, look, reply);
    }
}

fn describe(core: &Core, group: &ConsumerGroup, rules: &ConsumerRules) -> DescribedGroup {
    let members = group.members().iter().map(|(member_id, member)| {
        let subscription = &member.subscription;
        let (current, text) = (&member.current, |text: &String| text.as_str().into());
        let has = both(&current.assigned, &current.revoking);
        message!(Member {
            member_id: member_id.as_str().into(),
            instance_id: subscription.instance_id.as_ref().map(text),
            rack_id: subscription.rack_id.as_ref().map(text),
            member_epoch: current.epoch,
            client_id: text(&subscription.client_id),
            client_host: text(&subscription.client_host),
            subscribed_topic_names: subscription.topics.iter().map(text).collect(),
            subscribed_topic_regex: subscription.regex.as_ref().map(text),
            assignment: assignment(core, &has),
            target_assignment: group
                .target(member_id)
                .map(|target| assignment(core, target))
                .unwrap_or_default(),
            member_type: i8::from(!member.is_classic()),
        })
    });
    message!(DescribedGroup {
        group_state: group.state_name().into(),
        group_epoch: group.epoch(),
        assignment_epoch: group.assignment_epoch(),
        assignor_name: group.preferred_assignor(rules).name().into(),
        members: members.collect(),
        authorized_operations: i32::MIN,
    })
}

/// What a member has includes what it has yet to give up.
fn both(assigned: &PartitionEpochs, revoking: &PartitionEpochs) -> Partitions {
    let mut both = Partitions::new();
    for (topic, partitions) in assigned.iter().chain(revoking) {
        both.entry(*topic).or_default().extend(partitions.keys());
    }
    both
}

/// Of topics that are there.
fn assignment(core: &Core, partitions: &Partitions) -> Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let id: &Uuid = id;
        let topic = core.topic_by_id(*id)?;
        Some(message!(TopicPartitions {
            topic_id: wire_id(*id),
            topic_name: topic.name.as_ref().into(),
            partitions: partitions.iter().copied().collect(),
        }))
    });
    message!(Assignment {
        topic_partitions: topics.collect()
    })
}
