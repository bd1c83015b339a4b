//! DescribeLogDirs (key 35), v1–v5.
//! - The one data directory: the asked partitions (null asks for all) with their sizes, and (v4) the size of its file system and what is
//!   left of it, -1 where the system does not say. It is never cordoned (v5), and no replica is moving.

use std::collections::BTreeMap;

use kafka_wire::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_wire::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::first_of_each;
use crate::broker::Core;
use crate::protocol::message;

pub(super) fn handle(core: &Core, request: DescribeLogDirsRequest) -> DescribeLogDirsResponse {
    let mut topics = BTreeMap::new();
    match request.topics {
        None => {
            for partition in core.all_partitions() {
                describe(&mut topics, &partition);
            }
        }
        Some(wanted) => {
            let wanted = wanted.into_iter().flat_map(|topic| {
                let name = topic.topic;
                topic
                    .partitions
                    .into_iter()
                    .map(move |index| (name.clone(), index))
            });
            for (name, index) in first_of_each(wanted, Clone::clone) {
                if let Some(partition) = core.partition(&name, index) {
                    describe(&mut topics, &partition);
                }
            }
        }
    }
    let topics = topics.into_iter().map(|(name, mut partitions)| {
        partitions.sort_unstable_by_key(|partition| partition.partition_index);
        message!(DescribeLogDirsTopic {
            name: name.as_str().into(),
            partitions: partitions,
        })
    });
    let (total_bytes, usable_bytes) = core.data_dir.space_bytes().unwrap_or((-1, -1));
    message!(DescribeLogDirsResponse {
        results: vec![message!(DescribeLogDirsResult {
            log_dir: core.data_dir.path.display().to_string().into(),
            topics: topics.collect(),
            total_bytes: total_bytes,
            usable_bytes: usable_bytes,
        })],
    })
}

fn describe(
    topics: &mut BTreeMap<String, Vec<DescribeLogDirsPartition>>,
    partition: &crate::replica::Partition,
) {
    topics
        .entry(partition.topic().to_string())
        .or_default()
        .push(message!(DescribeLogDirsPartition {
            partition_index: partition.index(),
            partition_size: i64::try_from(partition.size_bytes()).unwrap_or(i64::MAX),
        }));
}
