//! Round trips of every served API and version, and garbage.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;
use crate::protocol::api::SERVED;

fn frame_of(framed: &Bytes) -> Bytes {
    assert_eq!(
        i32::from_be_bytes(framed[..4].try_into().unwrap()) as usize,
        framed.len() - 4
    );
    framed.slice(4..)
}

fn joined(pieces: Pieces) -> Bytes {
    pieces.read_all().unwrap().into()
}

/// A request that every version of the API can carry.
fn request_of(api: &Api, version: i16) -> Request {
    let mut request = Request::default_of(api);
    match &mut request {
        Request::Metadata(body) if version == 0 => body.topics = Some(Vec::new()),
        Request::Metadata(body) if version < 4 => body.allow_auto_topic_creation = true,
        Request::OffsetFetch(body) if version < 2 => body.topics = Some(Vec::new()),
        _ => {}
    }
    request
}

fn request_frame(api: &Api, version: i16) -> Bytes {
    let request = request_of(api, version);
    frame_of(
        &encode_request(&request, version, 77, "client")
            .unwrap_or_else(|error| panic!("{} v{version}: {error}", api.name)),
    )
}

#[test]
fn every_served_version_of_every_request_decodes() {
    for api in SERVED {
        for version in api.min..=api.max {
            let decoded = decode(request_frame(api, version), "/peer")
                .unwrap_or_else(|error| panic!("{error}"));
            let Decoded::Request(incoming) = decoded else {
                panic!("{} v{version} was answered", api.name)
            };
            assert_eq!(incoming.request.api().key, api.key);
            assert_eq!(incoming.context.client_id, "client");
            assert_eq!(
                (incoming.reply.version, incoming.reply.correlation_id),
                (version, 77)
            );
        }
    }
}

#[test]
fn every_served_version_of_every_response_encodes_and_decodes() {
    for api in SERVED {
        for version in api.min..=api.max {
            let reply = ReplyFrame {
                api,
                version,
                correlation_id: 5,
            };
            let response = Response::default_of(api);
            let framed = frame_of(&joined(
                encode(&reply, response).unwrap_or_else(|error| panic!("{error}")),
            ));
            assert_eq!(framed[..4], 5_i32.to_be_bytes());
            let flexible_header = api.is_flexible(version) && api.key != api::API_VERSIONS;
            let body = framed.slice(if flexible_header { 5 } else { 4 }..);
            let mut decoder = Decoder::new(body, limits(framed.len())).unwrap();
            Response::decode(api, &mut decoder, ApiVersion::new(version))
                .unwrap_or_else(|error| panic!("{} v{version}: {error}", api.name));
            decoder.finish().unwrap();
        }
    }
}

/// What handlers fill in must be lowered to every version: the fullest answers, in all versions.
#[test]
fn full_answers_encode_in_every_version() {
    use kafka_wire as wire;
    let answers: Vec<(i16, Response)> = vec![
        (18, api::served_answer().into()),
        (
            55,
            message!(wire::DescribeQuorumResponse {
                error_message: Some("m".into()),
                nodes: vec![Default::default()],
                topics: vec![message!(wire::describe_quorum_response::TopicData {
                    partitions: vec![message!(wire::describe_quorum_response::PartitionData {
                        error_message: Some("m".into()),
                        current_voters: vec![message!(
                            wire::describe_quorum_response::ReplicaState {
                                replica_directory_id: wire_id(uuid::Uuid::from_u128(1)),
                                last_fetch_timestamp: 1,
                                last_caught_up_timestamp: 1
                            }
                        )],
                    })],
                })],
            })
            .into(),
        ),
        (
            57,
            message!(wire::UpdateFeaturesResponse {
                error_code: 95,
                error_message: Some("m".into()),
                results: vec![Default::default()],
            })
            .into(),
        ),
        (
            43,
            message!(wire::ElectLeadersResponse { error_code: 42 }).into(),
        ),
        (
            45,
            message!(wire::AlterPartitionReassignmentsResponse {
                allow_replication_factor_change: false,
                error_message: Some("m".into()),
            })
            .into(),
        ),
        (
            35,
            message!(wire::DescribeLogDirsResponse {
                error_code: 1,
                results: vec![message!(
                    wire::describe_log_dirs_response::DescribeLogDirsResult {
                        total_bytes: 1,
                        usable_bytes: 1,
                    }
                )],
            })
            .into(),
        ),
        (
            74,
            message!(wire::ListConfigResourcesResponse {
                config_resources: vec![message!(
                    wire::list_config_resources_response::ConfigResource { resource_type: 32 }
                )],
            })
            .into(),
        ),
        (
            10,
            message!(wire::FindCoordinatorResponse {
                coordinators: vec![message!(wire::find_coordinator_response::Coordinator {
                    key: "g".into(),
                    node_id: 1,
                    host: "h".into(),
                    port: 9,
                    error_message: Some("m".into()),
                })]
            })
            .into(),
        ),
        (
            9,
            message!(wire::OffsetFetchResponse {
                groups: vec![message!(
                    wire::offset_fetch_response::OffsetFetchResponseGroup {
                        group_id: "g".into(),
                        error_code: 15,
                        topics: vec![message!(
                            wire::offset_fetch_response::OffsetFetchResponseTopics {
                                name: "t".into(),
                                partitions: vec![message!(
                                    wire::offset_fetch_response::OffsetFetchResponsePartitions {
                                        committed_leader_epoch: 3,
                                        metadata: Some("".into())
                                    }
                                )]
                            }
                        )],
                    }
                )]
            })
            .into(),
        ),
        (
            11,
            message!(wire::JoinGroupResponse {
                error_code: 79,
                member_id: "m".into(),
                members: vec![message!(
                    wire::join_group_response::JoinGroupResponseMember {
                        member_id: "m".into(),
                        group_instance_id: Some("i".into())
                    }
                )]
            })
            .into(),
        ),
        (
            13,
            message!(wire::LeaveGroupResponse {
                members: vec![message!(wire::leave_group_response::MemberResponse {
                    member_id: "m".into(),
                    group_instance_id: Some("i".into()),
                    error_code: 25
                })]
            })
            .into(),
        ),
        (
            15,
            message!(wire::DescribeGroupsResponse {
                groups: vec![message!(wire::describe_groups_response::DescribedGroup {
                    error_code: 69,
                    error_message: Some("m".into()),
                    authorized_operations: 3,
                    members: vec![message!(
                        wire::describe_groups_response::DescribedGroupMember {
                            group_instance_id: Some("i".into())
                        }
                    )]
                })]
            })
            .into(),
        ),
        (
            3,
            message!(wire::MetadataResponse {
                cluster_id: Some("c".into()),
                controller_id: 1,
                cluster_authorized_operations: 3,
                topics: vec![message!(wire::metadata_response::MetadataResponseTopic {
                    error_code: 100,
                    topic_id: wire_id(uuid::Uuid::max()),
                    topic_authorized_operations: 1
                })]
            })
            .into(),
        ),
        (
            1,
            message!(wire::FetchResponse {
                responses: vec![message!(wire::fetch_response::FetchableTopicResponse {
                    topic: "t".into(),
                    partitions: vec![message!(wire::fetch_response::PartitionData {
                        error_code: 74,
                        log_start_offset: 3,
                        records: Some(Bytes::from_static(b"x")),
                        aborted_transactions: Some(Vec::new()),
                        diverging_epoch: message!(wire::fetch_response::EpochEndOffset {
                            epoch: 1,
                            end_offset: 2
                        }),
                        current_leader: message!(wire::fetch_response::LeaderIdAndEpoch {
                            leader_id: 1,
                            leader_epoch: 2
                        })
                    })]
                })]
            })
            .into(),
        ),
        (
            0,
            message!(wire::ProduceResponse {
                responses: vec![message!(wire::produce_response::TopicProduceResponse {
                    name: "t".into(),
                    partition_responses: vec![message!(
                        wire::produce_response::PartitionProduceResponse {
                            error_message: Some("m".into()),
                            log_start_offset: 1,
                            record_errors: vec![message!(
                                wire::produce_response::BatchIndexAndErrorMessage {
                                    batch_index: 1
                                }
                            )]
                        }
                    )]
                })]
            })
            .into(),
        ),
        (
            2,
            message!(wire::ListOffsetsResponse {
                topics: vec![message!(
                    wire::list_offsets_response::ListOffsetsTopicResponse {
                        name: "t".into(),
                        partitions: vec![message!(
                            wire::list_offsets_response::ListOffsetsPartitionResponse {
                                leader_epoch: 4
                            }
                        )]
                    }
                )]
            })
            .into(),
        ),
        (
            20,
            message!(wire::DeleteTopicsResponse {
                responses: vec![message!(
                    wire::delete_topics_response::DeletableTopicResult {
                        error_code: 100,
                        error_message: Some("m".into())
                    }
                )]
            })
            .into(),
        ),
        (
            60,
            message!(wire::DescribeClusterResponse {
                endpoint_type: 1,
                cluster_id: "c".into()
            })
            .into(),
        ),
        (
            19,
            message!(wire::CreateTopicsResponse {
                topics: vec![message!(
                    wire::create_topics_response::CreatableTopicResult {
                        name: "t".into(),
                        topic_id: wire_id(uuid::Uuid::max()),
                        num_partitions: 4,
                        replication_factor: 1,
                        error_message: Some("m".into()),
                        configs: Some(Vec::new()),
                        topic_config_error_code: 29
                    }
                )]
            })
            .into(),
        ),
    ];
    for (key, answer) in answers {
        let api = api::find(key).unwrap();
        for version in api.min..=api.max {
            let reply = ReplyFrame {
                api,
                version,
                correlation_id: 5,
            };
            encode(&reply, answer.clone()).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn old_shapes_are_lifted_into_the_newest() {
    use kafka_wire as wire;
    let lifted = |request: Request, version: i16| {
        let framed = encode_request(&request, version, 1, "c").unwrap();
        match decode(frame_of(&framed), "/p").unwrap() {
            Decoded::Request(incoming) => incoming.request,
            Decoded::Answer(_) => panic!("answered"),
        }
    };
    let Request::FindCoordinator(found) = lifted(
        message!(wire::FindCoordinatorRequest { key: "g".into() }).into(),
        2,
    ) else {
        panic!()
    };
    assert_eq!(found.coordinator_keys, ["g".into()]);
    let Request::DeleteTopics(delete) = lifted(
        message!(wire::DeleteTopicsRequest {
            topic_names: vec!["t".into()]
        })
        .into(),
        4,
    ) else {
        panic!()
    };
    assert_eq!(delete.topics[0].name, Some("t".into()));
    let fetch = message!(wire::OffsetFetchRequest {
        group_id: "g".into(),
        topics: None
    });
    let Request::OffsetFetch(fetch) = lifted(fetch.into(), 5) else {
        panic!()
    };
    assert_eq!(
        (fetch.groups[0].group_id.as_str(), &fetch.groups[0].topics),
        ("g", &None)
    );
    let Request::LeaveGroup(leave) = lifted(
        message!(wire::LeaveGroupRequest {
            member_id: "m".into()
        })
        .into(),
        1,
    ) else {
        panic!()
    };
    assert_eq!(leave.members[0].member_id.as_str(), "m");
    let Request::Metadata(all) = lifted(
        message!(wire::MetadataRequest {
            topics: Some(Vec::new())
        })
        .into(),
        0,
    ) else {
        panic!()
    };
    assert_eq!(all.topics, None);
    let Request::Metadata(none) = lifted(
        message!(wire::MetadataRequest {
            topics: Some(Vec::new())
        })
        .into(),
        1,
    ) else {
        panic!()
    };
    assert_eq!(none.topics, Some(Vec::new()));
}

#[test]
fn a_timestamp_below_zero_means_nothing_before_the_version_that_gave_it_its_meaning() {
    let timestamps = [-1, -2, -3, -4, -5, -6, -7, 5];
    let lifted = |version: i16| {
        let partition = |timestamp: i64| {
            message!(kafka_wire::list_offsets_request::ListOffsetsPartition {
                timestamp: timestamp
            })
        };
        let topic = message!(kafka_wire::list_offsets_request::ListOffsetsTopic {
            partitions: timestamps.map(partition).to_vec()
        });
        let mut request = Request::from(message!(kafka_wire::ListOffsetsRequest {
            topics: vec![topic]
        }));
        adapt::lift(&mut request, version);
        let Request::ListOffsets(request) = request else {
            unreachable!("it was a ListOffsets request");
        };
        let partitions = &request.topics[0].partitions;
        let timestamps = partitions.iter().map(|partition| partition.timestamp);
        timestamps.collect::<Vec<_>>()
    };
    let min = i64::MIN;
    assert_eq!(lifted(6), [-1, -2, min, min, min, min, -7, 5]);
    assert_eq!(lifted(7), [-1, -2, -3, min, min, min, -7, 5]);
    assert_eq!(lifted(8), [-1, -2, -3, -4, min, min, -7, 5]);
    assert_eq!(lifted(10), [-1, -2, -3, -4, -5, min, -7, 5]);
    assert_eq!(lifted(11), timestamps);
}

#[test]
fn an_unserved_version_of_api_versions_is_answered_in_version_0_with_error_35() {
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0, 18, 0, 99, 0, 0, 0, 7, 1, 2, 3]);
    let Decoded::Answer(answer) = decode(frame.freeze(), "/p").unwrap() else {
        panic!("not answered")
    };
    let body = frame_of(&joined(answer));
    assert_eq!(body[..6], [0, 0, 0, 7, 0, 35]);
    let count = i32::from_be_bytes(body[6..10].try_into().unwrap()) as usize;
    assert_eq!((count, body.len()), (SERVED.len(), 10 + 6 * SERVED.len()));
    // Produce is told from 0, for librdkafka.
    assert_eq!(body[10..14], [0, 0, 0, 0]);
}

#[test]
fn other_unserved_versions_and_keys_are_refused() {
    assert!(matches!(
        decode(Bytes::from_static(&[0, 0, 0, 2, 0, 0, 0, 1]), "/p"),
        Err(FrameError::UnsupportedVersion { .. })
    ));
    assert!(matches!(
        decode(Bytes::from_static(&[0x7f, 0, 0, 2, 0, 0, 0, 1]), "/p"),
        Err(FrameError::UnknownApi { .. })
    ));
    assert!(matches!(
        decode(Bytes::from_static(&[0, 0, 0]), "/p"),
        Err(FrameError::NoHeader { length: 3 })
    ));
}

#[test]
fn a_valid_frame_cut_anywhere_is_refused() {
    for api in SERVED {
        for version in api.min..=api.max {
            let frame = request_frame(api, version);
            for end in 0..frame.len() {
                assert!(
                    decode(frame.slice(..end), "/p").is_err(),
                    "{} v{version} cut at {end}",
                    api.name
                );
            }
        }
    }
}

/// What librdkafka 2.12.1 sends to list all topics: it writes its null array where four bytes were kept for a length, and leaves three of them
/// behind, so that the fields after it come three bytes late. Kafka reads what it needs and ignores the rest.
#[test]
fn bytes_left_over_are_ignored() {
    let frame = Bytes::from_static(
        b"\x00\x03\x00\x0d\x00\x00\x00\x03\x00\x07rdkafka\x00\x00\x00\x00\x00\x01\x00\x00",
    );
    let Ok(Decoded::Request(incoming)) = decode(frame, "/peer") else {
        panic!("not a request");
    };
    let Request::Metadata(body) = incoming.request else {
        panic!("not a Metadata");
    };
    assert_eq!(body.topics, None);
    assert!(!body.allow_auto_topic_creation);
}

#[test]
fn a_huge_count_is_refused_without_its_memory() {
    for api in SERVED {
        for version in api.min..=api.max {
            let frame = request_frame(api, version);
            // Every place where a count or a length could stand, as the largest one.
            for at in 8..frame.len().saturating_sub(3) {
                let mut damaged = BytesMut::from(frame.as_ref());
                damaged[at..at + 4].copy_from_slice(&0x7fff_ffff_i32.to_be_bytes());
                let _ = decode(damaged.freeze(), "/p");
            }
        }
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(
        index in 0..SERVED.len(),
        version in 0_i16..19,
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&SERVED[index].key.to_be_bytes());
        frame.extend_from_slice(&version.to_be_bytes());
        frame.extend_from_slice(&[0, 0, 0, 1, 0xff, 0xff, 0]);
        frame.extend_from_slice(&body);
        let _ = decode(frame.freeze(), "/p");
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(Bytes::from(bytes), "/p");
    }

    #[test]
    fn a_flipped_byte_never_panics(index in 0..SERVED.len(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let api = &SERVED[index];
        for version in api.min..=api.max {
            let mut frame = BytesMut::from(request_frame(api, version).as_ref());
            let at = at.index(frame.len());
            frame[at] = value;
            let _ = decode(frame.freeze(), "/p");
        }
    }
}
