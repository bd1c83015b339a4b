//! What a broker is told when it opens: read once, plain values from then on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::error::BrokerError;
use crate::metadata::topic_config;

/// When an `acks=all` write is acknowledged, and what readers may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flush {
    /// On disk. Appends of all partitions share fsyncs, and the high watermark advances only over synced bytes, so no reader
    /// sees what a crash takes back. The price is the disk's latency on every acknowledgement.
    #[default]
    Durable,
    /// In the page cache, as Kafka does by default: it survives the death of the process, not of the machine.
    Os,
}

impl std::str::FromStr for Flush {
    type Err = BrokerError;

    fn from_str(text: &str) -> Result<Self, BrokerError> {
        match text {
            "durable" => Ok(Self::Durable),
            "os" => Ok(Self::Os),
            other => Err(BrokerError::Config {
                name: "flush".into(),
                reason: format!("{other} is neither durable nor os"),
            }),
        }
    }
}

/// Who drives what waits: fsyncs, deadlines, retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drive {
    /// Two threads of the broker's own.
    #[default]
    Threads,
    /// The caller, with `Broker::flush_once` and `Broker::step`: a simulation or a test on virtual time.
    Manual,
}

/// Settings of a broker. `property` takes Kafka's own server property names.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Directory of all logs and metadata; created when missing.
    pub data_dir: PathBuf,
    /// When writes are acknowledged.
    pub flush: Flush,
    /// Who drives fsyncs and deadlines.
    pub drive: Drive,
    /// The disk under the data directory.
    pub disk: Arc<dyn Disk>,
    /// Whether the directory is locked against a second process. Off only for a disk that is not the machine's.
    pub lock_data_dir: bool,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// `node.id`: also the controller's id in metadata.
    pub node_id: i32,
    /// Host that clients are told to connect to. A server sets it when it listens, unless it is set here.
    pub advertised_host: Option<String>,
    /// Port that clients are told to connect to. A server sets it when it listens, unless it is set here.
    pub advertised_port: Option<u16>,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `num.partitions`: of a topic created without saying how many.
    pub partitions_default: i32,
    /// `brooklet.partitions.max`: of all topics together. Each is a directory with open files.
    pub partitions_max: i64,
    /// `brooklet.replication.factor.clamp`: take a replication factor above one as one, instead of refusing it.
    pub replication_factor_clamp: bool,
    /// `offsets.topic.num.partitions`.
    pub offsets_topic_partitions: i32,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `max.connections`: further ones are closed at once.
    pub connections_max: usize,
    /// `connections.max.idle.ms`: a connection that sends nothing for longer is closed.
    pub connections_idle_ms_max: i64,
    /// `fetch.max.bytes`: of one answer, whatever the client asks for.
    pub fetch_bytes_max: usize,
    /// `group.initial.rebalance.delay.ms`: how long the first member of a group waits for others.
    pub group_initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`.
    pub group_session_timeout_ms_min: i64,
    /// `group.max.session.timeout.ms`.
    pub group_session_timeout_ms_max: i64,
    /// `group.max.size`.
    pub group_size_max: usize,
    /// `producer.id.expiration.ms`: a producer that has written nothing to a partition for longer is forgotten there.
    pub producer_id_expiration_ms: i64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: i64,
    /// `log.flush.offset.checkpoint.interval.ms`: how often recovery points are written.
    pub checkpoint_interval_ms: i64,
    /// Defaults of topic configs, by the topic's name for them (`retention.ms`).
    pub topic_defaults: BTreeMap<String, String>,
    /// Defaults and bounds of group configs, by Kafka's server name for them (`group.consumer.session.timeout.ms`).
    pub group_settings: BTreeMap<String, i64>,
}

impl BrokerConfig {
    /// Kafka's defaults over a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            flush: Flush::default(),
            drive: Drive::default(),
            disk: Arc::new(RealDisk),
            lock_data_dir: true,
            clock: Arc::new(SystemClock),
            node_id: 1,
            advertised_host: None,
            advertised_port: None,
            auto_create_topics: true,
            partitions_default: 1,
            partitions_max: 20_000,
            replication_factor_clamp: false,
            offsets_topic_partitions: 50,
            offset_metadata_bytes_max: 4096,
            request_bytes_max: 100 * 1024 * 1024,
            connections_max: 10_000,
            connections_idle_ms_max: 600_000,
            fetch_bytes_max: 55 * 1024 * 1024,
            group_initial_rebalance_delay_ms: 3000,
            group_session_timeout_ms_min: 6000,
            group_session_timeout_ms_max: 1_800_000,
            group_size_max: usize::MAX,
            producer_id_expiration_ms: 86_400_000,
            retention_check_interval_ms: 300_000,
            checkpoint_interval_ms: 60_000,
            topic_defaults: BTreeMap::new(),
            group_settings: BTreeMap::new(),
        }
    }

    /// Sets a property by Kafka's server name, and refuses a name that is not known.
    pub fn property(mut self, name: &str, value: &str) -> Result<Self, BrokerError> {
        match name {
            "flush" => self.flush = value.parse()?,
            "node.id" | "broker.id" => self.node_id = number(name, value, 0)?,
            "auto.create.topics.enable" => {
                self.auto_create_topics = value
                    .parse()
                    .map_err(|_| refused(name, value, "true or false"))?;
            }
            "num.partitions" => self.partitions_default = number(name, value, 1)?,
            "brooklet.partitions.max" => self.partitions_max = number(name, value, 1)?,
            "brooklet.replication.factor.clamp" => {
                self.replication_factor_clamp = value
                    .parse()
                    .map_err(|_| refused(name, value, "true or false"))?;
            }
            "offsets.topic.num.partitions" => {
                self.offsets_topic_partitions = number(name, value, 1)?
            }
            "offset.metadata.max.bytes" => {
                // A record of the offsets topic counts its bytes with 16 bits.
                self.offset_metadata_bytes_max =
                    number::<usize>(name, value, 0)?.min(i16::MAX as usize);
            }
            "socket.request.max.bytes" => self.request_bytes_max = number(name, value, 1)?,
            "max.connections" => self.connections_max = number(name, value, 1)?,
            "connections.max.idle.ms" => self.connections_idle_ms_max = number(name, value, 1)?,
            "fetch.max.bytes" => self.fetch_bytes_max = number(name, value, 1024)?,
            "group.initial.rebalance.delay.ms" => {
                self.group_initial_rebalance_delay_ms = number(name, value, 0)?
            }
            "group.min.session.timeout.ms" => {
                self.group_session_timeout_ms_min = number(name, value, 1)?
            }
            "group.max.session.timeout.ms" => {
                self.group_session_timeout_ms_max = number(name, value, 1)?
            }
            "group.max.size" => self.group_size_max = number(name, value, 1)?,
            "producer.id.expiration.ms" => self.producer_id_expiration_ms = number(name, value, 1)?,
            "log.retention.check.interval.ms" => {
                self.retention_check_interval_ms = number(name, value, 1)?
            }
            "log.flush.offset.checkpoint.interval.ms" => {
                self.checkpoint_interval_ms = number(name, value, 1)?
            }
            _ => {
                let Some(definition) = topic_config::by_server_name(name) else {
                    return Err(BrokerError::Config {
                        name: name.to_owned(),
                        reason: "not a property of this broker".into(),
                    });
                };
                let value = definition
                    .check(value)
                    .map_err(|reason| BrokerError::Config {
                        name: name.to_owned(),
                        reason,
                    })?;
                self.topic_defaults
                    .insert(definition.name.to_owned(), value);
            }
        }
        Ok(self)
    }
}

fn number<T: TryFrom<i64>>(name: &str, value: &str, min: i64) -> Result<T, BrokerError> {
    let number = value
        .trim()
        .parse::<i64>()
        .ok()
        .filter(|number| *number >= min);
    number
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| refused(name, value, &format!("a number from {min}")))
}

fn refused(name: &str, value: &str, wanted: &str) -> BrokerError {
    BrokerError::Config {
        name: name.to_owned(),
        reason: format!("{value} is not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kafkas_names_set_the_fields_and_topic_defaults() {
        let config = BrokerConfig::new("d")
            .property("num.partitions", "4")
            .unwrap();
        let config = config.property("log.retention.ms", "1000").unwrap();
        assert_eq!(config.partitions_default, 4);
        assert_eq!(config.topic_defaults.get("retention.ms").unwrap(), "1000");
    }

    #[test]
    fn an_unknown_name_or_value_is_refused_by_name() {
        let unknown = BrokerConfig::new("d")
            .property("num.partition", "4")
            .unwrap_err()
            .to_string();
        assert!(unknown.contains("num.partition"), "{unknown}");
        let bad = BrokerConfig::new("d")
            .property("num.partitions", "0")
            .unwrap_err()
            .to_string();
        assert!(bad.contains("num.partitions") && bad.contains('0'), "{bad}");
    }
}
