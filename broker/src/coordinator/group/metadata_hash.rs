//! A number for the topics that a group depends on, as Kafka computes it: another id, name or partition count is another number.
//!
//! XXH3-64 over the hashes of the topics in the order of their names. A topic's is over a zero byte, its id (two longs), its name
//! (UTF-16 and its length), its partition count, and each partition's number; little-endian. Partitions have no rack here. A
//! group with no topic that is there has the number 0.

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::metadata::{Catalog, Topic};

/// Of the topics that are there.
pub(super) fn of(names: &BTreeSet<&str>, catalog: &Catalog) -> i64 {
    let mut bytes = Vec::new();
    for topic in names.iter().filter_map(|name| catalog.topic(name)) {
        bytes.extend_from_slice(&of_topic(topic).to_le_bytes());
    }
    if bytes.is_empty() {
        0
    } else {
        XxHash3_64::oneshot(&bytes) as i64
    }
}

fn of_topic(topic: &Topic) -> u64 {
    let (most, least) = topic.id.as_u64_pair();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&most.to_le_bytes());
    bytes.extend_from_slice(&least.to_le_bytes());
    let mut length = 0_i32;
    for unit in topic.name.encode_utf16() {
        bytes.extend_from_slice(&unit.to_le_bytes());
        length += 1;
    }
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&topic.partition_count.to_le_bytes());
    for partition in 0..topic.partition_count {
        bytes.extend_from_slice(&partition.to_le_bytes());
    }
    XxHash3_64::oneshot(&bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use uuid::Uuid;

    use super::*;
    use crate::metadata::Command;

    fn catalog(topics: &[(&str, i32)]) -> Catalog {
        let mut catalog = Catalog::default();
        for (index, (name, partition_count)) in topics.iter().enumerate() {
            catalog.replay(&Command::CreateTopic(Topic {
                name: (*name).into(),
                id: Uuid::from_u128(index as u128 + 1),
                partition_count: *partition_count,
                configs: Default::default(),
            }));
        }
        catalog
    }

    #[test]
    fn it_changes_with_the_topics_that_are_there() {
        let both = ["a", "b"].into();
        let one = of(&["a"].into(), &catalog(&[("a", 1), ("b", 1)]));
        assert_eq!(of(&both, &catalog(&[])), 0);
        assert_eq!(of(&both, &catalog(&[("a", 1)])), one);
        assert_ne!(of(&both, &catalog(&[("a", 2)])), one);
        assert_ne!(of(&both, &catalog(&[("a", 1), ("b", 1)])), one);
    }
}
