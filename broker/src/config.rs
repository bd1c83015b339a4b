//! What a broker is told when it opens: read once, plain values from then on.
//!
//! A property has Kafka's server name and meaning, or begins with `brooklet.`. Each either works or is refused by name: one that Kafka knows and
//! this broker does not take says why, one that nobody knows is answered with the nearest name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::{Clock, SystemClock};
use crate::coordinator::transaction;
use crate::disk::{Disk, RealDisk};
use crate::error::BrokerError;
use crate::metadata::{group_config, topic_config};

mod kafka_names;
mod properties_file;

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

/// Which kind of group may become the other while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MigrationPolicy {
    /// Either.
    #[default]
    Bidirectional,
    /// Classic groups may become consumer groups.
    Upgrade,
    /// Consumer groups may become classic groups.
    Downgrade,
    /// None.
    Disabled,
}

impl std::str::FromStr for MigrationPolicy {
    type Err = BrokerError;

    fn from_str(text: &str) -> Result<Self, BrokerError> {
        match text.to_ascii_lowercase().as_str() {
            "bidirectional" => Ok(Self::Bidirectional),
            "upgrade" => Ok(Self::Upgrade),
            "downgrade" => Ok(Self::Downgrade),
            "disabled" => Ok(Self::Disabled),
            _ => Err(refused(
                "group.consumer.migration.policy",
                text,
                "bidirectional, upgrade, downgrade or disabled",
            )),
        }
    }
}

/// Who drives what waits: fsyncs, deadlines, retention, compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Drive {
    /// Four threads of the broker's own: for group commit, for checkpoints of its journal, for deadlines, for compaction.
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
    /// `brooklet.sync.journal.bytes`: size that the sync journal grows to; zero for none. What is acknowledged as durable is written there first,
    /// for all partitions at once.
    pub sync_journal_bytes_max: u64,
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
    /// `listeners`: where a server listens, as HOST:PORT. There is one, PLAINTEXT.
    pub listen: Option<String>,
    /// `num.network.threads`: of a server's runtime. If it is not said, one for each core and at least eight: one that reads from a cold disk
    /// must not hold up the others.
    pub network_threads: Option<usize>,
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
    /// `transaction.state.log.num.partitions`.
    pub transactions_topic_partitions: i32,
    /// `transaction.state.log.segment.bytes`.
    pub transactions_topic_segment_bytes: i32,
    /// `transaction.max.timeout.ms`: a producer may not ask for more.
    pub transaction_timeout_ms_max: i32,
    /// `transactional.id.expiration.ms`: an id that has begun no transaction for so long is forgotten.
    pub transactional_id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: how often open transactions are looked at.
    pub transaction_time_out_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`: how often idle ids are looked at.
    pub transactional_id_expiration_interval_ms: i64,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_bytes_max: usize,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `max.connections`: further ones are closed at once.
    pub connections_max: usize,
    /// `max.connections.per.ip`: further ones from an address are closed at once.
    pub connections_per_ip_max: usize,
    /// `max.connections.per.ip.overrides`: instead of that, for these addresses.
    pub connections_per_ip_max_overrides: BTreeMap<IpAddr, usize>,
    /// `queued.max.request.bytes`: of all requests that are being read or not answered yet; beyond it nothing more is read. Kafka has no
    /// bound by default; here it is 512 MiB.
    pub request_bytes_queued_max: usize,
    /// `brooklet.queued.max.response.bytes`: in memory, of all answers that are not written yet; beyond it no fetch is begun, and a client that
    /// does not read its answer loses its connection. Records that are sent from their files do not count.
    pub response_bytes_queued_max: usize,
    /// `brooklet.stall.max.ms`: a client that holds such memory and does nothing loses its connection after this: one that stops in the middle
    /// of a large request, or that takes no byte of its answer while the answers of all hold more than they may.
    pub stall_ms_max: i64,
    /// `socket.send.buffer.bytes`; -1 leaves it to the system.
    pub socket_send_buffer_bytes: i64,
    /// `socket.receive.buffer.bytes`; -1 leaves it to the system.
    pub socket_receive_buffer_bytes: i64,
    /// `socket.listen.backlog.size`.
    pub listen_backlog: u32,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
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
    /// `group.streams.max.size`.
    pub streams_group_size_max: usize,
    /// `offsets.retention.minutes`: committed offsets expire after so long.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `group.consumer.max.size`.
    pub group_consumer_size_max: usize,
    /// `group.consumer.assignors`: names, of which the first is taken where members ask for none.
    pub group_consumer_assignors: Vec<String>,
    /// `group.consumer.migration.policy`.
    pub group_consumer_migration_policy: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`.
    pub group_consumer_regex_refresh_interval_ms: i64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval_ms: i64,
    /// `log.flush.offset.checkpoint.interval.ms`: how often recovery points are written.
    pub checkpoint_interval_ms: i64,
    /// `log.flush.scheduler.interval.ms`: how often logs are looked at for what `flush.ms` has synced. Also what that is, unless
    /// `log.flush.interval.ms` or the topic say otherwise.
    pub flush_scheduler_interval_ms: i64,
    /// `log.cleaner.enable`: whether compacted topics are compacted.
    pub cleaner_enabled: bool,
    /// `log.cleaner.dedupe.buffer.size`: memory of the offset map. What does not fit is left to the next pass.
    pub cleaner_map_bytes_max: usize,
    /// `log.cleaner.io.buffer.load.factor`: how much of the offset map is used, in hundredths.
    pub cleaner_map_load_percent: usize,
    /// `log.cleaner.io.buffer.size`: bytes read and written at a time.
    pub cleaner_io_buffer_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`, read and written together. With `Drive::Manual` time stands still and it is not obeyed.
    pub cleaner_io_bytes_per_second_max: f64,
    /// `log.cleaner.backoff.ms`: how long the cleaner sleeps when no log is due.
    pub cleaner_backoff_ms: i64,
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
            sync_journal_bytes_max: 128 << 20,
            drive: Drive::default(),
            disk: Arc::new(RealDisk),
            lock_data_dir: true,
            clock: Arc::new(SystemClock),
            node_id: 1,
            advertised_host: None,
            advertised_port: None,
            listen: None,
            network_threads: None,
            auto_create_topics: true,
            partitions_default: 1,
            partitions_max: 20_000,
            replication_factor_clamp: false,
            offsets_topic_partitions: 50,
            transactions_topic_partitions: 50,
            transactions_topic_segment_bytes: 104_857_600,
            transaction_timeout_ms_max: 900_000,
            transactional_id_expiration_ms: 604_800_000,
            transaction_time_out_interval_ms: 10_000,
            transactional_id_expiration_interval_ms: 3_600_000,
            offset_metadata_bytes_max: 4096,
            request_bytes_max: 100 * 1024 * 1024,
            connections_max: 10_000,
            connections_per_ip_max: usize::MAX,
            connections_per_ip_max_overrides: BTreeMap::new(),
            request_bytes_queued_max: 512 * 1024 * 1024,
            response_bytes_queued_max: 512 * 1024 * 1024,
            stall_ms_max: 30_000,
            socket_send_buffer_bytes: -1,
            socket_receive_buffer_bytes: -1,
            listen_backlog: 1024,
            delete_topics: true,
            connections_idle_ms_max: 600_000,
            fetch_bytes_max: 55 * 1024 * 1024,
            group_initial_rebalance_delay_ms: 3000,
            group_session_timeout_ms_min: 6000,
            group_session_timeout_ms_max: 1_800_000,
            group_size_max: usize::MAX,
            producer_id_expiration_ms: 86_400_000,
            streams_group_size_max: i32::MAX as usize,
            offsets_retention_ms: 7 * 24 * 60 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            group_consumer_size_max: usize::MAX,
            group_consumer_assignors: vec!["uniform".to_owned(), "range".to_owned()],
            group_consumer_migration_policy: MigrationPolicy::default(),
            group_consumer_regex_refresh_interval_ms: 600_000,
            retention_check_interval_ms: 300_000,
            checkpoint_interval_ms: 60_000,
            flush_scheduler_interval_ms: i64::MAX,
            cleaner_enabled: true,
            cleaner_map_bytes_max: 128 << 20,
            cleaner_map_load_percent: 90,
            cleaner_io_buffer_bytes: 512 << 10,
            cleaner_io_bytes_per_second_max: f64::MAX,
            cleaner_backoff_ms: 15_000,
            topic_defaults: BTreeMap::new(),
            group_settings: BTreeMap::new(),
        }
    }

    /// Sets properties by Kafka's server names: where one thing is given in several units, the finest counts.
    pub fn properties<'a>(
        mut self,
        properties: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, BrokerError> {
        let coarseness = |name: &str| match name {
            _ if name.ends_with(".hours") => 0,
            _ if name.ends_with(".minutes") => 1,
            _ => 2,
        };
        let mut properties: Vec<_> = properties.into_iter().collect();
        properties.sort_by_key(|(name, _)| coarseness(name));
        for (name, value) in properties {
            self = self.property(name, value)?;
        }
        Ok(self)
    }

    /// Sets the properties of a `server.properties` file's text.
    pub fn properties_file(self, text: &str) -> Result<Self, BrokerError> {
        let properties = properties_file::parse(text).map_err(|reason| BrokerError::Config {
            name: "the properties file".into(),
            reason,
        })?;
        self.properties(
            properties
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        )
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
            "brooklet.sync.journal.bytes" => self.sync_journal_bytes_max = number(name, value, 0)?,
            "brooklet.replication.factor.clamp" => {
                self.replication_factor_clamp = value
                    .parse()
                    .map_err(|_| refused(name, value, "true or false"))?;
            }
            "offsets.topic.num.partitions" => {
                self.offsets_topic_partitions = number(name, value, 1)?
            }
            "transaction.state.log.num.partitions" => {
                self.transactions_topic_partitions = number(name, value, 1)?
            }
            "transaction.state.log.segment.bytes" => {
                self.transactions_topic_segment_bytes = number(name, value, 1024 * 1024)?
            }
            "transaction.max.timeout.ms" => {
                self.transaction_timeout_ms_max = number(name, value, 1)?
            }
            "transactional.id.expiration.ms" => {
                self.transactional_id_expiration_ms = number(name, value, 1)?
            }
            "transaction.abort.timed.out.transaction.cleanup.interval.ms" => {
                self.transaction_time_out_interval_ms = number(name, value, 1)?
            }
            "transaction.remove.expired.transaction.cleanup.interval.ms" => {
                self.transactional_id_expiration_interval_ms = number(name, value, 1)?
            }
            "offset.metadata.max.bytes" => {
                // A record of the offsets topic counts its bytes with 16 bits.
                self.offset_metadata_bytes_max =
                    number::<usize>(name, value, 0)?.min(i16::MAX as usize);
            }
            "socket.request.max.bytes" => self.request_bytes_max = number(name, value, 1)?,
            "max.connections" => self.connections_max = number(name, value, 1)?,
            "max.connections.per.ip" => {
                self.connections_per_ip_max = number(name, value, 0)?;
            }
            "max.connections.per.ip.overrides" => {
                self.connections_per_ip_max_overrides = per_ip(name, value)?;
            }
            "queued.max.request.bytes" => {
                self.request_bytes_queued_max = match number(name, value, -1)? {
                    -1_i64 => usize::MAX,
                    bytes => bytes_from(name, bytes)?,
                };
            }
            "brooklet.queued.max.response.bytes" => {
                self.response_bytes_queued_max = bytes_from(name, number(name, value, 1)?)?;
            }
            "brooklet.stall.max.ms" => self.stall_ms_max = number(name, value, 1)?,
            "socket.send.buffer.bytes" => self.socket_send_buffer_bytes = number(name, value, -1)?,
            "socket.receive.buffer.bytes" => {
                self.socket_receive_buffer_bytes = number(name, value, -1)?;
            }
            "socket.listen.backlog.size" => self.listen_backlog = number(name, value, 1)?,
            "delete.topic.enable" => {
                self.delete_topics = value
                    .parse()
                    .map_err(|_| refused(name, value, "true or false"))?;
            }
            "num.network.threads" => self.network_threads = Some(number(name, value, 1)?),
            "log.dir" | "log.dirs" => {
                if value.trim().is_empty() || value.contains(',') {
                    return Err(refused(name, value, "one directory"));
                }
                self.data_dir = PathBuf::from(value.trim());
            }
            "listeners" => self.listen = Some(listener(name, value)?),
            "advertised.listeners" => {
                let address = listener(name, value)?;
                let (host, port) = address
                    .rsplit_once(':')
                    .ok_or_else(|| refused(name, value, "PLAINTEXT://HOST:PORT"))?;
                if host.is_empty() {
                    return Err(refused(name, value, "PLAINTEXT://HOST:PORT with a host"));
                }
                self.advertised_host = Some(host.trim_matches(['[', ']']).to_owned());
                self.advertised_port = Some(number(name, port, 1)?);
            }
            // The same in coarser units. `properties` takes the finer one where both are given, as Kafka does.
            "log.retention.minutes"
            | "log.retention.hours"
            | "log.roll.hours"
            | "log.roll.jitter.hours" => {
                let (unit, unit_ms) = match name.ends_with("minutes") {
                    true => ("minutes", 60_000_i64),
                    false => ("hours", 3_600_000),
                };
                let finer = name.replace(unit, "ms");
                let units: i64 = number(name, value, -1)?;
                let value_ms = units.saturating_mul(unit_ms).max(-1);
                return self.property(&finer, &value_ms.to_string());
            }
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
            "group.streams.max.size" => self.streams_group_size_max = number(name, value, 1)?,
            "offsets.retention.minutes" => {
                self.offsets_retention_ms = number::<i64>(name, value, 1)?.saturating_mul(60_000);
            }
            "offsets.retention.check.interval.ms" => {
                self.offsets_retention_check_interval_ms = number(name, value, 1)?
            }
            "group.consumer.max.size" => self.group_consumer_size_max = number(name, value, 1)?,
            "group.consumer.assignors" => {
                let names: Vec<_> = value
                    .split(',')
                    .map(|text| text.trim().to_owned())
                    .collect();
                if !names
                    .iter()
                    .all(|text| matches!(text.as_str(), "uniform" | "range"))
                {
                    return Err(refused(name, value, "a list of uniform and range"));
                }
                self.group_consumer_assignors = names;
            }
            "group.consumer.migration.policy" => {
                self.group_consumer_migration_policy = value.parse()?;
            }
            "group.consumer.regex.refresh.interval.ms" => {
                self.group_consumer_regex_refresh_interval_ms = number(name, value, 10_000)?
            }
            "log.retention.check.interval.ms" => {
                self.retention_check_interval_ms = number(name, value, 1)?
            }
            "log.flush.offset.checkpoint.interval.ms" => {
                self.checkpoint_interval_ms = number(name, value, 1)?
            }
            "log.flush.scheduler.interval.ms" => {
                self.flush_scheduler_interval_ms = number(name, value, 1)?
            }
            "log.cleaner.enable" => {
                self.cleaner_enabled = value
                    .parse()
                    .map_err(|_| refused(name, value, "true or false"))?;
            }
            // Kafka's threads share one buffer and one rate; a pass is bounded, and one thread has not been too slow yet.
            "log.cleaner.threads" if value.trim() != "1" => {
                return Err(refused(name, value, "1: there is one cleaner thread"));
            }
            "log.cleaner.threads" => {}
            "log.cleaner.dedupe.buffer.size" => {
                self.cleaner_map_bytes_max = number(name, value, 1024)?
            }
            "log.cleaner.io.buffer.size" => {
                self.cleaner_io_buffer_bytes = number(name, value, 1024)?
            }
            "log.cleaner.io.buffer.load.factor" => {
                let factor = positive(name, value, 0.99)?;
                self.cleaner_map_load_percent = ((factor * 100.0) as usize).max(1);
            }
            "log.cleaner.io.max.bytes.per.second" => {
                self.cleaner_io_bytes_per_second_max = positive(name, value, f64::MAX)?
            }
            "log.cleaner.backoff.ms" => self.cleaner_backoff_ms = number(name, value, 0)?,
            _ => {
                if let Some(setting) = group_config::settings().find(|setting| setting.name == name)
                {
                    let value = number(name, value, 0)?;
                    self.group_settings.insert(setting.name.to_owned(), value);
                    return Ok(self);
                }
                let Some(definition) = topic_config::by_server_name(name) else {
                    let reason = match kafka_names::look_up(name, value) {
                        kafka_names::Known::AsItIs => return Ok(self),
                        kafka_names::Known::Refused(why) => why,
                        kafka_names::Known::Unknown => {
                            match kafka_names::nearest(name, supported_names()) {
                                Some(near) => {
                                    format!("not a property of this broker; did you mean {near}?")
                                }
                                None => "not a property of this broker".into(),
                            }
                        }
                    };
                    return Err(BrokerError::Config {
                        name: name.to_owned(),
                        reason,
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

/// Properties that are not defaults of topic or group configs: what a wrong name is compared with.
const NAMES: &[&str] = &[
    "advertised.listeners",
    "auto.create.topics.enable",
    "brooklet.partitions.max",
    "brooklet.queued.max.response.bytes",
    "brooklet.replication.factor.clamp",
    "brooklet.stall.max.ms",
    "brooklet.sync.journal.bytes",
    "connections.max.idle.ms",
    "delete.topic.enable",
    "fetch.max.bytes",
    "flush",
    "group.initial.rebalance.delay.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "group.streams.max.size",
    "group.min.session.timeout.ms",
    "listeners",
    "log.dirs",
    "log.flush.offset.checkpoint.interval.ms",
    "log.flush.scheduler.interval.ms",
    "log.retention.check.interval.ms",
    "log.retention.hours",
    "log.retention.minutes",
    "log.roll.hours",
    "log.roll.jitter.hours",
    "max.connections",
    "max.connections.per.ip",
    "max.connections.per.ip.overrides",
    "node.id",
    "num.network.threads",
    "num.partitions",
    "offset.metadata.max.bytes",
    "offsets.topic.num.partitions",
    "queued.max.request.bytes",
    "socket.listen.backlog.size",
    "socket.receive.buffer.bytes",
    "socket.request.max.bytes",
    "socket.send.buffer.bytes",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    "transaction.max.timeout.ms",
    "transaction.remove.expired.transaction.cleanup.interval.ms",
    "transaction.state.log.num.partitions",
    "transaction.state.log.segment.bytes",
    "transactional.id.expiration.ms",
];

fn supported_names() -> impl Iterator<Item = &'static str> {
    let topics = topic_config::DEFINITIONS
        .iter()
        .filter_map(|definition| definition.server_name);
    let groups = group_config::settings().map(|setting| setting.name);
    NAMES.iter().copied().chain(topics).chain(groups)
}

/// The address of the only listener there may be: `PLAINTEXT://HOST:PORT`, or `HOST:PORT`.
fn listener(name: &str, value: &str) -> Result<String, BrokerError> {
    let wanted = "one listener, PLAINTEXT://HOST:PORT";
    let value = value.trim();
    let address = match value.split_once("://") {
        Some((protocol, address)) if protocol.eq_ignore_ascii_case("PLAINTEXT") => address,
        Some(_) => return Err(refused(name, value, wanted)),
        None => value,
    };
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| refused(name, value, wanted))?;
    if address.contains(',') || port.parse::<u16>().is_err() {
        return Err(refused(name, value, wanted));
    }
    Ok(match host {
        // As Kafka: no host is every interface.
        "" if name == "listeners" => format!("0.0.0.0:{port}"),
        _ => address.to_owned(),
    })
}

/// `ADDRESS:COUNT`, separated by commas.
fn per_ip(name: &str, value: &str) -> Result<BTreeMap<IpAddr, usize>, BrokerError> {
    let mut overrides = BTreeMap::new();
    for entry in value
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
    {
        let parsed = entry.rsplit_once(':').and_then(|(address, count)| {
            let address = address.trim_matches(['[', ']']).parse().ok()?;
            Some((address, count.parse().ok()?))
        });
        let (address, count) = parsed
            .ok_or_else(|| refused(name, entry, "an IP address with a number, ADDRESS:COUNT"))?;
        overrides.insert(address, count);
    }
    Ok(overrides)
}

fn bytes_from(name: &str, bytes: i64) -> Result<usize, BrokerError> {
    usize::try_from(bytes).map_err(|_| refused(name, &bytes.to_string(), "a number of bytes"))
}

impl BrokerConfig {
    pub(crate) fn transaction_rules(&self) -> transaction::Rules {
        transaction::Rules {
            timeout_ms_max: self.transaction_timeout_ms_max,
            id_expiration_ms: self.transactional_id_expiration_ms,
            time_out_interval_ms: self.transaction_time_out_interval_ms,
            expiration_interval_ms: self.transactional_id_expiration_interval_ms,
        }
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

/// A number above zero, at most `max`.
fn positive(name: &str, value: &str, max: f64) -> Result<f64, BrokerError> {
    let number = value.trim().parse::<f64>().ok();
    number
        .filter(|number| *number > 0.0 && *number <= max)
        .ok_or_else(|| refused(name, value, &format!("a number above 0, at most {max:e}")))
}

fn refused(name: &str, value: &str, wanted: &str) -> BrokerError {
    BrokerError::Config {
        name: name.to_owned(),
        reason: format!("{value} is not {wanted}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn kafkas_names_set_the_fields_and_topic_defaults() {
        let config = BrokerConfig::new("d")
            .property("num.partitions", "4")
            .unwrap();
        let config = config.property("log.retention.ms", "1000").unwrap();
        assert_eq!(config.partitions_default, 4);
        assert_eq!(config.topic_defaults.get("retention.ms").unwrap(), "1000");
        let name = "log.flush.scheduler.interval.ms";
        let config = config.property(name, "2500").unwrap();
        assert_eq!(config.flush_scheduler_interval_ms, 2500);
        assert!(refusal(name, "0").contains(name));
    }

    fn refusal(name: &str, value: &str) -> String {
        let refused = BrokerConfig::new("d").property(name, value);
        refused.unwrap_err().to_string()
    }

    #[test]
    fn a_name_that_nobody_knows_is_answered_with_the_nearest() {
        assert!(refusal("log.retention.millis", "1").contains("log.retention.m"));
        assert!(
            refusal("group.consumer.sesion.timeout.ms", "1").contains("group.consumer.session")
        );
    }

    #[test]
    fn what_kafka_knows_and_this_broker_does_not_take_says_why() {
        for name in [
            "num.io.threads",
            "ssl.keystore.location",
            "remote.log.storage.system.enable",
        ] {
            let refused = refusal(name, "8");
            assert!(
                refused.contains(name) && refused.contains("not supported"),
                "{refused}"
            );
        }
        assert!(
            refusal("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093").contains("one listener")
        );
        assert!(refusal("log.dirs", "/a,/b").contains("one directory"));
    }

    #[test]
    fn every_name_that_is_offered_is_taken() {
        for name in supported_names() {
            let works = [
                "1",
                "true",
                "durable",
                "h:1",
                "delete",
                "0.5",
                "9",
                "CreateTime",
                "producer",
                "2000000",
            ]
            .into_iter()
            .any(|value| BrokerConfig::new("d").property(name, value).is_ok());
            assert!(
                works || name == "max.connections.per.ip.overrides",
                "{name}"
            );
        }
    }

    #[test]
    fn a_file_of_kafkas_sets_it_all() {
        let text = "process.roles=broker,controller\nnode.id=3\nlisteners=PLAINTEXT://:9094\nadvertised.listeners=PLAINTEXT://broker.local:9095\n\
                    num.network.threads=3\nsocket.send.buffer.bytes=102400\nsocket.receive.buffer.bytes=102400\nsocket.request.max.bytes=1000\n\
                    log.dirs=/tmp/logs\nnum.partitions=2\noffsets.topic.replication.factor=1\nlog.retention.ms=5\nlog.retention.hours=168\n\
                    max.connections.per.ip.overrides=127.0.0.1:7,[::1]:8\nqueued.max.request.bytes=-1\nlog.roll.hours=1\n";
        let config = BrokerConfig::new("d").properties_file(text).unwrap();
        assert_eq!(config.node_id, 3);
        assert_eq!(config.listen.as_deref(), Some("0.0.0.0:9094"));
        assert_eq!(config.advertised_host.as_deref(), Some("broker.local"));
        assert_eq!(config.advertised_port, Some(9095));
        assert_eq!(config.network_threads, Some(3));
        assert_eq!(config.data_dir, PathBuf::from("/tmp/logs"));
        // Milliseconds win over hours, wherever they stand.
        assert_eq!(config.topic_defaults.get("retention.ms").unwrap(), "5");
        assert_eq!(config.topic_defaults.get("segment.ms").unwrap(), "3600000");
        assert_eq!(config.connections_per_ip_max_overrides.len(), 2);
        assert_eq!(config.request_bytes_queued_max, usize::MAX);
    }

    #[test]
    fn the_cleaner_takes_kafkas_names() {
        let config = BrokerConfig::new("d")
            .property("log.cleaner.dedupe.buffer.size", "2048")
            .and_then(|config| config.property("log.cleaner.io.buffer.load.factor", "0.5"))
            .and_then(|config| config.property("log.cleaner.io.max.bytes.per.second", "1.5e6"))
            .and_then(|config| config.property("log.cleaner.threads", "1"))
            .and_then(|config| config.property("log.cleaner.delete.retention.ms", "7"))
            .unwrap();
        assert_eq!(config.cleaner_map_bytes_max, 2048);
        assert_eq!(config.cleaner_map_load_percent, 50);
        assert_eq!(config.cleaner_io_bytes_per_second_max, 1.5e6);
        assert_eq!(config.topic_defaults["delete.retention.ms"], "7");
        for (name, value) in [
            ("log.cleaner.threads", "2"),
            ("log.cleaner.io.max.bytes.per.second", "0"),
            ("log.cleaner.enable", "maybe"),
        ] {
            let refused = BrokerConfig::new("d").property(name, value).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
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
