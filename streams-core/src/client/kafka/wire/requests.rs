//! Each [`AdminRequest`] as calls to the right brokers.
//!
//! An attempt either answers or fails. Failures that pass by themselves (a coordinator that loads, a leader that moves, a lost
//! connection) are tried again here, until the deadline; so are partitions within an answer that failed that way. What is tried again
//! is harmless twice: a topic that an unanswered attempt has created shows as [`ClientErrorKind::TopicExists`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_wire::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_wire::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_wire::delete_topics_request::DeleteTopicState;
use kafka_wire::describe_configs_request::DescribeConfigsResource;
use kafka_wire::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_wire::metadata_response::MetadataResponseTopic;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_wire::{
    ConsumerGroupDescribeRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, ListGroupsRequest, ListOffsetsRequest,
    OffsetCommitRequest, OffsetFetchRequest, RequestResponsePair,
};
use kafka_wire_core::{DecodeLimits, StrBytes};
use tokio::time::Instant;

use super::brokers::Brokers;
use super::connection::Connection;
use super::error_code;
use crate::client::{
    AdminRequest, AdminResponse, ClientError, ClientErrorKind, CommittedOffset, GroupDescription,
    GroupListing, MemberDescription, MemberIdentity, NewTopic, OffsetSpec, TopicPartition,
};

const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(50);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A topic created a moment ago may not be known to every broker. For so long an unknown one is looked for again, where the caller has
/// a right to expect it.
const UNKNOWN_TOPIC_PATIENCE: Duration = Duration::from_secs(5);

/// How long the cluster itself may take to create or delete.
const OPERATION_TIMEOUT_MS: i32 = 30_000;

const TOPIC_RESOURCE: i8 = 2;
/// Later versions name topics by id only.
const OFFSET_COMMIT_VERSION_MAX: i16 = 9;
const OFFSET_FETCH_VERSION_MAX: i16 = 9;

const EARLIEST_TIMESTAMP: i64 = -2;
const LATEST_TIMESTAMP: i64 = -1;
const CONSUMER: i32 = -1;

/// Performs `request`; tries again until it is answered, fails for good, or `patience` is over.
pub(super) async fn execute(
    brokers: &Brokers,
    request: AdminRequest,
    patience: Duration,
) -> Result<AdminResponse, ClientError> {
    let start = Instant::now();
    let mut backoff = RETRY_BACKOFF_MIN;
    loop {
        let left = patience.saturating_sub(start.elapsed());
        let Ok(outcome) = tokio::time::timeout(left, attempt(brokers, &request)).await else {
            return Err(ClientError::new(
                ClientErrorKind::Retriable,
                format_args!(
                    "cluster {}: {} not answered within {patience:?}",
                    brokers.bootstrap(),
                    name(&request)
                ),
            ));
        };
        let again = match &outcome {
            Ok(response) => deserves_retry(response, start.elapsed()),
            // A member whose generation has passed must ask its claim first: the same commit cannot succeed.
            Err(failure) => failure.again,
        };
        if !again || start.elapsed() + backoff >= patience {
            return outcome.map_err(|failure| failure.error);
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
    }
}

/// Whom a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Any broker.
    Any,
    /// The broker of this id.
    Node(i32),
    /// The leader of a partition.
    Leader(TopicPartition),
    /// The coordinator of a group.
    GroupCoordinator(String),
    /// The coordinator of a transactional id.
    TransactionCoordinator(String),
}

/// One request to its recipient, tried again while the reason of its failure passes.
pub(super) async fn ask<R: RequestResponsePair>(
    brokers: &Brokers,
    to: &Recipient,
    patience: Duration,
    build: &impl Fn(i16) -> R,
    code: &impl Fn(&R::Response) -> i16,
) -> Result<R::Response, ClientError> {
    let start = Instant::now();
    let mut backoff = RETRY_BACKOFF_MIN;
    loop {
        let once = async {
            let connection = recipient(brokers, to).await?;
            let version = connection.version::<R>(i16::MAX)?;
            let request = build(version.value());
            connection
                .call(&request, version, brokers.request_patience())
                .await
        };
        let left = patience.saturating_sub(start.elapsed());
        let answer = tokio::time::timeout(left, once).await.map_err(|_| {
            ClientError::new(
                ClientErrorKind::Retriable,
                format_args!(
                    "cluster {}: no answer within {patience:?}",
                    brokers.bootstrap()
                ),
            )
        })?;
        let again = match &answer {
            Ok(response) => error_code::is_transient(code(response)),
            Err(error) => error.kind == ClientErrorKind::Retriable,
        };
        if let Recipient::GroupCoordinator(group) = to
            && again
        {
            brokers.forget_coordinator(group);
        }
        if !again || start.elapsed() + backoff >= patience {
            return answer;
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(RETRY_BACKOFF_MAX);
    }
}

async fn recipient(brokers: &Brokers, to: &Recipient) -> Result<Arc<Connection>, ClientError> {
    match to {
        Recipient::Any => brokers.any().await,
        Recipient::Node(id) => {
            brokers.metadata(Some(&[])).await?;
            brokers.node(*id).await
        }
        Recipient::GroupCoordinator(group) => brokers.coordinator(group).await,
        Recipient::TransactionCoordinator(id) => brokers.transaction_coordinator(id).await,
        Recipient::Leader(partition) => {
            let metadata = brokers
                .metadata(Some(&[partition.topic.to_string()]))
                .await?;
            let topic = metadata.topics.first();
            let code = topic.map_or(error_code::UNKNOWN_TOPIC_OR_PARTITION, |topic| {
                topic.error_code
            });
            error_code::check(code, format_args!("topic {}", partition.topic), None)?;
            let leader = topic
                .into_iter()
                .flat_map(|topic| &topic.partitions)
                .find(|found| found.partition_index == partition.partition)
                .map(|found| found.leader_id)
                .ok_or_else(|| {
                    ClientError::new(
                        ClientErrorKind::UnknownTopicOrPartition,
                        format_args!("there is no partition {partition}"),
                    )
                })?;
            brokers.node(leader).await
        }
    }
}

/// An error, and whether the same request may succeed a moment later.
pub(super) struct Failure {
    pub(super) error: ClientError,
    again: bool,
}

impl From<ClientError> for Failure {
    /// Of a call that was not answered, and of codes of the whole answer.
    fn from(error: ClientError) -> Self {
        let again = error.kind == ClientErrorKind::Retriable;
        Self { error, again }
    }
}

impl Failure {
    fn of_code(code: i16, what: impl std::fmt::Display, message: Option<&str>) -> Self {
        Self {
            error: error_code::error(code, what, message),
            again: error_code::is_transient(code),
        }
    }
}

/// Whether an answer has partitions or topics that failed for a reason that passes.
fn deserves_retry(response: &AdminResponse, elapsed: Duration) -> bool {
    let passes = |error: &ClientError| match error.kind {
        ClientErrorKind::Retriable => true,
        ClientErrorKind::UnknownTopicOrPartition => elapsed < UNKNOWN_TOPIC_PATIENCE,
        _ => false,
    };
    match response {
        AdminResponse::Offsets(offsets) => offsets
            .iter()
            .any(|(_, result)| result.as_ref().err().is_some_and(passes)),
        AdminResponse::PerTopic(topics) => topics.iter().any(|(_, result)| {
            result
                .as_ref()
                .err()
                .is_some_and(|error| error.kind == ClientErrorKind::Retriable)
        }),
        _ => false,
    }
}

fn name(request: &AdminRequest) -> &'static str {
    match request {
        AdminRequest::DescribeTopics(_) => "describing topics",
        AdminRequest::ListTopics => "listing topics",
        AdminRequest::TopicIds(_) => "asking for topics' ids",
        AdminRequest::CreateTopics(_) => "creating topics",
        AdminRequest::DeleteTopics(_) => "deleting topics",
        AdminRequest::DescribeTopicConfigs(_) => "describing a topic's configs",
        AdminRequest::ListOffsets(_) => "listing offsets",
        AdminRequest::DeleteRecords(_) => "deleting records",
        AdminRequest::FetchOffsets { .. } => "fetching committed offsets",
        AdminRequest::CommitOffsets { .. } => "committing offsets",
        AdminRequest::ListGroups => "listing groups",
        AdminRequest::DescribeGroup(_) => "describing a group",
    }
}

async fn attempt(brokers: &Brokers, request: &AdminRequest) -> Result<AdminResponse, Failure> {
    match request {
        AdminRequest::DescribeTopics(topics) => describe_topics(brokers, topics).await,
        AdminRequest::ListTopics => list_topics(brokers).await,
        AdminRequest::TopicIds(topics) => topic_ids(brokers, topics).await,
        AdminRequest::CreateTopics(topics) => create_topics(brokers, topics).await,
        AdminRequest::DeleteTopics(topics) => delete_topics(brokers, topics).await,
        AdminRequest::DescribeTopicConfigs(topic) => describe_topic_configs(brokers, topic).await,
        AdminRequest::ListOffsets(partitions) => list_offsets(brokers, partitions).await,
        AdminRequest::DeleteRecords(partitions) => delete_records(brokers, partitions).await,
        AdminRequest::FetchOffsets { group, partitions } => {
            fetch_offsets(brokers, group, partitions).await
        }
        AdminRequest::CommitOffsets {
            group,
            member,
            offsets,
        } => commit_offsets(brokers, group, member, offsets).await,
        AdminRequest::ListGroups => list_groups(brokers).await,
        AdminRequest::DescribeGroup(group) => describe_group(brokers, group)
            .await
            .map(AdminResponse::Group),
    }
}

/// The partition count of a topic in metadata; `None` when it does not exist.
pub(super) fn partition_count(topic: &MetadataResponseTopic) -> Result<Option<i32>, ClientError> {
    let name = topic.name.as_deref().unwrap_or_default();
    match topic.error_code {
        error_code::UNKNOWN_TOPIC_OR_PARTITION => Ok(None),
        // Some partition, or all of a topic being created, has no leader yet.
        error_code::NONE | error_code::LEADER_NOT_AVAILABLE => {
            Ok(i32::try_from(topic.partitions.len())
                .ok()
                .filter(|count| *count > 0))
        }
        code => Err(error_code::error(code, format_args!("topic {name}"), None)),
    }
}

async fn describe_topics(brokers: &Brokers, topics: &[String]) -> Result<AdminResponse, Failure> {
    if topics.is_empty() {
        return Ok(AdminResponse::Topics(Vec::new()));
    }
    let metadata = brokers.metadata(Some(topics)).await?;
    let mut described = Vec::with_capacity(topics.len());
    for name in topics {
        let count = match metadata
            .topics
            .iter()
            .find(|topic| topic.name.as_deref() == Some(name))
        {
            Some(topic) => partition_count(topic)?,
            None => None,
        };
        described.push((name.clone(), count));
    }
    Ok(AdminResponse::Topics(described))
}

async fn topic_ids(brokers: &Brokers, topics: &[String]) -> Result<AdminResponse, Failure> {
    if topics.is_empty() {
        return Ok(AdminResponse::TopicIds(Vec::new()));
    }
    let metadata = brokers.metadata(Some(topics)).await?;
    let id = |name: &String| {
        let found = |topic: &&MetadataResponseTopic| topic.name.as_deref() == Some(name);
        let id = metadata.topics.iter().find(found)?.topic_id.to_bytes();
        // Versions before 10 have none.
        (id != [0; 16]).then_some(id)
    };
    let ids = topics.iter().map(|name| (name.clone(), id(name)));
    Ok(AdminResponse::TopicIds(ids.collect()))
}

async fn list_topics(brokers: &Brokers) -> Result<AdminResponse, Failure> {
    let metadata = brokers.metadata(None).await?;
    let mut topics = Vec::with_capacity(metadata.topics.len());
    for topic in &metadata.topics {
        let Some(name) = &topic.name else { continue };
        topics.push((name.as_str().to_owned(), partition_count(topic)?));
    }
    topics.sort();
    Ok(AdminResponse::Topics(topics))
}

async fn create_topics(brokers: &Brokers, topics: &[NewTopic]) -> Result<AdminResponse, Failure> {
    // The controller does it. In KRaft every broker forwards to it and names itself or another here; any will do.
    let controller = brokers.metadata(Some(&[])).await?.controller_id;
    let connection = controller_or_any(brokers, controller).await?;
    let version = connection.version::<CreateTopicsRequest>(i16::MAX)?;
    let mut request = CreateTopicsRequest::default();
    request.timeout_ms = OPERATION_TIMEOUT_MS;
    request.topics = topics
        .iter()
        .map(|topic| {
            let mut creatable = CreatableTopic::default();
            creatable.name = StrBytes::from(topic.name.as_str());
            creatable.num_partitions = topic.partitions;
            creatable.replication_factor = topic.replication_factor;
            creatable.configs = topic
                .configs
                .iter()
                .map(|(name, value)| {
                    let mut config = CreatableTopicConfig::default();
                    config.name = StrBytes::from(name.as_str());
                    config.value = Some(StrBytes::from(value.as_str()));
                    config
                })
                .collect();
            creatable
        })
        .collect();
    let patience = brokers.request_patience()
        + Duration::from_millis(OPERATION_TIMEOUT_MS.unsigned_abs().into());
    let response = connection.call(&request, version, patience).await?;
    let results = response
        .topics
        .iter()
        .map(|topic| {
            let name = topic.name.as_str().to_owned();
            let result = error_code::check(
                topic.error_code,
                format_args!("creating topic {name}"),
                topic.error_message.as_deref(),
            );
            (name, result)
        })
        .collect();
    Ok(AdminResponse::PerTopic(results))
}

async fn delete_topics(brokers: &Brokers, topics: &[String]) -> Result<AdminResponse, Failure> {
    let controller = brokers.metadata(Some(&[])).await?.controller_id;
    let connection = controller_or_any(brokers, controller).await?;
    let version = connection.version::<DeleteTopicsRequest>(i16::MAX)?;
    let mut request = DeleteTopicsRequest::default();
    request.timeout_ms = OPERATION_TIMEOUT_MS;
    if version.value() >= 6 {
        request.topics = topics
            .iter()
            .map(|name| {
                let mut topic = DeleteTopicState::default();
                topic.name = Some(StrBytes::from(name.as_str()));
                topic
            })
            .collect();
    } else {
        request.topic_names = topics
            .iter()
            .map(|name| StrBytes::from(name.as_str()))
            .collect();
    }
    let patience = brokers.request_patience()
        + Duration::from_millis(OPERATION_TIMEOUT_MS.unsigned_abs().into());
    let response = connection.call(&request, version, patience).await?;
    let results = response
        .responses
        .iter()
        .map(|topic| {
            let name = topic.name.as_deref().unwrap_or_default().to_owned();
            let result = error_code::check(
                topic.error_code,
                format_args!("deleting topic {name}"),
                topic.error_message.as_deref(),
            );
            (name, result)
        })
        .collect();
    Ok(AdminResponse::PerTopic(results))
}

async fn controller_or_any(
    brokers: &Brokers,
    controller: i32,
) -> Result<Arc<Connection>, ClientError> {
    match brokers.node(controller).await {
        Ok(connection) => Ok(connection),
        Err(_) => brokers.any().await,
    }
}

async fn describe_topic_configs(brokers: &Brokers, topic: &str) -> Result<AdminResponse, Failure> {
    let connection = brokers.any().await?;
    let version = connection.version::<DescribeConfigsRequest>(i16::MAX)?;
    let mut resource = DescribeConfigsResource::default();
    resource.resource_type = TOPIC_RESOURCE;
    resource.resource_name = StrBytes::from(topic);
    resource.configuration_keys = None;
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    let response = connection
        .call(&request, version, brokers.request_patience())
        .await?;
    let what = format_args!("configs of topic {topic}").to_string();
    let result = response.results.into_iter().next().ok_or_else(|| {
        ClientError::new(
            ClientErrorKind::Fatal,
            format_args!("{what}: the answer is empty"),
        )
    })?;
    if result.error_code != error_code::NONE {
        return Err(Failure::of_code(
            result.error_code,
            what,
            result.error_message.as_deref(),
        ));
    }
    let configs = result.configs.iter().map(|config| {
        (
            config.name.as_str().to_owned(),
            config.value.as_deref().unwrap_or_default().to_owned(),
        )
    });
    Ok(AdminResponse::Configs(configs.collect()))
}

/// `partitions` by the id of their leader, with the places they have in the question; and the results of those without one.
async fn by_leader<T>(
    brokers: &Brokers,
    partitions: &[(TopicPartition, T)],
    results: &mut [Option<Result<i64, ClientError>>],
) -> Result<BTreeMap<i32, Vec<usize>>, ClientError> {
    let mut topics: Vec<String> = partitions
        .iter()
        .map(|(partition, _)| partition.topic.to_string())
        .collect();
    topics.sort();
    topics.dedup();
    let metadata = brokers.metadata(Some(&topics)).await?;
    let mut leaders: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    for (index, ((wanted, _), result)) in partitions.iter().zip(results).enumerate() {
        let topic = metadata
            .topics
            .iter()
            .find(|topic| topic.name.as_deref() == Some(&*wanted.topic));
        let unknown = || error_code::error(error_code::UNKNOWN_TOPIC_OR_PARTITION, wanted, None);
        match topic {
            None => *result = Some(Err(unknown())),
            Some(topic)
                if !matches!(
                    topic.error_code,
                    error_code::NONE | error_code::LEADER_NOT_AVAILABLE
                ) =>
            {
                *result = Some(Err(error_code::error(topic.error_code, wanted, None)));
            }
            Some(topic) => match topic
                .partitions
                .iter()
                .find(|partition| partition.partition_index == wanted.partition)
            {
                None => *result = Some(Err(unknown())),
                Some(partition) if partition.leader_id < 0 => {
                    *result = Some(Err(error_code::error(
                        error_code::LEADER_NOT_AVAILABLE,
                        wanted,
                        None,
                    )));
                }
                Some(partition) => leaders.entry(partition.leader_id).or_default().push(index),
            },
        }
    }
    Ok(leaders)
}

/// Groups the partitions at `indexes` by topic.
fn by_topic<'a, T>(
    partitions: &'a [(TopicPartition, T)],
    indexes: &'a [usize],
) -> BTreeMap<&'a str, Vec<&'a (TopicPartition, T)>> {
    let mut topics: BTreeMap<&str, Vec<&(TopicPartition, T)>> = BTreeMap::new();
    for entry in indexes.iter().filter_map(|index| partitions.get(*index)) {
        topics.entry(&entry.0.topic).or_default().push(entry);
    }
    topics
}

/// Puts the answer for one partition at the place it has in the question.
fn place<T>(
    partitions: &[(TopicPartition, T)],
    indexes: &[usize],
    results: &mut [Option<Result<i64, ClientError>>],
    topic: &str,
    partition: i32,
    answer: Result<i64, ClientError>,
) {
    let asked = |index: &&usize| {
        partitions
            .get(**index)
            .is_some_and(|(wanted, _)| &*wanted.topic == topic && wanted.partition == partition)
    };
    if let Some(result) = indexes
        .iter()
        .find(asked)
        .and_then(|index| results.get_mut(*index))
    {
        *result = Some(answer);
    }
}

/// The results in order of the question. A partition that the broker left out was not answered.
fn in_order<T>(
    partitions: &[(TopicPartition, T)],
    results: Vec<Option<Result<i64, ClientError>>>,
) -> AdminResponse {
    let answer = |((partition, _), result): (&(TopicPartition, T), Option<_>)| {
        let missing = || {
            Err(ClientError::new(
                ClientErrorKind::Retriable,
                format_args!("{partition} is not in the broker's answer"),
            ))
        };
        (partition.clone(), result.unwrap_or_else(missing))
    };
    AdminResponse::Offsets(partitions.iter().zip(results).map(answer).collect())
}

async fn list_offsets(
    brokers: &Brokers,
    partitions: &[(TopicPartition, OffsetSpec)],
) -> Result<AdminResponse, Failure> {
    let mut results: Vec<Option<Result<i64, ClientError>>> = vec![None; partitions.len()];
    for (leader, indexes) in by_leader(brokers, partitions, &mut results).await? {
        // The isolation level is the request's, and a partition may be asked about only once in it.
        let mut rounds: Vec<(bool, Vec<usize>)> = Vec::new();
        for index in indexes {
            let Some((partition, spec)) = partitions.get(index) else {
                continue;
            };
            let read_committed = matches!(
                spec,
                OffsetSpec::Latest {
                    read_committed: true
                }
            );
            let fits = |(stable, asked): &&mut (bool, Vec<usize>)| {
                let known = |other: &usize| {
                    partitions
                        .get(*other)
                        .is_some_and(|(other, _)| other == partition)
                };
                *stable == read_committed && !asked.iter().any(known)
            };
            match rounds.iter_mut().find(fits) {
                Some((_, asked)) => asked.push(index),
                None => rounds.push((read_committed, vec![index])),
            }
        }
        for (read_committed, indexes) in rounds {
            if let Err(error) = list_offsets_of(
                brokers,
                leader,
                read_committed,
                partitions,
                &indexes,
                &mut results,
            )
            .await
            {
                for index in indexes {
                    if let Some(result) = results.get_mut(index) {
                        *result = Some(Err(error.clone()));
                    }
                }
            }
        }
    }
    // Versions from 1 on answer -1 for a time after the last record: the end is meant.
    let past_the_end: Vec<(TopicPartition, OffsetSpec)> = partitions
        .iter()
        .zip(&results)
        .filter(|((_, spec), result)| {
            matches!(spec, OffsetSpec::Timestamp(_)) && matches!(result, Some(Ok(-1)))
        })
        .map(|((partition, _), _)| {
            (
                partition.clone(),
                OffsetSpec::Latest {
                    read_committed: false,
                },
            )
        })
        .collect();
    if !past_the_end.is_empty()
        && let AdminResponse::Offsets(ends) = Box::pin(list_offsets(brokers, &past_the_end)).await?
    {
        for (end, answer) in ends {
            for ((partition, spec), result) in partitions.iter().zip(&mut results) {
                if *partition == end
                    && matches!(spec, OffsetSpec::Timestamp(_))
                    && matches!(result, Some(Ok(-1)))
                {
                    *result = Some(answer.clone());
                }
            }
        }
    }
    Ok(in_order(partitions, results))
}

async fn list_offsets_of(
    brokers: &Brokers,
    leader: i32,
    read_committed: bool,
    partitions: &[(TopicPartition, OffsetSpec)],
    indexes: &[usize],
    results: &mut [Option<Result<i64, ClientError>>],
) -> Result<(), ClientError> {
    let connection = brokers.node(leader).await?;
    let version = connection.version::<ListOffsetsRequest>(i16::MAX)?;
    let mut request = ListOffsetsRequest::default();
    request.replica_id = CONSUMER;
    if version.value() >= 2 {
        request.isolation_level = i8::from(read_committed);
    }
    request.topics = by_topic(partitions, indexes)
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = ListOffsetsTopic::default();
            topic.name = StrBytes::from(name);
            topic.partitions = partitions
                .into_iter()
                .map(|(wanted, spec)| {
                    let mut partition = ListOffsetsPartition::default();
                    partition.partition_index = wanted.partition;
                    partition.timestamp = match spec {
                        OffsetSpec::Earliest => EARLIEST_TIMESTAMP,
                        OffsetSpec::Latest { .. } => LATEST_TIMESTAMP,
                        OffsetSpec::Timestamp(timestamp) => *timestamp,
                    };
                    partition
                })
                .collect();
            topic
        })
        .collect();
    let response = connection
        .call(&request, version, brokers.request_patience())
        .await?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            let what =
                format_args!("offsets of {}-{}", topic.name, partition.partition_index).to_string();
            let answer =
                error_code::check(partition.error_code, what, None).map(|()| partition.offset);
            place(
                partitions,
                indexes,
                results,
                &topic.name,
                partition.partition_index,
                answer,
            );
        }
    }
    Ok(())
}

async fn delete_records(
    brokers: &Brokers,
    partitions: &[(TopicPartition, i64)],
) -> Result<AdminResponse, Failure> {
    let mut results: Vec<Option<Result<i64, ClientError>>> = vec![None; partitions.len()];
    for (leader, indexes) in by_leader(brokers, partitions, &mut results).await? {
        if let Err(error) =
            delete_records_of(brokers, leader, partitions, &indexes, &mut results).await
        {
            for index in indexes {
                if let Some(result) = results.get_mut(index) {
                    *result = Some(Err(error.clone()));
                }
            }
        }
    }
    Ok(in_order(partitions, results))
}

async fn delete_records_of(
    brokers: &Brokers,
    leader: i32,
    partitions: &[(TopicPartition, i64)],
    indexes: &[usize],
    results: &mut [Option<Result<i64, ClientError>>],
) -> Result<(), ClientError> {
    let connection = brokers.node(leader).await?;
    let version = connection.version::<DeleteRecordsRequest>(i16::MAX)?;
    let mut request = DeleteRecordsRequest::default();
    request.timeout_ms = OPERATION_TIMEOUT_MS;
    request.topics = by_topic(partitions, indexes)
        .into_iter()
        .map(|(name, partitions)| {
            let mut topic = DeleteRecordsTopic::default();
            topic.name = StrBytes::from(name);
            topic.partitions = partitions
                .into_iter()
                .map(|(wanted, offset)| {
                    let mut partition = DeleteRecordsPartition::default();
                    partition.partition_index = wanted.partition;
                    partition.offset = *offset;
                    partition
                })
                .collect();
            topic
        })
        .collect();
    let patience = brokers.request_patience()
        + Duration::from_millis(OPERATION_TIMEOUT_MS.unsigned_abs().into());
    let response = connection.call(&request, version, patience).await?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            let what = format_args!(
                "deleting records of {}-{}",
                topic.name, partition.partition_index
            )
            .to_string();
            let answer = error_code::check(partition.error_code, what, None)
                .map(|()| partition.low_watermark);
            place(
                partitions,
                indexes,
                results,
                &topic.name,
                partition.partition_index,
                answer,
            );
        }
    }
    Ok(())
}

async fn fetch_offsets(
    brokers: &Brokers,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<AdminResponse, Failure> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics
            .entry(&partition.topic)
            .or_default()
            .push(partition.partition);
    }
    let all = partitions.is_empty();
    let (_, response) = brokers
        .call_coordinator(
            group,
            OFFSET_FETCH_VERSION_MAX,
            brokers.request_patience(),
            |version| {
                let mut request = OffsetFetchRequest::default();
                // An offset in an open transaction is not yet the group's: wait for its end.
                request.require_stable = version.value() >= 7;
                if version.value() >= 8 {
                    let mut wanted = OffsetFetchRequestGroup::default();
                    wanted.group_id = StrBytes::from(group);
                    wanted.topics = (!all).then(|| {
                        let topic = |(name, indexes): (&&str, &Vec<i32>)| {
                            let mut topic = OffsetFetchRequestTopics::default();
                            topic.name = StrBytes::from(*name);
                            topic.partition_indexes.clone_from(indexes);
                            topic
                        };
                        topics.iter().map(topic).collect()
                    });
                    request.groups = vec![wanted];
                } else {
                    request.group_id = StrBytes::from(group);
                    request.topics = (!all || version.value() < 2).then(|| {
                        let topic = |(name, indexes): (&&str, &Vec<i32>)| {
                            let mut topic = OffsetFetchRequestTopic::default();
                            topic.name = StrBytes::from(*name);
                            topic.partition_indexes.clone_from(indexes);
                            topic
                        };
                        topics.iter().map(topic).collect()
                    });
                }
                request
            },
        )
        .await?;
    let what = format_args!("committed offsets of group {group}").to_string();
    let codes = response
        .groups
        .iter()
        .map(|answer| answer.error_code)
        .chain([response.error_code]);
    for code in codes {
        brokers.heed_coordinator(group, code);
        if code != error_code::NONE {
            return Err(Failure::of_code(code, what, None));
        }
    }
    // Either shape, by version; the other is empty.
    let old = response.topics.iter().flat_map(|topic| {
        let partition =
            |answer: &kafka_wire::offset_fetch_response::OffsetFetchResponsePartition| {
                (
                    answer.partition_index,
                    answer.error_code,
                    answer.committed_offset,
                    answer.metadata.clone(),
                )
            };
        topic
            .partitions
            .iter()
            .map(partition)
            .map(|answer| (topic.name.clone(), answer))
    });
    let new = response
        .groups
        .iter()
        .flat_map(|answer| &answer.topics)
        .flat_map(|topic| {
            let partition =
                |answer: &kafka_wire::offset_fetch_response::OffsetFetchResponsePartitions| {
                    (
                        answer.partition_index,
                        answer.error_code,
                        answer.committed_offset,
                        answer.metadata.clone(),
                    )
                };
            topic
                .partitions
                .iter()
                .map(partition)
                .map(|answer| (topic.name.clone(), answer))
        });
    let mut found: BTreeMap<TopicPartition, Option<CommittedOffset>> = BTreeMap::new();
    for (topic, (partition, code, offset, metadata)) in old.chain(new) {
        let partition = TopicPartition::new(topic.as_str(), partition);
        // Old versions report the group's troubles here.
        brokers.heed_coordinator(group, code);
        if code != error_code::NONE && code != error_code::UNKNOWN_TOPIC_OR_PARTITION {
            return Err(Failure::of_code(
                code,
                format_args!("{what}, {partition}"),
                None,
            ));
        }
        let committed = (offset >= 0 && code == error_code::NONE).then(|| CommittedOffset {
            offset,
            metadata: metadata.as_deref().unwrap_or_default().to_owned(),
        });
        found.insert(partition, committed);
    }
    let offsets = if all {
        found.into_iter().collect()
    } else {
        partitions
            .iter()
            .map(|partition| (partition.clone(), found.remove(partition).flatten()))
            .collect()
    };
    Ok(AdminResponse::CommittedOffsets(offsets))
}

async fn commit_offsets(
    brokers: &Brokers,
    group: &str,
    member: &MemberIdentity,
    offsets: &[(TopicPartition, CommittedOffset)],
) -> Result<AdminResponse, Failure> {
    if offsets.is_empty() {
        return Ok(AdminResponse::Done);
    }
    let (_, response) = brokers
        .call_coordinator(
            group,
            OFFSET_COMMIT_VERSION_MAX,
            brokers.request_patience(),
            |version| {
                let mut request = OffsetCommitRequest::default();
                request.group_id = StrBytes::from(group);
                request.generation_id_or_member_epoch = member.generation;
                request.member_id = StrBytes::from(member.member_id.as_str());
                if version.value() >= 7 {
                    request.group_instance_id = member.instance_id.as_deref().map(StrBytes::from);
                }
                let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
                for (partition, committed) in offsets {
                    let mut entry = OffsetCommitRequestPartition::default();
                    entry.partition_index = partition.partition;
                    entry.committed_offset = committed.offset;
                    entry.committed_metadata = Some(StrBytes::from(committed.metadata.as_str()));
                    topics.entry(&partition.topic).or_default().push(entry);
                }
                request.topics = topics
                    .into_iter()
                    .map(|(name, partitions)| {
                        let mut topic = OffsetCommitRequestTopic::default();
                        topic.name = StrBytes::from(name);
                        topic.partitions = partitions;
                        topic
                    })
                    .collect();
                request
            },
        )
        .await?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            if partition.error_code != error_code::NONE {
                brokers.heed_coordinator(group, partition.error_code);
                let what = format_args!(
                    "committing {}-{} of group {group}",
                    topic.name, partition.partition_index
                )
                .to_string();
                return Err(Failure::of_code(partition.error_code, what, None));
            }
        }
    }
    Ok(AdminResponse::Done)
}

async fn list_groups(brokers: &Brokers) -> Result<AdminResponse, Failure> {
    // Each broker knows the groups that it coordinates.
    let metadata = brokers.metadata(Some(&[])).await?;
    let mut groups = Vec::new();
    for broker in &metadata.brokers {
        let connection = brokers.node(broker.node_id).await?;
        let version = connection.version::<ListGroupsRequest>(i16::MAX)?;
        let response = connection
            .call(
                &ListGroupsRequest::default(),
                version,
                brokers.request_patience(),
            )
            .await?;
        if response.error_code != error_code::NONE {
            return Err(Failure::of_code(
                response.error_code,
                format_args!("listing the groups of broker {}", connection.address()),
                None,
            ));
        }
        groups.extend(response.groups.iter().map(|group| GroupListing {
            group: group.group_id.as_str().to_owned(),
            protocol_type: group.protocol_type.as_str().to_owned(),
            state: group.group_state.as_str().to_owned(),
        }));
    }
    groups.sort_by(|one, other| one.group.cmp(&other.group));
    // A group that moved between the questions shows twice.
    groups.dedup_by(|one, other| one.group == other.group);
    Ok(AdminResponse::Groups(groups))
}

pub(super) async fn describe_group(
    brokers: &Brokers,
    group: &str,
) -> Result<GroupDescription, Failure> {
    let (_, response) = brokers
        .call_coordinator(group, i16::MAX, brokers.request_patience(), |_| {
            let mut request = DescribeGroupsRequest::default();
            request.groups = vec![StrBytes::from(group)];
            request
        })
        .await?;
    let what = format_args!("group {group}").to_string();
    let empty = || {
        ClientError::new(
            ClientErrorKind::Fatal,
            format_args!("{what}: the answer is empty"),
        )
    };
    let described = response.groups.into_iter().next().ok_or_else(empty)?;
    brokers.heed_coordinator(group, described.error_code);
    if described.error_code == error_code::GROUP_ID_NOT_FOUND {
        // Not a classic group, where the broker tells the difference.
        return describe_consumer_group(brokers, group).await;
    }
    if described.error_code != error_code::NONE {
        return Err(Failure::of_code(
            described.error_code,
            what,
            described.error_message.as_deref(),
        ));
    }
    let consumer = described.protocol_type.as_str() == "consumer";
    let members = described
        .members
        .into_iter()
        .map(|member| MemberDescription {
            member_id: member.member_id.as_str().to_owned(),
            instance_id: member.group_instance_id.map(|id| id.as_str().to_owned()),
            client_id: member.client_id.as_str().to_owned(),
            host: member.client_host.as_str().to_owned(),
            assignment: if consumer {
                assigned(member.member_assignment)
            } else {
                Vec::new()
            },
        })
        .collect();
    Ok(GroupDescription {
        group: group.to_owned(),
        state: described.group_state.as_str().to_owned(),
        protocol: described.protocol_data.as_str().to_owned(),
        members,
    })
}

/// The partitions of an assignment in the consumer protocol; none when it is empty or of another kind.
fn assigned(assignment: kafka_wire_core::Bytes) -> Vec<TopicPartition> {
    let Ok((_, assignment)) =
        kafka_wire::decode_consumer_protocol_assignment(assignment, DecodeLimits::default())
    else {
        return Vec::new();
    };
    let mut partitions = Vec::new();
    for topic in assignment.assigned_partitions {
        let name: Arc<str> = Arc::from(topic.topic.as_str());
        partitions.extend(
            topic
                .partitions
                .iter()
                .map(|partition| TopicPartition::new(Arc::clone(&name), *partition)),
        );
    }
    partitions
}

/// A group of the protocol of KIP-848.
async fn describe_consumer_group(
    brokers: &Brokers,
    group: &str,
) -> Result<GroupDescription, Failure> {
    let dead = || GroupDescription {
        group: group.to_owned(),
        state: "Dead".to_owned(),
        protocol: String::new(),
        members: Vec::new(),
    };
    if !brokers
        .coordinator(group)
        .await?
        .serves::<ConsumerGroupDescribeRequest>()
    {
        return Ok(dead());
    }
    let (_, response) = brokers
        .call_coordinator(group, i16::MAX, brokers.request_patience(), |_| {
            let mut request = ConsumerGroupDescribeRequest::default();
            request.group_ids = vec![StrBytes::from(group)];
            request
        })
        .await?;
    let Some(described) = response.groups.into_iter().next() else {
        return Ok(dead());
    };
    brokers.heed_coordinator(group, described.error_code);
    match described.error_code {
        error_code::NONE => {}
        error_code::GROUP_ID_NOT_FOUND => return Ok(dead()),
        code => {
            return Err(Failure::of_code(
                code,
                format_args!("group {group}"),
                described.error_message.as_deref(),
            ));
        }
    }
    let members = described
        .members
        .into_iter()
        .map(|member| {
            let topics = member.assignment.topic_partitions.iter();
            let partitions = topics.flat_map(|topic| {
                topic
                    .partitions
                    .iter()
                    .map(|partition| TopicPartition::new(topic.topic_name.as_str(), *partition))
            });
            MemberDescription {
                assignment: partitions.collect(),
                member_id: member.member_id.as_str().to_owned(),
                instance_id: member.instance_id.map(|id| id.as_str().to_owned()),
                client_id: member.client_id.as_str().to_owned(),
                host: member.client_host.as_str().to_owned(),
            }
        })
        .collect();
    Ok(GroupDescription {
        group: group.to_owned(),
        state: described.group_state.as_str().to_owned(),
        protocol: described.assignor_name.as_str().to_owned(),
        members,
    })
}
