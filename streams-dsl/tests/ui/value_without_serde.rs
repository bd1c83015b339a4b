//~ `Flight` has no default serde
use brooklet_streams_dsl::{Consumed, StreamsBuilder};

struct Flight;

fn main() {
    let builder = StreamsBuilder::new();
    builder.stream::<String, Flight>("flights", Consumed::default());
}
