//! The served table: which APIs, in which versions. ApiVersions, the decoder, the router and `docs/reference/apis.md`
//! all read this one table.

use bytes::BytesMut;
use kafka_wire::{self as wire, KafkaMessage};
use kafka_wire_core::{ApiVersion, DecodeError, Decoder, EncodeError, KafkaDecode, KafkaEncode};

use super::features::FEATURES;
use super::message;

/// One served API.
#[derive(Debug)]
pub struct Api {
    /// Kafka's number for it.
    pub key: i16,
    /// Kafka's name for it.
    pub name: &'static str,
    /// Lowest version served.
    pub min: i16,
    /// Highest version served.
    pub max: i16,
    /// Lowest version that ApiVersions tells: differs from `min` for Produce only, as in Kafka 4: librdkafka switches
    /// compression codecs off unless the range starts below 3.
    pub advertised_min: i16,
    flexible: fn(ApiVersion) -> bool,
}

impl Api {
    /// Whether requests of this version are answered.
    pub fn serves(&self, version: i16) -> bool {
        (self.min..=self.max).contains(&version)
    }

    /// Whether this version has tagged fields and compact lengths.
    pub fn is_flexible(&self, version: i16) -> bool {
        (self.flexible)(ApiVersion::new(version))
    }
}

/// A request that an in-process caller can make with a typed answer.
pub trait ApiRequest: Into<Request> {
    /// The type of its answer.
    type Response: TryFrom<Response>;
}

macro_rules! apis {
    ($($key:literal $name:ident $request:ident $response:ident $min:literal..=$max:literal from $advertised:literal;)*) => {
        /// The APIs that are served, in the order of their keys.
        pub static SERVED: &[Api] = &[$(Api {
            key: $key,
            name: stringify!($name),
            min: $min,
            max: $max,
            advertised_min: $advertised,
            flexible: <wire::$request as KafkaMessage>::is_flexible,
        }),*];

        /// A request of a served API.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        #[allow(clippy::large_enum_variant, reason = "requests are moved a few times: less than boxing each would cost")]
        #[allow(missing_docs, reason = "the variants are Kafka's names")]
        pub enum Request { $($name(wire::$request)),* }

        /// The answer to a request.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        #[allow(missing_docs, reason = "the variants are Kafka's names")]
        pub enum Response {
            $($name(wire::$response),)*
            /// An answer to Fetch whose records stay where they are: only where the request's context allows it.
            StoredFetch(super::StoredFetch),
            /// No answer at all: a Produce with `acks=0`.
            Silence,
        }

        impl Request {
            /// The table's row for this request.
            pub fn api(&self) -> &'static Api {
                let key = match self { $(Self::$name(_) => $key),* };
                match find(key) {
                    Some(api) => api,
                    None => unreachable!("request enum and served table come from one list"),
                }
            }

            pub(super) fn decode(api: &Api, decoder: &mut Decoder, version: ApiVersion) -> Result<Self, DecodeError> {
                match api.key {
                    $($key => Ok(Self::$name(wire::$request::decode(decoder, version)?)),)*
                    key => unreachable!("api {key} is in the served table but not in the request enum"),
                }
            }

            pub(super) fn encode_into(&self, buffer: &mut BytesMut, version: ApiVersion) -> Result<usize, EncodeError> {
                match self { $(Self::$name(body) => body.encode_into(buffer, version)),* }
            }
        }

        impl Response {
            pub(super) fn encoded_len(&self, version: ApiVersion) -> Result<usize, EncodeError> {
                match self {
                    $(Self::$name(body) => body.encoded_len(version),)*
                    Self::StoredFetch(_) => unreachable!("it is encoded in pieces"),
                    Self::Silence => Ok(0),
                }
            }

            pub(super) fn encode_into(&self, buffer: &mut BytesMut, version: ApiVersion) -> Result<usize, EncodeError> {
                match self { $(Self::$name(body) => body.encode_into(buffer, version),)*
                    Self::StoredFetch(_) => unreachable!("it is encoded in pieces"),
                    Self::Silence => Ok(0),
                }
            }

            #[cfg(test)]
            pub(super) fn decode(api: &Api, decoder: &mut Decoder, version: ApiVersion) -> Result<Self, DecodeError> {
                match api.key {
                    $($key => Ok(Self::$name(wire::$response::decode(decoder, version)?)),)*
                    key => unreachable!("api {key} is in the served table but not in the response enum"),
                }
            }

            #[cfg(test)]
            pub(super) fn default_of(api: &Api) -> Self {
                match api.key {
                    $($key => Self::$name(wire::$response::default()),)*
                    key => unreachable!("api {key} is not in the served table"),
                }
            }
        }

        #[cfg(test)]
        impl Request {
            pub(super) fn default_of(api: &Api) -> Self {
                match api.key {
                    $($key => Self::$name(wire::$request::default()),)*
                    key => unreachable!("api {key} is not in the served table"),
                }
            }
        }

        $(
            impl From<wire::$request> for Request {
                fn from(request: wire::$request) -> Self { Self::$name(request) }
            }

            impl From<wire::$response> for Response {
                fn from(response: wire::$response) -> Self { Self::$name(response) }
            }

            impl TryFrom<Response> for wire::$response {
                type Error = Response;
                fn try_from(response: Response) -> Result<Self, Response> {
                    match response { Response::$name(response) => Ok(response), other => Err(other) }
                }
            }

            impl ApiRequest for wire::$request { type Response = wire::$response; }
        )*
    };
}

apis! {
    0 Produce ProduceRequest ProduceResponse 3..=13 from 0;
    1 Fetch FetchRequest FetchResponse 4..=18 from 4;
    2 ListOffsets ListOffsetsRequest ListOffsetsResponse 1..=11 from 1;
    3 Metadata MetadataRequest MetadataResponse 0..=13 from 0;
    8 OffsetCommit OffsetCommitRequest OffsetCommitResponse 2..=10 from 2;
    9 OffsetFetch OffsetFetchRequest OffsetFetchResponse 1..=10 from 1;
    10 FindCoordinator FindCoordinatorRequest FindCoordinatorResponse 0..=6 from 0;
    11 JoinGroup JoinGroupRequest JoinGroupResponse 0..=9 from 0;
    12 Heartbeat HeartbeatRequest HeartbeatResponse 0..=4 from 0;
    13 LeaveGroup LeaveGroupRequest LeaveGroupResponse 0..=5 from 0;
    14 SyncGroup SyncGroupRequest SyncGroupResponse 0..=5 from 0;
    15 DescribeGroups DescribeGroupsRequest DescribeGroupsResponse 0..=6 from 0;
    16 ListGroups ListGroupsRequest ListGroupsResponse 0..=5 from 0;
    18 ApiVersions ApiVersionsRequest ApiVersionsResponse 0..=4 from 0;
    19 CreateTopics CreateTopicsRequest CreateTopicsResponse 2..=7 from 2;
    20 DeleteTopics DeleteTopicsRequest DeleteTopicsResponse 1..=6 from 1;
    21 DeleteRecords DeleteRecordsRequest DeleteRecordsResponse 0..=2 from 0;
    22 InitProducerId InitProducerIdRequest InitProducerIdResponse 0..=5 from 0;
    23 OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse 2..=4 from 2;
    24 AddPartitionsToTxn AddPartitionsToTxnRequest AddPartitionsToTxnResponse 0..=5 from 0;
    25 AddOffsetsToTxn AddOffsetsToTxnRequest AddOffsetsToTxnResponse 0..=4 from 0;
    26 EndTxn EndTxnRequest EndTxnResponse 0..=5 from 0;
    27 WriteTxnMarkers WriteTxnMarkersRequest WriteTxnMarkersResponse 1..=2 from 1;
    28 TxnOffsetCommit TxnOffsetCommitRequest TxnOffsetCommitResponse 0..=5 from 0;
    32 DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse 1..=4 from 1;
    33 AlterConfigs AlterConfigsRequest AlterConfigsResponse 0..=2 from 0;
    34 AlterReplicaLogDirs AlterReplicaLogDirsRequest AlterReplicaLogDirsResponse 1..=2 from 1;
    35 DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse 1..=5 from 1;
    37 CreatePartitions CreatePartitionsRequest CreatePartitionsResponse 0..=3 from 0;
    42 DeleteGroups DeleteGroupsRequest DeleteGroupsResponse 0..=2 from 0;
    43 ElectLeaders ElectLeadersRequest ElectLeadersResponse 0..=2 from 0;
    44 IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse 0..=1 from 0;
    45 AlterPartitionReassignments AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse 0..=1 from 0;
    46 ListPartitionReassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse 0..=0 from 0;
    47 OffsetDelete OffsetDeleteRequest OffsetDeleteResponse 0..=0 from 0;
    55 DescribeQuorum DescribeQuorumRequest DescribeQuorumResponse 0..=2 from 0;
    57 UpdateFeatures UpdateFeaturesRequest UpdateFeaturesResponse 0..=2 from 0;
    60 DescribeCluster DescribeClusterRequest DescribeClusterResponse 0..=2 from 0;
    61 DescribeProducers DescribeProducersRequest DescribeProducersResponse 0..=0 from 0;
    64 UnregisterBroker UnregisterBrokerRequest UnregisterBrokerResponse 0..=0 from 0;
    65 DescribeTransactions DescribeTransactionsRequest DescribeTransactionsResponse 0..=0 from 0;
    66 ListTransactions ListTransactionsRequest ListTransactionsResponse 0..=2 from 0;
    68 ConsumerGroupHeartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse 0..=1 from 0;
    69 ConsumerGroupDescribe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse 0..=1 from 0;
    74 ListConfigResources ListConfigResourcesRequest ListConfigResourcesResponse 0..=1 from 0;
    75 DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse 0..=0 from 0;
    88 StreamsGroupHeartbeat StreamsGroupHeartbeatRequest StreamsGroupHeartbeatResponse 0..=0 from 0;
    89 StreamsGroupDescribe StreamsGroupDescribeRequest StreamsGroupDescribeResponse 0..=0 from 0;
}

const SHARE: &str = "share groups (KIP-932) are left for later";
const SECURITY: &str = "SASL, users, ACLs, delegation tokens and quotas are left for later";
const QUORUM: &str =
    "between controllers and brokers: there is one node, which is its own controller";
const TELEMETRY: &str = "not advertised, which saves clients two round trips";

/// What Kafka 4.3 has and this broker has not, with the reason.
const LEFT_OUT: &[(i16, &str, &str)] = &[
    (4, "LeaderAndIsr", "gone since Kafka 4.0"),
    (5, "StopReplica", "gone since Kafka 4.0"),
    (6, "UpdateMetadata", "gone since Kafka 4.0"),
    (7, "ControlledShutdown", "gone since Kafka 4.0"),
    (17, "SaslHandshake", SECURITY),
    (29, "DescribeAcls", SECURITY),
    (30, "CreateAcls", SECURITY),
    (31, "DeleteAcls", SECURITY),
    (36, "SaslAuthenticate", SECURITY),
    (38, "CreateDelegationToken", SECURITY),
    (39, "RenewDelegationToken", SECURITY),
    (40, "ExpireDelegationToken", SECURITY),
    (41, "DescribeDelegationToken", SECURITY),
    (48, "DescribeClientQuotas", SECURITY),
    (49, "AlterClientQuotas", SECURITY),
    (50, "DescribeUserScramCredentials", SECURITY),
    (51, "AlterUserScramCredentials", SECURITY),
    (52, "Vote", QUORUM),
    (53, "BeginQuorumEpoch", QUORUM),
    (54, "EndQuorumEpoch", QUORUM),
    (56, "AlterPartition", QUORUM),
    (58, "Envelope", QUORUM),
    (59, "FetchSnapshot", QUORUM),
    (62, "BrokerRegistration", QUORUM),
    (63, "BrokerHeartbeat", QUORUM),
    (67, "AllocateProducerIds", QUORUM),
    (70, "ControllerRegistration", QUORUM),
    (71, "GetTelemetrySubscriptions", TELEMETRY),
    (72, "PushTelemetry", TELEMETRY),
    (73, "AssignReplicasToDirs", QUORUM),
    (76, "ShareGroupHeartbeat", SHARE),
    (77, "ShareGroupDescribe", SHARE),
    (78, "ShareFetch", SHARE),
    (79, "ShareAcknowledge", SHARE),
    (80, "AddRaftVoter", QUORUM),
    (81, "RemoveRaftVoter", QUORUM),
    (82, "UpdateRaftVoter", QUORUM),
    (83, "InitializeShareGroupState", SHARE),
    (84, "ReadShareGroupState", SHARE),
    (85, "WriteShareGroupState", SHARE),
    (86, "DeleteShareGroupState", SHARE),
    (87, "ReadShareGroupStateSummary", SHARE),
    (90, "DescribeShareGroupOffsets", SHARE),
    (91, "AlterShareGroupOffsets", SHARE),
    (92, "DeleteShareGroupOffsets", SHARE),
];

/// Key of Produce.
pub const PRODUCE: i16 = 0;
/// Key of Fetch.
pub const FETCH: i16 = 1;
/// Key of OffsetCommit.
pub const OFFSET_COMMIT: i16 = 8;
/// Key of OffsetFetch.
pub const OFFSET_FETCH: i16 = 9;
/// Key of ApiVersions.
pub const API_VERSIONS: i16 = 18;

/// What a request's version says of its client's transactions, as Kafka infers it.
pub(super) fn transaction_version(key: i16, version: i16) -> i16 {
    let first = match key {
        PRODUCE => 12,
        24 => 4,
        26 | 28 => 5,
        _ => return 0,
    };
    if version >= first { 2 } else { 0 }
}

/// Whether the client knows error 120 in the answer to this version.
pub(super) fn knows_abortable(key: i16, version: i16) -> bool {
    match key {
        PRODUCE => version >= 11,
        22 | 24 => version >= 5,
        25 | 26 | 28 => version >= 4,
        _ => false,
    }
}

/// The row of an API key, if it is served.
pub fn find(key: i16) -> Option<&'static Api> {
    SERVED
        .binary_search_by_key(&key, |api| api.key)
        .ok()
        .and_then(|index| SERVED.get(index))
}

/// The answer to ApiVersions.
pub fn served_answer() -> wire::ApiVersionsResponse {
    let keys = SERVED.iter().map(|api| {
        message!(wire::api_versions_response::ApiVersion {
            api_key: api.key,
            min_version: api.advertised_min,
            max_version: api.max,
        })
    });
    let supported = FEATURES.iter().map(|feature| {
        message!(wire::api_versions_response::SupportedFeatureKey {
            name: feature.name.into(),
            min_version: feature.min,
            max_version: feature.max,
        })
    });
    let finalized = FEATURES.iter().map(|feature| {
        message!(wire::api_versions_response::FinalizedFeatureKey {
            name: feature.name.into(),
            min_version_level: feature.finalized,
            max_version_level: feature.finalized,
        })
    });
    message!(wire::ApiVersionsResponse {
        api_keys: keys.collect(),
        supported_features: supported.collect(),
        finalized_features_epoch: 0,
        finalized_features: finalized.collect(),
    })
}

/// The page `docs/reference/apis.md`, from the table.
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Served APIs\n\n\
         Generated from the table in `broker/src/protocol/api.rs`; a test keeps it current (`UPDATE_EXPECT=1` rewrites it).\n\n\
         | key | API | versions |\n|---|---|---|\n",
    );
    for api in SERVED {
        let note = if api.advertised_min < api.min {
            format!(
                " (advertised from {}, as Kafka does for librdkafka's sake)",
                api.advertised_min
            )
        } else {
            String::new()
        };
        page.push_str(&format!(
            "| {} | {} | {}–{}{note} |\n",
            api.key, api.name, api.min, api.max
        ));
    }
    page.push_str("\n## Left out, and why\n\n| key | API | why |\n|---|---|---|\n");
    for (key, name, why) in LEFT_OUT {
        page.push_str(&format!("| {key} | {name} | {why} |\n"));
    }
    page.push_str(
        "\nWithin what is served:\n\n\
         - **Tiered storage**: there is none; the earliest local offset is the log start.\n\
         - **Client metrics subscriptions** as configs (resource type 16): there is nothing that would push them.\n\
         - **Levels of loggers** (resource type 8): shown, not changed.\n\
         - **Changing features** (57): answered, but the levels of this broker are fixed.\n\
         - **lz4 batches whose blocks depend on each other**: refused as CORRUPT_MESSAGE (2), where Kafka answers UNKNOWN_SERVER_ERROR (-1). Its Java\n\
         \x20 clients cannot read them either.\n\
         - **Regular expressions** of consumer groups: at most 4 KiB, in RE2's syntax but for octal escapes, and for braces that are no repetition.\n\
         - **Versions since Kafka 4.4** of any API: the answer is Kafka 4.3.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn the_table_is_sorted_and_within_the_codec() {
        assert!(SERVED.windows(2).all(|pair| pair[0].key < pair[1].key));
        for api in SERVED {
            assert!(
                api.min <= api.max && api.advertised_min <= api.min,
                "{}",
                api.name
            );
        }
    }

    #[test]
    fn every_key_of_kafka_is_served_or_left_out_for_a_reason() {
        for key in 0..=92 {
            let is_left_out = LEFT_OUT.iter().any(|(other, ..)| *other == key);
            assert_ne!(find(key).is_some(), is_left_out, "key {key}");
        }
    }

    #[test]
    fn the_reference_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/apis.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, reference_page()).unwrap();
        }
        let Ok(page) = std::fs::read_to_string(path) else {
            // The packaged crate has no docs folder beside it; the repository always has.
            assert!(
                !std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).exists()
            );
            return;
        };
        assert_eq!(
            page,
            reference_page(),
            "run the broker's tests with UPDATE_EXPECT=1"
        );
    }
}
