//! AlterReplicaLogDirs (key 34), v1–v2.
//! - There is one data directory: a replica that should move there is there already, any other directory is unknown (57). A partition that
//!   this broker does not host is answered with 9, as by Kafka, though its directory could be chosen.

use kafka_wire::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_wire::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse};

use crate::broker::Core;
use crate::protocol::{ErrorCode, message};

pub(super) fn handle(
    core: &Core,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let here = core.data_dir.path.as_path();
    let results = request.dirs.into_iter().flat_map(|dir| {
        let is_here = std::path::Path::new(dir.path.as_str()) == here;
        dir.topics.into_iter().map(move |topic| {
            let partitions = topic.partitions.iter().map(|index| {
                let code = if !is_here {
                    ErrorCode::LogDirNotFound
                } else if core.partition(&topic.name, *index).is_none() {
                    ErrorCode::ReplicaNotAvailable
                } else {
                    ErrorCode::None
                };
                message!(AlterReplicaLogDirPartitionResult {
                    partition_index: *index,
                    error_code: code.code(),
                })
            });
            message!(AlterReplicaLogDirTopicResult {
                partitions: partitions.collect(),
                topic_name: topic.name,
            })
        })
    });
    message!(AlterReplicaLogDirsResponse {
        results: results.collect()
    })
}
