//! How the stream of a stream–table join is written to its repartition topic.

use std::fmt;

use brooklet_streams_core::serde::{HasSerde, Serde};

use super::stream_serdes::StreamSerdes;

/// Serdes of the stream, and a name, for `join_with` and `left_join_with`.
///
/// The serdes matter only when the stream has been re-keyed. Those that are not given here are the stream's own, then those of the types.
/// `Joined::default()` gives none, for types without a serde: then building the topology fails if the stream has been re-keyed,
/// and no value counts as null.
pub struct Joined<K, V>(pub(crate) StreamSerdes<K, V>);

impl<K, V> Default for Joined<K, V> {
    fn default() -> Self {
        Self(StreamSerdes::default())
    }
}

impl<K, V> Joined<K, V> {
    /// With these serdes of the stream.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self(StreamSerdes::with(key, value))
    }

    /// Names the join's node; its repartition topic, if it needs one, becomes `<application.id>-<name>-repartition`.
    pub fn named(name: impl Into<String>) -> Self
    where
        K: HasSerde,
        V: HasSerde,
    {
        Self(StreamSerdes::own()).name(name)
    }

    /// As [`Joined::named`], beside serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.0.name = Some(name.into());
        self
    }
}

impl<K, V> fmt::Debug for Joined<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}
