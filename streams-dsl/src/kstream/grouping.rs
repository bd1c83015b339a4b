//! Grouping a stream by key.

use std::sync::Arc;

use brooklet_streams_core::record::Datum;
use brooklet_streams_core::serde::{HasSerde, SharedSerde, default_serde};

use super::KStream;
use crate::grouped::KGroupedStream;
use crate::options::Grouped;
use crate::options::stream_serdes::KnownSerdes;

impl<K: Datum, V: Datum> KStream<K, V> {
    /// Groups records by the keys they have. A key that is null drops the record when it is aggregated, which is counted.
    pub fn group_by_key(&self) -> KGroupedStream<K, V>
    where
        K: HasSerde,
        V: HasSerde,
    {
        let key = self.key.clone().unwrap_or_else(default_serde::<K>);
        let value = self.value.clone().unwrap_or_else(default_serde::<V>);
        KGroupedStream::new(self.at.clone(), key, value, None)
    }

    /// As [`KStream::group_by_key`], with serdes or a name.
    pub fn group_by_key_with(&self, grouped: Grouped<K, V>) -> KGroupedStream<K, V> {
        let serdes = grouped.0.or(self.key.as_ref(), self.value.as_ref());
        self.grouped("group_by_key_with", serdes)
    }

    /// Groups records by the key that the closure gives them: through a repartition topic. The key may be an `Option`; `None` drops the
    /// record, before the topic, and is counted.
    pub fn group_by<K2: Datum + HasSerde>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KGroupedStream<K2, V>
    where
        V: HasSerde,
    {
        self.select_key(selector).group_by_key()
    }

    /// As [`KStream::group_by`], with serdes or a name, which is also that of the node which selects the key.
    pub fn group_by_with<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
        grouped: Grouped<K2, V>,
    ) -> KGroupedStream<K2, V> {
        let serdes = grouped.0.or(None, self.value.as_ref());
        let rekeyed = self.select_key(selector);
        if let Some(name) = &serdes.name {
            rekeyed.at.plan().give_name(rekeyed.at.id(), name.clone());
        }
        rekeyed.grouped("group_by_with", serdes)
    }

    fn grouped(&self, verb: &str, serdes: KnownSerdes<K, V>) -> KGroupedStream<K, V> {
        let KnownSerdes { key, value, name } = serdes;
        let missing = match (&key, &value) {
            (None, _) => Some("keys"),
            (_, None) => Some("values"),
            _ => None,
        };
        if let Some(missing) = missing {
            let mut plan = self.at.plan();
            let node = plan.node(self.at.id()).name.as_str().to_owned();
            plan.report(format!("{verb} of {node}: no serde is known for the {missing}; give both with Grouped::with(key, value)"));
        }
        KGroupedStream::new(
            self.at.clone(),
            key.unwrap_or_else(unknown_serde),
            value.unwrap_or_else(unknown_serde),
            name,
        )
    }
}

/// Stands in for a serde whose absence has been reported: building the topology fails before anything uses it.
fn unknown_serde<T: 'static>() -> SharedSerde<T> {
    Arc::new(crate::null::Unknown)
}
