//! Which cluster an application runs on: a broker inside the process, or any Kafka cluster. Nothing else of a program changes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use brooklet_broker::disk::Disk;
use brooklet_streams_core::client::kafka::KafkaCluster;
use brooklet_streams_core::client::{
    self, Admin, Claim, ClientError, ClientErrorKind, Consumer, ConsumerOptions, Producer,
    ProducerOptions,
};

pub use brooklet_broker::Flush;

use crate::embedded::EmbeddedCluster;

/// A cluster, opened when it is first used. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Cluster {
    kind: Kind,
    opened: Arc<Mutex<Option<Arc<dyn client::Cluster>>>>,
}

#[derive(Clone)]
enum Kind {
    Embedded {
        directory: PathBuf,
        flush: Flush,
        properties: Vec<(String, String)>,
        /// Instead of the machine's.
        disk: Option<Arc<dyn Disk>>,
    },
    Kafka {
        bootstrap: String,
        properties: Vec<(String, String)>,
    },
}

impl Cluster {
    /// A broker inside this process, with its data in `directory`. Acknowledged means on disk; see [`Cluster::flush`].
    pub fn embedded(directory: impl AsRef<Path>) -> Self {
        Self::of(Kind::Embedded {
            directory: directory.as_ref().to_owned(),
            flush: Flush::Durable,
            properties: Vec::new(),
            disk: None,
        })
    }

    /// A Kafka cluster, by one or more `host:port`, separated by commas: our broker as a server, or any Apache Kafka.
    pub fn kafka(bootstrap_servers: impl Into<String>) -> Self {
        Self::of(Kind::Kafka {
            bootstrap: bootstrap_servers.into(),
            properties: Vec::new(),
        })
    }

    /// When an embedded broker acknowledges: with the data on disk ([`Flush::Durable`], the default) or in the system's page cache
    /// ([`Flush::Os`], Kafka's own default: a crash of the process loses nothing, a power cut may). No effect on a Kafka cluster.
    #[must_use]
    pub fn flush(mut self, to: Flush) -> Self {
        if let Kind::Embedded { flush, .. } = &mut self.kind {
            *flush = to;
        }
        Self::of(self.kind)
    }

    /// The disk under an embedded broker's directory: for tests that take its power away.
    #[doc(hidden)]
    #[must_use]
    pub fn on_disk(mut self, under: Arc<dyn Disk>) -> Self {
        if let Kind::Embedded { disk, .. } = &mut self.kind {
            *disk = Some(under);
        }
        Self::of(self.kind)
    }

    /// A setting of the broker (`num.partitions`) or of the Kafka clients (`security.protocol`), by Kafka's name. A wrong one is
    /// reported when the cluster is first used.
    #[must_use]
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        match &mut self.kind {
            Kind::Embedded { properties, .. } | Kind::Kafka { properties, .. } => {
                properties.push((name.into(), value.into()))
            }
        }
        Self::of(self.kind)
    }

    fn of(kind: Kind) -> Self {
        Self {
            kind,
            opened: Arc::default(),
        }
    }

    fn open(&self) -> Result<Arc<dyn client::Cluster>, ClientError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cluster) = &*opened {
            return Ok(Arc::clone(cluster));
        }
        let cluster: Arc<dyn client::Cluster> = match &self.kind {
            Kind::Embedded {
                directory,
                flush,
                properties,
                disk,
            } => Arc::new(
                EmbeddedCluster::open(directory, *flush, properties, disk.as_ref())
                    .map_err(|error| ClientError::new(ClientErrorKind::Config, error))?,
            ),
            Kind::Kafka {
                bootstrap,
                properties,
            } => Arc::new(KafkaCluster::new(bootstrap, properties.clone())?),
        };
        *opened = Some(Arc::clone(&cluster));
        Ok(cluster)
    }
}

impl client::Cluster for Cluster {
    fn consumer(&self, options: &ConsumerOptions) -> Result<Box<dyn Consumer>, ClientError> {
        self.open()?.consumer(options)
    }

    fn producer(&self, options: &ProducerOptions) -> Result<Box<dyn Producer>, ClientError> {
        self.open()?.producer(options)
    }

    fn admin(&self) -> Result<Box<dyn Admin>, ClientError> {
        self.open()?.admin()
    }

    fn claim(
        &self,
        application_id: &str,
        process_id: &str,
        topics: &[String],
    ) -> Result<Box<dyn Claim>, ClientError> {
        self.open()?.claim(application_id, process_id, topics)
    }

    fn name(&self) -> String {
        match &self.kind {
            Kind::Embedded { directory, .. } => {
                format!("the embedded broker in {}", directory.display())
            }
            Kind::Kafka { bootstrap, .. } => bootstrap.clone(),
        }
    }
}
