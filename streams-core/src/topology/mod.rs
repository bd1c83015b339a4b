//! What the user declares: sources, processors, sinks and stores, as a graph of nodes by index.

use crate::processor::DropReason;

/// How many records were dropped, by reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DroppedRecords(std::collections::BTreeMap<DropReason, u64>);

impl DroppedRecords {
    pub(crate) fn count(&mut self, reason: DropReason) {
        *self.0.entry(reason).or_insert(0) += 1;
    }

    /// How many for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// How many in all: Kafka Streams' `dropped-records-total`.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }
}
