//! The Processor API: a processor with a store and a punctuation, wired by hand.
//!
//! Readings of sensors arrive more than once. The processor forwards each reading id once, remembers the ids in a store, and forgets
//! them by a stream-time punctuation when they are older than a minute. Run by the test driver, without a broker.
//!
//! ```text
//! cargo run --example dedup_processor
//! ```

use std::error::Error;

use brooklet::prelude::*;
use brooklet::processor::{InitContext, Processor, ProcessorContext, Punctuation, PunctuationType};
use brooklet::test_driver::TopologyTestDriver;
use brooklet::typed_store::{KeyValueStoreBuilder, TimestampedKeyValueStore};

const REMEMBER_MS: i64 = 60_000;

/// Lets each key through once a minute.
#[derive(Default)]
struct Dedup {
    seen: Option<TimestampedKeyValueStore<String, i64>>,
}

impl Processor<String, i64, String, i64> for Dedup {
    fn init(&mut self, context: &mut InitContext<'_, String, i64>) -> Result<(), ProcessError> {
        self.seen = Some(context.key_value_store("seen")?);
        context.schedule(10_000, PunctuationType::StreamTime)?;
        Ok(())
    }

    fn process(
        &mut self,
        record: Record<String, i64>,
        context: &mut ProcessorContext<'_, String, i64>,
    ) -> Result<(), ProcessError> {
        let Some(seen) = &self.seen else {
            return Ok(());
        };
        if seen
            .put_if_absent(&record.key, record.value, record.timestamp, context)?
            .is_none()
        {
            context.forward(record)?;
        }
        Ok(())
    }

    fn punctuate(
        &mut self,
        _: Punctuation,
        timestamp: i64,
        context: &mut ProcessorContext<'_, String, i64>,
    ) -> Result<(), ProcessError> {
        let Some(seen) = &self.seen else {
            return Ok(());
        };
        let mut old = Vec::new();
        for entry in seen.all()? {
            let (key, value) = entry?;
            if value.timestamp + REMEMBER_MS < timestamp {
                old.push(key);
            }
        }
        for key in old {
            seen.delete(&key, timestamp, context)?;
        }
        Ok(())
    }
}

fn topology() -> brooklet::Result<Topology> {
    let mut topology = Topology::builder();
    let readings =
        topology.add_source::<String, i64>("readings", ["readings"], Consumed::default())?;
    let dedup = topology.add_processor("dedup", Dedup::default, &[readings])?;
    topology.add_state_store(KeyValueStoreBuilder::<String, i64>::new("seen"))?;
    topology.connect(dedup, &["seen"])?;
    topology.add_sink("once", "readings-once", Produced::default(), &[dedup])?;
    Ok(topology.build()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let topology = topology()?;
    println!("{}", topology.describe());
    let driver = TopologyTestDriver::new(&topology)?;
    let input = driver.input_topic::<String, i64>("readings")?;
    let output = driver.output_topic::<String, i64>("readings-once");
    for (id, value, at_ms) in [
        ("a", 20, 0),
        ("b", 21, 1_000),
        ("a", 20, 2_000),
        ("c", 22, 50_000),
        ("b", 21, 59_000),
        ("d", 23, 75_000),
        ("a", 20, 76_000),
    ] {
        input.pipe(id.to_owned(), value, at_ms)?;
    }
    while let Some(record) = output.read()? {
        println!(
            "{}\t{}\tat {} ms",
            record.key, record.value, record.timestamp
        );
    }
    Ok(())
}
