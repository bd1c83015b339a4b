//~ a key of type `i64` cannot be joined with a table whose keys are of type `String`
//~ give the stream the table's key first: `.select_key(|key, value| ...)` returning `String` or `Option<String>`
use brooklet_streams_dsl::{Consumed, StreamsBuilder};

fn main() {
    let builder = StreamsBuilder::new();
    let planes = builder.table::<String, String>("planes", Consumed::default());
    let flights = builder.stream::<i64, String>("flights", Consumed::default());
    flights.join(&planes, |flight, plane| flight + plane);
}
