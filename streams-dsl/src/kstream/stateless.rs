//! Operators that look at one record at a time, `merge` and `split`.

use std::error::Error;
use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::record::Datum;

use super::{KStream, Terminal, failed};
use crate::branched::SplitStream;
use crate::operators::filter::Filter;
use crate::operators::flat_map::{FlatMap, FlatMapValues};
use crate::operators::map::{Map, MapValues, SelectKey};
use crate::operators::pass_through::PassThrough;
use crate::operators::peek::{ForEach, Peek};
use crate::operators::present::{PresentKeys, PresentValues};
use crate::outcome::Verdict;
use crate::plan::naming::{self, Name};
use crate::plan::{Lower, NodeKind};

impl<K: Datum, V: Datum> KStream<K, V> {
    /// Records that the predicate accepts. It returns `bool`, or a `Result` of it.
    pub fn filter<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, true)
    }

    /// Records that the predicate rejects.
    pub fn filter_not<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
    ) -> Self {
        self.filtered(predicate, false)
    }

    fn filtered<R: Verdict + 'static>(
        &self,
        predicate: impl Fn(&K, &V) -> R + Send + Sync + 'static,
        passes: bool,
    ) -> Self {
        let predicate = Arc::new(predicate);
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, move || Filter {
            predicate: Arc::clone(&predicate),
            passes,
        });
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Another key and value for each record. The keys count as new: a grouping or join that follows goes through a repartition topic.
    pub fn map<K2: Datum, V2: Datum>(
        &self,
        mapper: impl Fn(K, V) -> (K2, V2) + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::map`], with a closure that can fail.
    pub fn try_map<K2: Datum, V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(K, V) -> Result<(K2, V2), E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn mapped<K2: Datum, V2: Datum>(
        &self,
        mapper: impl Fn(K, V) -> Result<(K2, V2), ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K2, V2, _>(NodeKind::NewKey, naming::MAP, move || {
            Map(Arc::clone(&mapper))
        });
        KStream::new(at, None, None)
    }

    /// Another value for each record.
    pub fn map_values<V2: Datum>(
        &self,
        mapper: impl Fn(&K, V) -> V2 + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::map_values`], with a closure that can fail.
    pub fn try_map_values<V2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        mapper: impl Fn(&K, V) -> Result<V2, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn values_mapped<V2: Datum>(
        &self,
        mapper: impl Fn(&K, V) -> Result<V2, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K, V2, _>(NodeKind::SameKey, naming::MAP_VALUES, move || {
            MapValues(Arc::clone(&mapper))
        });
        KStream::new(at, self.key.clone(), None)
    }

    /// Any number of keys and values for each record, each at the record's time. The keys count as new.
    pub fn flat_map<K2: Datum, V2: Datum, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.flat_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::flat_map`], with a closure that can fail.
    pub fn try_flat_map<
        K2: Datum,
        V2: Datum,
        I: IntoIterator<Item = (K2, V2)> + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    >(
        &self,
        mapper: impl Fn(K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        self.flat_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn flat_mapped<K2: Datum, V2: Datum, I: IntoIterator<Item = (K2, V2)> + 'static>(
        &self,
        mapper: impl Fn(K, V) -> Result<I, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K2, V2, _>(NodeKind::NewKey, naming::FLAT_MAP, move || {
            FlatMap(Arc::clone(&mapper))
        });
        KStream::new(at, None, None)
    }

    /// Any number of values for each record, under its key and at its time.
    pub fn flat_map_values<V2: Datum, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> I + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_flat_mapped(move |key, value| Ok(mapper(key, value)))
    }

    /// As [`KStream::flat_map_values`], with a closure that can fail.
    pub fn try_flat_map_values<
        V2: Datum,
        I: IntoIterator<Item = V2> + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    >(
        &self,
        mapper: impl Fn(&K, V) -> Result<I, E> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        self.values_flat_mapped(move |key, value| mapper(key, value).map_err(failed))
    }

    fn values_flat_mapped<V2: Datum, I: IntoIterator<Item = V2> + 'static>(
        &self,
        mapper: impl Fn(&K, V) -> Result<I, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K, V2> {
        let mapper = Arc::new(mapper);
        let at = self.child::<K, V2, _>(NodeKind::SameKey, naming::FLAT_MAP_VALUES, move || {
            FlatMapValues(Arc::clone(&mapper))
        });
        KStream::new(at, self.key.clone(), None)
    }

    /// Another key for each record: a grouping or join that follows goes through a repartition topic. The key may be an `Option`.
    pub fn select_key<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> K2 + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.rekeyed(move |key, value| Ok(selector(key, value)))
    }

    /// As [`KStream::select_key`], with a closure that can fail.
    pub fn try_select_key<K2: Datum, E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        selector: impl Fn(&K, &V) -> Result<K2, E> + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        self.rekeyed(move |key, value| selector(key, value).map_err(failed))
    }

    fn rekeyed<K2: Datum>(
        &self,
        selector: impl Fn(&K, &V) -> Result<K2, ProcessError> + Send + Sync + 'static,
    ) -> KStream<K2, V> {
        let selector = Arc::new(selector);
        let at = self.child::<K2, V, _>(NodeKind::NewKey, naming::KEY_SELECT, move || {
            SelectKey(Arc::clone(&selector))
        });
        KStream::new(at, None, self.value.clone())
    }

    /// The same records; the closure sees each of them. It may see one again after a failure.
    #[must_use]
    pub fn peek(&self, action: impl Fn(&K, &V) + Send + Sync + 'static) -> Self {
        let action = Arc::new(action);
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::PEEK, move || {
            Peek(Arc::clone(&action))
        });
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Calls the closure with each record; nothing follows. It may see a record again after a failure.
    pub fn for_each(&self, action: impl Fn(&K, &V) + Send + Sync + 'static) -> Terminal {
        self.each(move |key, value| {
            action(key, value);
            Ok(())
        })
    }

    /// As [`KStream::for_each`], with a closure that can fail.
    pub fn try_for_each<E: Into<Box<dyn Error + Send + Sync>>>(
        &self,
        action: impl Fn(&K, &V) -> Result<(), E> + Send + Sync + 'static,
    ) -> Terminal {
        self.each(move |key, value| action(key, value).map_err(failed))
    }

    fn each(
        &self,
        action: impl Fn(&K, &V) -> Result<(), ProcessError> + Send + Sync + 'static,
    ) -> Terminal {
        let action = Arc::new(action);
        Terminal(
            self.child::<(), (), _>(NodeKind::End, naming::FOR_EACH, move || {
                ForEach(Arc::clone(&action))
            }),
        )
    }

    /// This stream and another as one, without order between them. Merged with itself, or with a stream that reads the same topics, it
    /// carries each record once, as in Kafka Streams.
    #[must_use]
    pub fn merge(&self, other: &Self) -> Self {
        let at = if self.at.same_plan(&other.at, "merge") {
            let mut plan = self.at.plan();
            let name = Name::automatic(plan.names.node(naming::MERGE));
            let (one, two) = (self.at.id(), other.at.id());
            let lower: Lower = Arc::new(move |id, lowering| {
                let parents = [lowering.output::<K, V>(one)?, lowering.output::<K, V>(two)?];
                let same = parents[0].index() == parents[1].index();
                let parents = if same { &parents[..1] } else { &parents[..] };
                lowering.add_processor::<K, V, K, V>(id, || PassThrough, parents, None)?;
                Ok(())
            });
            let id = plan.add(NodeKind::Merge, name, vec![one, two], lower);
            drop(plan);
            self.at.at(id)
        } else {
            self.at.clone()
        };
        Self::new(at, self.key.clone(), self.value.clone())
    }

    /// Splits the stream into branches: each record goes to the first whose predicate accepts it (KIP-418).
    pub fn split(&self) -> SplitStream<K, V> {
        SplitStream::new(self.clone())
    }
}

impl<K: Datum, V: Datum> KStream<Option<K>, V> {
    /// The records that have a key. Those without are dropped and counted.
    pub fn present_keys(&self) -> KStream<K, V> {
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, || PresentKeys);
        KStream::new(at, None, self.value.clone())
    }
}

impl<K: Datum, V: Datum> KStream<K, Option<V>> {
    /// The records that have a value. Those without are dropped and counted.
    pub fn present_values(&self) -> KStream<K, V> {
        let at = self.child::<K, V, _>(NodeKind::SameKey, naming::FILTER, || PresentValues);
        KStream::new(at, self.key.clone(), None)
    }
}
