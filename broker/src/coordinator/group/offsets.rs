//! Committed offsets: what `replay` has put there.

use std::collections::{BTreeMap, HashMap};

use super::records::CommittedOffset;

/// Offsets of one group, by topic and partition.
pub(crate) type GroupOffsets = BTreeMap<String, BTreeMap<i32, CommittedOffset>>;

/// Committed offsets of every group.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    groups: HashMap<String, GroupOffsets>,
}

impl Offsets {
    /// Applies an offset commit or its tombstone.
    pub(crate) fn replay(
        &mut self,
        group: &str,
        topic: &str,
        partition: i32,
        value: Option<&CommittedOffset>,
    ) {
        match value {
            Some(value) => {
                let topics = self.groups.entry(group.to_owned()).or_default();
                topics
                    .entry(topic.to_owned())
                    .or_default()
                    .insert(partition, value.clone());
            }
            None => {
                let Some(topics) = self.groups.get_mut(group) else {
                    return;
                };
                if let Some(partitions) = topics.get_mut(topic) {
                    partitions.remove(&partition);
                    if partitions.is_empty() {
                        topics.remove(topic);
                    }
                }
                if topics.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
    }

    /// Offsets of one group.
    pub(crate) fn group(&self, group: &str) -> Option<&GroupOffsets> {
        self.groups.get(group)
    }

    /// Groups with offsets.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&str, &GroupOffsets)> {
        self.groups
            .iter()
            .map(|(group, offsets)| (group.as_str(), offsets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_commit_wins_and_a_tombstone_removes_it() {
        let committed = |offset| CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp_ms: 0,
        };
        let mut offsets = Offsets::default();
        offsets.replay("g", "t", 0, Some(&committed(5)));
        offsets.replay("g", "t", 0, Some(&committed(4)));
        let committed = offsets
            .group("g")
            .and_then(|topics| topics.get("t"))
            .and_then(|of| of.get(&0));
        assert_eq!(committed.map(|committed| committed.offset), Some(4));
        offsets.replay("g", "t", 0, None);
        offsets.replay("g", "t", 0, None);
        assert_eq!(offsets.groups().count(), 0);
    }
}
