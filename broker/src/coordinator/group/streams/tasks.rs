//! Sets of tasks: what a member should have, what it has, and what it says it has.
//!
//! A sub-topology without tasks has no entry, so that equal sets are equal values.

use std::collections::{BTreeMap, BTreeSet};

/// Tasks by sub-topology: a task is a sub-topology over one partition.
pub(crate) type TaskSet = BTreeMap<String, BTreeSet<i32>>;

/// Active tasks, each with the epoch at which it was assigned: commits of an older epoch are a zombie's.
pub(crate) type ActiveTasks = BTreeMap<String, BTreeMap<i32, i32>>;

/// Tasks of every kind, of one member: its target, or what it says that it owns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub(crate) active: TaskSet,
    pub(crate) standby: TaskSet,
    pub(crate) warmup: TaskSet,
}

/// Tasks that a member has been given, or has to give back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Assigned {
    pub(crate) active: ActiveTasks,
    pub(crate) standby: TaskSet,
    pub(crate) warmup: TaskSet,
}

impl Assignment {
    /// Whether any task of the same kind is in both.
    pub(crate) fn overlaps(&self, other: &Assigned) -> bool {
        overlap(&self.active, &other.active)
            || overlap(&self.standby, &other.standby)
            || overlap(&self.warmup, &other.warmup)
    }

    /// Whether everything here is also there, kind by kind.
    pub(crate) fn is_within(&self, other: &Assigned) -> bool {
        is_subset(&self.active, &other.active)
            && is_subset(&self.standby, &other.standby)
            && is_subset(&self.warmup, &other.warmup)
    }
}

impl Assigned {
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.standby.is_empty() && self.warmup.is_empty()
    }

    /// Adds tasks that are not there yet.
    pub(crate) fn merge(&mut self, more: Self) {
        for (subtopology, tasks) in more.active {
            self.active.entry(subtopology).or_default().extend(tasks);
        }
        for (mine, more) in [
            (&mut self.standby, more.standby),
            (&mut self.warmup, more.warmup),
        ] {
            for (subtopology, tasks) in more {
                mine.entry(subtopology).or_default().extend(tasks);
            }
        }
    }

    /// The tasks without their epochs.
    pub(crate) fn tasks(&self) -> Assignment {
        let active = self.active.iter().map(|(subtopology, tasks)| {
            let partitions = tasks.keys().copied().collect();
            (subtopology.clone(), partitions)
        });
        Assignment {
            active: active.collect(),
            standby: self.standby.clone(),
            warmup: self.warmup.clone(),
        }
    }

    /// The same tasks, as if they had been assigned at epoch zero.
    pub(crate) fn with_epochs_reset(&self) -> Self {
        let mut reset = self.clone();
        for epoch in reset.active.values_mut().flat_map(BTreeMap::values_mut) {
            *epoch = 0;
        }
        reset
    }
}

/// What a set of partitions has in common, whether or not each has an epoch.
pub(super) trait Partitions {
    fn has(&self, partition: i32) -> bool;
}

impl Partitions for BTreeSet<i32> {
    fn has(&self, partition: i32) -> bool {
        self.contains(&partition)
    }
}

impl Partitions for BTreeMap<i32, i32> {
    fn has(&self, partition: i32) -> bool {
        self.contains_key(&partition)
    }
}

fn overlap<P: Partitions>(left: &TaskSet, right: &BTreeMap<String, P>) -> bool {
    left.iter().any(|(subtopology, partitions)| {
        right
            .get(subtopology)
            .is_some_and(|others| partitions.iter().any(|partition| others.has(*partition)))
    })
}

fn is_subset<P: Partitions>(left: &TaskSet, right: &BTreeMap<String, P>) -> bool {
    left.iter().all(|(subtopology, partitions)| {
        right
            .get(subtopology)
            .is_some_and(|others| partitions.iter().all(|partition| others.has(*partition)))
    })
}

/// Adds one task.
pub(crate) fn insert(tasks: &mut TaskSet, subtopology: &str, partition: i32) {
    match tasks.get_mut(subtopology) {
        Some(partitions) => {
            partitions.insert(partition);
        }
        None => {
            tasks.insert(subtopology.to_owned(), BTreeSet::from([partition]));
        }
    }
}

/// Tasks of a set, one by one.
pub(crate) fn each(tasks: &TaskSet) -> impl Iterator<Item = (&str, i32)> {
    tasks.iter().flat_map(|(subtopology, partitions)| {
        partitions
            .iter()
            .map(move |partition| (subtopology.as_str(), *partition))
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use super::{TaskSet, insert};

    /// `["0_1", "1_0"]` as a set.
    pub(crate) fn tasks(names: &[&str]) -> TaskSet {
        let mut tasks = TaskSet::new();
        for name in names {
            let (subtopology, partition) = name.split_once('_').expect("subtopology_partition");
            insert(
                &mut tasks,
                subtopology,
                partition.parse().expect("a number"),
            );
        }
        tasks
    }

    /// A set as `0_1 1_0`.
    pub(crate) fn show(tasks: &TaskSet) -> String {
        let names: Vec<_> = super::each(tasks)
            .map(|(subtopology, partition)| format!("{subtopology}_{partition}"))
            .collect();
        names.join(" ")
    }
}
