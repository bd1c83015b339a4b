//! How `repartition` writes its topic.

use std::fmt;
use std::sync::Arc;

use brooklet_streams_core::serde::{HasSerde, Serde, SharedSerde, default_serde};
use brooklet_streams_core::topology::{Partitioner, Partitions};

/// Serdes, name, number of partitions and partitioner of a repartition topic (KIP-221).
pub struct Repartitioned<K, V> {
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) name: Option<String>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<Arc<Partitioner<K, V>>>,
}

impl<K: HasSerde, V: HasSerde> Default for Repartitioned<K, V> {
    fn default() -> Self {
        Self::shared(default_serde(), default_serde())
    }
}

impl<K, V> Repartitioned<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self::shared(Arc::new(key), Arc::new(value))
    }

    /// The topic becomes `<application.id>-<name>-repartition`. Both types with their own serdes.
    pub fn named(name: impl Into<String>) -> Self
    where
        K: HasSerde,
        V: HasSerde,
    {
        Self::default().name(name)
    }

    fn shared(key: SharedSerde<K>, value: SharedSerde<V>) -> Self {
        Self {
            key,
            value,
            name: None,
            partitions: None,
            partitioner: None,
        }
    }

    /// As [`Repartitioned::named`], beside serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// So many partitions. Without it: as many as the topics upstream have at most.
    #[must_use]
    pub fn partitions(mut self, partitions: i32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// Chooses the partition of each record. A closure `|topic, key, value, partitions| Partitions::One(0)`.
    #[must_use]
    pub fn partitioner(
        mut self,
        partitioner: impl Fn(&str, &K, &V, i32) -> Partitions + Send + Sync + 'static,
    ) -> Self {
        self.partitioner = Some(Arc::new(partitioner));
        self
    }
}

impl<K, V> fmt::Debug for Repartitioned<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repartitioned")
            .field("name", &self.name)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}
