//! Programs whose output, with timestamps and headers, was recorded from Kafka Streams 4.3.1 (`recorded.txt`): once with the record cache, once
//! without. Each line of the recording is a program, `cached` or `uncached`, and its records as `key=value@timestamp#header`; the header is the
//! number of the input record that carried it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use brooklet_streams_core::record::Record;
use brooklet_streams_core::test_driver::{TestDriverOptions, TopologyTestDriver};
use brooklet_streams_dsl::{
    Consumed, KStream, KTable, Materialized, Produced, Repartitioned, StreamsBuilder, TimeWindows,
    Windowed, millis,
};

/// As text, null included: what the recording is written in.
type Text = Option<String>;

/// Topic, key, value, timestamp.
type In = (
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    i64,
);

fn run(
    builder: &StreamsBuilder,
    cache_bytes_max: usize,
    inputs: &[In],
) -> impl Iterator<Item = String> {
    let options = TestDriverOptions {
        cache_bytes_max,
        ..TestDriverOptions::default()
    };
    let driver = TopologyTestDriver::with(&builder.build().unwrap(), options).unwrap();
    for (number, (topic, key, value, timestamp)) in inputs.iter().enumerate() {
        let owned = |text: &Option<&str>| text.map(str::to_owned);
        let mut record = Record::new(owned(key), owned(value), *timestamp);
        record.headers.push("n", Some(number.to_string().into()));
        let input = driver.input_topic::<Text, Text>(topic).unwrap();
        input.pipe_record(record).unwrap();
    }
    let written = driver.output_topic::<Text, Text>("out").read_all().unwrap();
    written.into_iter().map(|record| {
        let text = |text: Text| text.unwrap_or_else(|| "null".to_owned());
        let header = record.headers.last("n").and_then(|n| n.value.clone());
        let header = String::from_utf8(header.unwrap().to_vec()).unwrap();
        let (key, value) = (text(record.key), text(record.value));
        format!("{key}={value}@{}#{header}", record.timestamp)
    })
}

#[track_caller]
fn check(name: &str, inputs: &[In], program: impl Fn(&StreamsBuilder)) {
    for (cache, cache_bytes_max) in [("cached", 10 << 20), ("uncached", 0)] {
        let builder = StreamsBuilder::new();
        program(&builder);
        let ours: Vec<String> = run(&builder, cache_bytes_max, inputs).collect();
        let prefix = format!("{name} {cache} ");
        let recorded = include_str!("recorded.txt")
            .lines()
            .find_map(|line| line.strip_prefix(&prefix));
        assert_eq!(ours.join(" "), recorded.unwrap(), "{prefix}");
    }
}

/// A record of topic `in`.
const fn record(key: &'static str, value: &'static str, timestamp: i64) -> In {
    ("in", Some(key), Some(value), timestamp)
}

/// Any stream, for output.
fn write<K: Into<Text> + Clone + 'static, V: Into<Text> + Clone + 'static>(stream: &KStream<K, V>) {
    stream
        .map(|key, value| (key.into(), value.into()))
        .to("out", Produced::default());
}

fn stream(builder: &StreamsBuilder) -> KStream<String, String> {
    builder.stream("in", Consumed::default())
}

fn texts(builder: &StreamsBuilder) -> KStream<Text, Text> {
    builder.stream("in", Consumed::default())
}

fn table(builder: &StreamsBuilder) -> KTable<String, String> {
    builder.table("t", Consumed::default())
}

const NULLS: [In; 3] = [
    record("a", "1", 1),
    ("in", None, Some("2"), 2),
    ("in", Some("b"), None, 3),
];

#[test]
fn a_repartition_topic_takes_no_null_keys() {
    check("repartition", &NULLS, |builder| {
        write(&texts(builder).repartition(Repartitioned::named("again")));
    });
    check("rekeyed-repartition", &NULLS, |builder| {
        let rekeyed = texts(builder).select_key(|key, _| key.clone());
        write(&rekeyed.repartition(Repartitioned::named("again")));
    });
}

const COUNTS: [In; 6] = [
    record("a", "x", 5),
    record("a", "y", 3),
    record("b", "z", 9),
    record("a", "w", 4),
    record("b", "q", 2),
    record("a", "e", 20),
];

#[test]
fn views_of_counts_send_what_is_news() {
    check("counts", &COUNTS, |builder| {
        let counts = stream(builder)
            .group_by_key()
            .count(Materialized::default());
        let view = counts
            .filter(|_, count| *count >= 2)
            .map_values(|_, count| format!("c{count}"))
            .filter(|_, text| text != "c3");
        write(&view.to_stream());
    });
    check("counts-named-views", &COUNTS, |builder| {
        let counts = stream(builder)
            .group_by_key()
            .count(Materialized::default());
        let view = counts
            .filter_with(|_, count| *count >= 2, Materialized::named("f"))
            .map_values_with(|_, count| format!("c{count}"), Materialized::named("m"))
            .filter_with(|_, text| text != "c3", Materialized::named("g"));
        write(&view.to_stream());
    });
}

const DELETIONS: [In; 8] = [
    record("a", "1", 10),
    record("a", "2", 5),
    record("a", "-", 3),
    record("a", "-", 2),
    record("a", "4", 1),
    record("b", "-", 7),
    record("a", "-", 30),
    record("a", "5", 6),
];

/// `None` where the text is to be deleted.
fn appended(text: &str, value: &str) -> Option<String> {
    (value != "-").then(|| format!("{text}{value}"))
}

#[test]
fn a_deleted_row_forgets_its_time() {
    check("reduce-null", &DELETIONS, |builder| {
        let reduced = stream(builder).group_by_key().reduce(
            |text, value| appended(&text, &value),
            Materialized::default(),
        );
        write(&reduced.to_stream());
    });
    check("aggregate-null", &DELETIONS, |builder| {
        let aggregated = stream(builder).group_by_key().aggregate(
            || "0".to_owned(),
            |_, value, text: String| appended(&text, &value),
            Materialized::default(),
        );
        write(&aggregated.to_stream());
    });
}

const WINDOWS: [In; 11] = [
    record("a", "1", 3),
    record("a", "2", 7),
    record("a", "3", 1),
    record("a", "-", 12),
    record("a", "4", 13),
    record("a", "5", 14),
    record("b", "6", 4),
    record("a", "7", 26),
    record("a", "8", 9),
    record("a", "9", 16),
    record("a", "-", 27),
];

#[test]
fn windows_are_updated_deleted_and_closed() {
    check("window", &WINDOWS, |builder| {
        let windows = TimeWindows::of_size(millis(10))
            .advance_by(millis(4))
            .grace(millis(5));
        let texts = stream(builder)
            .group_by_key()
            .windowed_by(windows)
            .aggregate(
                || "0".to_owned(),
                |_, value, text: String| appended(&text, &value),
                Materialized::default(),
            );
        let key = |key: &Windowed<String>, _: &Text| format!("{}{}", key.key, key.window);
        write(&texts.to_stream().select_key(key));
    });
    check("window-filter", &WINDOWS, |builder| {
        let counts = stream(builder)
            .group_by_key()
            .windowed_by(TimeWindows::of_size(millis(10)))
            .count(Materialized::default());
        let odd = counts
            .filter(|_, count| *count != 2)
            .map_values(|_, count| count.to_string());
        let key = |key: &Windowed<String>, _: &Text| format!("{}{}", key.key, key.window.start);
        write(&odd.to_stream().select_key(key));
    });
}

const JOINS: [In; 10] = [
    ("t", Some("a"), Some("A"), 10),
    record("a", "1", 5),
    ("t", Some("a"), Some("B"), 3),
    record("a", "2", 12),
    ("t", Some("a"), None, 1),
    record("a", "3", 13),
    ("in", Some("a"), None, 14),
    ("in", None, Some("5"), 15),
    ("t", Some("b"), Some("C"), 16),
    record("b", "6", 2),
];

/// Both sides after each other, as Java writes them.
fn joined(left: Text, right: Option<&String>) -> String {
    let null = || "null".to_owned();
    left.unwrap_or_else(null) + &right.cloned().unwrap_or_else(null)
}

#[test]
fn joins_see_rows_as_they_are() {
    check("join", &JOINS, |builder| {
        let join = |left, right: &String| joined(left, Some(right));
        write(&texts(builder).join(&table(builder), join));
    });
    check("left-join-rekeyed", &JOINS, |builder| {
        let rekeyed = texts(builder).select_key(|key, _| key.clone());
        write(&rekeyed.left_join(&table(builder), joined));
    });
    check("join-mapped-view", &JOINS, |builder| {
        let view = table(builder)
            .filter(|_, row| row != "B")
            .map_values(|_, row| format!("{row}{row}"));
        write(&texts(builder).left_join(&view, joined));
    });
    check("global", &JOINS, |builder| {
        let global = builder.global_table::<String, String>("t", Consumed::default());
        let key = |_: &Text, value: &Text| (value.as_deref() != Some("5")).then(|| "a".to_owned());
        write(&texts(builder).left_join_global(&global, key, joined));
    });
}

#[test]
fn a_table_sends_every_record_without_cache_and_what_is_news_with_it() {
    let rows = [
        record("a", "1", 5),
        record("a", "1", 3),
        ("in", Some("a"), None, 4),
        ("in", Some("a"), None, 4),
        ("in", Some("b"), None, 4),
        record("a", "2", 1),
    ];
    check("table-stream", &rows, |builder| {
        let kept = Materialized::named("kept");
        let table = builder.table_with::<String, String>("in", Consumed::default(), kept);
        write(&table.to_stream());
    });
}

#[test]
fn branches_merge_again() {
    let records = [record("a", "1", 5), record("a", "2", 3)];
    check("split-merge", &records, |builder| {
        let branches = stream(builder)
            .split()
            .named("s-")
            .branch_as("x", |_, value| value == "1")
            .branch_as("y", |_, _| true)
            .no_default_branch();
        let merged = branches["s-y"].merge(&branches["s-x"]);
        write(&merged.flat_map_values(|_, value| [value.clone(), value.clone() + &value]));
    });
}
