//! What an operator can be told beside its closure: serdes, names, where its state lives. Every option has a default.
//!
//! `Consumed` and `Produced` are the Processor API's own.

mod grouped;
mod joined;
mod materialized;
mod repartitioned;
pub(crate) mod stream_serdes;

pub use brooklet_streams_core::topology::{
    AutoOffsetReset, Consumed, ExtractorInput, FailOnInvalid, LogAndSkip, Partitions, Produced,
    TimestampExtractor, UsePartitionTime, WallClock,
};
pub use grouped::Grouped;
pub use joined::Joined;
pub use materialized::Materialized;
pub use repartitioned::Repartitioned;
