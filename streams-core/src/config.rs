//! Settings of an application, read once into a plain struct. Names and defaults are Kafka Streams' unless a comment says otherwise.

use std::path::PathBuf;

use crate::error::StreamsError;
pub use crate::task::ErrorResponse;
pub use crate::topology::AutoOffsetReset;

/// What a crash may repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProcessingGuarantee {
    /// Nothing is lost; what was processed since the last commit is processed again.
    #[default]
    AtLeastOnce,
    /// Kafka's `exactly_once_v2`: what is written, the changelogs and the input offsets are committed in one transaction of each thread.
    /// A crash repeats nothing that a reader of committed records can see.
    ExactlyOnce,
}

/// The settings of one application instance.
#[derive(Clone, Debug)]
pub struct StreamsConfig {
    /// `application.id`: group id, prefix of internal topics and client ids, name of the state subdirectory.
    pub application_id: String,
    /// `state.dir`. Unlike Kafka Streams' default this is not in a temporary directory: `./brooklet-state`.
    pub state_dir: PathBuf,
    /// `num.stream.threads`.
    pub stream_threads: usize,
    /// `processing.guarantee`.
    pub processing_guarantee: ProcessingGuarantee,
    /// `commit.interval.ms`; unset it is as Kafka Streams has it, 30 s at least once and 100 ms exactly once.
    pub commit_interval_ms: Option<i64>,
    /// `transaction.timeout.ms` of exactly once; Kafka Streams' default.
    pub transaction_timeout_ms: i32,
    /// `max.task.idle.ms`: -1 never waits for an empty partition; 0 waits while its lag is above zero or unknown (KIP-695); above zero
    /// waits so long in addition.
    pub max_task_idle_ms: i64,
    /// `task.timeout.ms`: how long retriable errors are retried (KIP-572).
    pub task_timeout_ms: i64,
    /// `buffered.records.per.partition`: fetching a partition pauses above it.
    pub buffered_records_per_partition: usize,
    /// `statestore.cache.max.bytes`: the record cache of all threads together; 0 turns it off.
    pub cache_bytes_max: usize,
    /// `statestore.uncommitted.max.bytes` (KIP-892): above it, a task commits early; -1 is no limit.
    pub uncommitted_bytes_max: i64,
    /// `state.memory.max.bytes` (ours): block cache and write buffers of all RocksDB stores of the process.
    pub state_memory_bytes_max: usize,
    /// `replication.factor` of internal topics; -1 is the cluster's default.
    pub replication_factor: i16,
    /// `auto.offset.reset` for sources that name none. Kafka Streams' default is earliest.
    pub auto_offset_reset: AutoOffsetReset,
    /// `deserialization.exception.handler`.
    pub deserialization_handler: ErrorResponse,
    /// `processing.exception.handler`.
    pub processing_handler: ErrorResponse,
    /// `production.exception.handler`: records that a sink cannot write.
    pub production_handler: ErrorResponse,
    /// `repartition.purge.interval.ms`: how often committed records of repartition topics are deleted (KIP-811).
    pub repartition_purge_interval_ms: i64,
    /// `windowstore.changelog.additional.retention.ms`.
    pub window_changelog_additional_retention_ms: i64,
    /// `poll.ms`: how long an idle thread parks at the most.
    pub poll_ms: i64,
    /// `buffer.memory`: output that is not yet acknowledged; processing waits above it.
    pub output_bytes_max: usize,
    /// `max.partition.fetch.bytes`.
    pub partition_fetch_bytes_max: usize,
    /// `batch.size` of the producer, in bytes.
    pub batch_bytes: usize,
    /// `linger.ms` of the producer.
    pub linger_ms: i64,
    /// At most so many records of a task are processed before the thread looks after its clients again.
    pub run_records_max: usize,
    /// `topic.`-prefixed settings: for every internal topic.
    pub internal_topic_configs: Vec<(String, String)>,
    /// `consumer.`-prefixed settings, passed to the Kafka client.
    pub consumer_properties: Vec<(String, String)>,
    /// `producer.`-prefixed settings, passed to the Kafka client.
    pub producer_properties: Vec<(String, String)>,
}

impl StreamsConfig {
    /// Defaults for an application of this id.
    pub fn new(application_id: impl Into<String>) -> Self {
        Self {
            application_id: application_id.into(),
            state_dir: PathBuf::from("brooklet-state"),
            stream_threads: 1,
            processing_guarantee: ProcessingGuarantee::default(),
            commit_interval_ms: None,
            transaction_timeout_ms: 10_000,
            max_task_idle_ms: 0,
            task_timeout_ms: 300_000,
            buffered_records_per_partition: 1_000,
            cache_bytes_max: 10 << 20,
            uncommitted_bytes_max: 64 << 20,
            state_memory_bytes_max: 128 << 20,
            replication_factor: -1,
            auto_offset_reset: AutoOffsetReset::Earliest,
            deserialization_handler: ErrorResponse::default(),
            processing_handler: ErrorResponse::default(),
            production_handler: ErrorResponse::default(),
            repartition_purge_interval_ms: 30_000,
            window_changelog_additional_retention_ms: 86_400_000,
            poll_ms: 100,
            output_bytes_max: 32 << 20,
            partition_fetch_bytes_max: 1 << 20,
            batch_bytes: 16 << 10,
            linger_ms: 100,
            run_records_max: 10_000,
            internal_topic_configs: Vec::new(),
            consumer_properties: Vec::new(),
            producer_properties: Vec::new(),
        }
    }

    /// How often is committed, in milliseconds.
    pub fn commit_interval_ms(&self) -> i64 {
        self.commit_interval_ms
            .unwrap_or(match self.processing_guarantee {
                ProcessingGuarantee::AtLeastOnce => 30_000,
                ProcessingGuarantee::ExactlyOnce => 100,
            })
    }

    /// Whether everything is written in transactions.
    pub(crate) fn is_exactly_once(&self) -> bool {
        self.processing_guarantee == ProcessingGuarantee::ExactlyOnce
    }

    /// Sets one setting by Kafka's name, from text.
    ///
    /// # Errors
    /// When the name is unknown or the value does not fit; the message names the setting.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), StreamsError> {
        let invalid = |expected: &str| StreamsError::Config {
            name: name.to_owned(),
            message: format!("{value:?} is not {expected}"),
        };
        let number = || value.trim().parse::<i64>().map_err(|_| invalid("a number"));
        let at_least = |least: i64| {
            let number = number()?;
            if number < least {
                Err(invalid(&format!("at least {least}")))
            } else {
                Ok(number)
            }
        };
        let size = |least: i64| {
            at_least(least)
                .and_then(|number| usize::try_from(number).map_err(|_| invalid("a size")))
        };
        let handler = || match value.rsplit('.').next().unwrap_or(value) {
            "LogAndFailExceptionHandler"
            | "LogAndFailProcessingExceptionHandler"
            | "DefaultProductionExceptionHandler"
            | "fail" => Ok(ErrorResponse::Fail),
            "LogAndContinueExceptionHandler"
            | "LogAndContinueProcessingExceptionHandler"
            | "continue" => Ok(ErrorResponse::Continue),
            _ => Err(invalid(
                "LogAndFailExceptionHandler or LogAndContinueExceptionHandler",
            )),
        };
        match name {
            "application.id" => value.clone_into(&mut self.application_id),
            "state.dir" => self.state_dir = PathBuf::from(value),
            "num.stream.threads" => self.stream_threads = size(1)?,
            "processing.guarantee" => match value {
                "at_least_once" => self.processing_guarantee = ProcessingGuarantee::AtLeastOnce,
                "exactly_once_v2" => self.processing_guarantee = ProcessingGuarantee::ExactlyOnce,
                _ => return Err(invalid("at_least_once or exactly_once_v2")),
            },
            "commit.interval.ms" => self.commit_interval_ms = Some(at_least(0)?),
            "transaction.timeout.ms" | "producer.transaction.timeout.ms" => {
                self.transaction_timeout_ms =
                    i32::try_from(at_least(1)?).map_err(|_| invalid("a time-out"))?
            }
            "max.task.idle.ms" => self.max_task_idle_ms = at_least(-1)?,
            "task.timeout.ms" => self.task_timeout_ms = at_least(0)?,
            "buffered.records.per.partition" => self.buffered_records_per_partition = size(1)?,
            "statestore.cache.max.bytes" | "cache.max.bytes.buffering" => {
                self.cache_bytes_max = size(0)?
            }
            "statestore.uncommitted.max.bytes" => self.uncommitted_bytes_max = at_least(-1)?,
            "state.memory.max.bytes" => self.state_memory_bytes_max = size(1 << 20)?,
            "replication.factor" => {
                self.replication_factor =
                    i16::try_from(at_least(-1)?).map_err(|_| invalid("a replication factor"))?
            }
            "auto.offset.reset" | "consumer.auto.offset.reset" => {
                self.auto_offset_reset = match value {
                    "earliest" => AutoOffsetReset::Earliest,
                    "latest" => AutoOffsetReset::Latest,
                    "none" => AutoOffsetReset::None,
                    _ => return Err(invalid("earliest, latest or none")),
                }
            }
            "deserialization.exception.handler" | "default.deserialization.exception.handler" => {
                self.deserialization_handler = handler()?
            }
            "processing.exception.handler" => self.processing_handler = handler()?,
            "production.exception.handler" | "default.production.exception.handler" => {
                self.production_handler = handler()?
            }
            "repartition.purge.interval.ms" => self.repartition_purge_interval_ms = at_least(0)?,
            "windowstore.changelog.additional.retention.ms" => {
                self.window_changelog_additional_retention_ms = at_least(0)?
            }
            "poll.ms" => self.poll_ms = at_least(0)?,
            "buffer.memory" | "producer.buffer.memory" => self.output_bytes_max = size(1)?,
            "max.partition.fetch.bytes" | "consumer.max.partition.fetch.bytes" => {
                self.partition_fetch_bytes_max = size(1)?
            }
            "batch.size" | "producer.batch.size" => self.batch_bytes = size(1)?,
            "linger.ms" | "producer.linger.ms" => self.linger_ms = at_least(0)?,
            _ => {
                if let Some(rest) = name.strip_prefix("topic.") {
                    self.internal_topic_configs
                        .push((rest.to_owned(), value.to_owned()));
                } else if let Some(rest) = name
                    .strip_prefix("consumer.")
                    .or_else(|| name.strip_prefix("main.consumer."))
                {
                    self.consumer_properties
                        .push((rest.to_owned(), value.to_owned()));
                } else if let Some(rest) = name.strip_prefix("producer.") {
                    self.producer_properties
                        .push((rest.to_owned(), value.to_owned()));
                } else if is_client_security(name) {
                    self.consumer_properties
                        .push((name.to_owned(), value.to_owned()));
                    self.producer_properties
                        .push((name.to_owned(), value.to_owned()));
                } else {
                    return Err(StreamsError::Config {
                        name: name.to_owned(),
                        message: "is not a setting that Brooklet knows".to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Settings of connections that every Kafka client of the application takes as they are.
fn is_client_security(name: &str) -> bool {
    name == "security.protocol"
        || ["ssl.", "sasl."]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kafkas_names_set_the_typed_settings() {
        let mut config = StreamsConfig::new("app");
        config.set("commit.interval.ms", "100").unwrap();
        config.set("num.stream.threads", "3").unwrap();
        config.set("topic.segment.bytes", "1048576").unwrap();
        config.set("sasl.mechanism", "PLAIN").unwrap();
        assert_eq!(
            (config.commit_interval_ms(), config.stream_threads),
            (100, 3)
        );
        assert_eq!(
            config.internal_topic_configs,
            [("segment.bytes".to_owned(), "1048576".to_owned())]
        );
        assert_eq!(config.consumer_properties, config.producer_properties);
    }

    #[test]
    fn exactly_once_commits_ten_times_a_second_unless_told_otherwise() {
        let mut config = StreamsConfig::new("app");
        assert_eq!(config.commit_interval_ms(), 30_000);
        config
            .set("processing.guarantee", "exactly_once_v2")
            .unwrap();
        assert_eq!(config.commit_interval_ms(), 100);
        config.set("commit.interval.ms", "250").unwrap();
        assert_eq!(config.commit_interval_ms(), 250);
    }

    #[test]
    fn a_wrong_setting_is_refused_by_name() {
        let mut config = StreamsConfig::new("app");
        assert_eq!(
            config
                .set("commit.intervall.ms", "1")
                .unwrap_err()
                .to_string(),
            "setting commit.intervall.ms: is not a setting that Brooklet knows"
        );
        assert_eq!(
            config
                .set("num.stream.threads", "0")
                .unwrap_err()
                .to_string(),
            "setting num.stream.threads: \"0\" is not at least 1"
        );
        assert_eq!(
            config.set("poll.ms", "soon").unwrap_err().to_string(),
            "setting poll.ms: \"soon\" is not a number"
        );
    }
}
