//! Which committed offsets have expired (KIP-211).
//!
//! - A group that had members and is empty: since it became empty.
//! - A group of consumers: those of topics that no member subscribes to, since they were committed; a classic one only while it is stable.
//! - A group that never had members: since they were committed.
//! - Groups of another protocol keep theirs for as long as they have members.
//!
//! What an open transaction may change does not expire. An empty group without offsets ends.

use std::collections::BTreeSet;

use super::kind::Group;
use super::offsets::GroupOffsets;

/// What expires in a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expired {
    pub(super) offsets: BTreeSet<(String, i32)>,
    /// Nobody is in the group, and nothing is left of it.
    pub(super) group: bool,
}

/// Looks at a group and its offsets.
pub(super) fn expired(
    live: &Group,
    offsets: Option<&GroupOffsets>,
    unstable: &BTreeSet<(String, i32)>,
    retention_ms: i64,
    now_ms: i64,
) -> Expired {
    let mut expired = Expired {
        offsets: BTreeSet::new(),
        group: live.is_deserted() && unstable.is_empty(),
    };
    let Some(offsets) = offsets else {
        return expired;
    };
    let Some(rule) = live.offset_expiry() else {
        return Expired::default();
    };
    for (topic, partitions) in offsets {
        for (partition, committed) in partitions {
            let since_ms = rule.since_ms.unwrap_or(committed.commit_timestamp_ms);
            let key = (topic.clone(), *partition);
            if rule.subscribed.contains(topic)
                || now_ms - since_ms < retention_ms
                || unstable.contains(&key)
            {
                expired.group = false;
            } else {
                expired.offsets.insert(key);
            }
        }
    }
    expired
}

#[cfg(test)]
mod tests {
    use super::super::classic::ClassicGroup;
    use super::super::records::{CommittedOffset, GroupMetadata, MemberMetadata};
    use super::*;

    const RETENTION_MS: i64 = 1000;

    fn offsets(commit_timestamp_ms: i64) -> GroupOffsets {
        let committed = CommittedOffset {
            offset: 1,
            leader_epoch: -1,
            metadata: String::new(),
            commit_timestamp_ms,
        };
        [("t".to_owned(), [(0, committed)].into())].into()
    }

    fn check(group: ClassicGroup, committed_ms: i64, now_ms: i64) -> (usize, bool) {
        let offsets = offsets(committed_ms);
        let nothing = BTreeSet::new();
        let group = Group::Classic(group);
        let expired = expired(&group, Some(&offsets), &nothing, RETENTION_MS, now_ms);
        (expired.offsets.len(), expired.group)
    }

    fn with(protocol_type: &str, members: Vec<MemberMetadata>, since_ms: i64) -> ClassicGroup {
        let metadata = GroupMetadata {
            protocol_type: protocol_type.into(),
            generation: 1,
            protocol: Some("p".into()),
            leader: None,
            state_timestamp_ms: since_ms,
            members,
        };
        ClassicGroup::restore(&metadata, 0)
    }

    #[test]
    fn a_group_without_members_ever_keeps_offsets_since_their_commit() {
        assert_eq!(check(ClassicGroup::new(0), 500, 1499), (0, false));
        assert_eq!(check(ClassicGroup::new(0), 500, 1500), (1, true));
    }

    #[test]
    fn an_empty_group_keeps_them_since_it_became_empty() {
        let empty = || with("consumer", Vec::new(), 700);
        assert_eq!(check(empty(), 0, 1699), (0, false));
        assert_eq!(check(empty(), 0, 1700), (1, true));
    }

    #[test]
    fn a_group_of_another_protocol_keeps_them_while_it_has_members() {
        let members = || vec![MemberMetadata::default()];
        assert_eq!(
            check(with("connect", members(), 0), 0, i64::MAX),
            (0, false)
        );
        // What is no subscription may be one to any topic.
        assert_eq!(
            check(with("consumer", members(), 0), 0, i64::MAX),
            (0, false)
        );
    }

    #[test]
    fn what_a_transaction_may_change_stays() {
        let offsets = offsets(0);
        let unstable = [("t".to_owned(), 0)].into();
        let group = Group::Classic(ClassicGroup::new(0));
        let expired = expired(&group, Some(&offsets), &unstable, RETENTION_MS, i64::MAX);
        assert_eq!(expired, Expired::default());
    }
}
