//! What the user declares: sources, processors, sinks and stores, as a graph of nodes by index, built once.
//!
//! | question | file |
//! |---|---|
//! | how is a topology declared | `builder.rs`, and `options.rs` for what a source or a sink can be told |
//! | what is kept of it | `graph.rs` |
//! | which nodes run together | `subtopology.rs` |
//! | which topics must be there, with how many partitions; which tasks | `internal_topics.rs` |
//! | how `describe()` prints it | `description.rs` |
//!
//! Everything but the builder is a pure function over the graph.

mod builder;
mod description;
mod graph;
mod internal_topics;
mod java_order;
mod options;
mod subtopology;

use std::fmt;
use std::sync::Arc;

pub use builder::{InternalTopic, Node, NodeIndexOf, TopicChoice, TopicExtractor, TopologyBuilder};
pub use description::TopologyDescription;
pub use graph::NodeIndex;
pub use internal_topics::{
    ChangelogTopic, GlobalStore, TaskInputs, WINDOW_STORE_ADDITIONAL_RETENTION_MS,
};
pub use options::{
    AutoOffsetReset, Consumed, ExtractorInput, FailOnInvalid, LogAndSkip, Partitioner, Partitions,
    Produced, TimestampExtractor, UsePartitionTime, WallClock,
};
pub use subtopology::Subtopology;

pub(crate) use builder::check_name;
pub(crate) use graph::{Graph, NodeKind};
pub(crate) use internal_topics::changelog_topic;
pub(crate) use options::valid_timestamp;

use crate::processor::DropReason;

/// A topology that is declared completely: shared by all threads, which build their tasks from it.
#[derive(Clone)]
pub struct Topology {
    pub(crate) graph: Arc<Graph>,
}

impl Topology {
    /// An empty declaration.
    pub fn builder() -> TopologyBuilder {
        TopologyBuilder::default()
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.describe(), f)
    }
}

/// A task's name: one sub-topology over one partition, printed as `0_3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// Number of the sub-topology, as `describe()` prints it.
    pub subtopology: u32,
    /// The partition.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.subtopology, self.partition)
    }
}

/// How many records were dropped, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DroppedRecords([u64; DropReason::COUNT]);

impl DroppedRecords {
    #[inline]
    pub(crate) fn count(&mut self, reason: DropReason) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (counter, more) in self.0.iter_mut().zip(other.0) {
            *counter += more;
        }
    }

    /// How many for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many in all: Kafka Streams' `dropped-records-total`.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
