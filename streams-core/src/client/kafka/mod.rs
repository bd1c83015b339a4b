//! Any Kafka cluster: librdkafka fetches and produces, our own wire client does the rest.
//!
//! | question | file |
//! |---|---|
//! | which settings go where | this one |
//! | how a fetch becomes record batches | `consumer` |
//! | how records are sent and completed | `producer` |
//! | what is unsafe | `native` |
//! | offsets, topics, groups, the one-instance guard | `wire/` |
//!
//! ## Settings
//! Kafka's names are librdkafka's, with few exceptions that are translated here; a setting that librdkafka does not know is an error that
//! names it. `consumer.` and `producer.` before a name are for that client only, as in Kafka Streams. What the wire client cannot do yet
//! (SASL, TLS) passes through to librdkafka, and the wire client says so when it is asked for.

mod admin;
mod consumer;
mod native;
mod producer;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;

pub use self::admin::AdminClient;
use self::admin::KafkaAdmin;
use self::consumer::KafkaConsumer;
use self::producer::{KafkaProducer, LINGER_MS_MAX};
pub use self::wire::Recipient;
use self::wire::WireClient;
use super::{
    Admin, Claim, ClientError, ClientErrorKind, Cluster, Consumer, ConsumerOptions, Producer,
    ProducerOptions,
};
/// The wire's messages, as generated from Kafka's definitions: what [`AdminClient::ask`] takes and returns.
pub use kafka_wire as messages;

/// A Kafka cluster, by the addresses of some of its brokers.
pub struct KafkaCluster {
    bootstrap: String,
    properties: Vec<(String, String)>,
    wire: Result<WireClient, ClientError>,
}

impl KafkaCluster {
    /// The cluster that `bootstrap` (`host:port,host:port`) belongs to. `properties` are for all clients, under Kafka's names. Nothing
    /// is connected yet.
    ///
    /// # Errors
    /// When `bootstrap` is malformed. Properties are checked when a client is made.
    pub fn new(
        bootstrap: &str,
        properties: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ClientError> {
        let properties: Vec<_> = properties.into_iter().collect();
        let wire = match beyond_wire(&properties) {
            Some((name, value)) => Err(ClientError::new(
                ClientErrorKind::Config,
                format_args!(
                    "setting {name}={value}: requests for offsets, topics and groups go through Brooklet's own client, which speaks neither SASL nor TLS \
                     yet (a later version will); use a listener with security.protocol=PLAINTEXT"
                ),
            )),
            None => Ok(WireClient::start(bootstrap)?),
        };
        Ok(Self {
            bootstrap: bootstrap.to_owned(),
            properties,
            wire,
        })
    }

    fn wire(&self) -> Result<WireClient, ClientError> {
        self.wire.clone()
    }
}

impl fmt::Debug for KafkaCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Properties may hold passwords.
        f.debug_struct("KafkaCluster")
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

impl Cluster for KafkaCluster {
    fn consumer(&self, options: &ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError> {
        let settings = consumer_settings(&self.bootstrap, options, &self.properties);
        Ok(Box::new(KafkaConsumer::start(
            &settings,
            options.partition_fetch_bytes_max,
        )?))
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, ClientError> {
        let settings = producer_settings(&self.bootstrap, options, &self.properties);
        Ok(Box::new(KafkaProducer::start(
            &settings,
            self.wire().ok().map(KafkaAdmin::new),
            options.transaction.as_ref(),
        )?))
    }

    fn admin(&self) -> Result<Box<dyn Admin>, ClientError> {
        Ok(Box::new(KafkaAdmin::new(self.wire()?)))
    }

    fn claim(
        &self,
        application_id: &str,
        process_id: &str,
        topics: &[String],
    ) -> Result<Box<dyn Claim>, ClientError> {
        Ok(Box::new(self.wire()?.claim(
            application_id,
            process_id,
            topics,
        )))
    }

    fn name(&self) -> String {
        self.bootstrap.clone()
    }
}

/// The first setting that asks for more than the wire client can do.
fn beyond_wire(properties: &[(String, String)]) -> Option<(&str, &str)> {
    properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .find(|(name, value)| match *name {
            "security.protocol" => !value.eq_ignore_ascii_case("plaintext"),
            name => name.starts_with("sasl.") || name.starts_with("ssl."),
        })
        // A password has no place in a message.
        .map(|(name, value)| {
            (
                name,
                if name == "security.protocol" {
                    value
                } else {
                    "..."
                },
            )
        })
}

/// Queued at most for each partition beside what one fetch brings, so that memory stays bounded with many partitions. A million records a
/// second and partition need no more: the queue is looked at every ten milliseconds.
const QUEUED_MESSAGES_MIN: usize = 20_000;
const QUEUED_KBYTES_MIN: usize = 4096;

fn consumer_settings(
    bootstrap: &str,
    options: &ConsumerOptions,
    cluster: &[(String, String)],
) -> Vec<(String, String)> {
    let isolation = if options.read_committed {
        "read_committed"
    } else {
        "read_uncommitted"
    };
    let fetch_bytes = options.partition_fetch_bytes_max.max(1);
    let queued_kbytes = (2 * fetch_bytes / 1024).max(QUEUED_KBYTES_MIN);
    let mut settings = Settings::new(bootstrap, &options.client_id);
    settings.set("isolation.level", isolation);
    settings.set("fetch.message.max.bytes", fetch_bytes);
    settings.set("queued.min.messages", QUEUED_MESSAGES_MIN);
    settings.set("queued.max.messages.kbytes", queued_kbytes);
    settings.set("fetch.queue.backoff.ms", 10);
    // A partition that is added or sought waits for the fetch that is under way, so that is not long when there is nothing to fetch.
    settings.set("fetch.wait.max.ms", 100);
    settings.set("topic.metadata.propagation.max.ms", 5_000);
    settings.add(cluster, "consumer.", "producer.");
    settings.add(&options.properties, "consumer.", "producer.");
    // What the code relies on, whatever was asked for.
    settings.set("enable.auto.commit", false);
    settings.set("auto.commit.enable", false);
    settings.set("enable.auto.offset.store", false);
    settings.set("enable.partition.eof", true);
    settings.set("auto.offset.reset", "error");
    settings.remove("group.id");
    settings.remove("group.instance.id");
    settings.finish()
}

/// librdkafka sends one partition's batch in a request, so small batches cost a request each. Kafka's 16 kB are too few for that.
const BATCH_BYTES_MIN: usize = 256 * 1024;

fn producer_settings(
    bootstrap: &str,
    options: &ProducerOptions,
    cluster: &[(String, String)],
) -> Vec<(String, String)> {
    let mut settings = Settings::new(bootstrap, &options.client_id);
    settings.set("linger.ms", options.linger_ms.clamp(0, LINGER_MS_MAX));
    settings.set("batch.size", options.batch_bytes.max(BATCH_BYTES_MIN));
    // The runtime watches `pending_bytes`; librdkafka's own limits are out of the way.
    settings.set("queue.buffering.max.messages", 0);
    settings.set("queue.buffering.max.kbytes", 2_097_151);
    settings.add(cluster, "producer.", "consumer.");
    settings.add(&options.properties, "producer.", "consumer.");
    settings.set("acks", "all");
    settings.set("enable.idempotence", true);
    if let Some(transaction) = &options.transaction {
        settings.set("transactional.id", &transaction.transactional_id);
        settings.set("transaction.timeout.ms", transaction.timeout_ms);
        // A record that is late is one of a transaction that is late.
        settings.set("message.timeout.ms", transaction.timeout_ms);
    }
    settings.finish()
}

/// Settings under librdkafka's names, the last one of a name wins.
struct Settings(Vec<(String, String)>);

impl Settings {
    fn new(bootstrap: &str, client_id: &str) -> Self {
        Self(vec![
            ("bootstrap.servers".to_owned(), bootstrap.to_owned()),
            ("client.id".to_owned(), client_id.to_owned()),
            // As Kafka's clients; librdkafka's own are up to ten seconds, for which a broker that is back waits.
            ("reconnect.backoff.ms".to_owned(), "50".to_owned()),
            ("reconnect.backoff.max.ms".to_owned(), "1000".to_owned()),
        ])
    }

    fn set(&mut self, name: &str, value: impl fmt::Display) {
        self.remove(name);
        self.0.push((name.to_owned(), value.to_string()));
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// Adds a user's properties: those without a prefix, and those with ours.
    fn add(&mut self, properties: &[(String, String)], ours: &str, theirs: &str) {
        for (name, value) in properties {
            let own = name.strip_prefix(ours);
            if own.is_none() && (name.starts_with(theirs) || name.starts_with("admin.")) {
                continue;
            }
            if let Some(name) = librdkafka_name(own.unwrap_or(name)) {
                self.set(name, value);
            }
        }
    }

    fn finish(self) -> Vec<(String, String)> {
        self.0
    }
}

/// Kafka's setting under librdkafka's name; `None` when it has no meaning there (Java classes, limits that the runtime keeps).
fn librdkafka_name(name: &str) -> Option<&str> {
    match name {
        "max.partition.fetch.bytes" => Some("fetch.message.max.bytes"),
        "fetch.max.wait.ms" => Some("fetch.wait.max.ms"),
        "request.required.acks" => Some("acks"),
        "queue.buffering.max.ms" => Some("linger.ms"),
        "delivery.timeout.ms" => Some("message.timeout.ms"),
        "max.poll.records" | "buffer.memory" | "max.block.ms" | "max.request.size"
        | "metric.reporters" => None,
        name if name.ends_with(".deserializer")
            || name.ends_with(".serializer")
            || name.ends_with(".classes") =>
        {
            None
        }
        name => Some(name),
    }
}
