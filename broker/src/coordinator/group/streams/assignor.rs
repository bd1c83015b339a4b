//! The sticky assignor: which member should have which tasks.
//!
//! 1. An active task stays with the member that has it, while that member has less than its share.
//! 2. Or else it goes to a member that has a standby of it, the least loaded first, on the same condition.
//! 3. What is left goes, one by one, to the member with the fewest tasks; of equals, to the one whose process has the lower load.
//! 4. Standbys of stateful tasks: first where the task was active until now, then where a standby of it is, then to the member with the
//!    fewest tasks, and never on a process that has the task already.
//!
//! A share is the ceiling of tasks by members; once as many members are at it as divide the remainder, it is the floor. So members differ
//! by one active task at most, and a task moves only if its member has more than its share.
//!
//! ## Members are balanced first, then processes
//! Apache Kafka 4.3 takes the process with the lowest load and its least loaded member, so that threads may end two tasks apart where
//! processes differ in their threads. Here the least loaded member decides, and its process only breaks ties.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tasks::{self, Assignment};

/// What the assignor knows of a member.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberSpec<'a> {
    /// Threads of one process share a disk.
    pub(crate) process_id: &'a str,
    /// What it should have had until now.
    pub(crate) previous: Option<&'a Assignment>,
}

/// What the assignor knows of a sub-topology.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SubtopologySpec<'a> {
    pub(crate) id: &'a str,
    pub(crate) task_count: i32,
    pub(crate) is_stateful: bool,
}

/// A sub-topology's id and a partition.
type Task<'a> = (&'a str, i32);

/// Assigns every task. Standbys for which there is no process are left out.
pub(crate) fn assign(
    members: &BTreeMap<&str, MemberSpec<'_>>,
    subtopologies: &[SubtopologySpec<'_>],
    standby_replicas: usize,
) -> BTreeMap<String, Assignment> {
    let mut round = Round::new(members, subtopologies, standby_replicas);
    if members.is_empty() {
        return BTreeMap::new();
    }
    round.assign_active(tasks_of(subtopologies, |_| true));
    if standby_replicas > 0 {
        round.assign_standby(
            tasks_of(subtopologies, |of| of.is_stateful),
            standby_replicas,
        );
    }
    round
        .members
        .into_iter()
        .map(|member| (member.id.to_owned(), member.assignment))
        .collect()
}

fn tasks_of<'a>(
    subtopologies: &[SubtopologySpec<'a>],
    wanted: impl Fn(&SubtopologySpec<'a>) -> bool,
) -> Vec<Task<'a>> {
    let wanted = subtopologies.iter().filter(|of| wanted(of));
    wanted
        .flat_map(|of| (0..of.task_count).map(|partition| (of.id, partition)))
        .collect()
}

/// How many tasks a member may keep.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Tasks and members that are not at their share yet.
    tasks: usize,
    members: usize,
    each: usize,
}

impl Share {
    fn new(tasks: usize, members: usize) -> Self {
        Self {
            tasks,
            members,
            each: tasks.div_ceil(members.max(1)),
        }
    }

    /// A member has now so many tasks. Once it is at its share, the others divide the rest.
    fn reached(&mut self, count: usize) {
        if count == self.each && self.members > 0 {
            *self = Self::new(self.tasks.saturating_sub(count), self.members - 1);
        }
    }
}

struct Member<'a> {
    id: &'a str,
    process: usize,
    task_count: usize,
    assignment: Assignment,
}

#[derive(Default)]
struct Process<'a> {
    member_count: usize,
    task_count: usize,
    tasks: BTreeSet<Task<'a>>,
}

struct Round<'a> {
    members: Vec<Member<'a>>,
    processes: Vec<Process<'a>>,
    /// Index of the member that had the task.
    previous_active: HashMap<Task<'a>, usize>,
    previous_standby: HashMap<Task<'a>, Vec<usize>>,
    active_share: Share,
    share: Share,
}

impl<'a> Round<'a> {
    fn new(
        specs: &BTreeMap<&'a str, MemberSpec<'a>>,
        subtopologies: &[SubtopologySpec<'a>],
        standby_replicas: usize,
    ) -> Self {
        let (mut active_count, mut standby_count) = (0, 0);
        for subtopology in subtopologies {
            let count = usize::try_from(subtopology.task_count).unwrap_or(0);
            active_count += count;
            if subtopology.is_stateful {
                standby_count += count * standby_replicas;
            }
        }
        let mut round = Self {
            members: Vec::with_capacity(specs.len()),
            processes: Vec::new(),
            previous_active: HashMap::new(),
            previous_standby: HashMap::new(),
            active_share: Share::new(active_count, specs.len()),
            share: Share::new(active_count + standby_count, specs.len()),
        };
        let mut processes: BTreeMap<&str, usize> = BTreeMap::new();
        for (id, spec) in specs {
            let process = *processes.entry(spec.process_id).or_insert_with(|| {
                round.processes.push(Process::default());
                round.processes.len() - 1
            });
            let index = round.members.len();
            if let Some(process) = round.processes.get_mut(process) {
                process.member_count += 1;
            }
            round.members.push(Member {
                id,
                process,
                task_count: 0,
                assignment: Assignment::default(),
            });
            let Some(previous) = spec.previous else {
                continue;
            };
            for task in tasks::each(&previous.active) {
                round.previous_active.insert(task, index);
            }
            for task in tasks::each(&previous.standby) {
                round.previous_standby.entry(task).or_default().push(index);
            }
        }
        round
    }

    fn assign_active(&mut self, mut tasks: Vec<Task<'a>>) {
        // Earlier assignments gave a member neighbouring partitions of one sub-topology: taking partitions in turn, every member keeps some.
        tasks.sort_unstable_by_key(|(subtopology, partition)| (*partition, *subtopology));
        tasks.retain(|task| {
            let kept = self
                .previous_active
                .get(task)
                .copied()
                .filter(|member| self.count(*member) < self.active_share.each);
            kept.is_none_or(|member| !self.give_active(member, *task))
        });
        tasks.retain(|task| {
            let warm = self
                .previous_standby
                .get(task)
                .and_then(|members| self.least_loaded(members.iter().copied()))
                .filter(|member| self.count(*member) < self.active_share.each);
            warm.is_none_or(|member| !self.give_active(member, *task))
        });
        tasks.sort_unstable();
        for task in tasks {
            if let Some(member) = self.least_loaded(0..self.members.len()) {
                self.give_active(member, task);
            }
        }
    }

    fn assign_standby(&mut self, mut tasks: Vec<Task<'a>>, replicas: usize) {
        tasks.sort_unstable_by_key(|(subtopology, partition)| {
            std::cmp::Reverse((*partition, *subtopology))
        });
        let mut left = Vec::new();
        for task in tasks {
            for given in 0..replicas {
                let was_active = self.previous_active.get(&task).copied();
                let was_standby = self.previous_standby.get(&task);
                let known = was_active
                    .filter(|member| self.may_keep(*member, task))
                    .or_else(|| {
                        let free = was_standby?.iter().copied();
                        self.least_loaded(
                            free.filter(|member| !self.is_on_process_of(*member, task)),
                        )
                        .filter(|member| self.may_keep(*member, task))
                    });
                match known {
                    Some(member) => self.give_standby(member, task),
                    None => {
                        left.push((task, replicas - given));
                        break;
                    }
                }
            }
        }
        left.sort_unstable_by_key(|(task, _)| std::cmp::Reverse(*task));
        for (task, replicas) in left {
            for _ in 0..replicas {
                let free =
                    (0..self.members.len()).filter(|member| !self.is_on_process_of(*member, task));
                match self.least_loaded(free) {
                    Some(member) => self.give_standby(member, task),
                    // Every process has it: there are fewer of them than replicas are wanted.
                    None => break,
                }
            }
        }
    }

    fn may_keep(&self, member: usize, task: Task<'a>) -> bool {
        self.count(member) < self.share.each && !self.is_on_process_of(member, task)
    }

    fn count(&self, member: usize) -> usize {
        self.members
            .get(member)
            .map_or(usize::MAX, |member| member.task_count)
    }

    fn process_of(&self, member: usize) -> Option<&Process<'a>> {
        self.processes.get(self.members.get(member)?.process)
    }

    fn is_on_process_of(&self, member: usize, task: Task<'a>) -> bool {
        self.process_of(member)
            .is_some_and(|process| process.tasks.contains(&task))
    }

    /// The member with the fewest tasks; of equals, the one whose process has the fewest by member, then the first.
    fn least_loaded(&self, members: impl Iterator<Item = usize>) -> Option<usize> {
        members.min_by(|left, right| {
            let load = |member: usize| {
                let process = self.process_of(member);
                process.map_or((0, 1), |process| (process.task_count, process.member_count))
            };
            let ((left_tasks, left_members), (right_tasks, right_members)) =
                (load(*left), load(*right));
            let by_process = (left_tasks * right_members).cmp(&(right_tasks * left_members));
            let by_count = self.count(*left).cmp(&self.count(*right));
            by_count.then(by_process).then(left.cmp(right))
        })
    }

    /// Returns whether it was given.
    fn give_active(&mut self, member: usize, task: Task<'a>) -> bool {
        let Some(count) = self.give(member, task, true) else {
            return false;
        };
        self.active_share.reached(count);
        self.share.reached(count);
        true
    }

    fn give_standby(&mut self, member: usize, task: Task<'a>) {
        if let Some(count) = self.give(member, task, false) {
            self.share.reached(count);
        }
    }

    fn give(&mut self, member: usize, task: Task<'a>, is_active: bool) -> Option<usize> {
        let member = self.members.get_mut(member)?;
        let process = self.processes.get_mut(member.process)?;
        process.task_count += 1;
        process.tasks.insert(task);
        member.task_count += 1;
        let kind = if is_active {
            &mut member.assignment.active
        } else {
            &mut member.assignment.standby
        };
        tasks::insert(kind, task.0, task.1);
        Some(member.task_count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use proptest::prelude::*;

    use super::super::tasks::testing::show;
    use super::*;

    /// A group: its members with their processes, and what they have been assigned.
    #[derive(Debug, Clone, Default)]
    struct Group {
        members: BTreeMap<String, String>,
        assignment: BTreeMap<String, Assignment>,
    }

    impl Group {
        fn assign(&mut self, subtopologies: &[(&str, i32, bool)], standby_replicas: usize) {
            let subtopologies: Vec<_> = subtopologies
                .iter()
                .map(|(id, task_count, is_stateful)| SubtopologySpec {
                    id,
                    task_count: *task_count,
                    is_stateful: *is_stateful,
                })
                .collect();
            let members = self.members.iter().map(|(id, process_id)| {
                let previous = self.assignment.get(id);
                (
                    id.as_str(),
                    MemberSpec {
                        process_id,
                        previous,
                    },
                )
            });
            let assignment = assign(&members.collect(), &subtopologies, standby_replicas);
            self.assignment = assignment;
        }

        fn owners(&self) -> BTreeMap<(String, i32), String> {
            let mut owners = BTreeMap::new();
            for (member, assignment) in &self.assignment {
                for (subtopology, partition) in tasks::each(&assignment.active) {
                    let other = owners.insert((subtopology.to_owned(), partition), member.clone());
                    assert_eq!(other, None, "{subtopology}_{partition} is active twice");
                }
            }
            owners
        }

        /// Active tasks that changed their member.
        fn moves(&self, before: &Self) -> usize {
            let (owners, before) = (self.owners(), before.owners());
            owners
                .iter()
                .filter(|(task, owner)| before.get(*task).is_some_and(|was| was != *owner))
                .count()
        }

        fn check(&self, subtopologies: &[(&str, i32, bool)], standby_replicas: usize) {
            let owners = self.owners();
            let expected: usize = subtopologies
                .iter()
                .map(|(_, count, _)| *count as usize)
                .sum();
            assert_eq!(owners.len(), expected, "every task is active once");
            let counts: Vec<_> = self
                .assignment
                .values()
                .map(|of| tasks::each(&of.active).count())
                .collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(
                most - least <= 1,
                "active tasks are balanced within one: {counts:?}"
            );
            let processes: BTreeSet<_> = self.members.values().collect();
            for (subtopology, count, is_stateful) in subtopologies {
                for partition in 0..*count {
                    let task = ((*subtopology).to_owned(), partition);
                    let standbys: Vec<_> = self
                        .assignment
                        .iter()
                        .filter(|(_, of)| {
                            of.standby
                                .get(*subtopology)
                                .is_some_and(|of| of.contains(&partition))
                        })
                        .map(|(member, _)| &self.members[member])
                        .collect();
                    let distinct: BTreeSet<_> = standbys.iter().collect();
                    assert_eq!(
                        distinct.len(),
                        standbys.len(),
                        "a process has one copy of {task:?}"
                    );
                    assert!(
                        !standbys.contains(&&self.members[&owners[&task]]),
                        "a standby of {task:?} is beside its active"
                    );
                    let wanted = if *is_stateful {
                        standby_replicas.min(processes.len() - 1)
                    } else {
                        0
                    };
                    assert_eq!(standbys.len(), wanted, "standbys of {task:?}");
                }
            }
        }
    }

    fn group(members: &[(&str, &str)]) -> Group {
        Group {
            members: members
                .iter()
                .map(|(id, process)| ((*id).to_owned(), (*process).to_owned()))
                .collect(),
            assignment: BTreeMap::new(),
        }
    }

    #[test]
    fn a_first_assignment_goes_round_processes_and_their_members() {
        let mut group = group(&[("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")]);
        group.assign(&[("0", 4, false), ("1", 4, false)], 0);
        let shown: Vec<_> = group
            .assignment
            .iter()
            .map(|(member, of)| format!("{member}: {}", show(&of.active)))
            .collect();
        assert_eq!(
            shown,
            ["a1: 0_0 1_0", "a2: 0_2 1_2", "b1: 0_1 1_1", "b2: 0_3 1_3"]
        );
    }

    #[test]
    fn a_process_with_a_standby_takes_the_task_over() {
        let mut group = group(&[("a1", "a"), ("b1", "b"), ("c1", "c")]);
        let subtopologies = [("0", 6, true)];
        group.assign(&subtopologies, 1);
        group.check(&subtopologies, 1);
        let before = group.clone();
        group.members.remove("b1");
        group.assign(&subtopologies, 1);
        group.check(&subtopologies, 1);
        let mut taken_over = 0;
        for (task, owner) in before.owners() {
            let now = &group.owners()[&task];
            if owner != "b1" {
                assert_eq!(now, &owner, "{task:?} stays");
                continue;
            }
            let was_standby = |member: &String| {
                before.assignment[member]
                    .standby
                    .get(&task.0)
                    .is_some_and(|of| of.contains(&task.1))
            };
            let mut warm = before
                .assignment
                .keys()
                .filter(|member| was_standby(member));
            // The members that are left have a share of three each.
            let is_full =
                |member: &String| tasks::each(&group.assignment[member].active).count() == 3;
            assert!(
                was_standby(now) || warm.all(is_full),
                "{task:?} goes from b1 to {now}"
            );
            taken_over += usize::from(was_standby(now));
        }
        assert_ne!(taken_over, 0);
    }

    #[test]
    fn without_members_nothing_is_assigned() {
        assert_eq!(
            assign(
                &BTreeMap::new(),
                &[SubtopologySpec {
                    id: "0",
                    task_count: 3,
                    is_stateful: true
                }],
                1
            ),
            BTreeMap::new()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn every_assignment_is_whole_balanced_and_sticky(
            counts in prop::collection::vec((0..12_i32, any::<bool>()), 1..4),
            standby_replicas in 0..3_usize,
            steps in prop::collection::vec((0..3_u8, 0..8_usize, 0..4_usize), 1..12),
        ) {
            let names = ["0", "1", "2", "3"];
            let subtopologies: Vec<_> = counts.iter().zip(names).map(|((count, stateful), id)| (id, *count, *stateful)).collect();
            let task_count: usize = counts.iter().map(|(count, _)| *count as usize).sum();
            let mut group = group(&[("m00", "p0")]);
            group.assign(&subtopologies, standby_replicas);
            group.check(&subtopologies, standby_replicas);
            let mut joined = 0;
            for (kind, which, process) in steps {
                let before = group.clone();
                if kind < 2 {
                    joined += 1;
                    group.members.insert(format!("m{joined:02}"), format!("p{process}"));
                } else if group.members.len() > 1 {
                    let gone = group.members.keys().nth(which % group.members.len()).unwrap().clone();
                    group.members.remove(&gone);
                }
                group.assign(&subtopologies, standby_replicas);
                group.check(&subtopologies, standby_replicas);
                // Those who stay keep what is within their share: a member that joins takes its own share and no more, one that leaves
                // leaves its tasks and moves no others.
                let moved = group.moves(&before);
                let lost = before.owners().values().filter(|owner| !group.members.contains_key(*owner)).count();
                let gained: usize = group.assignment.iter().filter(|(member, _)| !before.members.contains_key(*member)).map(|(_, of)| tasks::each(&of.active).count()).sum();
                prop_assert!(moved <= lost + gained, "{moved} moves for {lost} lost and {gained} taken over, of {task_count}");
                // Nothing has changed: nothing moves.
                let again = group.clone();
                group.assign(&subtopologies, standby_replicas);
                prop_assert_eq!(group.moves(&again), 0);
            }
        }
    }
}
