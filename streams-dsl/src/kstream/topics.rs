//! Where a stream is written: topics of others, and the application's own repartition topics.

use std::sync::Arc;

use brooklet_streams_core::processor::TaskContext;
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::serde::SharedSerde;
use brooklet_streams_core::topology::{
    Consumed, InternalTopic, Partitioner, Produced, TopicChoice,
};

use super::KStream;
use crate::null::NullCheck;
use crate::operators::present::RepartitionFilter;
use crate::options::Repartitioned;
use crate::plan::naming::{self, Name, RepartitionNumbers};
use crate::plan::{Handle, Lower, NodeKind, Prefix};

impl<K: Datum, V: Datum> KStream<K, V> {
    /// Writes the stream to a topic, which must exist.
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let words = builder.stream::<String, String>("words", Consumed::default());
    /// words.to("copies", Produced::default().named("copy"));
    /// ```
    pub fn to(&self, topic: impl Into<String>, produced: Produced<K, V>) {
        let topic = topic.into();
        self.sink(move || TopicChoice::Fixed(topic.clone()), produced);
    }

    /// Writes each record to the topic that the closure names, which must exist (KIP-303).
    ///
    /// ```
    /// # use brooklet_streams_dsl::{Consumed, Produced, StreamsBuilder};
    /// # let builder = StreamsBuilder::new();
    /// let words = builder.stream::<String, String>("words", Consumed::default());
    /// words.to_dynamic(|record, _task| format!("words-of-{}", record.value.len()), Produced::default());
    /// ```
    pub fn to_dynamic(
        &self,
        topic: impl Fn(&Record<K, V>, &TaskContext) -> String + Send + Sync + 'static,
        produced: Produced<K, V>,
    ) {
        let topic = Arc::new(topic);
        self.sink(
            move || {
                let topic = Arc::clone(&topic);
                TopicChoice::dynamic(move |record, task| topic(record, task))
            },
            produced,
        );
    }

    fn sink(
        &self,
        topic: impl Fn() -> TopicChoice<K, V> + Send + Sync + 'static,
        produced: Produced<K, V>,
    ) {
        let mut plan = self.at.plan();
        let name = Name::automatic(plan.names.node(naming::SINK))
            .given(produced.name().map(str::to_owned));
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            lowering
                .topology
                .add_sink(lowering.name(id), topic(), produced.clone(), &[parent])?;
            Ok(())
        });
        plan.add(NodeKind::End, name, vec![self.at.id()], lower);
    }

    /// Writes the stream to an internal topic by key and reads it back (KIP-221). Groupings and joins do so by themselves where it is needed.
    pub fn repartition(&self, repartitioned: Repartitioned<K, V>) -> Self {
        let Repartitioned {
            key,
            value,
            name,
            partitions,
            partitioner,
        } = repartitioned;
        let prefix = match name {
            Some(name) => name,
            None => self.at.plan().names.node(naming::REPARTITION),
        };
        let topic = RepartitionTopic {
            prefix: Prefix::Name(prefix),
            key,
            value,
            partitions,
            partitioner,
            keeps_null_keys: false,
        };
        let (key, value) = (Arc::clone(&topic.key), Arc::clone(&topic.value));
        let numbers = RepartitionNumbers::take(&mut self.at.plan().names);
        let at = topic.add_below(&self.at, numbers);
        Self::new(at, Some(key), Some(value))
    }
}

/// An internal topic by key, with the nodes around it.
pub(crate) struct RepartitionTopic<K, V> {
    pub(crate) prefix: Prefix,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) partitions: Option<i32>,
    pub(crate) partitioner: Option<Arc<Partitioner<K, V>>>,
    pub(crate) keeps_null_keys: bool,
}

impl<K: Datum, V: Datum> RepartitionTopic<K, V> {
    /// Adds it to the plan, below a stream.
    pub(crate) fn add_below(self, stream: &Handle, numbers: RepartitionNumbers) -> Handle {
        let Self {
            prefix,
            key,
            value,
            partitions,
            partitioner,
            keeps_null_keys,
        } = self;
        let nulls = NullCheck::of(&key);
        let kind = NodeKind::Repartition {
            prefix,
            keeps_null_keys,
        };
        let name = Name::automatic(numbers.source().to_owned());
        let lower: Lower = Arc::new(move |id, lowering| {
            let parent = lowering.parent::<K, V>(id)?;
            let names = lowering.repartition_names(id, &numbers)?;
            let keys = (!lowering.keeps_null_keys(id)).then(|| nulls.clone());
            lowering
                .topology
                .add_internal_topic(InternalTopic::repartition(names.topic.as_str(), partitions))?;
            let filter = lowering.topology.add_processor(
                names.filter,
                move || RepartitionFilter { keys: keys.clone() },
                &[parent],
            )?;
            let mut produced = Produced::shared(Arc::clone(&key), Arc::clone(&value));
            if let Some(partitioner) = &partitioner {
                let partitioner = Arc::clone(partitioner);
                produced = produced.partitioner(move |topic, key, value, partitions| {
                    partitioner(topic, key, value, partitions)
                });
            }
            lowering
                .topology
                .add_sink(names.sink, names.topic.as_str(), produced, &[filter])?;
            let consumed = Consumed::shared(Arc::clone(&key), Arc::clone(&value));
            let source = lowering
                .topology
                .add_source(names.source, [names.topic], consumed)?;
            lowering.set_output(id, source);
            Ok(())
        });
        let id = stream.plan().add(kind, name, vec![stream.id()], lower);
        stream.at(id)
    }
}
