//! What operators do with records, through the test driver; beside the cases recorded from Kafka Streams (`cases.rs`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use brooklet_streams_core::processor::{DropReason, Processor, ProcessorContext};
use brooklet_streams_core::record::Record;
use brooklet_streams_core::serde::HasSerde;
use brooklet_streams_core::test_driver::{TestDriverOptions, TopologyTestDriver};
use brooklet_streams_core::typed_store::{KeyValueStoreBuilder, TimestampedKeyValueStore};
use brooklet_streams_core::{ProcessError, StreamsError};
use brooklet_streams_dsl::{
    AutoOffsetReset, Consumed, Grouped, Joined, KStream, KTable, Materialized, Produced,
    Repartitioned, StreamsBuilder, TimeWindows, Windowed, millis,
};

type Rows<V> = Vec<(String, V, i64)>;

fn driver(builder: &StreamsBuilder) -> TopologyTestDriver {
    TopologyTestDriver::new(&builder.build().unwrap()).unwrap()
}

/// Every update goes downstream at once.
fn uncached(builder: &StreamsBuilder) -> TopologyTestDriver {
    let options = TestDriverOptions {
        cache_bytes_max: 0,
        ..TestDriverOptions::default()
    };
    TopologyTestDriver::with(&builder.build().unwrap(), options).unwrap()
}

/// The types of values in these tests; a number among them is an `i64`.
trait Value: HasSerde {}
impl Value for i64 {}
impl Value for String {}
impl Value for Option<i64> {}
impl Value for Option<String> {}

fn pipe<V: Value>(
    driver: &TopologyTestDriver,
    topic: &str,
    rows: impl IntoIterator<Item = (&'static str, V, i64)>,
) {
    let input = driver.input_topic::<String, V>(topic).unwrap();
    for (key, value, timestamp) in rows {
        input.pipe(key.to_owned(), value, timestamp).unwrap();
    }
}

fn read<V: Value>(driver: &TopologyTestDriver, topic: &str) -> Rows<V> {
    let records = driver.output_topic::<String, V>(topic).read_all().unwrap();
    records
        .into_iter()
        .map(
            |Record {
                 key,
                 value,
                 timestamp,
                 ..
             }| (key, value, timestamp),
        )
        .collect()
}

fn row<V>(key: &str, value: V, timestamp: i64) -> (String, V, i64) {
    (key.to_owned(), value, timestamp)
}

fn numbers(builder: &StreamsBuilder) -> KStream<String, i64> {
    builder.stream("in", Consumed::default())
}

#[test]
fn stateless_operators_do_what_their_names_say() {
    let builder = StreamsBuilder::new();
    let source = numbers(&builder);
    source
        .filter(|_, value| *value > 1)
        .to("filtered", Produced::default());
    source
        .filter_not(|_, value| *value > 1)
        .to("rejected", Produced::default());
    source
        .map(|key, value| (format!("{key}{value}"), value * 2))
        .to("mapped", Produced::default());
    source
        .map_values(|key, value| format!("{key}={value}"))
        .to("values", Produced::default());
    source
        .flat_map(|key, value| {
            (0..value)
                .map(move |n| (format!("{key}{n}"), n))
                .collect::<Vec<_>>()
        })
        .to("flat", Produced::default());
    source
        .flat_map_values(|_, value| vec![value; 2])
        .to("twice", Produced::default());
    source
        .select_key(|key, value| format!("{key}-{value}"))
        .to("rekeyed", Produced::default());
    source
        .merge(&builder.stream("other", Consumed::default()))
        .to("merged", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 10), ("b", 2, 20)]);
    pipe(&driver, "other", [("c", 3, 5)]);
    assert_eq!(read(&driver, "filtered"), [row("b", 2, 20)]);
    assert_eq!(read(&driver, "rejected"), [row("a", 1, 10)]);
    assert_eq!(
        read(&driver, "mapped"),
        [row("a1", 2, 10), row("b2", 4, 20)]
    );
    assert_eq!(
        read::<String>(&driver, "values"),
        [
            row("a", "a=1".to_owned(), 10),
            row("b", "b=2".to_owned(), 20)
        ]
    );
    assert_eq!(
        read(&driver, "flat"),
        [row("a0", 0, 10), row("b0", 0, 20), row("b1", 1, 20)]
    );
    assert_eq!(
        read(&driver, "twice"),
        [
            row("a", 1, 10),
            row("a", 1, 10),
            row("b", 2, 20),
            row("b", 2, 20)
        ]
    );
    assert_eq!(
        read(&driver, "rekeyed"),
        [row("a-1", 1, 10), row("b-2", 2, 20)]
    );
    assert_eq!(
        read(&driver, "merged"),
        [row("a", 1, 10), row("b", 2, 20), row("c", 3, 5)]
    );
}

/// As Kafka Streams 4.3.1 was seen to do.
#[test]
fn a_stream_merged_with_itself_carries_each_record_once() {
    let builder = StreamsBuilder::new();
    let source = numbers(&builder);
    source.merge(&source).to("itself", Produced::default());
    source
        .merge(&numbers(&builder))
        .to("read-again", Produced::default());
    source
        .merge(&source.filter(|_, _| true))
        .merge(&source)
        .to("three-ways", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 1)]);
    assert_eq!(read(&driver, "itself"), [row("a", 1, 1)]);
    assert_eq!(read(&driver, "read-again"), [row("a", 1, 1)]);
    assert_eq!(read(&driver, "three-ways"), vec![row("a", 1, 1); 3]);
}

#[test]
fn whether_a_stream_is_re_keyed_is_known_however_many_ways_lead_to_it() {
    let builder = StreamsBuilder::new();
    let mut merged = numbers(&builder);
    for _ in 0..64 {
        merged = merged.merge(&merged.filter(|_, value| *value > 1));
    }
    merged
        .group_by_key()
        .count(Materialized::default())
        .to_stream()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 1)]);
    assert_eq!(read::<i64>(&driver, "out"), [row("a", 1, 1)]);
}

#[test]
fn peek_and_for_each_see_every_record() {
    use std::sync::atomic::{AtomicI64, Ordering};
    static SEEN: AtomicI64 = AtomicI64::new(0);
    let builder = StreamsBuilder::new();
    let add = |_: &String, value: &i64| {
        SEEN.fetch_add(*value, Ordering::Relaxed);
    };
    numbers(&builder).peek(add).for_each(add);
    pipe(&driver(&builder), "in", [("a", 1, 0), ("b", 10, 0)]);
    assert_eq!(SEEN.load(Ordering::Relaxed), 22);
}

#[test]
fn headers_and_time_stay_with_a_record() {
    let builder = StreamsBuilder::new();
    let source = numbers(&builder);
    source
        .map_values(|_, value| value + 1)
        .filter(|_, _| true)
        .select_key(|key, _| key.clone())
        .to("out", Produced::default());
    let driver = driver(&builder);
    let mut record = Record::new("a".to_owned(), 1_i64, 7);
    record.headers.push("h", Some("v".into()));
    driver
        .input_topic("in")
        .unwrap()
        .pipe_record(record.clone())
        .unwrap();
    assert_eq!(
        driver.output_topic("out").read().unwrap(),
        Some(record.with_value(2_i64))
    );
}

#[track_caller]
fn assert_fails(builder: &StreamsBuilder, node: &str, message: &str) {
    let driver = driver(builder);
    let failure = driver
        .input_topic::<String, i64>("in")
        .unwrap()
        .pipe("a".to_owned(), 1, 0)
        .unwrap_err();
    let StreamsError::Process { error, .. } = failure else {
        panic!("{failure}")
    };
    assert_eq!(error.to_string(), format!("{node}: {message}"));
}

#[test]
fn a_failing_closure_names_its_node() {
    let fail = || "no".to_owned();
    let builder = StreamsBuilder::new();
    let _ = numbers(&builder)
        .filter(move |_, _| Err::<bool, _>(fail()))
        .named("picky");
    assert_fails(&builder, "picky", "no");

    let builder = StreamsBuilder::new();
    numbers(&builder).try_map_values(|_, value| {
        value
            .to_string()
            .parse::<i8>()
            .and(Err::<i64, _>("x".parse::<i8>().unwrap_err()))
    });
    assert_fails(
        &builder,
        "KSTREAM-MAPVALUES-0000000001",
        "invalid digit found in string",
    );

    let builder = StreamsBuilder::new();
    let sum = |_: &String, value: i64, sum: i64| {
        sum.checked_add(value).filter(|_| false).ok_or("overflow")
    };
    numbers(&builder)
        .group_by_key()
        .aggregate(|| 0_i64, sum, Materialized::default());
    assert_fails(&builder, "KSTREAM-AGGREGATE-0000000002", "overflow");

    let builder = StreamsBuilder::new();
    numbers(&builder)
        .try_for_each(|_, _| Err("gone"))
        .named("last");
    assert_fails(&builder, "last", "gone");
}

#[test]
fn a_failing_joiner_names_its_node() {
    fn fail<T>(left: i64) -> Result<T, String> {
        Err(format!("cannot join {left}"))
    }
    type Verb = fn(&KStream<String, i64>, &StreamsBuilder) -> KStream<String, i64>;
    let verbs: [(Verb, &str); 6] = [
        (
            |source, builder| source.try_join(&table(builder), |left, _| fail(left)),
            "KSTREAM-JOIN-0000000004",
        ),
        (
            |source, builder| source.try_left_join(&table(builder), |left, _| fail(left)),
            "KSTREAM-LEFTJOIN-0000000004",
        ),
        (
            |source, builder| {
                let joined = Joined::named("mine");
                source.try_join_with(&table(builder), |_, left, _| fail(left), joined)
            },
            "mine",
        ),
        (
            |source, builder| {
                let joined = Joined::named("mine");
                source.try_left_join_with(&table(builder), |_, left, _| fail(left), joined)
            },
            "mine",
        ),
        (
            |source, builder| {
                let global = builder.global_table::<String, i64>("table", Consumed::default());
                source.try_join_global(&global, |key, _| key.clone(), |left, _| fail(left))
            },
            "KSTREAM-LEFTJOIN-0000000004",
        ),
        (
            |source, builder| {
                let global = builder.global_table::<String, i64>("table", Consumed::default());
                source.try_left_join_global(&global, |key, _| key.clone(), |left, _| fail(left))
            },
            "KSTREAM-LEFTJOIN-0000000004",
        ),
    ];
    for (verb, node) in verbs {
        let builder = StreamsBuilder::new();
        verb(&numbers(&builder), &builder).to("out", Produced::default());
        let driver = driver(&builder);
        pipe(&driver, "table", [("a", 1, 0)]);
        let input = driver.input_topic::<String, i64>("in").unwrap();
        let failure = input.pipe("a".to_owned(), 7, 1).unwrap_err();
        assert!(
            failure
                .to_string()
                .ends_with(&format!("{node}: cannot join 7")),
            "{failure}"
        );
    }
}

#[test]
fn joiners_that_can_fail_join_while_they_do_not() {
    let builder = StreamsBuilder::new();
    let source = numbers(&builder);
    let table = table(&builder);
    source
        .try_join(&table, |left, right| left.checked_add(*right).ok_or("sum"))
        .to("inner", Produced::default());
    source
        .try_left_join(&table, |left, right| {
            left.checked_add(right.copied().unwrap_or(0)).ok_or("sum")
        })
        .to("left", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "table", [("a", 10, 0)]);
    pipe(&driver, "in", [("a", 1, 1), ("b", 2, 2)]);
    assert_eq!(read(&driver, "inner"), [row("a", 11, 1)]);
    assert_eq!(read(&driver, "left"), [row("a", 11, 1), row("b", 2, 2)]);
}

fn table(builder: &StreamsBuilder) -> KTable<String, i64> {
    builder.table("table", Consumed::default())
}

#[test]
fn a_re_keyed_stream_is_counted_behind_a_repartition_topic() {
    let builder = StreamsBuilder::new();
    let words = builder.stream::<String, String>("lines", Consumed::default());
    let counts = words
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_, word| word.clone())
        .count(Materialized::named("counts"));
    counts.to_stream().to("out", Produced::default());
    assert_eq!(counts.queryable_store_name().as_deref(), Some("counts"));
    let driver = driver(&builder);
    pipe(
        &driver,
        "lines",
        [("1", "to be or not to be".to_owned(), 5)],
    );
    // Each record behind the repartition topic is its own commit.
    let out = read::<i64>(&driver, "out");
    assert_eq!(
        out,
        [
            row("to", 1, 5),
            row("be", 1, 5),
            row("or", 1, 5),
            row("not", 1, 5),
            row("to", 2, 5),
            row("be", 2, 5)
        ]
    );
    let store = driver.key_value_store::<String, i64>("counts").unwrap();
    assert_eq!(store.read(&"be".to_owned()).unwrap().unwrap().value, 2);
    assert!(
        driver
            .produced_topics()
            .contains(&"test-counts-repartition".to_owned())
    );
    assert!(
        driver
            .produced_topics()
            .contains(&"test-counts-changelog".to_owned())
    );
}

#[test]
fn the_first_value_of_a_reduction_is_the_aggregate_and_a_deleted_row_forgets_its_time() {
    let builder = StreamsBuilder::new();
    let reducer = |sum: i64, value: i64| {
        if value == 0 {
            None
        } else {
            Some(sum * 10 + value)
        }
    };
    numbers(&builder)
        .group_by_key()
        .reduce(reducer, Materialized::default())
        .to_stream()
        .to("out", Produced::default());
    let driver = uncached(&builder);
    pipe(
        &driver,
        "in",
        [("a", 1, 10), ("a", 2, 5), ("a", 0, 30), ("a", 3, 7)],
    );
    let out = read::<Option<i64>>(&driver, "out");
    assert_eq!(
        out,
        [
            row("a", Some(1), 10),
            row("a", Some(12), 10),
            row("a", None, 30),
            row("a", Some(3), 7)
        ]
    );
}

#[test]
fn an_aggregate_keeps_its_own_type_and_starts_from_the_initializer() {
    let builder = StreamsBuilder::new();
    let aggregator = |key: &String, value: i64, text: String| format!("{text}{key}{value}");
    let stores = Materialized::named("texts")
        .in_memory()
        .caching(false)
        .logging(false);
    numbers(&builder)
        .group_by_key()
        .aggregate(|| "0".to_owned(), aggregator, stores)
        .to_stream()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 1), ("b", 2, 2), ("a", 3, 3)]);
    let out = read::<String>(&driver, "out");
    assert_eq!(
        out,
        [
            row("a", "0a1".to_owned(), 1),
            row("b", "0b2".to_owned(), 2),
            row("a", "0a1a3".to_owned(), 3)
        ]
    );
    assert_eq!(driver.produced_topics(), ["out"]);
}

fn windowed(driver: &TopologyTestDriver, topic: &str) -> Vec<(String, i64, i64)> {
    let records = driver
        .output_topic::<Windowed<String>, i64>(topic)
        .read_all()
        .unwrap();
    records
        .into_iter()
        .map(|record| (record.key.key, record.key.window.start, record.value))
        .collect()
}

#[test]
fn hopping_windows_are_updated_in_the_order_of_their_starts_and_drop_late_records_one_by_one() {
    let builder = StreamsBuilder::new();
    let windows = TimeWindows::of_size(millis(10))
        .advance_by(millis(5))
        .grace(millis(5));
    numbers(&builder)
        .group_by_key()
        .windowed_by(windows)
        .count(Materialized::named("counts"))
        .to_stream()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 7)]);
    assert_eq!(windowed(&driver, "out"), [row2("a", 0, 1), row2("a", 5, 1)]);
    pipe(&driver, "in", [("a", 1, 15)]);
    assert_eq!(
        windowed(&driver, "out"),
        [row2("a", 10, 1), row2("a", 15, 1)]
    );
    // [0, 10) ends at 10 = 15 - 5: closed. [5, 15) is open.
    pipe(&driver, "in", [("a", 1, 8)]);
    assert_eq!(windowed(&driver, "out"), [row2("a", 5, 2)]);
    assert_eq!(driver.dropped().of(DropReason::Late), 1);
    let store = driver.window_store::<String, i64>("counts").unwrap();
    assert_eq!(store.read(&"a".to_owned(), 5).unwrap().unwrap().value, 2);
    // Both windows of 1 are closed by now.
    pipe(&driver, "in", [("a", 1, 31), ("a", 1, 9)]);
    assert_eq!(driver.dropped().of(DropReason::Late), 3);
}

fn row2(key: &str, start: i64, count: i64) -> (String, i64, i64) {
    (key.to_owned(), start, count)
}

#[test]
fn windowed_reduce_and_aggregate_work_per_window() {
    let builder = StreamsBuilder::new();
    let windowed_stream = numbers(&builder)
        .group_by_key()
        .windowed_by(TimeWindows::of_size(millis(10)).grace(millis(10)));
    windowed_stream
        .reduce(|sum, value| sum + value, Materialized::default())
        .to_stream()
        .to("sums", Produced::default());
    windowed_stream
        .aggregate(
            || 100,
            |_, value, sum: i64| sum + value,
            Materialized::default(),
        )
        .to_stream()
        .to("more", Produced::default());
    let driver = driver(&builder);
    pipe(
        &driver,
        "in",
        [("a", 1, 1), ("a", 2, 9), ("a", 4, 10), ("a", 8, 3)],
    );
    assert_eq!(
        windowed(&driver, "sums"),
        [
            row2("a", 0, 1),
            row2("a", 0, 3),
            row2("a", 10, 4),
            row2("a", 0, 11)
        ]
    );
    assert_eq!(
        windowed(&driver, "more"),
        [
            row2("a", 0, 101),
            row2("a", 0, 103),
            row2("a", 10, 104),
            row2("a", 0, 111)
        ]
    );
}

#[test]
fn null_values_do_not_reach_a_windowed_aggregate_and_do_not_move_its_time() {
    let builder = StreamsBuilder::new();
    let source = builder.stream::<String, Option<i64>>("in", Consumed::default());
    let windows = TimeWindows::of_size(millis(10));
    source
        .group_by_key()
        .windowed_by(windows)
        .count(Materialized::default())
        .to_stream()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", None, 100), ("a", Some(1), 5)]);
    assert_eq!(windowed(&driver, "out"), [row2("a", 0, 1)]);
    assert_eq!(driver.dropped().of(DropReason::NullValue), 1);
    assert_eq!(driver.dropped().of(DropReason::Late), 0);
}

#[test]
fn a_filter_of_kept_rows_leaves_out_tombstones_that_are_no_news() {
    for caching in [true, false] {
        let builder = StreamsBuilder::new();
        let kept = Materialized::named("kept").caching(caching);
        let table = builder.table_with::<String, String>("in", Consumed::default(), kept);
        let view = table
            .map_values(|_, value| value.clone())
            .filter(|_, value| value.starts_with('y'));
        view.to_stream().to("out", Produced::default());
        let driver = driver(&builder);
        let value = |value: &str| Some(value.to_owned());
        pipe(
            &driver,
            "in",
            [
                ("a", value("n1"), 1),
                ("a", value("y1"), 2),
                ("a", value("n2"), 3),
                ("a", value("n3"), 4),
                ("a", None, 5),
            ],
        );
        assert_eq!(
            read::<Option<String>>(&driver, "out"),
            [row("a", value("y1"), 2), row("a", None, 3)],
            "caching {caching}"
        );
    }
}

#[test]
fn a_filter_of_an_aggregate_leaves_out_tombstones_that_are_no_news() {
    for cache in [true, false] {
        let builder = StreamsBuilder::new();
        let counts = numbers(&builder)
            .group_by_key()
            .count(Materialized::default());
        counts
            .filter_not(|_, count| *count < 3)
            .to_stream()
            .to("out", Produced::default());
        let driver = if cache {
            driver(&builder)
        } else {
            uncached(&builder)
        };
        pipe(&driver, "in", [("a", 1, 1), ("a", 1, 2), ("a", 1, 3)]);
        assert_eq!(
            read::<Option<i64>>(&driver, "out"),
            [row("a", Some(3), 3)],
            "cache {cache}"
        );
    }
}

/// What is done with the table of texts of the next test.
type View = fn(&StreamsBuilder) -> KTable<String, String>;

fn texts(builder: &StreamsBuilder) -> KTable<String, String> {
    builder.table("table", Consumed::default())
}

fn stored_texts(builder: &StreamsBuilder) -> KTable<String, String> {
    builder.table_with("table", Consumed::default(), Materialized::named("src"))
}

fn kept(table: &KTable<String, String>) -> KTable<String, String> {
    table.filter_with(|_, value| value.len() > 1, Materialized::named("kept"))
}

fn exclaimed(table: &KTable<String, String>) -> KTable<String, String> {
    table.map_values_with(
        |_, value| format!("{value}!"),
        Materialized::named("mapped"),
    )
}

fn long(table: &KTable<String, String>) -> KTable<String, String> {
    table.filter(|_, value| value.len() > 2)
}

/// Output recorded from Kafka Streams 4.3.1 for the same tables, with the record cache and without.
#[test]
fn views_in_stores_of_their_own_send_what_kafka_streams_sends() {
    let mapped = "x!@1 yy!@2 x!@3 x!@4 null@5 x!@6 yyy!@2 yyyy!@9";
    let filtered = "yy@2 null@3 yyy@2 yyyy@9";
    let views: [(View, &str, &str); 7] = [
        (
            |builder| kept(&texts(builder)),
            filtered,
            "null@1 yy@2 null@3 null@4 null@5 null@6 yyy@2 yyyy@9",
        ),
        (|builder| kept(&stored_texts(builder)), filtered, filtered),
        (|builder| exclaimed(&texts(builder)), mapped, mapped),
        (|builder| exclaimed(&stored_texts(builder)), mapped, mapped),
        (
            |builder| long(&kept(&texts(builder))),
            "yyy@2 yyyy@9",
            "yyy@2 yyyy@9",
        ),
        (
            |builder| {
                let named = Materialized::named("kept2");
                kept(&texts(builder)).filter_with(|_, value| value.len() > 2, named)
            },
            "yyy@2 yyyy@9",
            "yyy@2 yyyy@9",
        ),
        (
            |builder| long(&exclaimed(&texts(builder))),
            "yy!@2 null@3 yyy!@2 yyyy!@9",
            "yy!@2 null@3 yyy!@2 yyyy!@9",
        ),
    ];
    for (number, (view, with_cache, without_cache)) in views.into_iter().enumerate() {
        for (caching, expected) in [(true, with_cache), (false, without_cache)] {
            let builder = StreamsBuilder::new();
            view(&builder).to_stream().to("out", Produced::default());
            let driver = if caching {
                driver(&builder)
            } else {
                uncached(&builder)
            };
            let text = |text: &str| Some(text.to_owned());
            let rows = [
                ("a", text("x"), 1),
                ("a", text("yy"), 2),
                ("a", text("x"), 3),
                ("a", text("x"), 4),
                ("a", None, 5),
                ("b", text("x"), 6),
                ("a", text("yyy"), 2),
                ("a", text("yyyy"), 9),
            ];
            pipe(&driver, "table", rows);
            let out: Vec<String> = read::<Option<String>>(&driver, "out")
                .into_iter()
                .map(|(_, value, at)| format!("{}@{at}", value.as_deref().unwrap_or("null")))
                .collect();
            assert_eq!(out.join(" "), expected, "view {number}, caching {caching}");
        }
    }
}

#[test]
fn a_view_in_a_store_of_its_own_is_read_there() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let builder = StreamsBuilder::new();
    let doubled = table(&builder).map_values_with(
        |_, value| {
            CALLS.fetch_add(1, Ordering::Relaxed);
            value * 2
        },
        Materialized::named("doubled").in_memory(),
    );
    numbers(&builder)
        .join(&doubled, |left, right| left + right)
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "table", [("a", 10, 0), ("b", 20, 0)]);
    pipe(&driver, "table", [("b", None::<i64>, 1)]);
    pipe(&driver, "in", [("a", 1, 1), ("a", 2, 2), ("b", 3, 3)]);
    assert_eq!(read(&driver, "out"), [row("a", 21, 1), row("a", 22, 2)]);
    assert_eq!(
        CALLS.load(Ordering::Relaxed),
        2,
        "once an update, not at reads"
    );
    let store = driver.key_value_store::<String, i64>("doubled").unwrap();
    assert_eq!(store.read(&"a".to_owned()).unwrap().unwrap().value, 20);
    assert_eq!(store.read(&"b".to_owned()).unwrap(), None);
    assert_eq!(
        driver.produced_topics(),
        ["out", "test-doubled-changelog"],
        "the table itself is not kept"
    );
}

#[test]
fn a_changelog_has_the_settings_of_its_store() {
    let setting = |materialized: Materialized<String, i64>| {
        let builder = StreamsBuilder::new();
        let grouped = numbers(&builder).group_by_key();
        let store = materialized.store_name("counts");
        grouped.count(store);
        let topology = builder.build().unwrap();
        let topics = topology.internal_topics("app", |_| Some(1), 0).unwrap();
        let configs = topics.into_iter().flat_map(|topic| topic.configs);
        let mut found = configs.filter(|(name, _)| name == "segment.ms");
        found.next().map(|(_, value)| value)
    };
    let set = || Materialized::default().changelog_config("segment.ms", "7");
    assert_eq!(setting(set()).as_deref(), Some("7"));
    assert_eq!(setting(set().logging(false)), None);
    assert_eq!(setting(Materialized::default()), None);
}

#[test]
fn a_window_changelog_keeps_the_stores_retention_whatever_else_is_set() {
    let builder = StreamsBuilder::new();
    let windowed = numbers(&builder)
        .group_by_key()
        .windowed_by(TimeWindows::of_size(millis(10)).grace(millis(5)));
    let store = Materialized::named("counts")
        .changelog_config("cleanup.policy", "delete")
        .changelog_config("retention.ms", "1");
    windowed.count(store);
    let topology = builder.build().unwrap();
    let topics = topology
        .internal_topics("app", |_| Some(1), 100_000)
        .unwrap();
    let setting = |name: &str| {
        let mut configs = topics.iter().flat_map(|topic| &topic.configs);
        configs
            .find(|(set, _)| set == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(setting("cleanup.policy"), Some("delete"));
    assert_eq!(setting("retention.ms"), Some("100015"));
}

#[test]
fn a_view_of_a_windowed_table_can_be_kept() {
    let builder = StreamsBuilder::new();
    let counts = numbers(&builder)
        .group_by_key()
        .windowed_by(TimeWindows::of_size(millis(10)))
        .count(Materialized::default());
    let often = counts.filter_with(|_, count| *count > 1, Materialized::named("often"));
    often
        .to_stream()
        .present_values()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 3), ("a", 1, 4), ("a", 1, 12)]);
    assert_eq!(windowed(&driver, "out"), [row2("a", 0, 2)]);
}

#[test]
fn a_join_with_a_view_reads_through_it() {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, i64>("table", Consumed::default());
    let view = table
        .filter(|_, value| *value > 10)
        .map_values(|key, value| format!("{key}:{value}"))
        .filter_not(|_, text| text.ends_with('9'));
    let source = numbers(&builder);
    source
        .left_join(&view, |left, right| format!("{left}/{right:?}"))
        .to("left", Produced::default());
    source
        .join_with(
            &view,
            |key, left, right| format!("{key}{left}/{right}"),
            Joined::default(),
        )
        .to("inner", Produced::default());
    let driver = driver(&builder);
    pipe(
        &driver,
        "table",
        [("a", 5, 0), ("b", 11, 0), ("c", 19, 0), ("d", 12, 0)],
    );
    pipe(&driver, "table", [("d", None::<i64>, 1)]);
    pipe(
        &driver,
        "in",
        [("a", 1, 1), ("b", 2, 2), ("c", 3, 3), ("d", 4, 4)],
    );
    let left: Vec<String> = read::<String>(&driver, "left")
        .into_iter()
        .map(|(_, value, _)| value)
        .collect();
    assert_eq!(left, ["1/None", "2/Some(\"b:11\")", "3/None", "4/None"]);
    assert_eq!(
        read::<String>(&driver, "inner"),
        [row("b", "b2/b:11".to_owned(), 2)]
    );
}

#[test]
fn a_join_with_a_windowed_table_reads_the_window() {
    let builder = StreamsBuilder::new();
    let windows = TimeWindows::of_size(millis(10)).grace(millis(10));
    let counts = numbers(&builder)
        .group_by_key()
        .windowed_by(windows)
        .count(Materialized::named("counts"));
    let copies = counts.to_stream().present_values();
    copies
        .left_join(&counts, |count, row| count * 10 + row.copied().unwrap_or(0))
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 3), ("a", 1, 4), ("a", 1, 12)]);
    assert_eq!(
        windowed(&driver, "out"),
        [row2("a", 0, 11), row2("a", 0, 22), row2("a", 10, 11)]
    );
}

#[test]
fn null_keys_of_a_stream_are_dropped_by_an_inner_join_and_passed_on_by_a_left_one_even_when_re_keyed()
 {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, i64>("table", Consumed::default());
    let source = builder.stream::<Option<String>, i64>("in", Consumed::default());
    source
        .join(&table, |left, right| left + right)
        .to("inner", Produced::default());
    source
        .left_join(&table, |left, right| left + right.copied().unwrap_or(0))
        .to("left", Produced::default());
    let rekeyed = source.select_key(|key, _| key.clone());
    rekeyed
        .join(&table, |left, right| left + right)
        .to("inner-2", Produced::default());
    rekeyed
        .left_join(&table, |left, right| left + right.copied().unwrap_or(0))
        .to("left-2", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "table", [("a", 10, 0)]);
    let input = driver.input_topic::<Option<String>, i64>("in").unwrap();
    input.pipe(None, 1, 1).unwrap();
    input.pipe(Some("a".to_owned()), 2, 2).unwrap();
    for (inner, left) in [("inner", "left"), ("inner-2", "left-2")] {
        let read = |topic| {
            driver
                .output_topic::<Option<String>, i64>(topic)
                .read_all()
                .unwrap()
        };
        let (key, none) = (Some("a".to_owned()), None);
        assert_eq!(read(inner), [Record::new(key.clone(), 12, 2)], "{inner}");
        assert_eq!(
            read(left),
            [Record::new(none, 1, 1), Record::new(key, 12, 2)],
            "{left}"
        );
    }
    // By both inner joins.
    assert_eq!(driver.dropped().of(DropReason::NullKey), 2);
}

#[test]
fn a_re_keyed_stream_joins_behind_a_repartition_topic() {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, i64>("table", Consumed::default());
    let rekeyed = builder
        .stream::<i64, String>("in", Consumed::default())
        .map(|number, name| (name, number));
    rekeyed
        .join_with(&table, |_, left, right| left + right, Joined::named("sum"))
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "table", [("a", 10, 0)]);
    driver
        .input_topic::<i64, String>("in")
        .unwrap()
        .pipe(5, "a".to_owned(), 3)
        .unwrap();
    assert_eq!(read(&driver, "out"), [row("a", 15, 3)]);
    assert!(
        driver
            .produced_topics()
            .contains(&"test-sum-repartition".to_owned())
    );
}

#[test]
fn optional_keys_and_values_can_be_made_present() {
    let builder = StreamsBuilder::new();
    let source = builder.stream::<Option<String>, Option<i64>>("in", Consumed::default());
    source
        .present_keys()
        .present_values()
        .to("out", Produced::default());
    let driver = driver(&builder);
    let input = driver
        .input_topic::<Option<String>, Option<i64>>("in")
        .unwrap();
    for (key, value) in [(None, Some(1)), (Some("a"), None), (Some("b"), Some(2))] {
        input.pipe(key.map(str::to_owned), value, 4).unwrap();
    }
    assert_eq!(read(&driver, "out"), [row("b", 2, 4)]);
    assert_eq!(driver.dropped().of(DropReason::NullKey), 1);
    assert_eq!(driver.dropped().of(DropReason::NullValue), 1);
}

#[test]
fn a_null_read_into_a_type_without_null_is_counted() {
    let builder = StreamsBuilder::new();
    numbers(&builder).to("out", Produced::default());
    let driver = driver(&builder);
    let input = driver
        .input_topic::<Option<String>, Option<i64>>("in")
        .unwrap();
    input.pipe(None, Some(1), 0).unwrap();
    input.pipe(Some("a".to_owned()), None, 0).unwrap();
    assert_eq!(read::<i64>(&driver, "out"), []);
    assert_eq!(driver.dropped().total(), 2);
}

#[test]
fn repartition_writes_and_reads_an_internal_topic() {
    let builder = StreamsBuilder::new();
    numbers(&builder)
        .repartition(Repartitioned::named("again").partitions(4))
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 2)]);
    assert_eq!(read(&driver, "out"), [row("a", 1, 2)]);
    assert!(
        driver
            .produced_topics()
            .contains(&"test-again-repartition".to_owned())
    );
}

#[test]
fn a_stream_repartitioned_to_a_number_of_partitions_can_be_joined_in_a_test() {
    let builder = StreamsBuilder::new();
    numbers(&builder)
        .repartition(Repartitioned::named("again").partitions(4))
        .join(&table(&builder), |left, right| left + right)
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "table", [("a", 10, 1)]);
    pipe(&driver, "in", [("a", 1, 2)]);
    assert_eq!(read(&driver, "out"), [row("a", 11, 2)]);
}

#[test]
fn a_table_without_readers_of_its_rows_is_not_kept() {
    let builder = StreamsBuilder::new();
    builder
        .table::<String, i64>("in", Consumed::default())
        .to_stream()
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 1)]);
    assert_eq!(driver.produced_topics(), ["out"]);
}

/// Passes on what has not come before.
struct Distinct(Option<TimestampedKeyValueStore<String, i64>>);

impl Processor<String, i64, String, i64> for Distinct {
    fn init(
        &mut self,
        context: &mut brooklet_streams_core::processor::InitContext<'_, String, i64>,
    ) -> Result<(), ProcessError> {
        self.0 = Some(context.key_value_store("seen")?);
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, i64>,
        context: &mut ProcessorContext<'_, String, i64>,
    ) -> Result<(), ProcessError> {
        let store = self.0.as_ref().unwrap();
        if store
            .put_if_absent(&record.key, record.value, record.timestamp, context)?
            .is_none()
        {
            context.forward(record)?;
        }
        Ok(())
    }
}

#[test]
fn a_processor_uses_stores_added_to_the_builder() {
    let builder = StreamsBuilder::new();
    builder.add_state_store(KeyValueStoreBuilder::<String, i64>::new("seen").in_memory());
    numbers(&builder)
        .process(|| Distinct(None), &["seen"])
        .to("out", Produced::default());
    let driver = driver(&builder);
    pipe(&driver, "in", [("a", 1, 1), ("a", 2, 2), ("b", 3, 3)]);
    assert_eq!(read(&driver, "out"), [row("a", 1, 1), row("b", 3, 3)]);
}

#[test]
fn json_values_need_no_serde_of_their_own_and_a_deleted_row_is_a_tombstone() {
    let builder = StreamsBuilder::new();
    let source = builder.stream::<String, Vec<i64>>("in", Consumed::json());
    let last = |values: Option<i64>| values.filter(|value| *value >= 0);
    source
        .map_values(move |_, values| last(values.last().copied()))
        .to("out", Produced::json());
    let driver = driver(&builder);
    pipe(
        &driver,
        "in",
        [("a", "[1,2]".to_owned(), 1), ("a", "[-1]".to_owned(), 2)],
    );
    assert_eq!(
        read::<Option<String>>(&driver, "out"),
        [row("a", Some("2".to_owned()), 1), row("a", None, 2)]
    );
}

#[track_caller]
fn assert_refused(builder: &StreamsBuilder, message: &str) {
    let error = builder.build().unwrap_err().to_string();
    assert!(error.contains(message), "{error}");
}

#[test]
fn what_a_program_gets_wrong_is_said_when_it_is_built() {
    let builder = StreamsBuilder::new();
    let windows = TimeWindows::of_size(millis(10)).advance_by(millis(20));
    numbers(&builder)
        .group_by_key()
        .windowed_by(windows)
        .count(Materialized::default());
    assert_refused(&builder, "time windows of 10 ms cannot advance by 20 ms");

    let builder = StreamsBuilder::new();
    let windows = TimeWindows::of_size(millis(10)).grace(millis(5));
    numbers(&builder)
        .group_by_key()
        .windowed_by(windows)
        .count(Materialized::named("counts").retention(millis(14)));
    assert_refused(
        &builder,
        "the retention of window store counts is 14 ms; size and grace of its windows are 15 ms together",
    );

    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>("in", Consumed::default())
        .to("out", Produced::default());
    numbers(&builder).to("out", Produced::default());
    assert_refused(
        &builder,
        "topic in is read twice with different types, by KSTREAM-SOURCE-0000000000 and KSTREAM-SOURCE-0000000002",
    );

    let builder = StreamsBuilder::new();
    numbers(&builder).to("out", Produced::default());
    let latest = Consumed::default().offset_reset(AutoOffsetReset::Latest);
    builder
        .stream::<String, i64>("in", latest)
        .to("out", Produced::default());
    assert_refused(
        &builder,
        "topic in is read twice with different offset resets, by KSTREAM-SOURCE-0000000000 and KSTREAM-SOURCE-0000000002",
    );

    let (one, two) = (StreamsBuilder::new(), StreamsBuilder::new());
    let _ = numbers(&one).merge(&numbers(&two));
    assert_refused(
        &one,
        "merge: the two sides were made by different StreamsBuilders",
    );

    let builder = StreamsBuilder::new();
    numbers(&builder)
        .map_values(|_, _| NoSerde)
        .group_by_key_with(Grouped::default().name("g"))
        .count(Materialized::default());
    assert_refused(
        &builder,
        "group_by_key_with of KSTREAM-MAPVALUES-0000000001: no serde is known for the values",
    );

    let builder = StreamsBuilder::new();
    let _ = numbers(&builder)
        .filter(|_, _| true)
        .named("twice")
        .filter(|_, _| true)
        .named("twice");
    assert_refused(&builder, "node twice is declared twice");
}

#[derive(Clone)]
struct NoSerde;
