//! How one member gets from what it has to what it shall have, one heartbeat at a time.
//!
//! 1. What it has and shall not have is revoked first: it is told to give the partitions up and stays at its epoch until it has.
//! 2. Then it advances to the epoch of the target, with what it keeps and those new partitions that nobody has any more.
//! 3. As long as others still have some of them, it asks again at each heartbeat.
//!
//! So a partition is never told to a member before the one that had it has said, or has been fenced, that it has given it up.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::records::{Current, MemberState, PartitionEpochs, Partitions};

/// What a reconciliation looks at.
pub(super) struct Reconciliation<'a, F> {
    pub(super) current: &'a Current,
    pub(super) target_epoch: i32,
    pub(super) target: &'a Partitions,
    pub(super) subscription_changed: bool,
    /// Ids of the topics that the member subscribes to and that are there.
    pub(super) subscribed: &'a BTreeSet<Uuid>,
    /// Whether some member has the partition, or has yet to give it up.
    pub(super) is_owned: F,
    /// What the member says it has, if it says so.
    pub(super) owned: Option<&'a Partitions>,
}

/// The member is in a state of a later version and has to start over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownState;

impl<F: Fn(&Uuid, i32) -> bool> Reconciliation<'_, F> {
    /// What the member has next.
    pub(super) fn next(&self) -> Result<Current, UnknownState> {
        let current = self.current;
        match current.state {
            MemberState::Stable if current.epoch != self.target_epoch => {
                Ok(self.advance(current.epoch))
            }
            MemberState::Stable if self.subscription_changed => Ok(self.drop_unsubscribed()),
            MemberState::Stable => Ok(current.clone()),
            MemberState::UnrevokedPartitions if !self.has_any_of(&current.revoking) => {
                Ok(self.advance(current.epoch))
            }
            MemberState::UnrevokedPartitions if self.subscription_changed => {
                Ok(self.drop_unsubscribed())
            }
            MemberState::UnrevokedPartitions => Ok(current.clone()),
            MemberState::UnreleasedPartitions => Ok(self.advance(current.epoch)),
            MemberState::Unknown(_) if self.owned.is_some_and(BTreeMap::is_empty) => {
                Ok(self.advance(self.target_epoch))
            }
            MemberState::Unknown(_) => Err(UnknownState),
        }
    }

    /// Whether the member has any of these, as far as it is known.
    fn has_any_of(&self, partitions: &PartitionEpochs) -> bool {
        let Some(owned) = self.owned else {
            return true;
        };
        owned.iter().any(|(topic, owned)| {
            partitions
                .get(topic)
                .is_some_and(|of| owned.iter().any(|partition| of.contains_key(partition)))
        })
    }

    /// The member subscribes to less: what it may no longer have is revoked now, before there is a new target.
    fn drop_unsubscribed(&self) -> Current {
        let current = self.current;
        let mut next = current.clone();
        for (topic, partitions) in &current.assigned {
            if !self.subscribed.contains(topic) {
                next.assigned.remove(topic);
                next.revoking.entry(*topic).or_default().extend(partitions);
            }
        }
        if next.assigned == current.assigned {
            return next;
        }
        next.previous_epoch = current.epoch;
        if !next.revoking.is_empty() && self.has_any_of(&next.revoking) {
            next.state = MemberState::UnrevokedPartitions;
        } else {
            next.revoking = current.revoking.clone();
        }
        next
    }

    fn advance(&self, epoch: i32) -> Current {
        let current = self.current;
        let nothing = BTreeSet::new();
        let mut assigned = PartitionEpochs::new();
        let mut revoking = PartitionEpochs::new();
        let mut added: Vec<(Uuid, i32)> = Vec::new();
        let mut is_waiting = false;
        let topics: BTreeSet<&Uuid> = self.target.keys().chain(current.assigned.keys()).collect();
        for topic in topics {
            let target = self
                .target
                .get(topic)
                .filter(|_| self.subscribed.contains(topic))
                .unwrap_or(&nothing);
            let had = current.assigned.get(topic);
            for (partition, assigned_epoch) in had.into_iter().flatten() {
                let to = if target.contains(partition) {
                    &mut assigned
                } else {
                    &mut revoking
                };
                let of_topic: &mut BTreeMap<i32, i32> = to.entry(*topic).or_default();
                of_topic.insert(*partition, *assigned_epoch);
            }
            for partition in target {
                if had.is_some_and(|had| had.contains_key(partition)) {
                    continue;
                }
                let was_ours = current
                    .revoking
                    .get(topic)
                    .is_some_and(|of| of.contains_key(partition));
                if (self.is_owned)(topic, *partition) && !was_ours {
                    is_waiting = true;
                } else {
                    added.push((*topic, *partition));
                }
            }
        }
        if !revoking.is_empty() && self.has_any_of(&revoking) {
            return Current {
                epoch,
                previous_epoch: current.epoch,
                state: MemberState::UnrevokedPartitions,
                assigned,
                revoking,
            };
        }
        for (topic, partition) in added {
            let of_topic = assigned.entry(topic).or_default();
            of_topic.insert(partition, self.target_epoch);
        }
        Current {
            epoch: self.target_epoch,
            previous_epoch: current.epoch,
            state: if is_waiting {
                MemberState::UnreleasedPartitions
            } else {
                MemberState::Stable
            },
            assigned,
            revoking: PartitionEpochs::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const T: Uuid = Uuid::from_u128(1);

    fn has(partitions: &[i32], epoch: i32) -> PartitionEpochs {
        if partitions.is_empty() {
            return PartitionEpochs::new();
        }
        [(
            T,
            partitions
                .iter()
                .map(|partition| (*partition, epoch))
                .collect(),
        )]
        .into()
    }

    fn of(partitions: &[i32]) -> Partitions {
        if partitions.is_empty() {
            return Partitions::new();
        }
        [(T, partitions.iter().copied().collect())].into()
    }

    struct Case<'a> {
        state: MemberState,
        epoch: i32,
        assigned: &'a [i32],
        revoking: &'a [i32],
        target_epoch: i32,
        target: &'a [i32],
        others: &'a [i32],
        owned: Option<&'a [i32]>,
        subscribed: bool,
        subscription_changed: bool,
    }

    impl Default for Case<'_> {
        fn default() -> Self {
            Self {
                state: MemberState::Stable,
                epoch: 10,
                assigned: &[],
                revoking: &[],
                target_epoch: 11,
                target: &[],
                others: &[],
                owned: None,
                subscribed: true,
                subscription_changed: false,
            }
        }
    }

    /// Epoch, state, assigned and revoking partitions after it.
    fn check(case: Case<'_>) -> (i32, MemberState, Vec<i32>, Vec<i32>) {
        let current = Current {
            epoch: case.epoch,
            previous_epoch: case.epoch - 1,
            state: case.state,
            assigned: has(case.assigned, case.epoch),
            revoking: has(case.revoking, case.epoch),
        };
        let subscribed = if case.subscribed {
            [T].into()
        } else {
            BTreeSet::new()
        };
        let owned = case.owned.map(of);
        let next = Reconciliation {
            current: &current,
            target_epoch: case.target_epoch,
            target: &of(case.target),
            subscription_changed: case.subscription_changed,
            subscribed: &subscribed,
            is_owned: |_: &Uuid, partition: i32| {
                [case.assigned, case.revoking, case.others]
                    .iter()
                    .any(|of| of.contains(&partition))
            },
            owned: owned.as_ref(),
        }
        .next()
        .unwrap();
        let list = |of: &PartitionEpochs| of.values().flat_map(|of| of.keys().copied()).collect();
        (
            next.epoch,
            next.state,
            list(&next.assigned),
            list(&next.revoking),
        )
    }

    use MemberState::{Stable, Unknown, UnreleasedPartitions, UnrevokedPartitions};

    #[test]
    fn a_stable_member_stays_until_the_target_changes() {
        let case = Case {
            assigned: &[1],
            target: &[1, 2],
            target_epoch: 10,
            ..Case::default()
        };
        assert_eq!(check(case), (10, Stable, vec![1], vec![]));
    }

    #[test]
    fn free_partitions_are_assigned_at_once() {
        let case = Case {
            assigned: &[1],
            target: &[1, 2],
            ..Case::default()
        };
        assert_eq!(check(case), (11, Stable, vec![1, 2], vec![]));
    }

    #[test]
    fn what_is_not_in_the_target_is_revoked_before_the_epoch_advances() {
        let case = Case {
            assigned: &[1, 2],
            target: &[2, 3],
            ..Case::default()
        };
        assert_eq!(check(case), (10, UnrevokedPartitions, vec![2], vec![1]));
    }

    #[test]
    fn a_member_that_does_not_have_them_need_not_revoke() {
        let case = Case {
            assigned: &[1, 2],
            target: &[2, 3],
            owned: Some(&[2]),
            ..Case::default()
        };
        assert_eq!(check(case), (11, Stable, vec![2, 3], vec![]));
    }

    #[test]
    fn revocation_waits_for_the_members_word() {
        let case = || Case {
            state: UnrevokedPartitions,
            assigned: &[2],
            revoking: &[1],
            target: &[2],
            ..Case::default()
        };
        assert_eq!(check(case()), (10, UnrevokedPartitions, vec![2], vec![1]));
        let still = Case {
            owned: Some(&[1, 2]),
            ..case()
        };
        assert_eq!(check(still), (10, UnrevokedPartitions, vec![2], vec![1]));
        let done = Case {
            owned: Some(&[2]),
            ..case()
        };
        assert_eq!(check(done), (11, Stable, vec![2], vec![]));
    }

    #[test]
    fn partitions_of_others_are_waited_for_at_the_new_epoch() {
        let case = Case {
            assigned: &[1],
            target: &[1, 2, 3],
            others: &[2],
            ..Case::default()
        };
        assert_eq!(check(case), (11, UnreleasedPartitions, vec![1, 3], vec![]));
        let released = Case {
            state: UnreleasedPartitions,
            epoch: 11,
            assigned: &[1, 3],
            target: &[1, 2, 3],
            ..Case::default()
        };
        assert_eq!(check(released), (11, Stable, vec![1, 2, 3], vec![]));
    }

    #[test]
    fn what_a_member_was_revoking_it_may_get_back() {
        let case = Case {
            state: UnrevokedPartitions,
            assigned: &[2],
            revoking: &[1],
            target: &[1, 2],
            owned: Some(&[2]),
            ..Case::default()
        };
        assert_eq!(check(case), (11, Stable, vec![1, 2], vec![]));
    }

    #[test]
    fn topics_no_longer_subscribed_are_revoked_before_there_is_a_target() {
        let case = Case {
            assigned: &[1],
            target: &[1],
            target_epoch: 10,
            subscribed: false,
            subscription_changed: true,
            ..Case::default()
        };
        assert_eq!(check(case), (10, UnrevokedPartitions, vec![], vec![1]));
    }

    #[test]
    fn a_member_in_an_unknown_state_starts_over_with_nothing() {
        let case = Case {
            state: Unknown(9),
            target: &[1],
            owned: Some(&[]),
            ..Case::default()
        };
        assert_eq!(check(case), (11, Stable, vec![1], vec![]));
    }
}
