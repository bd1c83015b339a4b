//! Committed offsets: what `replay` has put there.
//!
//! Offsets that were committed in a transaction are kept aside until its marker. Then they count as if they had been committed where
//! their records are in the log: what was committed after them, outside of a transaction or in one that ended earlier, stays.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::records::{CommittedOffset, GroupRecord};

/// Offsets of one group, by topic and partition.
pub(crate) type GroupOffsets = BTreeMap<String, BTreeMap<i32, CommittedOffset>>;

/// Committed offsets of every group.
#[derive(Debug, Default)]
pub(crate) struct Offsets {
    groups: HashMap<String, GroupOffsets>,
    /// Offsets in open transactions, by group, topic and partition, and producer.
    uncommitted: HashMap<String, UncommittedOffsets>,
    /// The groups that a producer's open transaction has offsets of, by partition of the offsets topic and producer.
    producers: HashMap<(i32, i64), BTreeSet<String>>,
}

/// Offsets of one group in open transactions, by topic and partition, and producer.
type UncommittedOffsets = BTreeMap<(String, i32), BTreeMap<i64, Uncommitted>>;

/// An offset in an open transaction.
#[derive(Debug)]
struct Uncommitted {
    value: CommittedOffset,
    /// Where its record is in the log.
    record_offset: i64,
    /// Something that was committed later counts already.
    is_superseded: bool,
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
        let others = self.uncommitted.get_mut(group);
        let key = (topic.to_owned(), partition);
        match value {
            Some(_) => {
                for other in others
                    .and_then(|keys| keys.get_mut(&key))
                    .into_iter()
                    .flat_map(BTreeMap::values_mut)
                {
                    other.is_superseded = true;
                }
            }
            None => {
                if let Some(keys) = others {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.uncommitted.remove(group);
                    }
                }
            }
        }
        self.set(group, topic, partition, value);
    }

    fn set(&mut self, group: &str, topic: &str, partition: i32, value: Option<&CommittedOffset>) {
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

    /// Keeps an offset commit that is part of a producer's transaction, its record at this offset of a partition of the offsets topic.
    pub(crate) fn replay_uncommitted(
        &mut self,
        at_partition: i32,
        producer_id: i64,
        record_offset: i64,
        record: &GroupRecord,
    ) {
        let GroupRecord::OffsetCommit {
            group,
            topic,
            partition,
            value: Some(value),
        } = record
        else {
            return;
        };
        let producers = self.producers.entry((at_partition, producer_id));
        producers.or_default().insert(group.clone());
        let keys = self.uncommitted.entry(group.clone()).or_default();
        let of_key = keys.entry((topic.clone(), *partition)).or_default();
        of_key.insert(
            producer_id,
            Uncommitted {
                value: value.clone(),
                record_offset,
                is_superseded: false,
            },
        );
    }

    /// A producer's transaction has ended on a partition of the offsets topic. Returns the groups that it had offsets of.
    pub(crate) fn end_transaction(
        &mut self,
        at_partition: i32,
        producer_id: i64,
        commit: bool,
    ) -> BTreeSet<String> {
        let groups = self.producers.remove(&(at_partition, producer_id));
        let groups = groups.unwrap_or_default();
        for group in &groups {
            let Some(keys) = self.uncommitted.get_mut(group) else {
                continue;
            };
            let mut counting = Vec::new();
            keys.retain(|key, of_key| {
                if let Some(ended) = of_key.remove(&producer_id)
                    && commit
                    && !ended.is_superseded
                {
                    for other in of_key.values_mut() {
                        other.is_superseded |= other.record_offset < ended.record_offset;
                    }
                    counting.push((key.clone(), ended.value));
                }
                !of_key.is_empty()
            });
            if keys.is_empty() {
                self.uncommitted.remove(group);
            }
            for ((topic, partition), value) in counting {
                self.set(group, &topic, partition, Some(&value));
            }
        }
        groups
    }

    /// Topics and partitions of a group with an offset in an open transaction.
    pub(crate) fn uncommitted_keys(&self, group: &str) -> impl Iterator<Item = (String, i32)> {
        let keys = self.uncommitted.get(group);
        keys.into_iter().flat_map(BTreeMap::keys).cloned()
    }

    /// Groups with an offset for this topic in an open transaction.
    pub(crate) fn groups_with_uncommitted(&self, topic: &str) -> impl Iterator<Item = String> {
        let groups = self.uncommitted.iter();
        groups
            .filter(move |(_, keys)| keys.keys().any(|(of, _)| of == topic))
            .map(|(group, _)| group.clone())
    }

    /// Topics with an offset in an open transaction.
    pub(crate) fn uncommitted_topics(&self) -> impl Iterator<Item = String> {
        let keys = self.uncommitted.values().flat_map(BTreeMap::keys);
        keys.map(|(topic, _)| topic.clone())
    }

    /// Whether a group has an offset in an open transaction.
    pub(crate) fn has_uncommitted(&self, group: &str) -> bool {
        self.uncommitted.contains_key(group)
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

    fn at(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp_ms: 0,
        }
    }

    /// What is committed for partition 0 of `t` in group `g` after these steps, and whether a transaction may change it.
    fn after(steps: &[Step]) -> (Option<i64>, bool) {
        let mut offsets = Offsets::default();
        for (record_offset, step) in (0..).zip(steps) {
            match step {
                Step::Plain(value) => {
                    offsets.replay("g", "t", 0, value.map(at).as_ref());
                }
                Step::In(producer_id, value) => {
                    let record = GroupRecord::OffsetCommit {
                        group: "g".into(),
                        topic: "t".into(),
                        partition: 0,
                        value: Some(at(*value)),
                    };
                    offsets.replay_uncommitted(3, *producer_id, record_offset, &record);
                }
                Step::End(producer_id, commit) => {
                    offsets.end_transaction(3, *producer_id, *commit);
                }
            }
        }
        let topics = offsets.group("g");
        let committed = topics.and_then(|topics| topics.get("t")?.get(&0));
        (
            committed.map(|committed| committed.offset),
            offsets.has_uncommitted("g"),
        )
    }

    enum Step {
        Plain(Option<i64>),
        In(i64, i64),
        End(i64, bool),
    }

    #[test]
    fn an_offset_in_a_transaction_counts_once_it_commits() {
        use Step::{End, In, Plain};
        assert_eq!(after(&[In(1, 7)]), (None, true));
        assert_eq!(after(&[In(1, 7), End(1, true)]), (Some(7), false));
        assert_eq!(after(&[In(1, 7), End(1, false)]), (None, false));
        assert_eq!(after(&[Plain(Some(5)), In(1, 7)]), (Some(5), true));
        assert_eq!(
            after(&[Plain(Some(5)), In(1, 7), End(1, false)]),
            (Some(5), false)
        );
        assert_eq!(after(&[In(1, 7), In(1, 9), End(1, true)]), (Some(9), false));
        // Another producer's marker ends nothing.
        assert_eq!(after(&[In(1, 7), End(2, true)]), (None, true));
    }

    #[test]
    fn what_was_committed_later_in_the_log_stays() {
        use Step::{End, In, Plain};
        assert_eq!(
            after(&[In(1, 7), Plain(Some(5)), End(1, true)]),
            (Some(5), false)
        );
        assert_eq!(
            after(&[In(1, 7), In(2, 8), End(2, true), End(1, true)]),
            (Some(8), false)
        );
        assert_eq!(
            after(&[In(1, 7), In(2, 8), End(1, true), End(2, true)]),
            (Some(8), false)
        );
        assert_eq!(
            after(&[In(1, 7), In(2, 8), End(2, false), End(1, true)]),
            (Some(7), false)
        );
        assert_eq!(after(&[In(1, 7), Plain(None), End(1, true)]), (None, false));
    }

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
