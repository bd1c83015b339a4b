//! The rows of `tests/testdata/cases.json` that need only the operators there are: each was recorded from Kafka Streams 4.3.1. The output
//! after every step is compared, topic by topic.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{
    DropReason, InitContext, Processor, ProcessorContext, Punctuation, PunctuationType,
};
use brooklet_streams_core::record::Record;
use brooklet_streams_core::test_driver::TopologyTestDriver;
use brooklet_streams_dsl::{
    Consumed, ExtractorInput, KStream, Materialized, Produced, StreamsBuilder, TimeWindows,
    Windowed, millis,
};
use serde_json::Value;

/// As text, null included: what the cases are written in.
type Text = Option<String>;
type Texts = KStream<Text, Text>;

fn cases() -> &'static Value {
    static CASES: OnceLock<Value> = OnceLock::new();
    CASES.get_or_init(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/testdata/cases.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    })
}

/// Runs a case through a program; returns the driver to be asked about drops.
#[track_caller]
fn run(id: &str, program: impl FnOnce(&StreamsBuilder)) -> TopologyTestDriver {
    let builder = StreamsBuilder::new();
    program(&builder);
    let topology = builder.build().unwrap();
    let driver = TopologyTestDriver::new(&topology).unwrap();
    let case = cases()
        .as_array()
        .unwrap()
        .iter()
        .find(|case| case["id"] == id)
        .unwrap();
    let steps = case["steps"].as_array().unwrap();
    let topics: Vec<&str> = steps
        .iter()
        .flat_map(|step| step["out"].as_array().unwrap())
        .map(|out| out["topic"].as_str().unwrap())
        .collect();
    let mut compared = 0;
    for (number, step) in steps.iter().enumerate() {
        let input = driver
            .input_topic::<Text, Text>(step["topic"].as_str().unwrap())
            .unwrap();
        input
            .pipe(
                text(&step["key"]),
                text(&step["value"]),
                step["ts"].as_i64().unwrap(),
            )
            .unwrap();
        let mut expected: BTreeMap<&str, Vec<Record<Text, Text>>> =
            topics.iter().map(|topic| (*topic, Vec::new())).collect();
        for out in step["out"].as_array().unwrap() {
            let record = Record::new(
                text(&out["key"]),
                text(&out["value"]),
                out["ts"].as_i64().unwrap(),
            );
            expected
                .get_mut(out["topic"].as_str().unwrap())
                .unwrap()
                .push(record);
            compared += 1;
        }
        for (topic, expected) in expected {
            let written = driver.output_topic::<Text, Text>(topic).read_all().unwrap();
            assert_eq!(
                written,
                expected,
                "{id}, step {} ({step}), topic {topic}",
                number + 1
            );
        }
    }
    assert!(compared > 0, "{id} expects no output at all");
    driver
}

fn text(value: &Value) -> Text {
    value.as_str().map(str::to_owned)
}

fn stream(builder: &StreamsBuilder, topic: &str) -> Texts {
    builder.stream(topic, Consumed::default())
}

fn out() -> Produced<Text, Text> {
    Produced::default()
}

fn pair(left: Text, right: Option<&String>) -> Text {
    let null = || "null".to_owned();
    Some(format!(
        "[{},{}]",
        left.unwrap_or_else(null),
        right.cloned().unwrap_or_else(null)
    ))
}

fn counted<K: Clone + 'static>(counts: KStream<K, Option<i64>>) -> KStream<K, Text> {
    counts.map_values(|_, count| count.map(|count| count.to_string()))
}

fn in_window(key: Windowed<Text>) -> Text {
    Some(format!(
        "{}@[{},{})",
        key.key.unwrap(),
        key.window.start,
        key.window.end
    ))
}

#[test]
fn stj_1_a_stream_table_join_looks_up_the_latest_row_by_offset() {
    run("STJ-1", |builder| {
        let table = builder.table::<String, String>("R", Consumed::default());
        stream(builder, "L")
            .join(&table, |left, right| pair(left, Some(right)))
            .to("out", out());
    });
}

#[test]
fn stj_2_a_left_join_sends_on_records_without_a_row() {
    run("STJ-2", |builder| {
        let table = builder.table::<String, String>("R", Consumed::default());
        stream(builder, "L")
            .left_join(&table, pair)
            .to("out", out());
    });
}

#[test]
fn gtj_1_a_global_table_is_joined_by_any_key() {
    let driver = run("GTJ-1", |builder| {
        let table = builder.global_table::<String, String>("G", Consumed::default());
        let key = |_: &Text, value: &Text| value.clone().filter(|value| !value.starts_with('x'));
        stream(builder, "L")
            .left_join_global(&table, key, pair)
            .to("out", out());
    });
    assert_eq!(driver.dropped().of(DropReason::NullValue), 1);
    assert_eq!(driver.dropped().total(), 1);
}

#[test]
fn agg_1_counts_leave_out_null_keys_and_values_and_keep_the_highest_time() {
    let driver = run("AGG-1", |builder| {
        counted(
            stream(builder, "in")
                .group_by_key()
                .count(Materialized::default())
                .to_stream(),
        )
        .to("out", out());
    });
    assert_eq!(driver.dropped().of(DropReason::NullKey), 1);
    assert_eq!(driver.dropped().of(DropReason::NullValue), 1);
}

#[test]
fn agg_5_null_keys_do_not_reach_the_repartition_topic() {
    let driver = run("AGG-5", |builder| {
        let rekeyed =
            stream(builder, "in").select_key(|_, value| value.clone().filter(|value| value != "n"));
        counted(
            rekeyed
                .group_by_key()
                .count(Materialized::named("counts"))
                .to_stream(),
        )
        .to("out", out());
    });
    assert_eq!(driver.dropped().of(DropReason::NullKey), 2);
    assert_eq!(driver.processed()["counts-repartition-sink"], 2);
}

#[test]
fn win_1_a_window_takes_records_until_its_end_and_grace_have_passed() {
    let driver = run("WIN-1", |builder| {
        let counts = stream(builder, "in")
            .group_by_key()
            .windowed_by(TimeWindows::of_size(millis(10)).grace(millis(5)))
            .count(Materialized::default())
            .to_stream();
        counted(counts)
            .map(|key, count| (in_window(key), count))
            .to("out", out());
    });
    assert_eq!(driver.dropped().of(DropReason::Late), 1);
    assert_eq!(driver.dropped().of(DropReason::NullKey), 1);
}

#[test]
fn tab_1_a_filter_of_rows_that_are_not_kept_forwards_every_tombstone() {
    run("TAB-1", |builder| {
        builder
            .table::<Text, String>("in", Consumed::default())
            .filter(|_, value| value.starts_with('y'))
            .to_stream()
            .to("out", out());
    });
}

#[test]
fn spl_1_the_first_branch_that_accepts_a_record_gets_it() {
    run("SPL-1", |builder| {
        let starts = |prefix: &'static str| {
            move |_: &Text, value: &Text| {
                value
                    .as_ref()
                    .is_some_and(|value| value.starts_with(prefix))
            }
        };
        let branches = stream(builder, "in")
            .split()
            .named("b")
            .branch(starts("a"))
            .branch(starts("ab"))
            .default_branch();
        branches["b1"].to("o1", out());
        branches["b2"].to("o2", out());
        branches["b0"].to("o3", out());
    });
}

#[test]
fn sink_1_a_record_goes_to_the_topic_that_the_closure_names() {
    run("SINK-1", |builder| {
        let topic = |record: &Record<Text, Text>| {
            if record.value.as_ref().unwrap().starts_with('x') {
                "o1"
            } else {
                "o2"
            }
        };
        stream(builder, "in").to_dynamic(move |record, _| topic(record).to_owned(), out());
    });
}

#[test]
fn cache_1_of_several_updates_between_two_commits_the_last_is_sent() {
    run("CACHE-1", |builder| {
        stream(builder, "in")
            .present_values()
            .flat_map_values(|_, values| values.split(',').map(str::to_owned).collect::<Vec<_>>())
            .group_by_key()
            .reduce(
                |sum, value| (!value.ends_with('-')).then(|| sum + &value),
                Materialized::default(),
            )
            .to_stream()
            .to("out", out());
    });
}

#[test]
fn ts_1_a_negative_time_drops_the_record_and_partition_time_can_be_used() {
    let driver = run("TS-1", |builder| {
        let time = |record: &ExtractorInput<'_, Text, Text>, partition_time: i64| match record
            .value
            .as_deref()
        {
            Some("neg") => -1,
            Some("prev") => partition_time,
            _ => record.timestamp,
        };
        builder
            .stream(
                "in",
                Consumed::<Text, Text>::default().timestamp_extractor(time),
            )
            .to("out", out());
    });
    assert_eq!(driver.dropped().of(DropReason::InvalidTimestamp), 1);
}

/// Forwards what comes, and `p` at every punctuation.
struct Punctual;

impl Processor<Text, Text, Text, Text> for Punctual {
    fn init(&mut self, context: &mut InitContext<'_, Text, Text>) -> Result<(), ProcessError> {
        context.schedule(10, PunctuationType::StreamTime)?;
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<Text, Text>,
        context: &mut ProcessorContext<'_, Text, Text>,
    ) -> Result<(), ProcessError> {
        context.forward(record)
    }

    fn punctuate(
        &mut self,
        _: Punctuation,
        timestamp: i64,
        context: &mut ProcessorContext<'_, Text, Text>,
    ) -> Result<(), ProcessError> {
        context.forward(Record::new(
            Some("p".to_owned()),
            Some(timestamp.to_string()),
            timestamp,
        ))
    }
}

#[test]
fn papi_1_stream_time_punctuations_follow_the_record_that_moves_time() {
    run("PAPI-1", |builder| {
        stream(builder, "in")
            .process(|| Punctual, &[])
            .to("out", out())
    });
}
