//! A Kafka-compatible, log-compacting broker, in-process or as a server.
//!
//! ## How a produce travels
//! 1. `server::connection` reads a frame (`protocol::framing`), `protocol::decode` makes a `Request` of it.
//! 2. `handlers::produce` finds the `replica::Partition` of each batch and appends.
//! 3. `replica::Partition::append` checks the batch without a lock, then writes it to `log::Log` under it, and marks itself dirty.
//! 4. `replica::flusher` syncs all dirty partitions in one round, advances their high watermarks and calls who watches them.
//! 5. `replica::waiting` finds the produce satisfied and answers; the connection writes its answers in the order of the requests.
//!
//! ## How a fetch travels
//! The same way in; `handlers::fetch` reads up to the high watermark, and if that is less than `min_bytes` it waits until a watched high
//! watermark advances or its time is up. Record bytes are shared with the log's tail, never decoded.
//!
//! ## In the process
//! [`Broker::open`], [`Broker::call`] with the wire's own messages ([`messages`]), and for records [`Broker::partition`] with
//! [`replica::Partition::append`], [`replica::Partition::fetch`] and [`replica::Partition::watch`]. The server is one more caller.
//!
//! ```
//! use brooklet_broker::{Broker, BrokerConfig, messages};
//!
//! # fn main() -> Result<(), brooklet_broker::BrokerError> {
//! # let dir = tempfile::tempdir().expect("a temporary directory");
//! let broker = Broker::open(BrokerConfig::new(dir.path()))?;
//! let mut topic = messages::create_topics_request::CreatableTopic::default();
//! topic.name = "orders".into();
//! topic.num_partitions = 2;
//! topic.replication_factor = 1;
//! let mut request = messages::CreateTopicsRequest::default();
//! request.topics = vec![topic];
//! let answer = broker.call(request)?;
//! assert_eq!(answer.topics[0].error_code, 0);
//! assert_eq!(broker.partition("orders", 1).map(|partition| partition.high_watermark()), Some(0));
//! broker.shutdown()
//! # }
//! ```

pub mod clock;
pub mod config;
pub mod coordinator;
pub mod disk;
pub mod error;
pub mod fault;
pub mod log;
pub mod metadata;
pub mod protocol;
pub mod replica;
pub mod server;

mod broker;
mod cleaning;
mod data_dir;
mod deletions;
mod handlers;
mod metrics;
mod reopening;

pub use broker::{Answer, Broker, TransactionalAppendError};
pub use cleaning::{CleanerStats, Compacted};
pub use clock::Clock;
pub use config::{BrokerConfig, Drive, Flush};
pub use error::BrokerError;
pub use replica::{Fetched, Isolation, Partition, PartitionError};

/// The wire's messages, as generated from Kafka's definitions: what [`Broker::call`] takes and returns.
pub use kafka_wire as messages;
