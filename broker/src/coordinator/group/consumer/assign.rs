//! The server-side assignors: who shall have which partitions.
//!
//! - `uniform` spreads partitions evenly and moves as few as it can. Where all members subscribe to the same topics, counts differ
//!   by one at most and only what has to move moves; otherwise it is greedy: what a member may keep it keeps, the rest goes to the
//!   least loaded subscriber, then partitions move from the most to the least loaded until their counts differ by one at most.
//! - `range` gives each member one contiguous range of each topic, in the order of instance and member ids, so that
//!   topics with equally many partitions are co-partitioned. It is as sticky as its order.
//!
//! Racks are ignored: all partitions are on this broker.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::records::Partitions;

/// Rounds of balancing at most: each makes the loads more even, and few are ever needed.
const ROUNDS_MAX: usize = 16;

/// A server-side assignor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Assignor {
    Uniform,
    Range,
}

impl Assignor {
    /// By the name that clients use.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        match name {
            "uniform" => Some(Self::Uniform),
            "range" => Some(Self::Range),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }
}

/// What an assignor knows of a member.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberSpec<'a> {
    pub(crate) instance_id: Option<&'a str>,
    /// Topics that are there, and their partition counts.
    pub(crate) topics: BTreeMap<Uuid, i32>,
    /// Its target so far.
    pub(crate) target: Option<&'a Partitions>,
}

/// The new target of each member.
pub(crate) fn assign(
    assignor: Assignor,
    members: &BTreeMap<&str, MemberSpec<'_>>,
) -> BTreeMap<String, Partitions> {
    let mut targets = match assignor {
        Assignor::Range => range(members),
        Assignor::Uniform => {
            let mut topics = members.values().map(|member| &member.topics);
            let first = topics.next();
            if topics.all(|topics| Some(topics) == first) {
                uniform_same_topics(members)
            } else {
                uniform_mixed_topics(members)
            }
        }
    };
    for member_id in members.keys() {
        targets.entry((*member_id).to_owned()).or_default();
    }
    targets
}

fn range(members: &BTreeMap<&str, MemberSpec<'_>>) -> BTreeMap<String, Partitions> {
    let mut order: Vec<_> = members.iter().collect();
    // Static members first, by instance id: their member ids change when they restart.
    order.sort_by_key(|(id, member)| (member.instance_id.is_none(), member.instance_id, **id));
    let mut subscribers: BTreeMap<Uuid, (i32, Vec<&str>)> = BTreeMap::new();
    for (id, member) in order {
        for (topic, count) in &member.topics {
            subscribers
                .entry(*topic)
                .or_insert((*count, Vec::new()))
                .1
                .push(id);
        }
    }
    let mut targets: BTreeMap<String, Partitions> = BTreeMap::new();
    for (topic, (count, members)) in subscribers {
        let of_each = count / members.len() as i32;
        let one_more = count % members.len() as i32;
        let mut start = 0;
        for (index, member) in (0..).zip(members) {
            let end = start + of_each + i32::from(index < one_more);
            if start < end {
                let target = targets.entry(member.to_owned()).or_default();
                target.insert(topic, (start..end).collect());
            }
            start = end;
        }
    }
    targets
}

/// All members subscribe to the same topics.
fn uniform_same_topics(members: &BTreeMap<&str, MemberSpec<'_>>) -> BTreeMap<String, Partitions> {
    let Some(topics) = members.values().next().map(|member| &member.topics) else {
        return BTreeMap::new();
    };
    let total: usize = topics.values().map(|count| *count as usize).sum();
    let quota = total / members.len();
    // So many members have one partition more.
    let mut one_more = total % members.len();
    let mut taken = HashSet::new();
    let mut kept: BTreeMap<&str, Vec<(Uuid, i32)>> = BTreeMap::new();
    for (id, member) in members {
        kept.insert(id, still_valid(member, &mut taken));
    }
    // Those that have more already keep it, so that it need not move.
    let mut quotas = HashMap::new();
    for (id, partitions) in &kept {
        let keeps_more = partitions.len() > quota && one_more > 0;
        one_more -= usize::from(keeps_more);
        quotas.insert(*id, quota + usize::from(keeps_more));
    }
    for id in kept.keys() {
        if one_more == 0 {
            break;
        }
        if let Some(of) = quotas.get_mut(id).filter(|of| **of == quota) {
            *of += 1;
            one_more -= 1;
        }
    }
    for (id, partitions) in &mut kept {
        let of = quotas.get(id).copied().unwrap_or(quota);
        for given_up in partitions.drain(of.min(partitions.len())..) {
            taken.remove(&given_up);
        }
    }
    let mut unassigned = topics
        .iter()
        .flat_map(|(topic, count)| (0..*count).map(|partition| (*topic, partition)))
        .filter(|partition| !taken.contains(partition));
    let mut targets = BTreeMap::new();
    for (id, mut partitions) in kept {
        let missing = quotas.get(id).copied().unwrap_or(quota) - partitions.len();
        partitions.extend(unassigned.by_ref().take(missing));
        targets.insert(id.to_owned(), by_topic(partitions));
    }
    targets
}

/// Members subscribe to different topics.
fn uniform_mixed_topics(members: &BTreeMap<&str, MemberSpec<'_>>) -> BTreeMap<String, Partitions> {
    let mut topics: BTreeMap<Uuid, Topic> = BTreeMap::new();
    let mut loads = vec![0_usize; members.len()];
    let mut taken = HashSet::new();
    let ids: Vec<&str> = members.keys().copied().collect();
    for (index, member) in members.values().enumerate() {
        for (topic, count) in &member.topics {
            let topic = topics.entry(*topic).or_insert_with(|| Topic {
                owners: vec![None; usize::try_from(*count).unwrap_or(0)],
                subscribers: Vec::new(),
            });
            topic.subscribers.push(index);
        }
    }
    for ((index, member), load) in members.values().enumerate().zip(&mut loads) {
        for (topic, partition) in still_valid(member, &mut taken) {
            let owners = topics.get_mut(&topic).map(|topic| &mut topic.owners);
            if let Some(owner) =
                owners.and_then(|owners| owners.get_mut(usize::try_from(partition).ok()?))
            {
                *owner = Some(index);
                *load += 1;
            }
        }
    }
    // Topics with most partitions for each subscriber first: they leave the least choice.
    let mut order: Vec<Uuid> = topics.keys().copied().collect();
    order.sort_by_key(|id| {
        let Some(topic) = topics.get(id) else {
            return (0, 0);
        };
        let of_each = topic.owners.len() * 1000 / topic.subscribers.len().max(1);
        (usize::MAX - of_each, topic.subscribers.len())
    });
    for id in &order {
        if let Some(topic) = topics.get_mut(id) {
            topic.fill(&mut loads);
        }
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for id in &order {
            if let Some(topic) = topics.get_mut(id) {
                moved |= topic.balance(&mut loads);
            }
        }
        if !moved {
            break;
        }
    }
    let mut targets: BTreeMap<String, Partitions> = BTreeMap::new();
    for (id, topic) in topics {
        for (partition, owner) in (0..).zip(topic.owners) {
            if let Some(owner) = owner.and_then(|index| ids.get(index)) {
                let target = targets.entry((*owner).to_owned()).or_default();
                target.entry(id).or_default().insert(partition);
            }
        }
    }
    targets
}

/// A topic while it is assigned. Members are named by their index.
struct Topic {
    owners: Vec<Option<usize>>,
    subscribers: Vec<usize>,
}

impl Topic {
    fn by_load(&self, loads: &[usize]) -> BTreeSet<(usize, usize)> {
        let load = |index: &usize| (loads.get(*index).copied().unwrap_or(0), *index);
        self.subscribers.iter().map(load).collect()
    }

    /// Gives what nobody has to the least loaded.
    fn fill(&mut self, loads: &mut [usize]) {
        let mut by_load = self.by_load(loads);
        for owner in self.owners.iter_mut().filter(|owner| owner.is_none()) {
            let Some((load, index)) = by_load.pop_first() else {
                return;
            };
            *owner = Some(index);
            if let Some(of) = loads.get_mut(index) {
                *of = load + 1;
            }
            by_load.insert((load + 1, index));
        }
    }

    /// Moves partitions from the most to the least loaded. Says whether it did.
    fn balance(&mut self, loads: &mut [usize]) -> bool {
        let mut by_load = self.by_load(loads);
        let imbalance = match (by_load.first(), by_load.last()) {
            (Some((least, _)), Some((most, _))) => most - least,
            _ => 0,
        };
        if imbalance <= 1 {
            return false;
        }
        let mut owned: HashMap<usize, Vec<usize>> = HashMap::new();
        for (partition, owner) in self.owners.iter().enumerate() {
            if let Some(owner) = owner {
                owned.entry(*owner).or_default().push(partition);
            }
        }
        let mut moved = false;
        while let Some((most, from)) = by_load.pop_last() {
            let Some((least, to)) = by_load.first().copied() else {
                break;
            };
            if most - least <= 1 {
                break;
            }
            let Some(partition) = owned.get_mut(&from).and_then(Vec::pop) else {
                // Its load comes of other topics.
                continue;
            };
            if let Some(owner) = self.owners.get_mut(partition) {
                *owner = Some(to);
            }
            by_load.pop_first();
            by_load.insert((least + 1, to));
            by_load.insert((most - 1, from));
            for (index, load) in [(to, least + 1), (from, most - 1)] {
                if let Some(of) = loads.get_mut(index) {
                    *of = load;
                }
            }
            moved = true;
        }
        moved
    }
}

/// The partitions of a member's target that are still there, that it still subscribes to, and that nobody before it has.
fn still_valid(member: &MemberSpec<'_>, taken: &mut HashSet<(Uuid, i32)>) -> Vec<(Uuid, i32)> {
    let mut valid = Vec::new();
    for (topic, partitions) in member.target.into_iter().flatten() {
        let count = member.topics.get(topic).copied().unwrap_or(0);
        for partition in partitions.range(0..count) {
            if taken.insert((*topic, *partition)) {
                valid.push((*topic, *partition));
            }
        }
    }
    valid
}

fn by_topic(partitions: Vec<(Uuid, i32)>) -> Partitions {
    let mut by_topic = Partitions::new();
    for (topic, partition) in partitions {
        by_topic.entry(topic).or_default().insert(partition);
    }
    by_topic
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// Members by the topics they subscribe to, with the targets they have.
    fn run(
        assignor: Assignor,
        counts: &[i32],
        members: &[(&str, &[usize])],
        targets: &BTreeMap<String, Partitions>,
    ) -> BTreeMap<String, Partitions> {
        let specs = members.iter().map(|(id, topics)| {
            let topic = |index: &usize| (topic(*index), *counts.get(*index).unwrap());
            let spec = MemberSpec {
                instance_id: None,
                topics: topics.iter().map(topic).collect(),
                target: targets.get(*id),
            };
            (*id, spec)
        });
        assign(assignor, &specs.collect())
    }

    fn topic(index: usize) -> Uuid {
        Uuid::from_u128(index as u128 + 1)
    }

    fn sizes(targets: &BTreeMap<String, Partitions>) -> Vec<usize> {
        let size = |target: &Partitions| target.values().map(BTreeSet::len).sum();
        targets.values().map(size).collect()
    }

    fn moved(before: &BTreeMap<String, Partitions>, after: &BTreeMap<String, Partitions>) -> usize {
        let has = |id: &String, topic: &Uuid, partition: &i32| {
            let target = before.get(id).and_then(|target| target.get(topic));
            target.is_some_and(|partitions| partitions.contains(partition))
        };
        let mut moved = 0;
        for (id, target) in after {
            for (topic, partitions) in target {
                let new = partitions
                    .iter()
                    .filter(|partition| !has(id, topic, partition));
                moved += new.count();
            }
        }
        moved
    }

    #[test]
    fn range_gives_contiguous_ranges_by_topic() {
        let targets = run(
            Assignor::Range,
            &[3, 2],
            &[("a", &[0, 1]), ("b", &[0, 1])],
            &BTreeMap::new(),
        );
        let a = [(topic(0), [0, 1].into()), (topic(1), [0].into())];
        let b = [(topic(0), [2].into()), (topic(1), [1].into())];
        assert_eq!(targets.get("a"), Some(&a.into()));
        assert_eq!(targets.get("b"), Some(&b.into()));
    }

    #[test]
    fn range_follows_instance_ids_before_member_ids() {
        let spec = |instance_id| MemberSpec {
            instance_id,
            topics: [(topic(0), 3)].into(),
            target: None,
        };
        let members = [
            ("a", spec(None)),
            ("b", spec(Some("2"))),
            ("c", spec(Some("1"))),
        ];
        let targets = assign(Assignor::Range, &members.into());
        let firsts: Vec<_> = ["c", "b", "a"]
            .iter()
            .map(|id| {
                *targets
                    .get(*id)
                    .unwrap()
                    .get(&topic(0))
                    .unwrap()
                    .first()
                    .unwrap()
            })
            .collect();
        assert_eq!(firsts, [0, 1, 2]);
    }

    #[test]
    fn uniform_moves_only_what_a_new_member_needs() {
        let first = run(
            Assignor::Uniform,
            &[9],
            &[("a", &[0]), ("b", &[0])],
            &BTreeMap::new(),
        );
        assert_eq!(sizes(&first), [5, 4]);
        let second = run(
            Assignor::Uniform,
            &[9],
            &[("a", &[0]), ("b", &[0]), ("c", &[0])],
            &first,
        );
        assert_eq!(sizes(&second), [3, 3, 3]);
        assert_eq!(moved(&first, &second), 3);
        let third = run(
            Assignor::Uniform,
            &[9],
            &[("b", &[0]), ("c", &[0])],
            &second,
        );
        assert_eq!(moved(&second, &third), 3);
    }

    #[test]
    fn the_one_more_stays_where_it_is() {
        let first = run(
            Assignor::Uniform,
            &[4],
            &[("b", &[0]), ("c", &[0]), ("d", &[0])],
            &BTreeMap::new(),
        );
        assert_eq!(sizes(&first), [2, 1, 1]);
        let second = run(
            Assignor::Uniform,
            &[4],
            &[("a", &[0]), ("b", &[0]), ("c", &[0])],
            &first,
        );
        assert_eq!(sizes(&second), [1, 2, 1]);
        assert_eq!(moved(&first, &second), 1);
    }

    #[test]
    fn mixed_subscriptions_are_balanced_as_far_as_they_allow() {
        let targets = run(
            Assignor::Uniform,
            &[6, 2],
            &[("a", &[0]), ("b", &[0, 1]), ("c", &[1])],
            &BTreeMap::new(),
        );
        assert_eq!(sizes(&targets), [3, 3, 2]);
    }

    proptest! {
        #[test]
        fn every_partition_has_one_subscriber_and_a_second_run_moves_nothing(
            counts in prop::collection::vec(1..9_i32, 1..5),
            subscriptions in prop::collection::vec(prop::collection::btree_set(0..5_usize, 1..5), 1..7),
            range in any::<bool>(),
        ) {
            let assignor = if range { Assignor::Range } else { Assignor::Uniform };
            let names: Vec<String> = (0..subscriptions.len()).map(|index| format!("m{index}")).collect();
            let topics: Vec<Vec<usize>> = subscriptions
                .iter()
                .map(|of| of.iter().copied().filter(|index| *index < counts.len()).collect())
                .collect();
            let members: Vec<(&str, &[usize])> =
                names.iter().map(String::as_str).zip(topics.iter().map(Vec::as_slice)).collect();
            let targets = run(assignor, &counts, &members, &BTreeMap::new());
            let mut owners = BTreeMap::new();
            for (id, target) in &targets {
                let subscribed = &members.iter().find(|(name, _)| name == id).unwrap().1;
                for (topic_id, partitions) in target {
                    prop_assert!(subscribed.iter().any(|index| topic(*index) == *topic_id));
                    for partition in partitions {
                        prop_assert!(owners.insert((*topic_id, *partition), id.clone()).is_none());
                    }
                }
            }
            let wanted: i32 = counts
                .iter()
                .enumerate()
                .filter(|(index, _)| topics.iter().any(|of| of.contains(index)))
                .map(|(_, count)| count)
                .sum();
            prop_assert_eq!(owners.len() as i32, wanted);
            prop_assert_eq!(&run(assignor, &counts, &members, &targets), &targets);
        }
    }
}
