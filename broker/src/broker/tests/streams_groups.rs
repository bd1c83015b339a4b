//! Streams groups over the whole broker: from the request to the log and back.

use wire::streams_group_heartbeat_request as request;
use wire::{StreamsGroupHeartbeatRequest, StreamsGroupHeartbeatResponse};

use super::*;

fn fixture() -> Fixture {
    let fixture = Fixture::with(|config| {
        let delay = "group.streams.initial.rebalance.delay.ms";
        config.group_settings.insert(delay.into(), 0);
    });
    fixture.create("in", 2);
    fixture
}

/// Joins with one sub-topology over topic `in` that keeps a store.
fn join(member_id: &str) -> StreamsGroupHeartbeatRequest {
    let changelog = message!(request::TopicInfo {
        name: "app-store-changelog".into(),
        topic_configs: vec![message!(request::KeyValue {
            key: "cleanup.policy".into(),
            value: "compact".into(),
        })],
    });
    message!(StreamsGroupHeartbeatRequest {
        group_id: "app".into(),
        member_id: member_id.to_owned().into(),
        rebalance_timeout_ms: 10_000,
        process_id: Some("p".into()),
        active_tasks: Some(Vec::new()),
        standby_tasks: Some(Vec::new()),
        warmup_tasks: Some(Vec::new()),
        topology: Some(message!(request::Topology {
            subtopologies: vec![message!(request::Subtopology {
                subtopology_id: "0".into(),
                source_topics: vec!["in".into()],
                state_changelog_topics: vec![changelog],
            })],
        })),
    })
}

fn alive(member_id: &str, member_epoch: i32) -> StreamsGroupHeartbeatRequest {
    message!(StreamsGroupHeartbeatRequest {
        group_id: "app".into(),
        member_id: member_id.to_owned().into(),
        member_epoch: member_epoch,
        rebalance_timeout_ms: -1,
    })
}

fn beat(fixture: &Fixture, request: StreamsGroupHeartbeatRequest) -> StreamsGroupHeartbeatResponse {
    fixture.broker().call(request).unwrap()
}

/// `epoch: partitions of sub-topology 0`.
fn picture(response: &StreamsGroupHeartbeatResponse) -> String {
    assert_eq!(response.error_code, 0, "{response:?}");
    let tasks = response.active_tasks.as_ref().map(|tasks| {
        let partitions = tasks.iter().flat_map(|of| &of.partitions);
        partitions.copied().collect::<Vec<_>>()
    });
    format!("{}: {tasks:?}", response.member_epoch)
}

fn listed(fixture: &Fixture) -> Vec<(String, String)> {
    let groups = fixture
        .broker()
        .call(wire::ListGroupsRequest::default())
        .unwrap()
        .groups;
    let show = |group: wire::list_groups_response::ListedGroup| {
        (group.group_type.to_string(), group.group_state.to_string())
    };
    groups.into_iter().map(show).collect()
}

fn described(fixture: &Fixture) -> wire::streams_group_describe_response::DescribedGroup {
    let request = message!(wire::StreamsGroupDescribeRequest {
        group_ids: vec!["app".into()],
    });
    let mut response = fixture.broker().call(request).unwrap();
    response.groups.remove(0)
}

fn deleted(fixture: &Fixture) -> i16 {
    let request = message!(wire::DeleteGroupsRequest {
        groups_names: vec!["app".into()],
    });
    fixture.broker().call(request).unwrap().results[0].error_code
}

fn committed_by(fixture: &Fixture, member_id: &str, epoch: i32) -> i16 {
    let mut request = commit_request("app", "in", 7);
    request.member_id = member_id.to_owned().into();
    request.generation_id_or_member_epoch = epoch;
    let response = fixture.broker().call(request).unwrap();
    response.topics[0].partitions[0].error_code
}

#[test]
fn an_application_goes_on_where_it_was_after_a_crash() {
    let mut fixture = fixture();
    assert_eq!(picture(&beat(&fixture, join("m1"))), "2: Some([0, 1])");
    let changelog = fixture.broker().core.topic("app-store-changelog").unwrap();
    assert_eq!(changelog.partition_count, 2);
    assert_eq!(changelog.configs.get("cleanup.policy").unwrap(), "compact");
    assert_eq!(committed_by(&fixture, "m1", 2), 0);
    assert_eq!(
        committed_by(&fixture, "m1", 1),
        ErrorCode::StaleMemberEpoch.code()
    );
    assert_eq!(
        committed_by(&fixture, "m9", 2),
        ErrorCode::UnknownMemberId.code()
    );
    fixture.crash();
    assert_eq!(
        listed(&fixture),
        [("streams".to_owned(), "Stable".to_owned())]
    );
    assert_eq!(picture(&beat(&fixture, alive("m1", 2))), "2: None");
    assert_eq!(fixture.committed("app", "in"), 7);

    let group = described(&fixture);
    assert_eq!(
        (group.error_code, group.group_epoch, group.assignment_epoch),
        (0, 2, 2)
    );
    assert_eq!(group.group_state.as_str(), "Stable");
    let topology = group.topology.unwrap();
    assert_eq!(
        topology.subtopologies.unwrap()[0].state_changelog_topics[0].partitions,
        2
    );
    let member = &group.members[0];
    assert_eq!(
        (member.member_id.as_str(), member.process_id.as_str()),
        ("m1", "p")
    );
    assert_eq!(member.assignment.active_tasks[0].partitions, [0, 1]);
    assert_eq!(member.assignment, member.target_assignment);

    assert_eq!(deleted(&fixture), ErrorCode::NonEmptyGroup.code());
    assert_eq!(beat(&fixture, alive("m1", -1)).member_epoch, -1);
    assert_eq!(
        listed(&fixture),
        [("streams".to_owned(), "Empty".to_owned())]
    );
    assert_eq!(deleted(&fixture), 0);
    assert_eq!(fixture.committed("app", "in"), -1);
    fixture.restart();
    assert_eq!(listed(&fixture), []);
    assert_eq!(
        described(&fixture).error_code,
        ErrorCode::GroupIdNotFound.code()
    );
}

#[test]
fn a_member_that_is_silent_loses_its_tasks_to_the_next() {
    let fixture = fixture();
    beat(&fixture, join("m1"));
    fixture.clock.advance(44_000);
    assert_eq!(picture(&beat(&fixture, join("m2"))), "3: Some([])");
    fixture.clock.advance(1_000);
    fixture.broker().step();
    fixture.broker().flush_once();
    assert_eq!(picture(&beat(&fixture, alive("m2", 3))), "4: Some([0, 1])");
    let fenced = beat(&fixture, alive("m1", 2));
    assert_eq!(fenced.error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn a_group_that_nobody_is_in_changes_its_kind_and_keeps_its_offsets() {
    let mut fixture = fixture();
    assert_eq!(fixture.commit("app", "in", 5), 0);
    assert_eq!(
        listed(&fixture),
        [("classic".to_owned(), "Empty".to_owned())]
    );
    let refused = beat(&fixture, alive("m1", 3));
    assert_eq!(refused.error_code, ErrorCode::GroupIdNotFound.code());
    let mut invalid = join("m1");
    invalid.topology.as_mut().unwrap().subtopologies[0].repartition_source_topics =
        vec![message!(request::TopicInfo {
            name: "nobody-writes-it".into()
        })];
    let refused = beat(&fixture, invalid);
    assert_eq!(refused.error_code, ErrorCode::StreamsInvalidTopology.code());
    assert_eq!(
        listed(&fixture),
        [("classic".to_owned(), "Empty".to_owned())]
    );

    assert_eq!(picture(&beat(&fixture, join("m1"))), "2: Some([0, 1])");
    let classic = message!(wire::JoinGroupRequest {
        group_id: "app".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        protocol_type: "consumer".into(),
    });
    let joined: wire::JoinGroupResponse = fixture.broker().call(classic.clone()).unwrap();
    assert_eq!(
        joined.error_code,
        ErrorCode::InconsistentGroupProtocol.code()
    );
    fixture.crash();
    assert_eq!(
        listed(&fixture),
        [("streams".to_owned(), "Stable".to_owned())]
    );
    assert_eq!(fixture.committed("app", "in"), 5);

    beat(&fixture, alive("m1", -1));
    let mut classic = classic;
    classic.protocols = vec![message!(
        wire::join_group_request::JoinGroupRequestProtocol {
            name: "range".into(),
        }
    )];
    let joined: wire::JoinGroupResponse = fixture.broker().call(classic).unwrap();
    assert_eq!(joined.error_code, ErrorCode::MemberIdRequired.code());
    fixture.broker().flush_once();
    assert_eq!(listed(&fixture)[0].0, "classic");
    fixture.crash();
    assert_eq!(
        listed(&fixture),
        [("classic".to_owned(), "Empty".to_owned())]
    );
    assert_eq!(fixture.committed("app", "in"), 5);
}

#[test]
fn an_internal_topic_that_cannot_be_created_is_told_with_the_reason() {
    let fixture = fixture();
    let mut three = join("m1");
    three.topology.as_mut().unwrap().subtopologies[0].state_changelog_topics[0]
        .replication_factor = 3;
    let told = beat(&fixture, three);
    assert_eq!(picture(&told), "2: Some([])");
    let status = &told.status.unwrap()[0];
    assert_eq!(status.status_code, 3);
    assert!(status.status_detail.contains("replicate"), "{status:?}");
    assert_eq!(
        listed(&fixture),
        [("streams".to_owned(), "NotReady".to_owned())]
    );
}
