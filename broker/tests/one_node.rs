//! What cannot mean much on one node answers as a one-node Kafka does; configs of every kind of resource.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use brooklet_broker::messages::{self as wire};
use brooklet_broker::{Broker, BrokerConfig};

/// Messages are non-exhaustive: built from their defaults.
fn with<T: Default>(fill: impl FnOnce(&mut T)) -> T {
    let mut message = T::default();
    fill(&mut message);
    message
}

struct Fixture {
    dir: tempfile::TempDir,
    broker: Broker,
}

impl Fixture {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(properties: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = BrokerConfig::new(dir.path());
        for (name, value) in properties {
            config = config.property(name, value).unwrap();
        }
        let broker = Broker::open(config).unwrap();
        Self { dir, broker }
    }

    fn restart(self) -> Self {
        let Self { dir, broker } = self;
        broker.shutdown().unwrap();
        drop(broker);
        let broker = Broker::open(BrokerConfig::new(dir.path())).unwrap();
        Self { dir, broker }
    }

    fn create(&self, name: &str, partitions: i32, replication_factor: i16) -> i16 {
        let request = with(|request: &mut wire::CreateTopicsRequest| {
            request.topics = vec![with(
                |topic: &mut wire::create_topics_request::CreatableTopic| {
                    topic.name = name.into();
                    topic.num_partitions = partitions;
                    topic.replication_factor = replication_factor;
                },
            )];
        });
        self.broker.call(request).unwrap().topics[0].error_code
    }

    fn set(&self, kind: i8, resource: &str, name: &str, value: Option<&str>) -> (i16, String) {
        use wire::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let request = with(|request: &mut wire::IncrementalAlterConfigsRequest| {
            request.resources = vec![with(|altered: &mut AlterConfigsResource| {
                altered.resource_type = kind;
                altered.resource_name = resource.into();
                altered.configs = vec![with(|config: &mut AlterableConfig| {
                    config.name = name.into();
                    config.config_operation = if value.is_some() { 0 } else { 1 };
                    config.value = value.map(Into::into);
                })];
            })];
        });
        let response = self.broker.call(request).unwrap();
        let answer = &response.responses[0];
        let reason = answer.error_message.as_ref().map(|text| text.to_string());
        (answer.error_code, reason.unwrap_or_default())
    }

    /// Value and source.
    fn shown(&self, kind: i8, resource: &str, name: &str) -> Option<(String, i8)> {
        use wire::describe_configs_request::DescribeConfigsResource;
        let request = with(|request: &mut wire::DescribeConfigsRequest| {
            request.resources = vec![with(|described: &mut DescribeConfigsResource| {
                described.resource_type = kind;
                described.resource_name = resource.into();
                described.configuration_keys = None;
            })];
        });
        let response = self.broker.call(request).unwrap();
        assert_eq!(response.results[0].error_code, 0, "{response:?}");
        let mut names: Vec<_> = response.results[0]
            .configs
            .iter()
            .map(|config| config.name.as_str())
            .collect();
        names.sort_unstable();
        assert!(
            names.windows(2).all(|pair| pair[0] != pair[1]),
            "told twice: {names:?}"
        );
        response.results[0]
            .configs
            .iter()
            .find(|config| config.name.as_str() == name)
            .map(|config| {
                (
                    config.value.as_ref().unwrap().to_string(),
                    config.config_source,
                )
            })
    }
}

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGER: i8 = 8;
const GROUP: i8 = 32;

#[test]
fn group_configs_are_kept_over_a_restart_and_removed() {
    let fixture = Fixture::new();
    let name = "consumer.session.timeout.ms";
    assert_eq!(fixture.shown(GROUP, "g", name), Some(("45000".into(), 5)));
    assert_eq!(fixture.set(GROUP, "g", name, Some("50000")).0, 0);
    let (code, reason) = fixture.set(GROUP, "g", name, Some("1000"));
    assert_eq!(code, 40);
    assert!(reason.contains(name), "{reason}");
    assert_eq!(fixture.set(GROUP, "g", "session.timeout", Some("1")).0, 40);
    assert_eq!(fixture.set(GROUP, "", name, Some("50000")).0, 42);
    let fixture = fixture.restart();
    assert_eq!(fixture.shown(GROUP, "g", name), Some(("50000".into(), 8)));
    let list = |fixture: &Fixture| {
        let request = with(|request: &mut wire::ListConfigResourcesRequest| {
            request.resource_types = vec![GROUP];
        });
        let response = fixture.broker.call(request).unwrap();
        let names = response.config_resources.iter();
        names
            .map(|resource| resource.resource_name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&fixture), ["g"]);
    assert_eq!(fixture.set(GROUP, "g", name, None).0, 0);
    assert_eq!(fixture.shown(GROUP, "g", name), Some(("45000".into(), 5)));
    assert!(list(&fixture).is_empty());
}

#[test]
fn a_brokers_default_changes_its_topics_and_this_broker_wins_over_all() {
    let fixture = Fixture::new();
    fixture.create("orders", 1, 1);
    let (server, name) = ("log.retention.ms", "retention.ms");
    assert_eq!(fixture.set(BROKER, "", server, Some("1000")).0, 0);
    assert_eq!(
        fixture.shown(TOPIC, "orders", name),
        Some(("1000".into(), 3))
    );
    assert_eq!(fixture.shown(BROKER, "", server), Some(("1000".into(), 3)));
    assert_eq!(fixture.set(BROKER, "1", server, Some("2000")).0, 0);
    assert_eq!(
        fixture.shown(TOPIC, "orders", name),
        Some(("2000".into(), 2))
    );
    assert_eq!(fixture.set(TOPIC, "orders", name, Some("3000")).0, 0);
    assert_eq!(
        fixture.shown(TOPIC, "orders", name),
        Some(("3000".into(), 1))
    );
    let fixture = fixture.restart();
    assert_eq!(fixture.shown(BROKER, "1", server), Some(("2000".into(), 2)));
    // Another broker, and what cannot change while it runs.
    assert_eq!(fixture.set(BROKER, "7", server, Some("1")).0, 42);
    assert_ne!(fixture.set(BROKER, "1", "node.id", Some("2")).0, 0);
}

#[test]
fn the_brokers_logger_is_shown_and_not_changed() {
    let fixture = Fixture::new();
    assert!(fixture.shown(LOGGER, "1", "root").is_some());
    assert_eq!(fixture.set(LOGGER, "1", "root", Some("DEBUG")).0, 42);
}

#[test]
fn more_replicas_than_brokers_are_refused_unless_clamped() {
    assert_eq!(Fixture::new().create("orders", 1, 3), 38);
    let clamped = Fixture::with(&[("brooklet.replication.factor.clamp", "true")]);
    assert_eq!(clamped.create("orders", 1, 3), 0);
}

#[test]
fn partitions_of_all_topics_are_bounded() {
    let fixture = Fixture::with(&[("brooklet.partitions.max", "5")]);
    assert_eq!(fixture.create("a", 3, 1), 0);
    assert_eq!(fixture.create("b", 3, 1), 44);
    let more = |count| {
        let request = with(|request: &mut wire::CreatePartitionsRequest| {
            request.topics = vec![with(
                |topic: &mut wire::create_partitions_request::CreatePartitionsTopic| {
                    topic.name = "a".into();
                    topic.count = count;
                    topic.assignments = None;
                },
            )];
        });
        let response = fixture.broker.call(request).unwrap();
        let result = &response.results[0];
        (result.error_code, result.error_message.clone())
    };
    let (code, reason) = more(6);
    assert_eq!(code, 44);
    assert!(reason.unwrap().contains("brooklet.partitions.max"));
    assert_eq!(more(5).0, 0);
}

#[test]
fn log_dirs_are_one_directory_with_its_partitions() {
    let fixture = Fixture::new();
    fixture.create("orders", 2, 1);
    let here = fixture.dir.path().display().to_string();
    let described = fixture
        .broker
        .call(with(|request: &mut wire::DescribeLogDirsRequest| {
            request.topics = None;
        }))
        .unwrap();
    let dir = &described.results[0];
    assert_eq!(dir.log_dir.to_string(), here);
    assert_eq!(dir.topics[0].partitions.len(), 2);
    assert!(dir.total_bytes > 0 && dir.usable_bytes <= dir.total_bytes);
    let alter = |path: &str, partition: i32| {
        use wire::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
        let request = with(|request: &mut wire::AlterReplicaLogDirsRequest| {
            request.dirs = vec![with(|dir: &mut AlterReplicaLogDir| {
                dir.path = path.into();
                dir.topics = vec![with(|topic: &mut AlterReplicaLogDirTopic| {
                    topic.name = "orders".into();
                    topic.partitions = vec![partition];
                })];
            })];
        });
        fixture.broker.call(request).unwrap().results[0].partitions[0].error_code
    };
    assert_eq!(alter(&here, 1), 0);
    assert_eq!(alter(&here, 2), 9);
    assert_eq!(alter("/elsewhere", 1), 57);
}

#[test]
fn nothing_is_elected_reassigned_or_unregistered() {
    let fixture = Fixture::new();
    fixture.create("orders", 1, 1);
    let elect = |partition: i32| {
        use wire::elect_leaders_request::TopicPartitions;
        let request = with(|request: &mut wire::ElectLeadersRequest| {
            request.topic_partitions = Some(vec![with(|topic: &mut TopicPartitions| {
                topic.topic = "orders".into();
                topic.partitions = vec![partition];
            })]);
        });
        fixture
            .broker
            .call(request)
            .unwrap()
            .replica_election_results[0]
            .partition_result[0]
            .error_code
    };
    assert_eq!((elect(0), elect(1)), (84, 3));
    let all = with(|request: &mut wire::ElectLeadersRequest| request.topic_partitions = None);
    let all = fixture.broker.call(all).unwrap();
    assert_eq!((all.error_code, all.replica_election_results.len()), (0, 0));

    let reassign = |replicas: Option<Vec<i32>>| {
        use wire::alter_partition_reassignments_request::{
            ReassignablePartition, ReassignableTopic,
        };
        let request = with(|request: &mut wire::AlterPartitionReassignmentsRequest| {
            request.topics = vec![with(|topic: &mut ReassignableTopic| {
                topic.name = "orders".into();
                topic.partitions = vec![with(|partition: &mut ReassignablePartition| {
                    partition.replicas = replicas;
                })];
            })];
        });
        fixture.broker.call(request).unwrap().responses[0].partitions[0].error_code
    };
    assert_eq!(reassign(Some(vec![1])), 0);
    assert_eq!(reassign(Some(vec![2])), 39);
    assert_eq!(reassign(Some(vec![1, 1])), 39);
    assert_eq!(reassign(Some(Vec::new())), 39);
    assert_eq!(reassign(None), 85);

    let unregister = |id: i32| {
        let request = with(|request: &mut wire::UnregisterBrokerRequest| request.broker_id = id);
        fixture.broker.call(request).unwrap().error_code
    };
    assert_eq!((unregister(1), unregister(2)), (42, 102));
}

#[test]
fn the_quorum_is_this_node() {
    let fixture = Fixture::new();
    let ask = |topic: &str, partition: i32| {
        use wire::describe_quorum_request::{PartitionData, TopicData};
        let request = with(|request: &mut wire::DescribeQuorumRequest| {
            request.topics = vec![with(|data: &mut TopicData| {
                data.topic_name = topic.into();
                data.partitions = vec![with(|data: &mut PartitionData| {
                    data.partition_index = partition;
                })];
            })];
        });
        fixture.broker.call(request).unwrap()
    };
    let quorum = ask("__cluster_metadata", 0);
    let partition = &quorum.topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.leader_id), (0, 1));
    assert_eq!(partition.current_voters.len(), 1);
    assert_eq!(
        partition.current_voters[0].log_end_offset,
        partition.high_watermark
    );
    assert_eq!(quorum.nodes[0].node_id, 1);
    assert_eq!(ask("orders", 0).topics[0].partitions[0].error_code, 3);
}

#[test]
fn features_are_told_and_fixed() {
    let fixture = Fixture::new();
    let versions = fixture
        .broker
        .call(wire::ApiVersionsRequest::default())
        .unwrap();
    let level = |name: &str| {
        let mut finalized = versions.finalized_features.iter();
        finalized
            .find(|feature| feature.name.as_str() == name)
            .map(|feature| feature.max_version_level)
    };
    assert_eq!(level("transaction.version"), Some(2));
    assert_eq!(level("group.version"), Some(1));
    assert_eq!(level("streams.version"), Some(1));
    assert_eq!(level("metadata.version"), Some(30));
    let update = |name: &str, wanted: i16| {
        let request = with(|request: &mut wire::UpdateFeaturesRequest| {
            request.feature_updates = vec![with(
                |update: &mut wire::update_features_request::FeatureUpdateKey| {
                    update.feature = name.into();
                    update.max_version_level = wanted;
                },
            )];
        });
        fixture.broker.call(request).unwrap().error_code
    };
    assert_eq!(update("transaction.version", 2), 0);
    assert_eq!(update("transaction.version", 1), 95);
    assert_eq!(update("share.version", 1), 95);
}

#[test]
fn a_fetch_session_is_told_everything_once_and_then_what_is_new() {
    use brooklet_broker::protocol::record_batch::Builder;
    use wire::fetch_request::{FetchPartition, FetchTopic};
    let fixture = Fixture::new();
    fixture.create("orders", 3, 1);
    let fetch = |id: i32, epoch: i32, offsets: &[(i32, i64)]| {
        let request = with(|request: &mut wire::FetchRequest| {
            request.session_id = id;
            request.session_epoch = epoch;
            request.max_bytes = i32::MAX;
            if !offsets.is_empty() {
                request.topics = vec![with(|topic: &mut FetchTopic| {
                    topic.topic = "orders".into();
                    topic.partitions = offsets
                        .iter()
                        .map(|(index, offset)| {
                            with(|partition: &mut FetchPartition| {
                                partition.partition = *index;
                                partition.fetch_offset = *offset;
                                partition.partition_max_bytes = i32::MAX;
                            })
                        })
                        .collect();
                })];
            }
        });
        let response = fixture.broker.call(request).unwrap();
        let partitions = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partitions);
        let told: Vec<_> = partitions.map(|data| data.partition_index).collect();
        (response.error_code, response.session_id, told)
    };
    let (code, id, told) = fetch(0, 0, &[(0, 0), (1, 0), (2, 0)]);
    assert_eq!((code, told), (0, vec![0, 1, 2]));
    assert_ne!(id, 0);
    assert_eq!(fetch(id, 1, &[]), (0, id, Vec::new()));
    let mut batch = Builder::new();
    batch.append(1_700_000_000_000, None, Some(b"v"), &[]);
    let partition = fixture.broker.partition("orders", 1).unwrap();
    partition.append(batch.build(), 1_700_000_000_000).unwrap();
    // Acknowledged with the next round of syncs, which may be on its way already.
    while partition.high_watermark() == 0 {
        fixture.broker.flush_once();
        std::thread::yield_now();
    }
    assert_eq!(fetch(id, 2, &[]), (0, id, vec![1]));
    // The client goes on behind it, and nothing is new.
    assert_eq!(fetch(id, 3, &[(1, 1)]), (0, id, Vec::new()));
    assert_eq!(fetch(id, 9, &[]).0, 71);
    assert_eq!(fetch(id + 1, 1, &[]).0, 70);
    // The end of the session: a whole answer without one.
    assert_eq!(fetch(id, -1, &[(0, 0)]), (0, 0, vec![0]));
    assert_eq!(fetch(id, 4, &[]).0, 70);
}
