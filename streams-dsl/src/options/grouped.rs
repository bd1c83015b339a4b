//! How a grouping is written to its repartition topic.

use std::fmt;
use std::sync::Arc;

use brooklet_streams_core::serde::{HasSerde, Serde, SharedSerde, default_serde};

/// Serdes and name of a grouping, for `group_by_with` and `group_by_key_with`.
///
/// Serdes that are not given here are those of the stream it is called on, then those of the types. A type without a serde can only be
/// grouped with [`Grouped::with`], or where the stream has read it from a topic.
pub struct Grouped<K, V> {
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
    pub(crate) name: Option<String>,
    /// The types' own, used where nothing else is known.
    pub(crate) own: Option<(SharedSerde<K>, SharedSerde<V>)>,
}

impl<K, V> Default for Grouped<K, V> {
    fn default() -> Self {
        Self {
            key: None,
            value: None,
            name: None,
            own: None,
        }
    }
}

impl<K, V> Grouped<K, V> {
    /// With these serdes.
    pub fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self {
            key: Some(Arc::new(key)),
            value: Some(Arc::new(value)),
            name: None,
            own: None,
        }
    }

    /// Names the grouping: the repartition topic becomes `<application.id>-<name>-repartition`, and all aggregations of this grouping share
    /// it (KIP-372).
    pub fn named(name: impl Into<String>) -> Self
    where
        K: HasSerde,
        V: HasSerde,
    {
        Self {
            name: Some(name.into()),
            own: Some((default_serde(), default_serde())),
            ..Self::default()
        }
    }

    /// As [`Grouped::named`], beside serdes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

impl<K, V> fmt::Debug for Grouped<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grouped")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
