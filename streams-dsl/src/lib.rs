//! Typed streams and tables, compiled to a topology.
//!
//! ```
//! use brooklet_streams_core::test_driver::TopologyTestDriver;
//! use brooklet_streams_dsl::{Consumed, Materialized, Produced, StreamsBuilder};
//!
//! let builder = StreamsBuilder::new();
//! builder
//!     .stream::<String, String>("lines", Consumed::default())
//!     .flat_map_values(|_key, line| line.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>())
//!     .group_by(|_key, word| word.clone())
//!     .count(Materialized::named("counts"))
//!     .to_stream()
//!     .to("counts", Produced::default());
//!
//! let driver = TopologyTestDriver::new(&builder.build()?)?;
//! let lines = driver.input_topic::<String, String>("lines")?;
//! lines.pipe("hamlet".to_owned(), "to be or not to be".to_owned(), 0)?;
//! let counts = driver.output_topic::<String, i64>("counts").read_all()?;
//! let last = counts.last().map(|record| (record.key.as_str(), record.value));
//! assert_eq!(last, Some(("be", 2)));
//! # Ok::<(), brooklet_streams_core::StreamsError>(())
//! ```
//!
//! Where to look:
//!
//! | question | file |
//! |---|---|
//! | where a program begins | [`StreamsBuilder`] in `builder.rs` |
//! | which operators there are | [`KStream`], [`KTable`], [`KGroupedStream`], [`TimeWindowedKStream`], [`SplitStream`] |
//! | what an operator can be told beside its closure | `options/` |
//! | which windows there are | `windows/` |
//! | what a closure may return | `outcome.rs` |
//! | how calls become a topology: names, repartitioning, old values | `plan/` |
//! | what an operator does with a record | `operators/` |
#![warn(missing_docs)]

mod branched;
mod builder;
mod change;
mod global_ktable;
mod grouped;
mod kstream;
mod ktable;
mod null;
mod operators;
mod options;
mod outcome;
mod plan;
mod rows;
mod windowed;
mod windows;

pub use branched::SplitStream;
pub use builder::{StreamsBuilder, Topics};
pub use change::Change;
pub use global_ktable::GlobalKTable;
pub use grouped::KGroupedStream;
pub use kstream::{KStream, Terminal};
pub use ktable::KTable;
pub use options::{
    AutoOffsetReset, Consumed, ExtractorInput, FailOnInvalid, Grouped, Joined, LogAndSkip,
    Materialized, Partitions, Produced, Repartitioned, TimestampExtractor, UsePartitionTime,
    WallClock,
};
pub use outcome::{Deletable, Fallible, FallibleDeletable, JoinKey, Outcome, Plain, Verdict};
pub use windowed::TimeWindowedKStream;
pub use windows::{TimeWindows, days, hours, millis, minutes, seconds};

pub use brooklet_streams_core::error::TopologyError;
pub use brooklet_streams_core::serde::{Window, Windowed};
