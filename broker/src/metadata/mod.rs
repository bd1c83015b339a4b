//! What the cluster knows: topics, their partitions and configs, producer ids given out, the leader epoch.
//!
//! 1. `Catalog::decide_*` checks a wish against the state and returns a `Command`, or why not.
//! 2. The command is written to the journal and synced (`journal`).
//! 3. `Catalog::replay` applies it: the only thing that changes the state, at run time as at start.
//!
//! So a restart, and later a metadata quorum, walk the same path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

pub mod group_config;
pub mod topic_config;

mod command;
mod journal;
mod topic_name;

pub use command::Command;
pub use group_config::GroupConfig;
pub use journal::{JOURNAL_FILE, Journal};
pub use topic_name::check as check_topic_name;

/// Partitions that one topic may have. A bound on what one request can make us allocate.
pub const PARTITIONS_MAX: i32 = 100_000;

/// Producer ids that are reserved at once, so that giving one out does not cost a sync.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// The topic of committed offsets and group metadata.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The topic of transactions; the name is reserved.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Whether clients may not create or write this topic.
pub fn is_internal(topic: &str) -> bool {
    topic == OFFSETS_TOPIC || topic == TRANSACTIONS_TOPIC
}

/// A topic, as created and altered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id: a topic created again under the same name has another.
    pub id: Uuid,
    /// Number of partitions.
    pub partition_count: i32,
    /// Configs set on the topic; the others have the broker's defaults.
    pub configs: BTreeMap<String, String>,
}

/// What has configs besides topics.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// One broker, or with `None` all of the cluster.
    Broker(Option<i32>),
    /// A group of any protocol. It need not exist.
    Group(String),
}

impl ConfigResource {
    /// Kafka's number for the type of resource that a broker is.
    pub const BROKER: i8 = 4;
    /// Kafka's number for the type of resource that a group is.
    pub const GROUP: i8 = 32;

    /// Kafka's type number and name.
    pub fn key(&self) -> (i8, String) {
        match self {
            Self::Broker(id) => (
                Self::BROKER,
                id.map(|id| id.to_string()).unwrap_or_default(),
            ),
            Self::Group(group) => (Self::GROUP, group.clone()),
        }
    }

    /// The resource of Kafka's type number and name.
    pub fn of_key(kind: i8, name: &str) -> Option<Self> {
        match kind {
            Self::BROKER if name.is_empty() => Some(Self::Broker(None)),
            Self::BROKER => Some(Self::Broker(Some(name.parse().ok()?))),
            Self::GROUP => Some(Self::Group(name.to_owned())),
            _ => None,
        }
    }
}

/// Why a wish was refused. Handlers turn it into Kafka's codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error("topic {0} exists already")]
    TopicExists(String),
    #[error("{0}")]
    InvalidTopicName(String),
    #[error("topic {0} does not exist")]
    UnknownTopic(String),
    #[error("{0}")]
    InvalidPartitions(String),
    #[error("{0}")]
    TooManyPartitions(String),
    #[error("{0}")]
    InvalidConfig(String),
}

/// All topics, and what else is durable about the cluster.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    names: HashMap<Uuid, Arc<str>>,
    producer_ids_end: i64,
    leader_epoch: i32,
    topics_version: u64,
    /// Topics deleted since the journal was compacted: their directories may still be there.
    deleted: Vec<(Arc<str>, i32)>,
    configs: BTreeMap<ConfigResource, BTreeMap<String, String>>,
    /// Commands applied, for those who ask how far the metadata is.
    replayed: u64,
}

impl Catalog {
    /// Applies a command that is durable.
    pub fn replay(&mut self, command: &Command) {
        if matches!(
            command,
            Command::CreateTopic(_)
                | Command::DeleteTopic { .. }
                | Command::SetPartitionCount { .. }
        ) {
            self.topics_version += 1;
        }
        self.replayed += 1;
        match command {
            Command::CreateTopic(topic) => {
                self.names.insert(topic.id, topic.name.clone());
                self.topics
                    .insert(topic.name.clone(), Arc::new(topic.clone()));
            }
            Command::DeleteTopic { id } => {
                let topic = self
                    .names
                    .remove(id)
                    .and_then(|name| self.topics.remove(&name));
                self.deleted
                    .extend(topic.map(|topic| (topic.name.clone(), topic.partition_count)));
            }
            Command::SetPartitionCount {
                id,
                partition_count,
            } => {
                self.change(id, |topic| topic.partition_count = *partition_count);
            }
            Command::SetTopicConfigs { id, configs } => {
                self.change(id, |topic| topic.configs = configs.clone())
            }
            Command::ReserveProducerIds { end } => {
                self.producer_ids_end = self.producer_ids_end.max(*end)
            }
            Command::StartLeaderEpoch { epoch } => {
                self.leader_epoch = self.leader_epoch.max(*epoch)
            }
            Command::SetConfigs { resource, configs } if configs.is_empty() => {
                self.configs.remove(resource);
            }
            Command::SetConfigs { resource, configs } => {
                self.configs.insert(resource.clone(), configs.clone());
            }
        }
    }

    fn change(&mut self, id: &Uuid, change: impl FnOnce(&mut Topic)) {
        if let Some(topic) = self
            .names
            .get(id)
            .and_then(|name| self.topics.get_mut(name))
        {
            change(Arc::make_mut(topic));
        }
    }

    /// The command that creates a topic.
    pub fn decide_create(
        &self,
        name: &str,
        id: Uuid,
        partition_count: i32,
        configs: BTreeMap<String, String>,
    ) -> Result<Command, Refusal> {
        check_topic_name(name).map_err(Refusal::InvalidTopicName)?;
        if self.topics.contains_key(name) {
            return Err(Refusal::TopicExists(name.to_owned()));
        }
        // Kafka refuses names that differ in '.' and '_' only, because its metrics cannot tell them apart.
        if let Some(other) = self
            .topics
            .keys()
            .find(|other| topic_name::collide(other, name))
        {
            return Err(Refusal::InvalidTopicName(format!(
                "topic {name} collides with existing topic {other}"
            )));
        }
        if !(1..=PARTITIONS_MAX).contains(&partition_count) {
            return Err(Refusal::InvalidPartitions(format!(
                "number of partitions {partition_count} is not in 1..={PARTITIONS_MAX}"
            )));
        }
        Ok(Command::CreateTopic(Topic {
            name: name.into(),
            id,
            partition_count,
            configs,
        }))
    }

    /// The command that adds partitions.
    pub fn decide_partition_count(
        &self,
        name: &str,
        partition_count: i32,
    ) -> Result<Command, Refusal> {
        let topic = self
            .topic(name)
            .ok_or_else(|| Refusal::UnknownTopic(name.to_owned()))?;
        let current = topic.partition_count;
        if partition_count == current {
            return Err(Refusal::InvalidPartitions(format!(
                "topic {name} already has {current} partition(s)"
            )));
        }
        if partition_count < current {
            return Err(Refusal::InvalidPartitions(format!(
                "topic {name} currently has {current} partition(s); {partition_count} would not be an increase"
            )));
        }
        if partition_count > PARTITIONS_MAX {
            return Err(Refusal::InvalidPartitions(format!(
                "number of partitions {partition_count} is not in 1..={PARTITIONS_MAX}"
            )));
        }
        Ok(Command::SetPartitionCount {
            id: topic.id,
            partition_count,
        })
    }

    /// Configs set on a resource other than a topic.
    pub fn configs(&self, resource: &ConfigResource) -> Option<&BTreeMap<String, String>> {
        self.configs.get(resource)
    }

    /// Resources other than topics that have configs.
    pub fn configured(&self) -> impl Iterator<Item = &ConfigResource> {
        self.configs.keys()
    }

    /// Commands applied since the journal was compacted, those that state it anew included.
    pub fn replayed(&self) -> u64 {
        self.replayed
    }

    /// Partitions of all topics.
    pub fn partition_count(&self) -> i64 {
        self.topics
            .values()
            .map(|topic| i64::from(topic.partition_count))
            .sum()
    }

    /// Another number whenever a topic has come, gone or grown, in this process.
    pub fn topics_version(&self) -> u64 {
        self.topics_version
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    /// A topic by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<Topic>> {
        self.topic(self.names.get(&id)?)
    }

    /// Every topic, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    /// Producer ids below this may have been given out.
    pub fn producer_ids_end(&self) -> i64 {
        self.producer_ids_end
    }

    /// The leader epoch of every partition. It rises with every start that was not preceded by a clean stop, so that clients
    /// that saw records which a crash took back notice it (KIP-320).
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// Topics that were deleted, with their number of partitions: whoever removes their directories takes them.
    pub fn take_deleted(&mut self) -> Vec<(Arc<str>, i32)> {
        std::mem::take(&mut self.deleted)
    }

    /// The fewest commands that lead to this state.
    pub fn snapshot(&self) -> Vec<Command> {
        let mut commands: Vec<_> = self
            .topics
            .values()
            .map(|topic| Command::CreateTopic(topic.as_ref().clone()))
            .collect();
        commands.extend(
            self.configs
                .iter()
                .map(|(resource, configs)| Command::SetConfigs {
                    resource: resource.clone(),
                    configs: configs.clone(),
                }),
        );
        commands.push(Command::ReserveProducerIds {
            end: self.producer_ids_end,
        });
        commands.push(Command::StartLeaderEpoch {
            epoch: self.leader_epoch,
        });
        commands
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(names: &[&str]) -> Catalog {
        let mut catalog = Catalog::default();
        for name in names {
            let command = catalog
                .decide_create(name, Uuid::new_v4(), 2, BTreeMap::new())
                .unwrap();
            catalog.replay(&command);
        }
        catalog
    }

    #[test]
    fn a_topic_is_created_once() {
        let catalog = with(&["orders"]);
        let again = catalog.decide_create("orders", Uuid::new_v4(), 1, BTreeMap::new());
        assert_eq!(again, Err(Refusal::TopicExists("orders".into())));
    }

    #[test]
    fn names_that_collide_in_metrics_are_refused() {
        let catalog = with(&["a.b"]);
        assert!(matches!(
            catalog.decide_create("a_b", Uuid::new_v4(), 1, BTreeMap::new()),
            Err(Refusal::InvalidTopicName(_))
        ));
    }

    #[test]
    fn partitions_only_increase() {
        let mut catalog = with(&["orders"]);
        assert!(matches!(
            catalog.decide_partition_count("orders", 2),
            Err(Refusal::InvalidPartitions(_))
        ));
        assert!(matches!(
            catalog.decide_partition_count("orders", 1),
            Err(Refusal::InvalidPartitions(_))
        ));
        let command = catalog.decide_partition_count("orders", 5).unwrap();
        catalog.replay(&command);
        assert_eq!(catalog.topic("orders").unwrap().partition_count, 5);
    }

    #[test]
    fn a_snapshot_leads_to_the_same_state() {
        let mut catalog = with(&["a", "b", "c"]);
        let id = catalog.topic("b").unwrap().id;
        catalog.replay(&Command::DeleteTopic { id });
        catalog.replay(&Command::ReserveProducerIds { end: 3000 });
        catalog.replay(&Command::StartLeaderEpoch { epoch: 4 });
        let group = ConfigResource::Group("g".into());
        for (resource, value) in [(&group, "1"), (&ConfigResource::Broker(None), "2")] {
            catalog.replay(&Command::SetConfigs {
                resource: resource.clone(),
                configs: BTreeMap::from([("a".to_owned(), value.to_owned())]),
            });
        }
        catalog.replay(&Command::SetConfigs {
            resource: ConfigResource::Broker(None),
            configs: BTreeMap::new(),
        });
        let mut copy = Catalog::default();
        for command in catalog.snapshot() {
            copy.replay(&command);
        }
        assert_eq!(copy.topics, catalog.topics);
        assert_eq!(copy.configs, catalog.configs);
        assert_eq!(copy.configured().collect::<Vec<_>>(), [&group]);
        assert_eq!((copy.producer_ids_end, copy.leader_epoch), (3000, 4));
        assert!(copy.topic_by_id(id).is_none());
    }
}
