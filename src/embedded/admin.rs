//! Offsets, topics and groups of the broker in this process: the handlers a client would reach over the wire, called with their messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use brooklet_broker::Broker;
use brooklet_broker::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use brooklet_broker::messages::delete_topics_request::DeleteTopicState;
use brooklet_broker::messages::describe_configs_request::DescribeConfigsResource;
use brooklet_broker::messages::metadata_request::MetadataRequestTopic;
use brooklet_broker::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use brooklet_broker::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use brooklet_broker::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    ListGroupsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use brooklet_broker::protocol::{ErrorCode, Request, RequestContext, Response};
use brooklet_streams_core::client::{
    Admin, AdminRequest, AdminResponse, ClientError, ClientErrorKind, CommittedOffset,
    GroupDescription, GroupListing, MemberDescription, MemberIdentity, NewTopic, OffsetSpec,
    RequestId, TopicPartition,
};

use super::Wake;

const TOPIC_RESOURCE: i8 = 2;

type Answered = (RequestId, Result<AdminResponse, ClientError>);

pub(super) struct EmbeddedAdmin {
    broker: Broker,
    next_id: u64,
    answers: Arc<Mutex<Vec<Answered>>>,
    wake: Arc<Wake>,
}

impl EmbeddedAdmin {
    pub(super) fn new(broker: Broker) -> Self {
        Self {
            broker,
            next_id: 0,
            answers: Arc::default(),
            wake: Arc::default(),
        }
    }

    fn answer(&self, id: RequestId, answer: Result<AdminResponse, ClientError>) {
        push(&self.answers, id, answer);
    }

    /// Has the handler answer, on whatever thread, in the caller's words.
    fn ask(
        &self,
        id: RequestId,
        request: impl Into<Request>,
        read: impl FnOnce(Response) -> Result<AdminResponse, ClientError> + Send + 'static,
    ) {
        let (answers, wake) = (Arc::clone(&self.answers), Arc::clone(&self.wake));
        let answer = Box::new(move |response| {
            push(&answers, id, read(response));
            wake.wake();
        });
        self.broker.submit(
            &RequestContext::in_process("embedded"),
            request.into(),
            answer,
        );
    }

    fn offset(&self, at: &TopicPartition, spec: OffsetSpec) -> Result<i64, ClientError> {
        let partition = self
            .broker
            .partition(&at.topic, at.partition)
            .ok_or_else(|| unknown(at))?;
        match spec {
            OffsetSpec::Earliest => Ok(partition.log_start_offset()),
            OffsetSpec::Latest {
                read_committed: false,
            } => Ok(partition.high_watermark()),
            OffsetSpec::Latest {
                read_committed: true,
            } => Ok(partition.last_stable_offset()),
            OffsetSpec::Timestamp(timestamp_ms) => {
                match partition.offset_for_timestamp(timestamp_ms) {
                    Ok(found) => {
                        Ok(found.map_or_else(|| partition.high_watermark(), |found| found.offset))
                    }
                    Err(error) => Err(ClientError::new(
                        ClientErrorKind::Fatal,
                        format!("{at}: {error}"),
                    )),
                }
            }
        }
    }

    fn delete_records(&self, at: &TopicPartition, before: i64) -> Result<i64, ClientError> {
        let partition = self
            .broker
            .partition(&at.topic, at.partition)
            .ok_or_else(|| unknown(at))?;
        partition
            .delete_records_before(before)
            .map_err(|error| ClientError::new(ClientErrorKind::Fatal, format!("{at}: {error}")))
    }
}

impl Admin for EmbeddedAdmin {
    fn submit(&mut self, request: AdminRequest) -> RequestId {
        self.next_id += 1;
        let id = RequestId(self.next_id);
        match request {
            AdminRequest::DescribeTopics(names) => {
                let asked = metadata_request(Some(&names));
                self.ask(id, asked, move |response| topics(response, Some(names)));
            }
            AdminRequest::ListTopics => self.ask(id, metadata_request(None), |response| {
                topics(response, None)
            }),
            AdminRequest::TopicIds(names) => {
                let asked = metadata_request(Some(&names));
                self.ask(id, asked, move |response| topic_ids(response, names));
            }
            AdminRequest::CreateTopics(new) => self.ask(id, create_request(&new), created),
            AdminRequest::DeleteTopics(names) => self.ask(id, delete_request(&names), deleted),
            AdminRequest::DescribeTopicConfigs(topic) => {
                self.ask(id, configs_request(&topic), move |response| {
                    configs(response, &topic)
                })
            }
            AdminRequest::ListOffsets(asked) => {
                let found = asked
                    .into_iter()
                    .map(|(at, spec)| (at.clone(), self.offset(&at, spec)))
                    .collect();
                self.answer(id, Ok(AdminResponse::Offsets(found)));
            }
            AdminRequest::DeleteRecords(asked) => {
                let starts = asked
                    .into_iter()
                    .map(|(at, before)| (at.clone(), self.delete_records(&at, before)))
                    .collect();
                self.answer(id, Ok(AdminResponse::Offsets(starts)));
            }
            AdminRequest::FetchOffsets { group, partitions } => {
                let asked = offset_fetch_request(&group, &partitions);
                self.ask(id, asked, move |response| {
                    committed(response, &group, &partitions)
                });
            }
            AdminRequest::CommitOffsets {
                group,
                member,
                offsets,
            } => {
                let asked = offset_commit_request(&group, &member, &offsets);
                self.ask(id, asked, move |response| committing(response, &group));
            }
            AdminRequest::ListGroups => self.ask(id, ListGroupsRequest::default(), groups),
            AdminRequest::DescribeGroup(group) => {
                let mut asked = DescribeGroupsRequest::default();
                asked.groups = vec![group.as_str().into()];
                self.ask(id, asked, move |response| described(response, &group));
            }
            request => self.answer(
                id,
                Err(ClientError::new(
                    ClientErrorKind::Fatal,
                    format!("the embedded broker does not know the request {request:?}"),
                )),
            ),
        }
        id
    }

    fn poll(&mut self, _now_ms: i64, waker: &Waker, answers: &mut Vec<Answered>) {
        self.wake.arm(waker);
        answers.append(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn push(answers: &Mutex<Vec<Answered>>, id: RequestId, answer: Result<AdminResponse, ClientError>) {
    answers
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push((id, answer));
}

fn unknown(at: &TopicPartition) -> ClientError {
    ClientError::new(
        ClientErrorKind::UnknownTopicOrPartition,
        format!("{at} does not exist"),
    )
}

pub(super) fn unexpected(what: &str) -> ClientError {
    ClientError::new(
        ClientErrorKind::Fatal,
        format!("the embedded broker answered a request for {what} with something else"),
    )
}

/// An error code of the broker, in the words of the client traits.
pub(super) fn check(
    code: i16,
    what: impl std::fmt::Display,
    message: Option<&str>,
) -> Result<(), ClientError> {
    let Some(error) = ErrorCode::from_code(code) else {
        return Err(ClientError::new(
            ClientErrorKind::Fatal,
            format!("{what}: error code {code}"),
        ));
    };
    let kind = match error {
        ErrorCode::None => return Ok(()),
        ErrorCode::UnknownTopicOrPartition => ClientErrorKind::UnknownTopicOrPartition,
        ErrorCode::TopicAlreadyExists => ClientErrorKind::TopicExists,
        ErrorCode::OffsetOutOfRange => ClientErrorKind::OffsetOutOfRange,
        ErrorCode::OffsetMetadataTooLarge | ErrorCode::MessageTooLarge => ClientErrorKind::TooLarge,
        ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::RebalanceInProgress
        | ErrorCode::IllegalGeneration
        | ErrorCode::UnknownMemberId
        | ErrorCode::LeaderNotAvailable
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::ConcurrentTransactions
        | ErrorCode::UnstableOffsetCommit
        | ErrorCode::KafkaStorageError
        | ErrorCode::RequestTimedOut => ClientErrorKind::Retriable,
        ErrorCode::ProducerFenced | ErrorCode::FencedInstanceId => ClientErrorKind::Fenced,
        ErrorCode::TransactionAbortable => ClientErrorKind::Abortable,
        ErrorCode::InvalidProducerEpoch
        | ErrorCode::InvalidProducerIdMapping
        | ErrorCode::InvalidTxnState
        | ErrorCode::OutOfOrderSequenceNumber
        | ErrorCode::UnknownProducerId => ClientErrorKind::ProducerLost,
        ErrorCode::InvalidTopic
        | ErrorCode::InvalidTransactionTimeout
        | ErrorCode::InvalidConfig
        | ErrorCode::InvalidPartitions
        | ErrorCode::InvalidReplicationFactor => ClientErrorKind::Config,
        _ => ClientErrorKind::Fatal,
    };
    Err(ClientError::new(
        kind,
        format!("{what}: {}", message.unwrap_or_else(|| error.message())),
    ))
}

fn metadata_request(topics: Option<&[String]>) -> MetadataRequest {
    let mut request = MetadataRequest::default();
    request.allow_auto_topic_creation = false;
    request.topics = topics.map(|names| {
        let topic = |name: &String| {
            let mut topic = MetadataRequestTopic::default();
            topic.name = Some(name.as_str().into());
            topic
        };
        names.iter().map(topic).collect()
    });
    request
}

fn topics(response: Response, asked: Option<Vec<String>>) -> Result<AdminResponse, ClientError> {
    let Response::Metadata(response) = response else {
        return Err(unexpected("topics"));
    };
    let mut found = BTreeMap::new();
    for topic in response.topics {
        let name = topic.name.as_deref().unwrap_or_default().to_owned();
        let count = match check(topic.error_code, &name, None) {
            Ok(()) => i32::try_from(topic.partitions.len()).ok(),
            Err(error) if matches!(error.kind, ClientErrorKind::UnknownTopicOrPartition) => None,
            Err(error) => return Err(error),
        };
        found.insert(name, count);
    }
    Ok(AdminResponse::Topics(match asked {
        Some(names) => names
            .into_iter()
            .map(|name| {
                let count = found.get(&name).copied().flatten();
                (name, count)
            })
            .collect(),
        None => found.into_iter().collect(),
    }))
}

fn topic_ids(response: Response, asked: Vec<String>) -> Result<AdminResponse, ClientError> {
    let Response::Metadata(response) = response else {
        return Err(unexpected("topics"));
    };
    let id = |name: &String| {
        let mut topics = response.topics.iter();
        let topic = topics.find(|topic| topic.name.as_deref() == Some(name))?;
        let id = topic.topic_id.to_bytes();
        (id != [0; 16]).then_some(id)
    };
    let ids = asked.into_iter().map(|name| {
        let id = id(&name);
        (name, id)
    });
    Ok(AdminResponse::TopicIds(ids.collect()))
}

fn create_request(topics: &[NewTopic]) -> CreateTopicsRequest {
    let mut request = CreateTopicsRequest::default();
    request.topics = topics
        .iter()
        .map(|new| {
            let mut topic = CreatableTopic::default();
            topic.name = new.name.as_str().into();
            topic.num_partitions = new.partitions;
            topic.replication_factor = new.replication_factor;
            topic.configs = new
                .configs
                .iter()
                .map(|(name, value)| {
                    let mut config = CreatableTopicConfig::default();
                    config.name = name.as_str().into();
                    config.value = Some(value.as_str().into());
                    config
                })
                .collect();
            topic
        })
        .collect();
    request
}

fn created(response: Response) -> Result<AdminResponse, ClientError> {
    let Response::CreateTopics(response) = response else {
        return Err(unexpected("a new topic"));
    };
    let results = response.topics.into_iter().map(|topic| {
        let result = check(
            topic.error_code,
            format_args!("creating topic {}", topic.name.as_str()),
            topic.error_message.as_deref(),
        );
        (topic.name.as_str().to_owned(), result)
    });
    Ok(AdminResponse::PerTopic(results.collect()))
}

fn delete_request(names: &[String]) -> DeleteTopicsRequest {
    let mut request = DeleteTopicsRequest::default();
    request.topics = names
        .iter()
        .map(|name| {
            let mut topic = DeleteTopicState::default();
            topic.name = Some(name.as_str().into());
            topic
        })
        .collect();
    request
}

fn deleted(response: Response) -> Result<AdminResponse, ClientError> {
    let Response::DeleteTopics(response) = response else {
        return Err(unexpected("the deletion of a topic"));
    };
    let results = response.responses.into_iter().map(|topic| {
        let name = topic.name.as_deref().unwrap_or_default().to_owned();
        let result = check(
            topic.error_code,
            format_args!("deleting topic {name}"),
            topic.error_message.as_deref(),
        );
        (name, result)
    });
    Ok(AdminResponse::PerTopic(results.collect()))
}

fn configs_request(topic: &str) -> DescribeConfigsRequest {
    let mut resource = DescribeConfigsResource::default();
    resource.resource_type = TOPIC_RESOURCE;
    resource.resource_name = topic.into();
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    request
}

fn configs(response: Response, topic: &str) -> Result<AdminResponse, ClientError> {
    let Response::DescribeConfigs(response) = response else {
        return Err(unexpected("settings"));
    };
    let Some(result) = response.results.into_iter().next() else {
        return Err(unexpected("settings"));
    };
    check(
        result.error_code,
        format_args!("settings of topic {topic}"),
        result.error_message.as_deref(),
    )?;
    let configs = result.configs.into_iter().map(|config| {
        (
            config.name.as_str().to_owned(),
            config.value.as_deref().unwrap_or_default().to_owned(),
        )
    });
    Ok(AdminResponse::Configs(configs.collect()))
}

/// Partitions by topic, as the messages have them.
pub(super) fn by_topic<'a, T>(
    partitions: impl IntoIterator<Item = (&'a TopicPartition, T)>,
) -> BTreeMap<&'a str, Vec<(i32, T)>> {
    let mut topics: BTreeMap<&str, Vec<(i32, T)>> = BTreeMap::new();
    for (at, with) in partitions {
        topics
            .entry(&at.topic)
            .or_default()
            .push((at.partition, with));
    }
    topics
}

fn offset_fetch_request(group: &str, partitions: &[TopicPartition]) -> OffsetFetchRequest {
    let mut wanted = OffsetFetchRequestGroup::default();
    wanted.group_id = group.into();
    wanted.topics = (!partitions.is_empty()).then(|| {
        by_topic(partitions.iter().map(|at| (at, ())))
            .into_iter()
            .map(|(name, partitions)| {
                let mut topic = OffsetFetchRequestTopics::default();
                topic.name = name.into();
                topic.partition_indexes = partitions
                    .into_iter()
                    .map(|(partition, ())| partition)
                    .collect();
                topic
            })
            .collect()
    });
    let mut request = OffsetFetchRequest::default();
    request.require_stable = true;
    request.groups = vec![wanted];
    request
}

fn committed(
    response: Response,
    group: &str,
    asked: &[TopicPartition],
) -> Result<AdminResponse, ClientError> {
    let Response::OffsetFetch(response) = response else {
        return Err(unexpected("committed offsets"));
    };
    let mut found = BTreeMap::new();
    for answer in response.groups {
        check(
            answer.error_code,
            format_args!("committed offsets of group {group}"),
            None,
        )?;
        for topic in answer.topics {
            for partition in topic.partitions {
                let what = format_args!(
                    "committed offset of {}-{} of group {group}",
                    topic.name.as_str(),
                    partition.partition_index
                );
                match check(partition.error_code, what, None) {
                    Ok(()) => {}
                    Err(error) if error.kind == ClientErrorKind::UnknownTopicOrPartition => {}
                    // Among others: a transaction is about to commit another one, which is not the same as none.
                    Err(error) => return Err(error),
                }
                let committed = (partition.committed_offset >= 0).then(|| CommittedOffset {
                    offset: partition.committed_offset,
                    metadata: partition.metadata.as_deref().unwrap_or_default().to_owned(),
                });
                found.insert(
                    TopicPartition::new(topic.name.as_str(), partition.partition_index),
                    committed,
                );
            }
        }
    }
    Ok(AdminResponse::CommittedOffsets(if asked.is_empty() {
        found.into_iter().collect()
    } else {
        asked
            .iter()
            .map(|at| (at.clone(), found.remove(at).flatten()))
            .collect()
    }))
}

fn offset_commit_request(
    group: &str,
    member: &MemberIdentity,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> OffsetCommitRequest {
    let mut request = OffsetCommitRequest::default();
    request.group_id = group.into();
    request.member_id = member.member_id.as_str().into();
    request.generation_id_or_member_epoch = member.generation;
    request.group_instance_id = member.instance_id.as_deref().map(Into::into);
    request.topics = by_topic(offsets.iter().map(|(at, committed)| (at, committed)))
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = OffsetCommitRequestTopic::default();
            topic.name = name.into();
            topic.partitions = partitions
                .into_iter()
                .map(|(index, committed)| {
                    let mut partition = OffsetCommitRequestPartition::default();
                    partition.partition_index = index;
                    partition.committed_offset = committed.offset;
                    partition.committed_metadata = Some(committed.metadata.as_str().into());
                    partition
                })
                .collect();
            topic
        })
        .collect();
    request
}

fn committing(response: Response, group: &str) -> Result<AdminResponse, ClientError> {
    let Response::OffsetCommit(response) = response else {
        return Err(unexpected("a commit of offsets"));
    };
    for topic in &response.topics {
        for partition in &topic.partitions {
            check(
                partition.error_code,
                format_args!(
                    "committing {}-{} of group {group}",
                    topic.name.as_str(),
                    partition.partition_index
                ),
                None,
            )?;
        }
    }
    Ok(AdminResponse::Done)
}

fn groups(response: Response) -> Result<AdminResponse, ClientError> {
    let Response::ListGroups(response) = response else {
        return Err(unexpected("groups"));
    };
    check(response.error_code, "listing the groups", None)?;
    let listing = response.groups.into_iter().map(|group| GroupListing {
        group: group.group_id.as_str().to_owned(),
        protocol_type: group.protocol_type.as_str().to_owned(),
        state: group.group_state.as_str().to_owned(),
    });
    Ok(AdminResponse::Groups(listing.collect()))
}

fn described(response: Response, group: &str) -> Result<AdminResponse, ClientError> {
    let Response::DescribeGroups(response) = response else {
        return Err(unexpected("a group"));
    };
    let Some(answer) = response.groups.into_iter().next() else {
        return Err(unexpected("a group"));
    };
    check(
        answer.error_code,
        format_args!("group {group}"),
        answer.error_message.as_deref(),
    )?;
    let members = answer.members.into_iter().map(|member| MemberDescription {
        member_id: member.member_id.as_str().to_owned(),
        instance_id: member.group_instance_id.map(|id| id.as_str().to_owned()),
        client_id: member.client_id.as_str().to_owned(),
        host: member.client_host.as_str().to_owned(),
        // Only the wire client reads the assignments of other consumers.
        assignment: Vec::new(),
    });
    Ok(AdminResponse::Group(GroupDescription {
        group: group.to_owned(),
        state: answer.group_state.as_str().to_owned(),
        protocol: answer.protocol_data.as_str().to_owned(),
        members: members.collect(),
    }))
}
