//! `describe()` of our topologies is, byte for byte, what Kafka Streams 4.3.1 prints for the same program in Java (recorded in `describe/`).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::Record;
use brooklet_streams_dsl::{
    Consumed, Grouped, Joined, KStream, Materialized, Produced, Repartitioned, StreamsBuilder,
    TimeWindows, millis,
};

type Text = KStream<String, String>;

fn stream(builder: &StreamsBuilder, topic: &str) -> Text {
    builder.stream(topic, Consumed::default())
}

fn text() -> Produced<String, String> {
    Produced::default()
}

#[track_caller]
fn assert_described(builder: &StreamsBuilder, expected: &str) {
    let described = builder.build().unwrap().describe().to_string();
    assert!(
        described == expected,
        "ours:\n{described}\nKafka Streams':\n{expected}"
    );
}

#[test]
fn word_count_with_a_named_store() {
    let builder = StreamsBuilder::new();
    stream(&builder, "text")
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_, word| word.clone())
        .count(Materialized::named("counts"))
        .to_stream()
        .to("counts-out", Produced::default());
    assert_described(&builder, include_str!("describe/word_count.txt"));
}

#[test]
fn word_count_with_automatic_names() {
    let builder = StreamsBuilder::new();
    stream(&builder, "text")
        .flat_map_values(|_, line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .group_by(|_, word| word.clone())
        .count(Materialized::default())
        .to_stream()
        .to("counts-out", Produced::default());
    assert_described(&builder, include_str!("describe/word_count_auto.txt"));
}

#[test]
fn stateless_operators() {
    let builder = StreamsBuilder::new();
    let source = stream(&builder, "in");
    source
        .filter(|_, _| true)
        .filter_not(|_, _| false)
        .map_values(|_, value| value)
        .peek(|_, _| {})
        .map(|key, value| (key, value))
        .flat_map(|key, value| [(key, value)])
        .select_key(|key, _| key.clone())
        .for_each(|_, _| {});
    source.merge(&stream(&builder, "in2")).to("out", text());
    let branches = source
        .split()
        .branch(|_, value| value.starts_with('a'))
        .branch_as("bee", |_, value| value.starts_with('b'))
        .default_branch();
    for (name, branch) in &branches {
        branch.to(format!("o-{}", &name[name.len() - 1..]), text());
    }
    assert_described(&builder, include_str!("describe/stateless.txt"));
}

#[test]
fn a_stream_table_join() {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, String>("table", Consumed::default());
    stream(&builder, "in")
        .join(&table, |left, right| left + right)
        .to("out", text());
    assert_described(&builder, include_str!("describe/stream_table_join.txt"));
}

#[test]
fn joins_of_a_rekeyed_stream() {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, String>("table", Consumed::default());
    let rekeyed = stream(&builder, "in").select_key(|_, value| value.clone());
    rekeyed.left_join(&table, |left, _| left).to("out", text());
    let view = table
        .filter(|_, _| true)
        .map_values(|_, value| value.clone());
    rekeyed
        .join_with(&view, |_, left, right| left + right, Joined::named("named"))
        .to("out2", text());
    rekeyed
        .join(&table, |left, right| left + right)
        .to("out3", text());
    assert_described(&builder, include_str!("describe/rekeyed_joins.txt"));
}

#[test]
fn views_in_stores_of_their_own() {
    let builder = StreamsBuilder::new();
    let table = builder.table::<String, String>("table", Consumed::default());
    let long = |_: &String, value: &String| value.len() > 1;
    let kept = table.filter_with(long, Materialized::named("kept"));
    kept.to_stream().to("out", Produced::default());
    let mapped = table.map_values_with(|_, value| value.clone(), Materialized::named("mapped"));
    let view = table.filter_not_with(long, Materialized::default());
    view.to_stream().to("out3", Produced::default());
    let source = stream(&builder, "in");
    source
        .join(&kept, |left, right| left + right)
        .to("out2", text());
    source
        .join(&mapped, |left, right| left + right)
        .to("out4", text());
    assert_described(&builder, include_str!("describe/materialized_views.txt"));
    assert_eq!(kept.queryable_store_name().as_deref(), Some("kept"));
    assert_eq!(mapped.queryable_store_name().as_deref(), Some("mapped"));
    assert_eq!(view.queryable_store_name(), None);
}

#[test]
fn a_stream_merged_with_what_was_made_of_it() {
    let builder = StreamsBuilder::new();
    let source = stream(&builder, "in");
    source
        .merge(&source.filter(|_, _| true))
        .merge(&source)
        .to("out", text());
    assert_described(&builder, include_str!("describe/self_merge.txt"));
}

#[test]
fn joins_with_a_global_table() {
    let builder = StreamsBuilder::new();
    let table = builder.global_table::<String, String>("global", Consumed::default());
    stream(&builder, "in")
        .join_global(&table, |_, value| value.clone(), |left, right| left + right)
        .to("out", text());
    stream(&builder, "in")
        .left_join_global(&table, |_, value| Some(value.clone()), |left, _| left)
        .to("out2", text());
    assert_described(&builder, include_str!("describe/global_joins.txt"));
}

#[test]
fn aggregations_without_windows() {
    let builder = StreamsBuilder::new();
    let grouped = stream(&builder, "in").group_by_key();
    grouped
        .count(Materialized::default())
        .to_stream()
        .to("counts", Produced::default());
    grouped
        .reduce(
            |aggregate, value| aggregate + &value,
            Materialized::default(),
        )
        .to_stream()
        .to("reduced", Produced::default());
    grouped
        .aggregate(
            String::new,
            |_, value, aggregate: String| aggregate + &value,
            Materialized::default(),
        )
        .filter(|_, _| true)
        .map_values(|_, value| value.clone())
        .to_stream()
        .to("aggregated", Produced::default());
    assert_described(&builder, include_str!("describe/aggregates.txt"));
}

#[test]
fn windowed_aggregations_of_a_named_grouping_share_its_repartition_topic() {
    let builder = StreamsBuilder::new();
    let windowed = stream(&builder, "in")
        .group_by_with(|_, value| value.clone(), Grouped::named("by-value"))
        .windowed_by(TimeWindows::of_size(millis(10)).grace(millis(5)));
    windowed
        .count(Materialized::named("windowed-counts"))
        .to_stream()
        .map(|key, count| (key.key, format!("{count:?}")))
        .to("counts", text());
    windowed
        .reduce(
            |aggregate, value| aggregate + &value,
            Materialized::default(),
        )
        .to_stream()
        .select_key(|key, _| key.key.clone())
        .to("reduced", Produced::default());
    windowed.aggregate(
        String::new,
        |_, value, aggregate: String| aggregate + &value,
        Materialized::default(),
    );
    assert_described(&builder, include_str!("describe/windowed.txt"));
}

#[test]
fn repartitions_and_names_of_nodes() {
    let builder = StreamsBuilder::new();
    stream(&builder, "in")
        .repartition(Repartitioned::named("again").partitions(3))
        .repartition(Repartitioned::default())
        .group_by_key()
        .count(Materialized::named("counter-store"))
        .named("counter");
    stream(&builder, "in")
        .map_values(|_, value| value)
        .named("upper")
        .to("out", text().named("sink"));
    assert_described(&builder, include_str!("describe/repartition_and_names.txt"));
}

#[test]
fn tables_with_and_without_a_store_and_a_sink_that_chooses_its_topic() {
    let builder = StreamsBuilder::new();
    let planes = builder.table_with::<String, String>(
        "t",
        Consumed::default().named("planes"),
        Materialized::named("planes-store"),
    );
    let flights = builder.stream::<String, String>("in", Consumed::default().named("flights"));
    flights
        .join_with(
            &planes.filter_not(|_, _| false),
            |_, left, right| left + right,
            Joined::named("joined"),
        )
        .to_dynamic(|record, _| record.value.clone(), text());
    builder
        .table::<String, String>("u", Consumed::default())
        .filter(|_, _| true)
        .to_stream()
        .to("u2", Produced::default());
    let described = builder.build().unwrap().describe().to_string();
    // The extractor is a closure: Java prints its class and hash, we cannot.
    let chooses = |text: &str| {
        text.lines()
            .map(|line| line.split("(extractor").next().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("\n")
    };
    let expected = include_str!("describe/named_table.txt");
    assert!(
        chooses(&described) == chooses(expected),
        "ours:\n{described}\nKafka Streams':\n{expected}"
    );
}

struct Nothing;

impl Processor<String, Option<String>, String, String> for Nothing {
    fn process(
        &mut self,
        _: Record<String, Option<String>>,
        _: &mut ProcessorContext<'_, String, String>,
    ) -> Result<(), ProcessError> {
        Ok(())
    }
}

#[test]
fn several_topics_a_merge_and_a_processor() {
    let builder = StreamsBuilder::new();
    builder
        .stream::<String, String>(["b", "a"], Consumed::default())
        .select_key(|_, value| value.clone())
        .merge(&stream(&builder, "c"))
        .group_by_key()
        .reduce(|_, value| value, Materialized::default())
        .to_stream()
        .process(|| Nothing, &[])
        .to("out", text());
    assert_described(&builder, include_str!("describe/merge_process.txt"));
}

#[test]
fn building_twice_gives_the_same_topology_and_handles_may_be_dropped() {
    let builder = StreamsBuilder::new();
    let clone = builder.clone();
    let source = Arc::new(stream(&clone, "in"));
    source.filter(|_, _| true).to("out", text());
    drop((clone, source));
    assert_eq!(
        builder.build().unwrap().describe().to_string(),
        builder.build().unwrap().describe().to_string()
    );
}
