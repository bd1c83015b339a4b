//! The nodes of a task, typed: how a declared node becomes one, and how a record goes through it.
//!
//! ## One virtual call a hop
//! A node is generic over its processor, so the processor's code is inlined into it; what is behind a virtual call is the node as its
//! parents see it (`Link`). Types are erased only while a task is built: children first, each link is handed to its parents as `Any` and
//! downcast once.

use std::any::Any;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use super::TaskSetup;
use super::collector::SharedCollector;
use super::input_queue::{InputQueue, TypedQueue};
use crate::client::{TopicHandle, TopicPartition};
use crate::error::ProcessError;
use crate::processor::{
    Children, DropReason, InitContext, Link, Processor, ProcessorContext, ProcessorSupplier,
    Punctuation, Receive, TaskContext,
};
use crate::record::{Datum, Record};
use crate::topology::{Consumed, Partitions, Produced, TopicChoice, check_name};

/// What the task itself asks of a node, whatever its types.
pub(crate) trait NodeCell {
    fn init(&mut self, setup: &mut TaskSetup) -> Result<(), ProcessError>;
    fn punctuate(
        &mut self,
        punctuation: Punctuation,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError>;
    /// Sends what was held back, if it can be sent by now.
    fn retry_held(&mut self, task: &mut TaskContext) -> Result<(), ProcessError>;
    /// The topic that records are held back for.
    fn held_for(&self) -> Option<Arc<str>>;
    fn processed(&self) -> u64;
    fn close(&mut self);
}

/// A node that was built: as its parents see it (an `Rc<RefCell<dyn Receive<K, V>>>`), and as its task does.
pub(crate) struct BuiltNode {
    pub(crate) link: Box<dyn Any>,
    pub(crate) cell: Rc<RefCell<dyn NodeCell>>,
}

/// Where a node is built.
pub(crate) struct NodeSite<'a> {
    pub(crate) name: &'a Arc<str>,
    pub(crate) index: usize,
    /// In order of declaration.
    pub(crate) children: Vec<&'a dyn Any>,
    pub(crate) collector: &'a SharedCollector,
    /// A sink's topic by its name on the cluster.
    pub(crate) topic: Option<String>,
}

impl NodeSite<'_> {
    fn children<K: 'static, V: 'static>(&self) -> Result<Children<K, V>, ProcessError> {
        let links: Option<Vec<Link<K, V>>> = self
            .children
            .iter()
            .map(|link| link.downcast_ref::<Link<K, V>>().cloned())
            .collect();
        // The builder's handles are typed, so only a handle of another builder can lead here.
        let links = links.ok_or_else(|| ProcessError::new("a child takes records of other types: was a node's handle of another topology used?").at(self.name))?;
        Ok(Children::new(links))
    }
}

/// Makes a processor or sink node for each task.
pub(crate) trait BuildNode: Send + Sync {
    fn build(&self, site: NodeSite<'_>) -> Result<BuiltNode, ProcessError>;
}

/// Makes the input queues of a source for each task.
pub(crate) trait BuildSource: Send + Sync {
    /// One queue for each of the partitions, which share the source's children.
    fn build(
        &self,
        site: NodeSite<'_>,
        partitions: &[TopicPartition],
    ) -> Result<BuiltSource, ProcessError>;
}

pub(crate) struct BuiltSource {
    pub(crate) queues: Vec<Box<dyn InputQueue>>,
}

/// Declared processor.
pub(crate) struct ProcessorFactory<KIn, VIn, KOut, VOut, S> {
    supplier: S,
    #[allow(
        clippy::type_complexity,
        reason = "a marker of all four types, without owning one"
    )]
    typed: PhantomData<fn(KIn, VIn) -> (KOut, VOut)>,
}

impl<KIn, VIn, KOut, VOut, S> ProcessorFactory<KIn, VIn, KOut, VOut, S> {
    pub(crate) fn new(supplier: S) -> Self {
        Self {
            supplier,
            typed: PhantomData,
        }
    }
}

impl<KIn: Datum, VIn: Datum, KOut: Datum, VOut: Datum, S: ProcessorSupplier<KIn, VIn, KOut, VOut>>
    BuildNode for ProcessorFactory<KIn, VIn, KOut, VOut, S>
{
    fn build(&self, site: NodeSite<'_>) -> Result<BuiltNode, ProcessError> {
        let node = Rc::new(RefCell::new(ProcessorNode {
            name: Arc::clone(site.name),
            index: site.index,
            processor: self.supplier.processor(),
            children: site.children::<KOut, VOut>()?,
            processed: 0,
            typed: PhantomData::<fn(KIn, VIn)>,
        }));
        let link: Link<KIn, VIn> = Rc::clone(&node) as Link<KIn, VIn>;
        Ok(BuiltNode {
            link: Box::new(link),
            cell: node,
        })
    }
}

struct ProcessorNode<KIn, VIn, KOut, VOut, P> {
    name: Arc<str>,
    index: usize,
    processor: P,
    children: Children<KOut, VOut>,
    processed: u64,
    typed: PhantomData<fn(KIn, VIn)>,
}

impl<KIn, VIn, KOut: Datum, VOut: Datum, P: Processor<KIn, VIn, KOut, VOut>> Receive<KIn, VIn>
    for ProcessorNode<KIn, VIn, KOut, VOut, P>
{
    #[inline]
    fn receive(
        &mut self,
        record: Record<KIn, VIn>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        self.processed += 1;
        // A store's cache keeps the headers with which its node was given the record.
        let outer = task.with_headers(&record.headers);
        let mut context = ProcessorContext {
            node: self.index,
            children: &self.children,
            task,
        };
        let result = self.processor.process(record, &mut context);
        if let Some(outer) = outer {
            task.headers = outer;
        }
        match result {
            Ok(()) => Ok(()),
            // Here, where it happened, as Kafka Streams does: what hangs below other children of its parents goes on.
            Err(error) => task.handle(
                task.processing_error,
                DropReason::Processing,
                error.at(&self.name),
            ),
        }
    }
}

impl<KIn, VIn, KOut: Datum, VOut: Datum, P: Processor<KIn, VIn, KOut, VOut>> NodeCell
    for ProcessorNode<KIn, VIn, KOut, VOut, P>
{
    fn init(&mut self, setup: &mut TaskSetup) -> Result<(), ProcessError> {
        let mut context = InitContext {
            name: &self.name,
            node: self.index,
            children: &self.children,
            setup,
        };
        self.processor
            .init(&mut context)
            .map_err(|error| error.at(&self.name))
    }

    fn punctuate(
        &mut self,
        punctuation: Punctuation,
        timestamp: i64,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        let mut context = ProcessorContext {
            node: self.index,
            children: &self.children,
            task,
        };
        self.processor
            .punctuate(punctuation, timestamp, &mut context)
            .map_err(|error| error.at(&self.name))
    }

    fn retry_held(&mut self, _task: &mut TaskContext) -> Result<(), ProcessError> {
        Ok(())
    }

    fn held_for(&self) -> Option<Arc<str>> {
        None
    }

    fn processed(&self) -> u64 {
        self.processed
    }

    fn close(&mut self) {
        self.processor.close();
        // A store's flush listener may hold this node's children, and they the store: the circle ends here.
        self.children = Children::default();
    }
}

/// Declared source.
pub(crate) struct SourceFactory<K, V> {
    consumed: Consumed<K, V>,
}

impl<K, V> SourceFactory<K, V> {
    pub(crate) fn new(consumed: Consumed<K, V>) -> Self {
        Self { consumed }
    }
}

impl<K: Datum, V: Datum> BuildSource for SourceFactory<K, V> {
    fn build(
        &self,
        site: NodeSite<'_>,
        partitions: &[TopicPartition],
    ) -> Result<BuiltSource, ProcessError> {
        let children = site.children::<K, V>()?;
        let queue = |partition: &TopicPartition| {
            Box::new(TypedQueue::new(
                Arc::clone(site.name),
                site.index,
                partition.clone(),
                self.consumed.clone(),
                children.clone(),
            )) as Box<dyn InputQueue>
        };
        Ok(BuiltSource {
            queues: partitions.iter().map(queue).collect(),
        })
    }
}

/// Declared sink.
pub(crate) struct SinkFactory<K, V> {
    topic: TopicChoice<K, V>,
    produced: Produced<K, V>,
}

impl<K, V> SinkFactory<K, V> {
    pub(crate) fn new(topic: TopicChoice<K, V>, produced: Produced<K, V>) -> Self {
        Self { topic, produced }
    }
}

impl<K: Datum, V: Datum> BuildNode for SinkFactory<K, V> {
    fn build(&self, site: NodeSite<'_>) -> Result<BuiltNode, ProcessError> {
        let mut node = SinkNode {
            name: Arc::clone(site.name),
            extractor: match &self.topic {
                TopicChoice::Fixed(_) => None,
                TopicChoice::Dynamic(extractor) => Some(Arc::clone(extractor)),
            },
            unpartitioned_bytes: self.produced.key.unpartitioned_bytes(),
            produced: self.produced.clone(),
            collector: Rc::clone(site.collector),
            topics: Vec::new(),
            by_name: HashMap::new(),
            held: VecDeque::new(),
            processed: 0,
        };
        if let Some(topic) = &site.topic {
            node.open(topic)?;
        }
        let node = Rc::new(RefCell::new(node));
        let link: Link<K, V> = Rc::clone(&node) as Link<K, V>;
        Ok(BuiltNode {
            link: Box::new(link),
            cell: node,
        })
    }
}

struct SinkNode<K, V> {
    name: Arc<str>,
    extractor: Option<Arc<crate::topology::TopicExtractor<K, V>>>,
    produced: Produced<K, V>,
    collector: SharedCollector,
    /// So many bytes at the end of a key do not choose its partition.
    unpartitioned_bytes: usize,
    /// The fixed topic, or all that the extractor named so far.
    topics: Vec<OpenTopic>,
    by_name: HashMap<String, usize>,
    /// Records whose topic the cluster does not know yet, each with its place in `topics`. As long as there are any, all that follow wait
    /// behind them, and the task takes no further records.
    held: VecDeque<(usize, Record<K, V>)>,
    processed: u64,
}

struct OpenTopic {
    name: Arc<str>,
    handle: TopicHandle,
    /// As last heard of, in `epoch`.
    partitions: i32,
    epoch: Option<u64>,
}

impl<K: Datum, V: Datum> SinkNode<K, V> {
    /// The place of a topic among `topics`.
    fn open(&mut self, name: &str) -> Result<usize, ProcessError> {
        if let Some(place) = self.by_name.get(name) {
            return Ok(*place);
        }
        // What the extractor named: the cluster would be asked for it for ever.
        check_name(name)?;
        let handle = self.collector.borrow_mut().producer_mut().topic(name)?;
        self.topics.push(OpenTopic {
            name: name.into(),
            handle,
            partitions: 0,
            epoch: None,
        });
        self.by_name.insert(name.to_owned(), self.topics.len() - 1);
        Ok(self.topics.len() - 1)
    }

    /// Sends a record; gives it back when the topic's partitions are not known yet.
    #[inline]
    fn send(
        &mut self,
        place: usize,
        record: Record<K, V>,
        task: &mut TaskContext,
    ) -> Result<Option<Record<K, V>>, ProcessError> {
        let collector = &mut *self.collector.borrow_mut();
        let topic = self
            .topics
            .get_mut(place)
            .ok_or_else(|| ProcessError::new("the sink has no topic"))?;
        if topic.epoch != Some(collector.epoch) {
            let Some(partitions) = collector
                .producer_mut()
                .partitions(topic.handle)
                .filter(|partitions| *partitions > 0)
            else {
                return Ok(Some(record));
            };
            topic.partitions = partitions;
            topic.epoch = Some(collector.epoch);
        }
        if record.timestamp < 0 {
            return Err(ProcessError::new(format!(
                "a record for topic {} has the negative timestamp {}",
                topic.name, record.timestamp
            )));
        }

        let has_key = !self.produced.key.is_null(&record.key);
        collector.key.clear();
        if has_key {
            self.produced
                .key
                .serialize(&topic.name, &record.key, &mut collector.key)?;
        }
        let has_value = !self.produced.value.is_null(&record.value);
        collector.value.clear();
        if has_value {
            self.produced
                .value
                .serialize(&topic.name, &record.value, &mut collector.value)?;
        }

        let chosen = match &self.produced.partitioner {
            None => Partitions::Default,
            Some(partitioner) => {
                partitioner(&topic.name, &record.key, &record.value, topic.partitions)
            }
        };
        let one;
        let partitions: &[i32] = match &chosen {
            Partitions::Default => {
                one = [collector.default_partition(
                    topic.handle,
                    has_key,
                    self.unpartitioned_bytes,
                    topic.partitions,
                )];
                &one
            }
            Partitions::One(partition) => {
                one = [*partition];
                &one
            }
            Partitions::Many(partitions) => partitions,
        };
        if partitions.is_empty() {
            task.drop_record(DropReason::NoPartition);
        }
        // To all of them or to none.
        if let Some(wrong) =
            (partitions.iter()).find(|partition| !(0..topic.partitions).contains(*partition))
        {
            return Err(ProcessError::new(format!(
                "the partitioner chose partition {wrong} of topic {}, which has {}",
                topic.name, topic.partitions
            )));
        }
        for partition in partitions {
            collector.append(
                topic.handle,
                *partition,
                (has_key, has_value),
                record.timestamp,
                &record.headers,
            )?;
        }
        Ok(None)
    }
}

impl<K: Datum, V: Datum> Receive<K, V> for SinkNode<K, V> {
    #[inline]
    fn receive(
        &mut self,
        record: Record<K, V>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        self.processed += 1;
        let place = match &self.extractor {
            None => 0,
            Some(extractor) => {
                let topic = extractor(&record, task);
                match self.open(&topic) {
                    Ok(place) => place,
                    Err(error) => return task.handle_production(error.at(&self.name)),
                }
            }
        };
        let unsent = if self.held.is_empty() {
            self.send(place, record, task)
        } else {
            Ok(Some(record))
        };
        match unsent {
            Ok(None) => Ok(()),
            Ok(Some(record)) => {
                self.held.push_back((place, record));
                task.held_records += 1;
                Ok(())
            }
            Err(error) => task.handle_production(error.at(&self.name)),
        }
    }
}

impl<K: Datum, V: Datum> NodeCell for SinkNode<K, V> {
    fn init(&mut self, _setup: &mut TaskSetup) -> Result<(), ProcessError> {
        Ok(())
    }

    fn punctuate(
        &mut self,
        _punctuation: Punctuation,
        _timestamp: i64,
        _task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        Ok(())
    }

    fn retry_held(&mut self, task: &mut TaskContext) -> Result<(), ProcessError> {
        while let Some((place, record)) = self.held.pop_front() {
            match self.send(place, record, task) {
                Ok(Some(record)) => {
                    self.held.push_front((place, record));
                    return Ok(());
                }
                Ok(None) => task.held_records -= 1,
                Err(error) => {
                    task.held_records -= 1;
                    task.handle_production(error.at(&self.name))?;
                }
            }
        }
        Ok(())
    }

    fn held_for(&self) -> Option<Arc<str>> {
        let (place, _) = self.held.front()?;
        self.topics.get(*place).map(|topic| Arc::clone(&topic.name))
    }

    fn processed(&self) -> u64 {
        self.processed
    }

    fn close(&mut self) {}
}
