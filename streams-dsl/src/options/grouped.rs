//! How a grouping is written to its repartition topic.

use std::fmt;

use brooklet_streams_core::serde::{HasSerde, Serde};

use super::stream_serdes::StreamSerdes;

/// Serdes and name of a grouping, for `group_by_with` and `group_by_key_with`.
///
/// Serdes that are not given here are those of the stream it is called on, then those of the types. A type without a serde can only be
/// grouped with [`Grouped::with`], or where the stream has read it from a topic.
pub struct Grouped<K, V>(pub(crate) StreamSerdes<K, V>);

impl<K, V> Default for Grouped<K, V> {
    fn default() -> Self {
        Self(StreamSerdes::default())
    }
}

impl<K, V> Grouped<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self(StreamSerdes::with(key, value))
    }

    /// Names the grouping: the repartition topic becomes `<application.id>-<name>-repartition`, and all aggregations of this grouping share
    /// it (KIP-372).
    pub fn named(name: impl Into<String>) -> Self
    where
        K: HasSerde,
        V: HasSerde,
    {
        Self(StreamSerdes::own()).name(name)
    }

    /// As [`Grouped::named`], beside serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = Some(name.into());
        self
    }
}

impl<K, V> fmt::Debug for Grouped<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grouped")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}
