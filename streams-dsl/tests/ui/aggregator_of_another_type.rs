//~ a closure that returns `String` cannot update an aggregate of type `i64`
//~ return `i64`, `Option<i64>` (`None` deletes the row), or a `Result` of either
use brooklet_streams_dsl::{Consumed, Materialized, StreamsBuilder};

fn main() {
    let builder = StreamsBuilder::new();
    let flights = builder.stream::<String, String>("flights", Consumed::default());
    flights.group_by_key().aggregate(|| 0_i64, |_, flight, _| flight, Materialized::default());
}
