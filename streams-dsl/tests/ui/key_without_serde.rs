//~ `Carrier` has no default serde
//~ give the type one with `brooklet::json_serde!(Carrier);` or `brooklet::avro_serde!(Carrier);`
use brooklet_streams_dsl::{Consumed, Materialized, StreamsBuilder};

#[derive(Clone, PartialEq, Eq, Hash)]
struct Carrier(String);

fn main() {
    let builder = StreamsBuilder::new();
    let flights = builder.stream::<String, String>("flights", Consumed::default());
    flights.group_by(|_, flight| Carrier(flight.clone())).count(Materialized::default());
}
