//! Metadata (key 3), v0–v13.
//! - Brokers (this one), the cluster's id, and the asked topics by name or (v10) by id, each once; null asks for all.
//! - Authorized operations (v8), when asked: all there are, since nothing is authorized.
//! - A topic that is not there is created when the request and the broker allow it (`allow_auto_topic_creation`,
//!   `auto.create.topics.enable`), with `num.partitions`; its leader is there at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_wire::metadata_request::MetadataRequestTopic;
use kafka_wire::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_wire::{MetadataRequest, MetadataResponse};

use super::{CLUSTER_OPERATIONS, NO_OPERATIONS, TOPIC_OPERATIONS, errors, first_of_each};
use crate::broker::{ChangeError, Core};
use crate::metadata::{self, OFFSETS_TOPIC, Refusal, Topic};
use crate::protocol::{ErrorCode, id_of, message, wire_id};

pub(super) fn handle(core: &Arc<Core>, request: MetadataRequest) -> MetadataResponse {
    let operations = if request.include_topic_authorized_operations {
        TOPIC_OPERATIONS
    } else {
        NO_OPERATIONS
    };
    let mut topics: Vec<_> = match request.topics {
        None => core.read_catalog(|catalog| {
            catalog
                .topics()
                .map(|topic| describe(core, topic))
                .collect()
        }),
        Some(topics) => first_of_each(topics, |topic| (topic.name.clone(), topic.topic_id))
            .map(|topic| find(core, topic, request.allow_auto_topic_creation))
            .collect(),
    };
    for topic in topics.iter_mut().filter(|topic| topic.error_code == 0) {
        topic.topic_authorized_operations = operations;
    }
    let (host, port) = core.endpoint();
    message!(MetadataResponse {
        brokers: vec![message!(MetadataResponseBroker {
            node_id: core.config.node_id,
            host: host.into(),
            port: i32::from(port),
        })],
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            CLUSTER_OPERATIONS
        } else {
            NO_OPERATIONS
        },
        cluster_id: Some(core.data_dir.cluster_id.clone().into()),
        controller_id: core.config.node_id,
        topics: topics,
    })
}

fn find(
    core: &Arc<Core>,
    wanted: MetadataRequestTopic,
    allow_creation: bool,
) -> MetadataResponseTopic {
    let Some(name) = &wanted.name else {
        return match core.topic_by_id(id_of(wanted.topic_id)) {
            Some(topic) => describe(core, &topic),
            None => message!(MetadataResponseTopic {
                error_code: ErrorCode::UnknownTopicId.code(),
                topic_id: wanted.topic_id
            }),
        };
    };
    let refused = |code: ErrorCode| {
        message!(MetadataResponseTopic {
            error_code: code.code(),
            is_internal: metadata::is_internal(name),
            name: Some(name.clone()),
        })
    };
    if let Some(topic) = core.topic(name) {
        return describe(core, &topic);
    }
    if metadata::check_topic_name(name).is_err() {
        return refused(ErrorCode::InvalidTopic);
    }
    if !allow_creation || !core.config.auto_create_topics {
        return refused(ErrorCode::UnknownTopicOrPartition);
    }
    let created = if name.as_str() == OFFSETS_TOPIC {
        core.ensure_offsets_topic()
    } else if metadata::is_internal(name) {
        return refused(ErrorCode::UnknownTopicOrPartition);
    } else {
        core.create_topic(name, core.config.partitions_default, BTreeMap::new(), false)
            .map(drop)
    };
    match created {
        // Somebody else was faster.
        Ok(()) | Err(ChangeError::Refused(Refusal::TopicExists(_))) => match core.topic(name) {
            Some(topic) => describe(core, &topic),
            None => refused(ErrorCode::UnknownTopicOrPartition),
        },
        Err(error) => refused(errors::of_change(&error).0),
    }
}

fn describe(core: &Core, topic: &Topic) -> MetadataResponseTopic {
    let node_id = core.config.node_id;
    let partitions = (0..topic.partition_count).map(|index| {
        message!(MetadataResponsePartition {
            partition_index: index,
            leader_id: node_id,
            leader_epoch: core.leader_epoch,
            replica_nodes: vec![node_id],
            isr_nodes: vec![node_id],
        })
    });
    message!(MetadataResponseTopic {
        name: Some(topic.name.as_ref().into()),
        topic_id: wire_id(topic.id),
        is_internal: metadata::is_internal(&topic.name),
        partitions: partitions.collect(),
    })
}
