#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod run_length;

use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;

use super::*;
use crate::client::record_batch::BatchBuilder;
use crate::client::{Producer, Slot};
use crate::processor::{InitContext, Processor, ProcessorContext, Punctuation};
use crate::record::Record;
use crate::test_driver::{SharedWritten, TestProducer, lock};
use crate::topology::{
    Consumed, LogAndSkip, Node, Partitions, Produced, TopicChoice, TopologyBuilder,
};
use crate::typed_store::{KeyValueStoreBuilder, TimestampedKeyValueStore};

/// A record of an input: key, value, timestamp.
type In<'a> = (Option<&'a str>, Option<&'a str>, i64);

/// One task with its producer.
struct Bench {
    task: Task,
    written: SharedWritten,
}

impl Bench {
    fn new(builder: TopologyBuilder, inputs: &[&str]) -> Self {
        Self::with(builder, inputs, StreamSettings::default())
    }

    fn with(builder: TopologyBuilder, inputs: &[&str], settings: StreamSettings) -> Self {
        let written = SharedWritten::default();
        let producer = TestProducer::new(&written, 4);
        Self::over(builder, inputs, settings, written, Box::new(producer)).unwrap()
    }

    fn over(
        builder: TopologyBuilder,
        inputs: &[&str],
        settings: StreamSettings,
        written: SharedWritten,
        producer: Box<dyn Producer>,
    ) -> Result<Self, StreamsError> {
        let topology = builder.build()?;
        let environment = TaskEnvironment {
            application_id: "app".into(),
            collector: RecordCollector::new(producer),
            cache: ThreadCache::new(0, false),
            globals: GlobalStores::new(),
            settings,
        };
        let memory = brooklet_state_stores::Memory::new(1 << 20);
        let stores = Stores::open(None, &topology.store_specs(0), &memory).unwrap();
        let inputs = inputs
            .iter()
            .map(|topic| TopicPartition::new(*topic, 0))
            .collect();
        let id = TaskId {
            subtopology: 0,
            partition: 0,
        };
        Ok(Self {
            task: Task::new(&topology, id, inputs, stores, &environment, 0)?,
            written,
        })
    }

    /// Hands in records from `offset` on, as one batch; the partition ends at `end_offset`.
    fn fetched(&mut self, input: usize, offset: i64, records: &[In<'_>], end_offset: i64) {
        self.task
            .add_fetched(input, fetched(offset, records, end_offset))
            .unwrap();
    }

    fn process(&mut self) -> usize {
        self.task.process(0, usize::MAX).unwrap()
    }

    /// Values written since last asked, as `topic:value@timestamp`.
    fn output(&self) -> Vec<String> {
        let records = std::mem::take(&mut lock(&self.written).records);
        let text = |bytes: &Option<Bytes>| {
            bytes
                .as_ref()
                .map_or("null".to_owned(), |bytes| bytes.escape_ascii().to_string())
        };
        records
            .iter()
            .map(|(topic, _, record)| {
                format!("{topic}:{}@{}", text(&record.value), record.timestamp)
            })
            .collect()
    }

    fn positions(&self) -> Vec<i64> {
        (0..self.task.inputs().len())
            .map(|input| self.task.position(input).unwrap())
            .collect()
    }
}

fn fetched(offset: i64, records: &[In<'_>], end_offset: i64) -> Fetched {
    let mut batch = BatchBuilder::new(64);
    for (place, (key, value, timestamp)) in records.iter().enumerate() {
        let at = offset + i64::try_from(place).unwrap();
        batch
            .append_at(
                at,
                *timestamp,
                key.map(str::as_bytes),
                value.map(str::as_bytes),
                std::iter::empty(),
            )
            .unwrap();
    }
    let batches = if records.is_empty() {
        Vec::new()
    } else {
        vec![batch.finish().freeze()]
    };
    let next_offset = offset + i64::try_from(records.len()).unwrap();
    Fetched {
        slot: Slot(0),
        batches,
        next_offset,
        end_offset,
        error: None,
    }
}

/// Values with timestamps, all of key "k".
fn values<'a>(values: &[(&'a str, i64)]) -> Vec<In<'a>> {
    values
        .iter()
        .map(|(value, timestamp)| (Some("k"), Some(*value), *timestamp))
        .collect()
}

fn strings() -> Consumed<String, String> {
    Consumed::default()
}

/// Copies the topics to `out`.
fn copy(topics: &[&str]) -> TopologyBuilder {
    let mut builder = Topology::builder();
    let sources: Vec<Node<String, String>> = topics
        .iter()
        .map(|topic| {
            builder
                .add_source(format!("read-{topic}"), [*topic], strings())
                .unwrap()
        })
        .collect();
    builder
        .add_sink("write", "out", Produced::default(), &sources)
        .unwrap();
    builder
}

/// A processor made of a closure.
struct Closure<F>(F);

impl<F> Processor<String, String, String, String> for Closure<F>
where
    F: FnMut(
            Record<String, String>,
            &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError>
        + 'static,
{
    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        self.0(record, context)
    }
}

/// `in` through a closure to `out`.
fn through<F>(process: F) -> TopologyBuilder
where
    F: Fn(
            Record<String, String>,
            &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let processor = builder
        .add_processor("step", move || Closure(process.clone()), &[source])
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[processor])
        .unwrap();
    builder
}

#[test]
fn records_of_several_inputs_are_taken_in_order_of_event_time() {
    let mut bench = Bench::new(copy(&["a", "b"]), &["a", "b"]);
    bench.fetched(0, 0, &values(&[("a1", 1), ("a5", 5), ("a6", 6)]), 3);
    bench.fetched(1, 0, &values(&[("b2", 2), ("b5", 5), ("b9", 9)]), 3);
    assert_eq!(bench.process(), 6);
    assert_eq!(
        bench.output(),
        [
            "out:a1@1", "out:b2@2", "out:a5@5", "out:b5@5", "out:a6@6", "out:b9@9"
        ]
    );
}

#[test]
fn an_empty_input_is_waited_for_while_its_lag_is_unknown_or_above_zero() {
    let mut bench = Bench::new(copy(&["a", "b"]), &["a", "b"]);
    bench.fetched(0, 0, &values(&[("a1", 1)]), 1);
    assert_eq!(bench.process(), 0, "nothing is known of b");
    bench.fetched(1, 0, &[], 1);
    assert_eq!(bench.process(), 0, "b has a record that is not here yet");
    bench.fetched(1, 0, &values(&[("b0", 0)]), 1);
    assert_eq!(bench.process(), 2, "b is caught up");
    assert_eq!(bench.output(), ["out:b0@0", "out:a1@1"]);
    bench.fetched(0, 1, &values(&[("a2", 2)]), 2);
    assert_eq!(bench.process(), 1, "b still has lag zero");
}

#[test]
fn an_idle_time_above_zero_waits_that_long_for_an_input_without_lag() {
    let settings = StreamSettings {
        task_idle_max_ms: 10,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(copy(&["a", "b"]), &["a", "b"], settings);
    bench.fetched(0, 0, &values(&[("a1", 1)]), 1);
    bench.fetched(1, 0, &[], 0);
    assert_eq!(bench.task.process(100, 9).unwrap(), 0);
    assert_eq!(bench.task.idle_until_ms(100), Some(110));
    assert_eq!(bench.task.process(109, 9).unwrap(), 0);
    assert_eq!(bench.task.process(110, 9).unwrap(), 1);
}

#[test]
fn an_idle_time_of_minus_one_never_waits() {
    let settings = StreamSettings {
        task_idle_max_ms: -1,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(copy(&["a", "b"]), &["a", "b"], settings);
    bench.fetched(0, 0, &values(&[("a1", 1)]), 1);
    assert_eq!(bench.process(), 1);
}

#[test]
fn nulls_without_a_type_are_dropped_counted_and_committed() {
    let mut bench = Bench::new(copy(&["in"]), &["in"]);
    bench.fetched(0, 0, &[(None, Some("x"), 7), (Some("k"), None, 8)], 2);
    assert_eq!(bench.process(), 2);
    assert_eq!(bench.output(), Vec::<String>::new());
    let dropped = bench.task.dropped();
    assert_eq!(
        (
            dropped.of(DropReason::NullKey),
            dropped.of(DropReason::NullValue),
            dropped.total()
        ),
        (1, 1, 2)
    );
    assert_eq!((bench.positions(), bench.task.stream_time()), (vec![2], 8));
}

#[test]
fn a_null_is_a_value_of_an_option() {
    let mut builder = Topology::builder();
    let source = builder
        .add_source::<String, Option<String>>("read", ["in"], Consumed::default())
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[source])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    bench.fetched(0, 0, &[(Some("k"), None, 8)], 1);
    bench.process();
    assert_eq!(bench.output(), ["out:null@8"]);
}

#[test]
fn a_negative_timestamp_stops_the_task_unless_the_extractor_skips_it() {
    let mut bench = Bench::new(copy(&["in"]), &["in"]);
    bench.fetched(0, 0, &values(&[("a", 1), ("b", -1)]), 2);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert!(error.starts_with("task 0_0, in-0 at offset 1: read-in: the record has the invalid (negative) timestamp -1"), "{error}");
    assert_eq!(bench.positions(), [1]);

    let mut builder = Topology::builder();
    let source = builder
        .add_source("read", ["in"], strings().timestamp_extractor(LogAndSkip))
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[source])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    bench.fetched(
        0,
        0,
        &values(&[("a", 1), ("b", -1), ("c", 3), ("d", -1)]),
        4,
    );
    assert_eq!(bench.process(), 2);
    assert_eq!(bench.output(), ["out:a@1", "out:c@3"]);
    assert_eq!(
        (
            bench.task.dropped().of(DropReason::InvalidTimestamp),
            bench.positions()
        ),
        (2, vec![4])
    );
}

/// Case TS-1: the extractor gets the partition's time, which later records do not lower.
#[test]
fn an_extractor_gets_the_highest_time_taken_from_the_partition() {
    let extractor = |input: &crate::topology::ExtractorInput<'_, String, String>,
                     partition_time: i64| match input.value.as_str() {
        "neg" => -1,
        "prev" => partition_time,
        _ => input.timestamp,
    };
    let mut builder = Topology::builder();
    let source = builder
        .add_source("read", ["in"], strings().timestamp_extractor(extractor))
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[source])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    bench.fetched(
        0,
        0,
        &values(&[("1", 5), ("neg", 6), ("prev", 100), ("2", 3), ("prev", 0)]),
        5,
    );
    bench.process();
    assert_eq!(
        bench.output(),
        ["out:1@5", "out:prev@5", "out:2@3", "out:prev@5"]
    );
}

fn numbers() -> TopologyBuilder {
    let mut builder = Topology::builder();
    let source = builder
        .add_source::<String, i64>("read", ["in"], Consumed::default())
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[source])
        .unwrap();
    builder
}

#[test]
fn bytes_that_cannot_be_read_stop_the_task_at_their_offset() {
    let mut bench = Bench::new(numbers(), &["in"]);
    bench.fetched(0, 40, &values(&[("12345678", 1), ("bad", 2)]), 42);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert!(
        error.starts_with("task 0_0, in-0 at offset 41: read: value: "),
        "{error}"
    );
    assert_eq!(bench.output().len(), 1);
    assert_eq!(bench.positions(), [41]);
}

/// What a closure as an extractor makes of a value: its number.
fn number_extracted() -> Consumed<String, i64> {
    strings_of_numbers().timestamp_extractor(
        |input: &crate::topology::ExtractorInput<'_, String, i64>, _partition_time| *input.value,
    )
}

fn strings_of_numbers() -> Consumed<String, i64> {
    Consumed::with(crate::serde::Utf8, crate::serde::Json::new())
}

#[test]
fn what_an_extractor_cannot_be_asked_about_moves_no_time_and_holds_nobody_up() {
    let mut builder = Topology::builder();
    let source = builder
        .add_source("read", ["in"], number_extracted())
        .unwrap();
    let other = builder
        .add_source("other", ["in2"], strings_of_numbers())
        .unwrap();
    let json = || Produced::with(crate::serde::Utf8, crate::serde::Json::new());
    builder
        .add_sink("write", "out", json(), &[source, other])
        .unwrap();
    let settings = StreamSettings {
        deserialization_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(builder, &["in", "in2"], settings);
    // Written now, about long ago: a null and a value that cannot be read have only the time of their writing.
    let now = 1_700_000_000_000;
    let records = [
        (Some("k"), None, now),
        (Some("k"), Some("5"), now),
        (Some("k"), Some("no number"), now),
        (Some("k"), Some("7"), now),
    ];
    bench.fetched(0, 0, &records, 4);
    bench.fetched(1, 0, &[(Some("k"), Some("6"), 6)], 1);
    bench.process();
    assert_eq!(bench.output(), ["out:5@5", "out:6@6", "out:7@7"]);
    assert_eq!(bench.task.stream_time(), 7);
    assert_eq!(bench.task.dropped().total(), 2);
    assert_eq!(bench.positions(), [4, 1]);
}

#[test]
fn a_null_has_the_time_of_its_record_where_there_is_no_extractor() {
    let mut bench = Bench::new(numbers(), &["in"]);
    bench.fetched(0, 0, &[(Some("k"), None, 9)], 1);
    bench.process();
    assert_eq!(bench.task.stream_time(), 9);
}

#[test]
fn a_record_forwarded_with_a_negative_timestamp_is_an_error_of_the_node_that_made_it() {
    let early = |record: Record<String, String>, context: &mut ProcessorContext<'_, _, _>| {
        context.forward(record.with_timestamp(-1))
    };
    let mut bench = Bench::new(through(early), &["in"]);
    bench.fetched(0, 0, &values(&[("a", 1)]), 1);
    assert_eq!(
        bench.task.process(0, 9).unwrap_err().to_string(),
        "task 0_0, in-0 at offset 0: step: a record was forwarded with the negative timestamp -1"
    );
}

#[test]
fn a_handler_that_continues_counts_what_cannot_be_read() {
    let settings = StreamSettings {
        deserialization_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(numbers(), &["in"], settings);
    bench.fetched(
        0,
        0,
        &values(&[("12345678", 1), ("bad", 2), ("12345678", 3)]),
        3,
    );
    assert_eq!(bench.process(), 3);
    assert_eq!(
        (
            bench.output().len(),
            bench.task.dropped().of(DropReason::Deserialization)
        ),
        (2, 1)
    );
}

fn fails_on_bad() -> TopologyBuilder {
    through(|record, context| {
        context.forward(record.clone())?;
        if record.value == "bad" {
            Err(ProcessError::new("no good"))
        } else {
            Ok(())
        }
    })
}

#[test]
fn a_failing_processor_stops_the_task_and_is_named_with_its_record() {
    let mut bench = Bench::new(fails_on_bad(), &["in"]);
    bench.fetched(0, 5, &values(&[("a", 1), ("bad", 2), ("c", 3)]), 8);
    assert_eq!(
        bench.task.process(0, 9).unwrap_err().to_string(),
        "task 0_0, in-0 at offset 6: step: no good"
    );
    assert_eq!(bench.positions(), [6]);
}

#[test]
fn a_handler_that_continues_keeps_what_was_forwarded_before_the_error() {
    let settings = StreamSettings {
        processing_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(fails_on_bad(), &["in"], settings);
    bench.fetched(0, 0, &values(&[("a", 1), ("bad", 2), ("c", 3)]), 3);
    assert_eq!(bench.process(), 3);
    assert_eq!(bench.output(), ["out:a@1", "out:bad@2", "out:c@3"]);
    assert_eq!(bench.task.dropped().of(DropReason::Processing), 1);
}

#[test]
fn a_handler_that_continues_gives_up_only_what_is_below_the_failing_node() {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let fails = || {
        Closure(
            |_: Record<String, String>, _: &mut ProcessorContext<'_, String, String>| {
                Err(ProcessError::new("no good"))
            },
        )
    };
    builder.add_processor("fails", fails, &[source]).unwrap();
    let passes = || {
        Closure(
            |record: Record<String, String>, context: &mut ProcessorContext<'_, String, String>| {
                context.forward(record)
            },
        )
    };
    let passes = builder.add_processor("passes", passes, &[source]).unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[passes])
        .unwrap();
    let settings = StreamSettings {
        processing_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(builder, &["in"], settings);
    bench.fetched(0, 0, &values(&[("a", 1), ("b", 2)]), 2);
    assert_eq!(bench.process(), 2);
    assert_eq!(bench.output(), ["out:a@1", "out:b@2"]);
    assert_eq!(bench.task.dropped().of(DropReason::Processing), 2);
}

/// A producer that takes nothing.
struct Failing(LateProducer);
impl Producer for Failing {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, crate::client::ClientError> {
        self.0.topic(name)
    }

    fn partitions(&mut self, topic: TopicHandle) -> Option<i32> {
        self.0.partitions(topic)
    }

    fn append(
        &mut self,
        _: TopicHandle,
        _: i32,
        _: crate::client::RecordRef<'_>,
    ) -> Result<(), crate::client::ClientError> {
        Err(crate::client::ClientError::new(
            crate::client::ClientErrorKind::Fenced,
            "a newer producer has taken over",
        ))
    }

    fn flush(&mut self, _: i64) {}

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &std::task::Waker,
        completions: &mut Vec<crate::client::Completion>,
    ) -> Result<(), crate::client::ClientError> {
        self.0.poll(now_ms, waker, completions)
    }

    fn pending_records(&self) -> usize {
        0
    }

    fn pending_bytes(&self) -> usize {
        0
    }
}

fn over_failing_producer(builder: TopologyBuilder) -> Bench {
    let written = SharedWritten::default();
    let late = LateProducer {
        inner: TestProducer::new(&written, 1),
        partitions: Arc::new(AtomicI64::new(1)),
    };
    let settings = StreamSettings {
        processing_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    Bench::over(builder, &["in"], settings, written, Box::new(Failing(late))).unwrap()
}

#[test]
fn a_failing_producer_stops_the_task_whatever_the_handler_says() {
    let mut bench = over_failing_producer(through(|record, context| context.forward(record)));
    bench.fetched(0, 3, &values(&[("a", 1)]), 4);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert_eq!(
        error,
        "task 0_0, in-0 at offset 3: write: a newer producer has taken over"
    );
}

/// Keeps the last value of each key in store `last`.
struct KeepsLast(Option<crate::typed_store::TimestampedKeyValueStore<String, String>>);

impl Processor<String, String, String, String> for KeepsLast {
    fn init(&mut self, context: &mut InitContext<'_, String, String>) -> Result<(), ProcessError> {
        self.0 = Some(context.key_value_store("last")?);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        let store = self.0.as_ref().unwrap();
        let _ = store.put(&record.key, Some(record.value), record.timestamp, context)?;
        Ok(())
    }
}

#[test]
fn a_failing_store_stops_the_task_whatever_the_handler_says() {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let keeps = builder
        .add_processor("keeps", || KeepsLast(None), &[source])
        .unwrap();
    let store = KeyValueStoreBuilder::<String, String>::new("last").in_memory();
    builder.add_state_store(store).unwrap();
    builder.connect(keeps, &["last"]).unwrap();
    let mut bench = over_failing_producer(builder);
    bench.fetched(0, 0, &values(&[("a", 1)]), 1);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert!(
        error.starts_with("task 0_0, in-0 at offset 0: keeps: store last: "),
        "{error}"
    );
    assert_eq!(bench.task.dropped().total(), 0);
}

#[test]
fn metadata_is_that_of_the_record_read() {
    let mut bench = Bench::new(
        through(|record, context| {
            let at = context.record_metadata().cloned().unwrap();
            let stream_time = context.stream_time();
            context.forward(record.with_value(format!(
                "{}-{}:{} {stream_time}",
                at.topic, at.partition, at.offset
            )))
        }),
        &["in"],
    );
    bench.fetched(0, 7, &values(&[("a", 3), ("b", 1)]), 9);
    bench.process();
    assert_eq!(bench.output(), ["out:in-0:7 3@3", "out:in-0:8 3@1"]);
}

#[test]
fn a_commit_request_ends_the_run_until_the_commit() {
    let mut bench = Bench::new(
        through(|record, context| {
            if record.value == "commit" {
                context.request_commit();
            }
            context.forward(record)
        }),
        &["in"],
    );
    bench.fetched(0, 0, &values(&[("a", 1), ("commit", 2), ("c", 3)]), 3);
    assert_eq!(bench.process(), 2);
    assert!(bench.task.wants_commit());
    assert_eq!(bench.process(), 0);
    let offsets = bench.task.offsets_to_commit();
    assert_eq!(offsets.len(), 1);
    assert_eq!(
        (
            offsets[0].1.offset,
            offset_metadata::decode(&offsets[0].1.metadata)
        ),
        (2, Some((2, Vec::new())))
    );
    bench.task.commit_stores(&Positions::default()).unwrap();
    assert!(
        bench.task.offsets_to_commit().is_empty(),
        "nothing changed since"
    );
    assert_eq!(bench.process(), 1);
}

/// Tells each record's value with the stream time that the node itself keeps.
struct OwnTime(Option<Rc<std::cell::Cell<i64>>>);

impl Processor<String, String, String, String> for OwnTime {
    fn init(&mut self, context: &mut InitContext<'_, String, String>) -> Result<(), ProcessError> {
        self.0 = Some(context.stream_time());
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        let time = self.0.as_ref().unwrap();
        time.set(time.get().max(record.timestamp));
        let told = format!("{} {}", record.value, time.get());
        context.forward(record.with_value(told))
    }
}

#[test]
fn a_nodes_own_stream_time_is_committed_with_the_offsets() {
    let topology = || {
        let mut builder = Topology::builder();
        let source = builder
            .add_source::<String, String>("source", ["in", "other"], Consumed::default())
            .unwrap();
        let node = builder
            .add_processor("times", || OwnTime(None), &[source])
            .unwrap();
        builder
            .add_sink("sink", "out", Produced::default(), &[node])
            .unwrap();
        builder
    };
    let mut before = Bench::new(topology(), &["in", "other"]);
    before.fetched(0, 0, &values(&[("a", 7), ("b", 3)]), 2);
    before.fetched(1, 0, &[], 0);
    before.process();
    let committed = before.task.offsets_to_commit();

    let mut after = Bench::new(topology(), &["in", "other"]);
    for (input, (_, committed)) in committed.iter().enumerate() {
        after
            .task
            .set_position(input, committed.offset, &committed.metadata);
    }
    after.fetched(0, 2, &values(&[("c", 5)]), 3);
    after.fetched(1, 0, &[], 0);
    after.process();
    assert_eq!(after.output(), ["out:c 7@5"]);
}

#[test]
fn a_batch_that_begins_below_the_position_is_read_from_there() {
    let mut bench = Bench::new(copy(&["in"]), &["in"]);
    let metadata = offset_metadata::encode(99, &Vec::new());
    bench.task.set_position(0, 12, &metadata);
    bench.fetched(
        0,
        10,
        &values(&[("a", 1), ("b", 2), ("c", 3), ("d", 4)]),
        14,
    );
    assert_eq!(bench.task.input_buffered(0), 2);
    assert_eq!(bench.process(), 2);
    assert_eq!(bench.output(), ["out:c@3", "out:d@4"]);
    assert_eq!(
        (bench.positions(), bench.task.stream_time()),
        (vec![14], 99)
    );
}

#[test]
fn the_position_passes_what_was_compacted_away_or_is_no_record() {
    let mut bench = Bench::new(copy(&["in"]), &["in"]);
    let mut batch = fetched(0, &values(&[("a", 1)]), 30);
    batch.next_offset = 30;
    bench.task.add_fetched(0, batch).unwrap();
    bench.process();
    assert_eq!(bench.positions(), [30]);
}

#[test]
fn bytes_that_are_no_batch_are_refused() {
    let mut bench = Bench::new(copy(&["in"]), &["in"]);
    let rubbish = Fetched {
        slot: Slot(0),
        batches: vec![Bytes::from_static(b"rubbish")],
        next_offset: 1,
        end_offset: 1,
        error: None,
    };
    assert!(
        bench
            .task
            .add_fetched(0, rubbish)
            .unwrap_err()
            .to_string()
            .contains("in-0")
    );
}

/// Forwards what it gets; punctuates every ten milliseconds with its time.
struct Ticks(PunctuationType);

impl Processor<String, String, String, String> for Ticks {
    fn init(&mut self, context: &mut InitContext<'_, String, String>) -> Result<(), ProcessError> {
        context.schedule(10, self.0).map(|_| ())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        context.forward(record)
    }

    fn punctuate(
        &mut self,
        punctuation: Punctuation,
        timestamp: i64,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        assert_eq!(context.record_metadata(), None);
        if timestamp >= 1_000 {
            context.cancel(punctuation);
        }
        context.forward(Record::new(
            "p".to_owned(),
            format!("tick{timestamp}"),
            timestamp,
        ))
    }
}

fn ticks(kind: PunctuationType) -> TopologyBuilder {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let ticks = builder
        .add_processor("ticks", move || Ticks(kind), &[source])
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[ticks])
        .unwrap();
    builder
}

/// Case PAPI-1.
#[test]
fn stream_time_punctuations_come_after_the_record_that_makes_them_due() {
    let mut bench = Bench::new(ticks(PunctuationType::StreamTime), &["in"]);
    bench.fetched(
        0,
        0,
        &values(&[
            ("1", 3),
            ("2", 9),
            ("3", 10),
            ("4", 25),
            ("5", 60),
            ("6", 50),
            ("7", 69),
            ("8", 70),
        ]),
        8,
    );
    bench.process();
    let expected = [
        "1@3",
        "tick3@3",
        "2@9",
        "3@10",
        "tick10@10",
        "4@25",
        "tick25@25",
        "5@60",
        "tick60@60",
        "6@50",
        "7@69",
        "8@70",
        "tick70@70",
    ];
    assert_eq!(bench.output(), expected.map(|value| format!("out:{value}")));
}

#[test]
fn wall_clock_punctuations_follow_the_clock_and_may_cancel_themselves() {
    let mut bench = Bench::new(ticks(PunctuationType::WallClockTime), &["in"]);
    assert_eq!(bench.task.next_wall_clock_punctuation(), Some(10));
    assert!(!bench.task.punctuate(9).unwrap());
    assert!(bench.task.punctuate(10).unwrap());
    assert!(bench.task.punctuate(47).unwrap());
    assert!(!bench.task.punctuate(49).unwrap());
    assert!(bench.task.punctuate(1_000).unwrap());
    assert_eq!(bench.task.next_wall_clock_punctuation(), None);
    assert_eq!(
        bench.output(),
        ["out:tick10@10", "out:tick47@47", "out:tick1000@1000"]
    );
}

#[test]
fn a_store_that_is_not_connected_is_refused_with_the_way_out() {
    struct Reads;
    impl Processor<String, String, String, String> for Reads {
        fn init(
            &mut self,
            context: &mut InitContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            context
                .key_value_store::<String, String>("counts")
                .map(|_| ())
        }

        fn process(
            &mut self,
            _record: Record<String, String>,
            _context: &mut ProcessorContext<'_, String, String>,
        ) -> Result<(), ProcessError> {
            Ok(())
        }
    }
    let declare = |connected: bool| {
        let mut builder = Topology::builder();
        let source = builder.add_source("read", ["in"], strings()).unwrap();
        let reads = builder.add_processor("reads", || Reads, &[source]).unwrap();
        let other = builder
            .add_processor(
                "other",
                || Closure(|_, _: &mut ProcessorContext<'_, String, String>| Ok(())),
                &[source],
            )
            .unwrap();
        builder
            .add_state_store(KeyValueStoreBuilder::<String, String>::new("counts").in_memory())
            .unwrap();
        builder
            .connect(if connected { reads } else { other }, &["counts"])
            .unwrap();
        builder
    };
    let start = |builder| {
        let written = SharedWritten::default();
        let producer = TestProducer::new(&written, 1);
        Bench::over(
            builder,
            &["in"],
            StreamSettings::default(),
            written,
            Box::new(producer),
        )
        .map(|_| ())
    };
    let error = start(declare(false)).unwrap_err().to_string();
    assert_eq!(
        error,
        "task 0_0: reads: store counts is not connected to reads: declare it with add_state_store and call connect(reads, &[\"counts\"])"
    );
    start(declare(true)).unwrap();
}

/// A producer to a cluster that learns of its topics late.
struct LateProducer {
    inner: TestProducer,
    partitions: Arc<AtomicI64>,
}

impl Producer for LateProducer {
    fn topic(&mut self, name: &str) -> Result<TopicHandle, crate::client::ClientError> {
        self.inner.topic(name)
    }

    fn partitions(&mut self, _topic: TopicHandle) -> Option<i32> {
        i32::try_from(self.partitions.load(Ordering::SeqCst))
            .ok()
            .filter(|partitions| *partitions > 0)
    }

    fn append(
        &mut self,
        topic: TopicHandle,
        partition: i32,
        record: crate::client::RecordRef<'_>,
    ) -> Result<(), crate::client::ClientError> {
        self.inner.append(topic, partition, record)
    }

    fn flush(&mut self, now_ms: i64) {
        self.inner.flush(now_ms);
    }

    fn poll(
        &mut self,
        now_ms: i64,
        waker: &std::task::Waker,
        completions: &mut Vec<crate::client::Completion>,
    ) -> Result<(), crate::client::ClientError> {
        self.inner.poll(now_ms, waker, completions)
    }

    fn pending_records(&self) -> usize {
        self.inner.pending_records()
    }

    fn pending_bytes(&self) -> usize {
        self.inner.pending_bytes()
    }
}

#[test]
fn records_for_a_topic_that_the_cluster_does_not_know_yet_are_held_and_the_task_waits() {
    let written = SharedWritten::default();
    let partitions = Arc::new(AtomicI64::new(0));
    let producer = LateProducer {
        inner: TestProducer::new(&written, 1),
        partitions: Arc::clone(&partitions),
    };
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let topic = TopicChoice::dynamic(|record: &Record<String, String>, _: &TaskContext| {
        format!("to-{}", record.value)
    });
    builder
        .add_sink("write", topic, Produced::default(), &[source])
        .unwrap();
    let mut bench = Bench::over(
        builder,
        &["in"],
        StreamSettings::default(),
        written,
        Box::new(producer),
    )
    .unwrap();

    bench.fetched(0, 0, &values(&[("x", 1), ("y", 2)]), 2);
    assert_eq!(bench.process(), 1);
    assert_eq!(bench.task.is_blocked().as_deref(), Some("to-x"));
    assert_eq!(bench.process(), 0);
    assert!(bench.output().is_empty());

    partitions.store(1, Ordering::SeqCst);
    assert_eq!(bench.process(), 1);
    assert_eq!(bench.task.is_blocked(), None);
    assert_eq!(bench.output(), ["to-x:x@1", "to-y:y@2"]);
}

/// `in` to the topics that its values name.
fn to_named_topics(produced: Produced<String, String>) -> TopologyBuilder {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let topic = TopicChoice::dynamic(|record: &Record<String, String>, _: &TaskContext| {
        record.value.clone()
    });
    builder
        .add_sink("write", topic, produced, &[source])
        .unwrap();
    builder
}

#[test]
fn a_topic_whose_name_is_not_valid_is_for_the_production_handler() {
    let records = values(&[("good", 1), ("no good", 2), ("..", 3), ("good", 4)]);
    let mut bench = Bench::new(to_named_topics(Produced::default()), &["in"]);
    bench.fetched(0, 0, &records, 4);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert_eq!(
        error,
        "task 0_0, in-0 at offset 1: write: \"no good\" is not a valid name: use 1 to 249 of the letters a-z, A-Z, digits, '.', '_' and '-'"
    );

    let settings = StreamSettings {
        production_error: ErrorResponse::Continue,
        ..StreamSettings::default()
    };
    let mut bench = Bench::with(to_named_topics(Produced::default()), &["in"], settings);
    bench.fetched(0, 0, &records, 4);
    assert_eq!(bench.process(), 4);
    assert_eq!(bench.output(), ["good:good@1", "good:good@4"]);
    assert_eq!(bench.task.dropped().of(DropReason::Production), 2);
    assert_eq!(bench.task.is_blocked(), None);
}

#[test]
fn held_records_that_cannot_be_written_are_for_the_production_handler_and_those_behind_them_go() {
    let start = |settings| {
        let written = SharedWritten::default();
        let partitions = Arc::new(AtomicI64::new(0));
        let producer = LateProducer {
            inner: TestProducer::new(&written, 1),
            partitions: Arc::clone(&partitions),
        };
        // Sends three records for each; the second one's partition is not there.
        let thrice = |record: Record<String, String>, context: &mut ProcessorContext<'_, _, _>| {
            for value in ["first", "wrong", "last"] {
                context.forward(record.clone().with_value(value.to_owned()))?;
            }
            Ok(())
        };
        let mut builder = Topology::builder();
        let source = builder.add_source("read", ["in"], strings()).unwrap();
        let step = builder
            .add_processor("step", move || Closure(thrice), &[source])
            .unwrap();
        let produced = Produced::default().partitioner(|_, _: &String, value: &String, _| {
            match value.as_str() {
                "wrong" => Partitions::Many([0, 7].into_iter().collect()),
                _ => Partitions::Default,
            }
        });
        builder.add_sink("write", "out", produced, &[step]).unwrap();
        let bench = Bench::over(builder, &["in"], settings, written, Box::new(producer));
        (bench.unwrap(), partitions)
    };
    let handled = [
        (
            ErrorResponse::Continue,
            ErrorResponse::Fail,
            DropReason::Production,
        ),
        (
            ErrorResponse::Fail,
            ErrorResponse::Continue,
            DropReason::Processing,
        ),
    ];
    for (production_error, processing_error, reason) in handled {
        let (mut bench, partitions) = start(StreamSettings {
            production_error,
            processing_error,
            ..StreamSettings::default()
        });
        bench.fetched(0, 0, &values(&[("a", 1), ("b", 2)]), 2);
        assert_eq!(bench.process(), 1);
        assert_eq!(bench.task.is_blocked().as_deref(), Some("out"));
        partitions.store(1, Ordering::SeqCst);
        assert_eq!(bench.process(), 1);
        assert_eq!(bench.task.is_blocked(), None);
        assert_eq!(
            bench.output(),
            ["out:first@1", "out:last@1", "out:first@2", "out:last@2"],
            "nothing twice, nothing lost, and nothing of the wrong ones"
        );
        assert_eq!(bench.task.dropped().of(reason), 2);
        assert_eq!(bench.positions(), [2]);
    }

    let (mut bench, partitions) = start(StreamSettings::default());
    bench.fetched(0, 0, &values(&[("a", 1)]), 1);
    assert_eq!(bench.process(), 1);
    partitions.store(1, Ordering::SeqCst);
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert_eq!(
        error,
        "task 0_0: write: the partitioner chose partition 7 of topic out, which has 1"
    );
}

/// Counts in a cached store, and sends what is flushed, with its headers.
struct CountsCached(Option<TimestampedKeyValueStore<String, i64>>);

struct SendsHeaders(crate::processor::Children<String, String>);

impl crate::typed_store::FlushListener<String, i64> for SendsHeaders {
    fn wants_old(&self) -> bool {
        false
    }

    fn flushed(
        &mut self,
        change: crate::typed_store::Flushed<String, i64>,
        task: &mut TaskContext,
    ) -> Result<(), ProcessError> {
        let record = Record {
            key: change.key,
            value: format!("{:?}", change.new),
            timestamp: change.timestamp,
            headers: change.headers,
        };
        self.0.forward(record, task)
    }
}

impl Processor<String, String, String, String> for CountsCached {
    fn init(&mut self, context: &mut InitContext<'_, String, String>) -> Result<(), ProcessError> {
        let store = context.key_value_store("counts")?;
        store.set_flush_listener(Box::new(SendsHeaders(context.children())));
        self.0 = Some(store);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, String>,
        context: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        let timestamp = record.timestamp;
        let store = self.0.as_ref().unwrap();
        let written = store.update(&record.key, context, |count| {
            Ok((Some(count.map_or(0, |count| count.value) + 1), timestamp))
        })?;
        assert_eq!(written, crate::typed_store::Written::Cached);
        Ok(())
    }
}

#[test]
fn what_a_cache_sends_on_has_the_headers_that_a_processor_before_it_has_set() {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    // Its left child gets the record with a header more; what comes to the right one is as it was.
    let marks = || {
        Closure(
            |record: Record<String, String>, context: &mut ProcessorContext<'_, String, String>| {
                let mut marked = record.clone();
                marked
                    .headers
                    .push("mark", Some(record.value.clone().into()));
                context.forward_to(0, marked)?;
                context.forward_to(1, record)
            },
        )
    };
    let marks = builder.add_processor("marks", marks, &[source]).unwrap();
    let counts = builder
        .add_processor("counts", || CountsCached(None), &[marks])
        .unwrap();
    builder
        .add_state_store(
            KeyValueStoreBuilder::<String, i64>::new("counts")
                .in_memory()
                .caching(true),
        )
        .unwrap();
    builder.connect(counts, &["counts"]).unwrap();
    let plain = || {
        Closure(
            |record: Record<String, String>, context: &mut ProcessorContext<'_, String, String>| {
                assert!(context.headers.is_empty(), "they are the other child's");
                context.forward(record)
            },
        )
    };
    let plain = builder.add_processor("plain", plain, &[marks]).unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[counts, plain])
        .unwrap();
    let topology = builder.build().unwrap();
    let written = SharedWritten::default();
    let environment = TaskEnvironment {
        application_id: "app".into(),
        collector: RecordCollector::new(Box::new(TestProducer::new(&written, 1))),
        cache: ThreadCache::new(1 << 20, false),
        globals: GlobalStores::new(),
        settings: StreamSettings::default(),
    };
    let memory = brooklet_state_stores::Memory::new(1 << 20);
    let stores = Stores::open(None, &topology.store_specs(0), &memory).unwrap();
    let id = TaskId {
        subtopology: 0,
        partition: 0,
    };
    let inputs = vec![TopicPartition::new("in", 0)];
    let mut bench = Bench {
        task: Task::new(&topology, id, inputs, stores, &environment, 0).unwrap(),
        written,
    };
    bench.fetched(0, 0, &values(&[("a", 1), ("b", 2)]), 2);
    assert_eq!(bench.process(), 2);
    assert_eq!(bench.output(), ["out:a@1", "out:b@2"]);
    bench.task.flush(0).unwrap();
    let records = std::mem::take(&mut lock(&bench.written).records);
    let (_, _, flushed) = records
        .iter()
        .find(|(topic, _, _)| &**topic == "out")
        .unwrap();
    assert_eq!(flushed.value.as_deref(), Some(&b"Some(2)"[..]));
    let mark = flushed.headers.last("mark").unwrap();
    assert_eq!(
        mark.value.as_deref(),
        Some(&b"b"[..]),
        "of the latest update"
    );
}

#[test]
fn a_partitioner_chooses_several_partitions_or_none_and_never_one_that_is_not_there() {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let produced =
        Produced::default().partitioner(|topic, _key: &String, value: &String, partitions| {
            assert_eq!((topic, partitions), ("out", 4));
            match value.as_str() {
                "all" => Partitions::Many((0..partitions).collect()),
                "none" => Partitions::Many([].into_iter().collect()),
                "wrong" => Partitions::One(4),
                _ => Partitions::Default,
            }
        });
    builder
        .add_sink("write", "out", produced, &[source])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    bench.fetched(
        0,
        0,
        &values(&[("all", 1), ("none", 2), ("hash", 3), ("wrong", 4)]),
        4,
    );
    let error = bench.task.process(0, 9).unwrap_err().to_string();
    assert_eq!(
        error,
        "task 0_0, in-0 at offset 3: write: the partitioner chose partition 4 of topic out, which has 4"
    );
    let partitions: Vec<i32> = lock(&bench.written)
        .records
        .iter()
        .map(|(_, partition, _)| *partition)
        .collect();
    assert_eq!(
        partitions,
        [0, 1, 2, 3, crate::partitioner::partition_of(b"k", 4)]
    );
    assert_eq!(bench.task.dropped().of(DropReason::NoPartition), 1);
}

#[test]
fn records_without_key_stay_on_a_partition_for_about_a_batch() {
    let mut builder = Topology::builder();
    let source = builder
        .add_source::<Option<String>, String>("read", ["in"], Consumed::default())
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[source])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    let long = "x".repeat(6_000);
    let records: Vec<In<'_>> = (0..7).map(|_| (None, Some(long.as_str()), 0)).collect();
    bench.fetched(0, 0, &records, 7);
    bench.process();
    let partitions: Vec<i32> = lock(&bench.written)
        .records
        .iter()
        .map(|(_, partition, _)| *partition)
        .collect();
    assert_eq!(partitions, [0, 0, 0, 1, 1, 1, 2]);
}

#[test]
fn a_diamonds_lower_node_is_one_and_sees_both_ways_in_order() {
    let mut builder = Topology::builder();
    let source = builder.add_source("read", ["in"], strings()).unwrap();
    let mark = |mark: &'static str| {
        move || {
            Closure(
                move |record: Record<String, String>,
                      context: &mut ProcessorContext<'_, String, String>| {
                    let value = format!("{}{mark}", record.value);
                    context.forward(record.with_value(value))
                },
            )
        }
    };
    let left = builder.add_processor("left", mark("l"), &[source]).unwrap();
    let right = builder
        .add_processor("right", mark("r"), &[source])
        .unwrap();
    let numbered = || {
        let mut count = 0;
        Closure(
            move |record: Record<String, String>,
                  context: &mut ProcessorContext<'_, String, String>| {
                count += 1;
                let value = format!("{}{count}", record.value);
                context.forward(record.with_value(value))
            },
        )
    };
    let bottom = builder
        .add_processor("bottom", numbered, &[left, right])
        .unwrap();
    builder
        .add_sink("write", "out", Produced::default(), &[bottom])
        .unwrap();
    let mut bench = Bench::new(builder, &["in"]);
    bench.fetched(0, 0, &values(&[("a", 1), ("b", 2)]), 2);
    bench.process();
    assert_eq!(
        bench.output(),
        ["out:al1@1", "out:ar2@1", "out:bl3@2", "out:br4@2"]
    );
    let processed: Vec<(String, u64)> = bench
        .task
        .processed()
        .into_iter()
        .map(|(name, count)| (name.to_string(), count))
        .collect();
    assert_eq!(
        processed
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect::<Vec<_>>(),
        ["read 2", "left 2", "right 2", "bottom 4", "write 4"]
    );
}
