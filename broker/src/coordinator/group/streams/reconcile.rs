//! Bringing a member from the tasks it has to the tasks it should have, one heartbeat at a time.
//!
//! 1. It keeps what is in both, and is told to give back the rest. Until it says that it has, it stays in its epoch, and the tasks stay its own.
//! 2. Then it is in the epoch of the target, and is given what is free. A task is free when no member of any process has it active, and
//!    its own process has it in no way: two copies of a task would share a directory.
//! 3. What is not free yet it is given with a later heartbeat, when those who have it have given it back.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tasks::{self, ActiveTasks, Assigned, Assignment, TaskSet};

/// Where a member stands on its way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MemberState {
    /// It has what it should have in its epoch.
    #[default]
    Stable,
    /// It has to give tasks back.
    UnrevokedTasks,
    /// Others have to give tasks back.
    UnreleasedTasks,
    /// Written by a later version.
    Unknown,
}

impl MemberState {
    /// Kafka's number for it.
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::Stable => 1,
            Self::UnrevokedTasks => 2,
            Self::UnreleasedTasks => 3,
            Self::Unknown => 127,
        }
    }

    pub(crate) fn of_code(code: i8) -> Self {
        match code {
            1 => Self::Stable,
            2 => Self::UnrevokedTasks,
            3 => Self::UnreleasedTasks,
            _ => Self::Unknown,
        }
    }
}

/// The tasks of a member and its epoch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CurrentAssignment {
    pub(crate) member_epoch: i32,
    /// A member that has not heard of the new epoch may still come with this one.
    pub(crate) previous_member_epoch: i32,
    pub(crate) state: MemberState,
    pub(crate) assigned: Assigned,
    pub(crate) pending_revocation: Assigned,
}

impl CurrentAssignment {
    /// Whether nothing is left to do for a target.
    pub(crate) fn is_reconciled_to(&self, target_epoch: i32) -> bool {
        self.state == MemberState::Stable && self.member_epoch == target_epoch
    }

    fn moved_to(
        &self,
        member_epoch: i32,
        state: MemberState,
        assigned: Assigned,
        pending_revocation: Assigned,
    ) -> Self {
        Self {
            member_epoch,
            previous_member_epoch: self.member_epoch,
            state,
            assigned,
            pending_revocation,
        }
    }
}

/// Which processes have a task, assigned or not given back yet: once for each of their members that has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Owners {
    tasks: HashMap<(String, i32), TaskOwners>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct TaskOwners {
    active: Vec<String>,
    copies: Vec<String>,
}

impl Owners {
    /// A member of the process has these tasks.
    pub(crate) fn add(&mut self, process_id: &str, tasks: &Assigned) {
        let mut add = |subtopology: &str, partition, is_active| {
            let of = self
                .tasks
                .entry((subtopology.to_owned(), partition))
                .or_default();
            let kind = if is_active {
                &mut of.active
            } else {
                &mut of.copies
            };
            kind.push(process_id.to_owned());
        };
        visit(tasks, &mut add);
    }

    /// It has them no more.
    pub(crate) fn remove(&mut self, process_id: &str, tasks: &Assigned) {
        let mut remove = |subtopology: &str, partition, is_active| {
            let key = (subtopology.to_owned(), partition);
            let Some(of) = self.tasks.get_mut(&key) else {
                return;
            };
            let kind = if is_active {
                &mut of.active
            } else {
                &mut of.copies
            };
            if let Some(index) = kind.iter().position(|process| process == process_id) {
                kind.swap_remove(index);
            }
            if of.active.is_empty() && of.copies.is_empty() {
                self.tasks.remove(&key);
            }
        };
        visit(tasks, &mut remove);
    }

    /// Whether a task can be made active on a process.
    fn is_free(&self, process_id: &str, task: (&str, i32)) -> bool {
        self.of(task).is_none_or(|of| {
            of.active.is_empty() && !of.copies.iter().any(|process| process == process_id)
        })
    }

    /// Whether a process may have a copy of a task.
    fn is_free_for_copy(&self, process_id: &str, task: (&str, i32)) -> bool {
        self.of(task).is_none_or(|of| {
            !of.active
                .iter()
                .chain(&of.copies)
                .any(|process| process == process_id)
        })
    }

    fn of(&self, (subtopology, partition): (&str, i32)) -> Option<&TaskOwners> {
        self.tasks.get(&(subtopology.to_owned(), partition))
    }
}

fn visit(tasks: &Assigned, see: &mut impl FnMut(&str, i32, bool)) {
    for (subtopology, partitions) in &tasks.active {
        for partition in partitions.keys() {
            see(subtopology, *partition, true);
        }
    }
    for (subtopology, partition) in tasks::each(&tasks.standby).chain(tasks::each(&tasks.warmup)) {
        see(subtopology, partition, false);
    }
}

/// A member in a state that this version does not know has to start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartOver;

/// The next step of a member. `owned` is what it says that it has, where it says so.
pub(crate) fn reconcile(
    current: &CurrentAssignment,
    process_id: &str,
    target_epoch: i32,
    target: &Assignment,
    owned: Option<&Assignment>,
    owners: &Owners,
) -> Result<CurrentAssignment, StartOver> {
    let epoch = match current.state {
        MemberState::Stable if current.member_epoch == target_epoch => return Ok(current.clone()),
        MemberState::Stable | MemberState::UnreleasedTasks => current.member_epoch,
        MemberState::UnrevokedTasks => {
            if owned.is_none_or(|owned| owned.overlaps(&current.pending_revocation)) {
                return Ok(current.clone());
            }
            // It has given everything back: that alone is a new epoch, so that a commit of before is told apart.
            current.member_epoch + 1
        }
        MemberState::Unknown => {
            if owned != Some(&Assignment::default()) {
                return Err(StartOver);
            }
            target_epoch
        }
    };
    let step = Step::between(&current.assigned, process_id, target_epoch, target, owners);
    let must_revoke =
        !step.revoked.is_empty() && owned.is_none_or(|owned| owned.overlaps(&step.revoked));
    if must_revoke {
        return Ok(current.moved_to(epoch, MemberState::UnrevokedTasks, step.kept, step.revoked));
    }
    let state = if step.is_waiting {
        MemberState::UnreleasedTasks
    } else {
        MemberState::Stable
    };
    let mut assigned = step.kept;
    assigned.merge(step.given);
    Ok(current.moved_to(target_epoch, state, assigned, Assigned::default()))
}

/// What there is to do, kind by kind.
#[derive(Default)]
struct Step {
    kept: Assigned,
    revoked: Assigned,
    given: Assigned,
    /// Whether some of the target is not free.
    is_waiting: bool,
}

impl Step {
    fn between(
        assigned: &Assigned,
        process_id: &str,
        target_epoch: i32,
        target: &Assignment,
        owners: &Owners,
    ) -> Self {
        let mut step = Self::default();
        for (subtopology, partitions) in &assigned.active {
            let wanted = target.active.get(subtopology);
            for (partition, epoch) in partitions {
                let is_kept = wanted.is_some_and(|wanted| wanted.contains(partition));
                let into = if is_kept {
                    &mut step.kept
                } else {
                    &mut step.revoked
                };
                let active = &mut into.active;
                active
                    .entry(subtopology.clone())
                    .or_default()
                    .insert(*partition, *epoch);
            }
        }
        for (subtopology, partition) in tasks::each(&target.active) {
            if has_active(&assigned.active, subtopology, partition) {
                continue;
            }
            if owners.is_free(process_id, (subtopology, partition)) {
                let active = &mut step.given.active;
                active
                    .entry(subtopology.to_owned())
                    .or_default()
                    .insert(partition, target_epoch);
            } else {
                step.is_waiting = true;
            }
        }
        let mut copies =
            |assigned: &TaskSet, target: &TaskSet, kind: fn(&mut Assigned) -> &mut TaskSet| {
                for (subtopology, partition) in tasks::each(assigned) {
                    let is_kept = has(target, subtopology, partition);
                    let into = if is_kept {
                        &mut step.kept
                    } else {
                        &mut step.revoked
                    };
                    tasks::insert(kind(into), subtopology, partition);
                }
                for (subtopology, partition) in tasks::each(target) {
                    if has(assigned, subtopology, partition) {
                        continue;
                    }
                    if owners.is_free_for_copy(process_id, (subtopology, partition)) {
                        tasks::insert(kind(&mut step.given), subtopology, partition);
                    } else {
                        step.is_waiting = true;
                    }
                }
            };
        copies(&assigned.standby, &target.standby, |tasks| {
            &mut tasks.standby
        });
        copies(&assigned.warmup, &target.warmup, |tasks| &mut tasks.warmup);
        step
    }
}

fn has(tasks: &TaskSet, subtopology: &str, partition: i32) -> bool {
    tasks
        .get(subtopology)
        .is_some_and(|of: &BTreeSet<i32>| of.contains(&partition))
}

fn has_active(tasks: &ActiveTasks, subtopology: &str, partition: i32) -> bool {
    tasks
        .get(subtopology)
        .is_some_and(|of: &BTreeMap<i32, i32>| of.contains_key(&partition))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::super::tasks::testing::{show, tasks};
    use super::*;

    fn active(names: &[&str]) -> Assignment {
        Assignment {
            active: tasks(names),
            ..Assignment::default()
        }
    }

    fn assigned(names: &[&str], epoch: i32) -> Assigned {
        let mut assigned = Assigned::default();
        for (subtopology, partition) in tasks::each(&tasks(names)) {
            assigned
                .active
                .entry(subtopology.to_owned())
                .or_default()
                .insert(partition, epoch);
        }
        assigned
    }

    fn member(epoch: i32, names: &[&str]) -> CurrentAssignment {
        CurrentAssignment {
            member_epoch: epoch,
            previous_member_epoch: epoch,
            assigned: assigned(names, epoch),
            ..CurrentAssignment::default()
        }
    }

    fn owners(of: &[(&str, &Assigned)]) -> Owners {
        let mut owners = Owners::default();
        for (process, tasks) in of {
            owners.add(process, tasks);
        }
        owners
    }

    /// `epoch state: active | standby | warmup -- active pending revocation`.
    fn picture(current: &CurrentAssignment) -> String {
        let tasks = current.assigned.tasks();
        format!(
            "{} {:?}: {} | {} | {} -- {}",
            current.member_epoch,
            current.state,
            show(&tasks.active),
            show(&tasks.standby),
            show(&tasks.warmup),
            show(&current.pending_revocation.tasks().active)
        )
    }

    #[test]
    fn a_new_member_is_given_what_is_free() {
        let (none, other) = (member(0, &[]), assigned(&["0_1"], 3));
        let owners = owners(&[("q", &other)]);
        let next = reconcile(
            &none,
            "p",
            4,
            &active(&["0_0", "0_1"]),
            Some(&Assignment::default()),
            &owners,
        )
        .unwrap();
        assert_eq!(picture(&next), "4 UnreleasedTasks: 0_0 |  |  -- ");
        assert_eq!(
            next.assigned,
            assigned(&["0_0"], 4),
            "with the epoch of the target"
        );
        // The other has given it back.
        let next = reconcile(
            &next,
            "p",
            4,
            &active(&["0_0", "0_1"]),
            None,
            &super::Owners::default(),
        )
        .unwrap();
        assert_eq!(picture(&next), "4 Stable: 0_0 0_1 |  |  -- ");
    }

    #[test]
    fn a_member_revokes_before_it_is_given_more() {
        let stable = member(4, &["0_0", "0_1"]);
        let owners = owners(&[("p", &stable.assigned)]);
        let target = active(&["0_0", "1_0"]);
        let told = reconcile(&stable, "p", 5, &target, None, &owners).unwrap();
        assert_eq!(picture(&told), "4 UnrevokedTasks: 0_0 |  |  -- 0_1");
        // It says nothing, or still has it: it waits, in its epoch.
        for owned in [None, Some(active(&["0_0", "0_1"]))] {
            let still = reconcile(&told, "p", 5, &target, owned.as_ref(), &owners).unwrap();
            assert_eq!(still, told);
        }
        let done = reconcile(&told, "p", 5, &target, Some(&active(&["0_0"])), &owners).unwrap();
        assert_eq!(picture(&done), "5 Stable: 0_0 1_0 |  |  -- ");
        assert_eq!(
            done.assigned.active["0"][&0], 4,
            "what it keeps keeps its epoch"
        );
        assert_eq!(done.assigned.active["1"][&0], 5);
        assert_eq!(done.previous_member_epoch, 4);
    }

    #[test]
    fn a_member_that_no_longer_has_what_it_should_revoke_goes_on_at_once() {
        let stable = member(4, &["0_0", "0_1"]);
        let owners = owners(&[("p", &stable.assigned)]);
        let next = reconcile(
            &stable,
            "p",
            5,
            &active(&["0_0"]),
            Some(&active(&["0_0"])),
            &owners,
        )
        .unwrap();
        assert_eq!(picture(&next), "5 Stable: 0_0 |  |  -- ");
    }

    #[test]
    fn a_target_that_changes_while_tasks_are_revoked_is_taken_up_after_that() {
        let stable = member(4, &["0_0", "0_1"]);
        let mut owners = owners(&[("p", &stable.assigned)]);
        let told = reconcile(&stable, "p", 5, &active(&["0_0"]), None, &owners).unwrap();
        // By now the target gives it back what it revokes; it has revoked it, and so gets it a heartbeat later.
        let target = active(&["0_0", "0_1"]);
        let waits = reconcile(&told, "p", 6, &target, Some(&active(&["0_0"])), &owners).unwrap();
        assert_eq!(picture(&waits), "6 UnreleasedTasks: 0_0 |  |  -- ");
        owners.remove("p", &told.pending_revocation);
        let done = reconcile(&waits, "p", 6, &target, None, &owners).unwrap();
        assert_eq!(picture(&done), "6 Stable: 0_0 0_1 |  |  -- ");
    }

    #[test]
    fn a_process_never_has_a_task_twice() {
        let standby = Assigned {
            standby: tasks(&["0_0"]),
            ..Assigned::default()
        };
        let owners = owners(&[("p", &standby)]);
        // Another thread of the process has the standby: the active waits for it, here but not elsewhere.
        let target = active(&["0_0"]);
        let here = reconcile(&member(0, &[]), "p", 2, &target, None, &owners).unwrap();
        assert_eq!(picture(&here), "2 UnreleasedTasks:  |  |  -- ");
        let there = reconcile(&member(0, &[]), "q", 2, &target, None, &owners).unwrap();
        assert_eq!(picture(&there), "2 Stable: 0_0 |  |  -- ");
        // A standby does not wait for an active elsewhere, and does for one here.
        let owners = super::tests::owners(&[("p", &assigned(&["0_0"], 1))]);
        let target = Assignment {
            standby: tasks(&["0_0"]),
            ..Assignment::default()
        };
        let here = reconcile(&member(0, &[]), "p", 2, &target, None, &owners).unwrap();
        assert_eq!(picture(&here), "2 UnreleasedTasks:  |  |  -- ");
        let there = reconcile(&member(0, &[]), "q", 2, &target, None, &owners).unwrap();
        assert_eq!(picture(&there), "2 Stable:  | 0_0 |  -- ");
    }

    #[test]
    fn a_standby_is_promoted_by_way_of_its_revocation() {
        let mut current = member(3, &[]);
        current.assigned.standby = tasks(&["0_0"]);
        let mut owners = owners(&[("p", &current.assigned)]);
        let target = active(&["0_0"]);
        let told = reconcile(&current, "p", 4, &target, None, &owners).unwrap();
        assert_eq!(told.state, MemberState::UnrevokedTasks);
        assert_eq!(told.pending_revocation.standby, tasks(&["0_0"]));
        let waits = reconcile(
            &told,
            "p",
            4,
            &target,
            Some(&Assignment::default()),
            &owners,
        )
        .unwrap();
        assert_eq!(picture(&waits), "4 UnreleasedTasks:  |  |  -- ");
        owners.remove("p", &told.pending_revocation);
        let done = reconcile(&waits, "p", 4, &target, None, &owners).unwrap();
        assert_eq!(picture(&done), "4 Stable: 0_0 |  |  -- ");
    }

    #[test]
    fn a_state_of_a_later_version_starts_over() {
        let unknown = CurrentAssignment {
            state: MemberState::of_code(9),
            ..member(3, &["0_0"])
        };
        let owners = Owners::default();
        assert_eq!(
            reconcile(&unknown, "p", 4, &active(&["0_0"]), None, &owners),
            Err(StartOver)
        );
        let empty = reconcile(
            &unknown,
            "p",
            4,
            &active(&["0_0"]),
            Some(&Assignment::default()),
            &owners,
        )
        .unwrap();
        assert_eq!(picture(&empty), "4 Stable: 0_0 |  |  -- ");
        for state in [
            MemberState::Stable,
            MemberState::UnrevokedTasks,
            MemberState::UnreleasedTasks,
            MemberState::Unknown,
        ] {
            assert_eq!(MemberState::of_code(state.code()), state);
        }
    }
}
