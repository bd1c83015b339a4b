//! What members of a classic group say to each other inside JoinGroup and SyncGroup, if they are consumers: subscriptions and assignments.

use bytes::{Bytes, BytesMut};
use kafka_wire as wire;
use kafka_wire_core::ApiVersion;

use super::{limits, message};

/// The highest version of an assignment that is written.
const ASSIGNMENT_VERSION_MAX: i16 = 3;

/// What a member subscribes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ConsumerSubscription {
    pub(crate) topics: Vec<String>,
    /// What it has, by topic.
    pub(crate) owned: NamedPartitions,
    pub(crate) rack_id: Option<String>,
}

/// A member's metadata; `None` if it is not that of a consumer.
pub(crate) fn consumer_subscription(metadata: &Bytes) -> Option<ConsumerSubscription> {
    let (_, said) =
        wire::decode_consumer_protocol_subscription(metadata.clone(), limits(metadata.len()))
            .ok()?;
    let text = |text: &super::StrBytes| text.as_str().to_owned();
    let owned = said.owned_partitions.iter();
    Some(ConsumerSubscription {
        topics: said.topics.iter().map(text).collect(),
        owned: owned
            .map(|of| (text(&of.topic), of.partitions.clone()))
            .collect(),
        rack_id: said
            .rack_id
            .as_ref()
            .map(text)
            .filter(|rack_id| !rack_id.is_empty()),
    })
}

/// Partitions by the name of their topic.
pub(crate) type NamedPartitions = Vec<(String, Vec<i32>)>;

/// An assignment, and its user data; `None` if it is not that of a consumer.
pub(crate) fn consumer_assignment(bytes: &Bytes) -> Option<(NamedPartitions, Bytes)> {
    let (_, assignment) =
        wire::decode_consumer_protocol_assignment(bytes.clone(), limits(bytes.len())).ok()?;
    let partitions = assignment.assigned_partitions.iter();
    let partitions = partitions.map(|of| (of.topic.as_str().to_owned(), of.partitions.clone()));
    Some((
        partitions.collect(),
        assignment.user_data.unwrap_or_default(),
    ))
}

/// An assignment in the version that the member speaks.
pub(crate) fn encode_consumer_assignment(partitions: NamedPartitions, version: i16) -> Bytes {
    let partitions = partitions.into_iter().map(|(topic, partitions)| {
        message!(wire::consumer_protocol_assignment::TopicPartition {
            topic: topic.into(),
            partitions: partitions,
        })
    });
    let assignment = message!(wire::ConsumerProtocolAssignment {
        assigned_partitions: partitions.collect(),
    });
    let mut buffer = BytesMut::new();
    let version = ApiVersion::new(version.clamp(0, ASSIGNMENT_VERSION_MAX));
    if let Err(error) = wire::encode_consumer_protocol_assignment(&mut buffer, &assignment, version)
    {
        // Names are those of topics, which are short, and a partition takes four bytes.
        unreachable!("an assignment does not encode: {error}");
    }
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_decodes_to_itself_in_every_version() {
        let partitions = vec![("t".to_owned(), vec![0, 2]), ("u".to_owned(), vec![1])];
        for version in -1..9 {
            let bytes = encode_consumer_assignment(partitions.clone(), version);
            assert_eq!(
                consumer_assignment(&bytes),
                Some((partitions.clone(), Bytes::new()))
            );
        }
    }
}
