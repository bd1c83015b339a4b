//! Serdes of a stream, needed only where it goes through a repartition topic, and a name: what `Grouped` and `Joined` are made of.

use std::sync::Arc;

use brooklet_streams_core::serde::{HasSerde, Serde, SharedSerde, default_serde};

pub(crate) struct StreamSerdes<K, V> {
    key: Option<SharedSerde<K>>,
    value: Option<SharedSerde<V>>,
    pub(crate) name: Option<String>,
    /// The types' own, used where nothing else is known.
    own: Option<(SharedSerde<K>, SharedSerde<V>)>,
}

/// What is known after the stream has been asked, too.
pub(crate) struct KnownSerdes<K, V> {
    pub(crate) key: Option<SharedSerde<K>>,
    pub(crate) value: Option<SharedSerde<V>>,
    pub(crate) name: Option<String>,
}

impl<K, V> Default for StreamSerdes<K, V> {
    fn default() -> Self {
        Self {
            key: None,
            value: None,
            name: None,
            own: None,
        }
    }
}

impl<K, V> StreamSerdes<K, V> {
    /// These serdes.
    pub(crate) fn with(key: impl Serde<K>, value: impl Serde<V>) -> Self {
        Self {
            key: Some(Arc::new(key)),
            value: Some(Arc::new(value)),
            ..Self::default()
        }
    }

    /// Those of the types.
    pub(crate) fn own() -> Self
    where
        K: HasSerde,
        V: HasSerde,
    {
        Self {
            own: Some((default_serde(), default_serde())),
            ..Self::default()
        }
    }

    /// What is not given is the stream's, then the types'.
    pub(crate) fn or(
        self,
        key: Option<&SharedSerde<K>>,
        value: Option<&SharedSerde<V>>,
    ) -> KnownSerdes<K, V> {
        let (own_key, own_value) = self.own.unzip();
        KnownSerdes {
            key: self.key.or_else(|| key.cloned()).or(own_key),
            value: self.value.or_else(|| value.cloned()).or(own_value),
            name: self.name,
        }
    }
}
