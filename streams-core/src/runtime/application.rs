//! What the threads of one application instance share.

use std::sync::Arc;

use brooklet_state_stores::Memory;

use crate::client::{ClientError, Cluster, Consumer, ConsumerOptions, ProducerOptions};
use crate::clock::Clock;
use crate::config::StreamsConfig;
use crate::task::{RecordCollector, SharedCollector};
use crate::topology::Topology;

use super::state_directory::StateDirectory;

/// Settings, topology and cluster of a running instance; read-only.
pub(crate) struct Application {
    pub(crate) config: StreamsConfig,
    pub(crate) topology: Arc<Topology>,
    pub(crate) cluster: Arc<dyn Cluster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) state: StateDirectory,
    pub(crate) memory: Memory,
}

impl Application {
    /// A consumer under this client id.
    pub(crate) fn consumer(&self, client_id: &str) -> Result<Box<dyn Consumer>, ClientError> {
        self.cluster.consumer(&ConsumerOptions {
            client_id: client_id.to_owned(),
            read_committed: false,
            partition_fetch_bytes_max: self.config.partition_fetch_bytes_max,
            properties: self.config.consumer_properties.clone(),
        })
    }

    /// The output of a thread: a producer under this client id.
    pub(crate) fn collector(&self, client_id: &str) -> Result<SharedCollector, ClientError> {
        let producer = self.cluster.producer(&ProducerOptions {
            client_id: client_id.to_owned(),
            batch_bytes: self.config.batch_bytes,
            linger_ms: self.config.linger_ms,
            properties: self.config.producer_properties.clone(),
        })?;
        Ok(RecordCollector::shared(producer))
    }
}
