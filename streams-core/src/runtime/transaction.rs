//! One stream thread's transactions, decided: what happened goes in, what is to be done comes out. No client, store or clock here.
//!
//! ## One commit
//! 1. [`Phase::Open`]: the tasks process, and what they write belongs to the open transaction.
//! 2. A commit is due, caches and producer are flushed: [`Phase::Sending`]. The offsets go into the transaction while output is still on
//!    its way; both must be acknowledged.
//! 3. [`Phase::Committing`]: the transaction ends. From here on a restart finds this commit, whatever else fails.
//! 4. [`Phase::Storing`]: the stores take what the transaction stands for.
//!
//! ## When something fails
//! What the cluster says decides, by kind ([`Failure`]); the phase hardly does:
//! - it may pass: the same step again;
//! - the transaction is lost, the producer is not: abort, then the tasks are opened anew from the last commit;
//! - the producer is lost, or fenced: a new one initialises, which ends what the old one left, then the tasks are opened anew;
//! - else the thread ends.
//!
//! After a failed or unanswered commit nobody here knows whether the transaction was committed. Nobody needs to: opening the tasks anew
//! asks the cluster for the committed offsets and restores what the stores lack, and either answer leads to the right place.

use crate::client::ClientErrorKind;

/// Transactions that fail one after the other, none committed between them, end the thread: what fails so often will not pass.
pub(crate) const FAILURES_MAX: u32 = 10;

/// Where a thread's transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The tasks process.
    Open,
    /// Output and offsets are on their way.
    Sending { output: Output, offsets: Offsets },
    /// It is being committed.
    Committing,
    /// It is committed; the stores are to be written.
    Storing,
    /// It is being aborted.
    Aborting,
    /// A new producer takes over from the one that is lost.
    Initializing,
    /// What the tasks did since the last commit is to be undone.
    Reopening,
}

/// The records of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Unacknowledged,
    Acknowledged,
}

/// The input offsets of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offsets {
    /// It is not settled as whom to commit.
    Unsent,
    /// Asked for.
    Sent,
    /// Part of the transaction, or there are none.
    Taken,
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Caches and producer were flushed for a commit.
    Flushed { has_offsets: bool },
    /// All records are acknowledged.
    OutputAcknowledged,
    /// It is settled as whom to commit.
    MemberKnown,
    /// The step that was asked for is done.
    Done,
    /// The step that was asked for, or anything else in the transaction, has failed.
    Failed(Failure),
    /// The stores are written.
    Stored,
    /// The tasks are opened anew.
    Reopened,
}

/// How something has failed, by what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may pass.
    Retriable,
    /// The transaction is lost.
    Abortable,
    /// The producer is lost.
    ProducerLost,
    /// Another producer of this transactional id has begun, or the cluster has ended this one's transaction.
    Fenced,
    /// It will not pass.
    Final,
}

impl Failure {
    pub(crate) fn of(kind: ClientErrorKind) -> Self {
        match kind {
            ClientErrorKind::Retriable => Self::Retriable,
            // A topic that was deleted under a transaction: it may be there again when the tasks are opened anew.
            ClientErrorKind::Abortable | ClientErrorKind::UnknownTopicOrPartition => {
                Self::Abortable
            }
            ClientErrorKind::ProducerLost => Self::ProducerLost,
            ClientErrorKind::Fenced => Self::Fenced,
            ClientErrorKind::TopicExists
            | ClientErrorKind::OffsetOutOfRange
            | ClientErrorKind::TooLarge
            | ClientErrorKind::Config
            | ClientErrorKind::Fatal => Self::Final,
        }
    }
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Something else must happen first.
    Wait,
    /// Ask for [`Offsets::Sent`].
    SendOffsets,
    /// Ask for the commit.
    Commit,
    /// Write the stores.
    Store,
    /// Ask for the abort.
    Abort,
    /// Replace the producer, and ask for its initialisation.
    Replace,
    /// Ask for the initialisation again.
    Initialize,
    /// Open the tasks anew, from what is committed.
    Reopen,
    /// End the thread.
    Stop,
}

/// The transactions of one thread, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    phase: Phase,
    /// Since the last one that was committed.
    failures: u32,
}

impl Transaction {
    /// Of a producer that is initialised: its first transaction is open.
    pub(crate) fn open() -> Self {
        Self {
            phase: Phase::Open,
            failures: 0,
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether what the producer reports no longer matters: its transaction is given up.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(
            self.phase,
            Phase::Aborting | Phase::Initializing | Phase::Reopening
        )
    }

    /// Whether a step of the producer is under way.
    pub(crate) fn awaits_answer(&self) -> bool {
        matches!(
            self.phase,
            Phase::Sending {
                offsets: Offsets::Sent,
                ..
            } | Phase::Committing
                | Phase::Aborting
                | Phase::Initializing
        )
    }

    /// Takes in what has happened.
    ///
    /// # Panics
    /// When it cannot happen in this phase: a bug of the caller.
    pub(crate) fn on(&mut self, event: Event) -> Action {
        let (phase, action) = self.decide(event);
        self.phase = phase;
        if let Event::Failed(failure) = event
            && failure != Failure::Retriable
        {
            self.failures += 1;
            if self.failures > FAILURES_MAX {
                return Action::Stop;
            }
        }
        if event == Event::Stored {
            self.failures = 0;
        }
        action
    }

    fn decide(&self, event: Event) -> (Phase, Action) {
        match (self.phase, event) {
            (Phase::Open, Event::Flushed { has_offsets }) => {
                let offsets = if has_offsets {
                    Offsets::Unsent
                } else {
                    Offsets::Taken
                };
                let output = Output::Unacknowledged;
                (Phase::Sending { output, offsets }, Action::Wait)
            }
            (Phase::Sending { offsets, .. }, Event::OutputAcknowledged) => {
                all_taken(Output::Acknowledged, offsets)
            }
            (
                Phase::Sending {
                    output,
                    offsets: Offsets::Unsent,
                },
                Event::MemberKnown,
            ) => {
                let offsets = Offsets::Sent;
                (Phase::Sending { output, offsets }, Action::SendOffsets)
            }
            (
                Phase::Sending {
                    output,
                    offsets: Offsets::Sent,
                },
                Event::Done,
            ) => all_taken(output, Offsets::Taken),
            (Phase::Committing, Event::Done) => (Phase::Storing, Action::Store),
            (Phase::Storing, Event::Stored) => (Phase::Open, Action::Wait),
            (Phase::Aborting | Phase::Initializing, Event::Done) => {
                (Phase::Reopening, Action::Reopen)
            }
            (Phase::Reopening, Event::Reopened) => (Phase::Open, Action::Wait),
            (phase, Event::Failed(failure)) => failed(phase, failure),
            (phase, event) => panic!("{event:?} in {phase:?}"),
        }
    }
}

fn all_taken(output: Output, offsets: Offsets) -> (Phase, Action) {
    match (output, offsets) {
        (Output::Acknowledged, Offsets::Taken) => (Phase::Committing, Action::Commit),
        _ => (Phase::Sending { output, offsets }, Action::Wait),
    }
}

fn failed(phase: Phase, failure: Failure) -> (Phase, Action) {
    let replace = (Phase::Initializing, Action::Replace);
    match (failure, phase) {
        (Failure::Final, phase) => (phase, Action::Stop),
        // What is asked for again is asked as the member of then.
        (Failure::Retriable, Phase::Sending { output, .. }) => {
            let offsets = Offsets::Unsent;
            (Phase::Sending { output, offsets }, Action::Wait)
        }
        (Failure::Retriable, Phase::Committing) => (phase, Action::Commit),
        (Failure::Retriable, Phase::Aborting) => (phase, Action::Abort),
        (Failure::Retriable, Phase::Initializing) => (phase, Action::Initialize),
        (Failure::Retriable, Phase::Reopening) => (phase, Action::Reopen),
        // A record that could not be delivered in time.
        (Failure::Retriable | Failure::Abortable, Phase::Open) => (Phase::Aborting, Action::Abort),
        (Failure::Abortable, Phase::Sending { .. } | Phase::Committing) => {
            (Phase::Aborting, Action::Abort)
        }
        // An abort that cannot be done: the new producer's initialisation does it.
        (Failure::Abortable, Phase::Aborting | Phase::Initializing | Phase::Reopening) => replace,
        (Failure::ProducerLost | Failure::Fenced, _) => replace,
        // The transaction is committed: this is an error of a store, and final. The next start restores what it lacks.
        (Failure::Retriable | Failure::Abortable, Phase::Storing) => (phase, Action::Stop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The phases and actions that these events lead through.
    fn walk(events: &[Event]) -> Vec<(Phase, Action)> {
        let mut transaction = Transaction::open();
        events
            .iter()
            .map(|event| {
                let action = transaction.on(*event);
                (transaction.phase(), action)
            })
            .collect()
    }

    fn last(events: &[Event]) -> (Phase, Action) {
        walk(events)
            .last()
            .copied()
            .unwrap_or((Phase::Open, Action::Wait))
    }

    const FLUSHED: Event = Event::Flushed { has_offsets: true };
    const SENT: Phase = Phase::Sending {
        output: Output::Unacknowledged,
        offsets: Offsets::Sent,
    };

    #[test]
    fn a_commit_waits_for_output_and_offsets_in_either_order() {
        let commit = (Phase::Committing, Action::Commit);
        let acknowledged_first = walk(&[
            FLUSHED,
            Event::OutputAcknowledged,
            Event::MemberKnown,
            Event::Done,
        ]);
        let taken_first = walk(&[
            FLUSHED,
            Event::MemberKnown,
            Event::Done,
            Event::OutputAcknowledged,
        ]);
        for steps in [&acknowledged_first, &taken_first] {
            assert_eq!(steps.last(), Some(&commit), "{steps:?}");
            assert_eq!(
                steps
                    .iter()
                    .filter(|(_, action)| *action == Action::Commit)
                    .count(),
                1
            );
        }
    }

    #[test]
    fn the_stores_are_written_after_the_transaction_is_committed_and_not_before() {
        let steps = walk(&[
            FLUSHED,
            Event::MemberKnown,
            Event::OutputAcknowledged,
            Event::Done,
            Event::Done,
            Event::Stored,
        ]);
        let actions: Vec<Action> = steps.iter().map(|(_, action)| *action).collect();
        assert_eq!(
            actions,
            [
                Action::Wait,
                Action::SendOffsets,
                Action::Wait,
                Action::Commit,
                Action::Store,
                Action::Wait
            ]
        );
        assert_eq!(
            steps.last().map(|(phase, _)| *phase),
            Some(Phase::Open),
            "the next transaction is open"
        );
    }

    #[test]
    fn a_transaction_without_offsets_commits_when_its_output_is_acknowledged() {
        let flushed = Event::Flushed { has_offsets: false };
        assert_eq!(
            last(&[flushed, Event::OutputAcknowledged]),
            (Phase::Committing, Action::Commit)
        );
    }

    /// Events that lead to each phase.
    fn phases() -> Vec<Vec<Event>> {
        let committing = vec![
            FLUSHED,
            Event::MemberKnown,
            Event::OutputAcknowledged,
            Event::Done,
        ];
        let storing = [committing.clone(), vec![Event::Done]].concat();
        let aborting = vec![Event::Failed(Failure::Abortable)];
        let initializing = vec![Event::Failed(Failure::ProducerLost)];
        let reopening = vec![Event::Failed(Failure::Abortable), Event::Done];
        vec![
            vec![],
            vec![FLUSHED, Event::MemberKnown],
            committing,
            storing,
            aborting,
            initializing,
            reopening,
        ]
    }

    #[test]
    fn every_kind_of_failure_in_every_phase_leads_where_the_table_says() {
        use Action::{Abort, Commit, Initialize, Reopen, Replace, Stop, Wait};
        let unsent = Phase::Sending {
            output: Output::Unacknowledged,
            offsets: Offsets::Unsent,
        };
        let aborted = (Phase::Aborting, Abort);
        let replaced = (Phase::Initializing, Replace);
        // One row a phase: retriable, abortable, producer lost, fenced.
        let expected = [
            (Phase::Open, [aborted, aborted, replaced, replaced]),
            (SENT, [(unsent, Wait), aborted, replaced, replaced]),
            (
                Phase::Committing,
                [(Phase::Committing, Commit), aborted, replaced, replaced],
            ),
            (
                Phase::Storing,
                [
                    (Phase::Storing, Stop),
                    (Phase::Storing, Stop),
                    replaced,
                    replaced,
                ],
            ),
            (
                Phase::Aborting,
                [(Phase::Aborting, Abort), replaced, replaced, replaced],
            ),
            (
                Phase::Initializing,
                [
                    (Phase::Initializing, Initialize),
                    replaced,
                    replaced,
                    replaced,
                ],
            ),
            (
                Phase::Reopening,
                [(Phase::Reopening, Reopen), replaced, replaced, replaced],
            ),
        ];
        let failures = [
            Failure::Retriable,
            Failure::Abortable,
            Failure::ProducerLost,
            Failure::Fenced,
        ];
        for (events, (phase, row)) in phases().into_iter().zip(expected) {
            assert_eq!(last(&events).0, phase, "{events:?}");
            for (failure, expected) in failures.into_iter().zip(row) {
                let mut events = events.clone();
                events.push(Event::Failed(failure));
                assert_eq!(last(&events), expected, "{failure:?} in {phase:?}");
            }
            let mut events = events.clone();
            events.push(Event::Failed(Failure::Final));
            assert_eq!(last(&events).1, Stop, "{phase:?}");
        }
    }

    #[test]
    fn after_a_failure_the_tasks_are_opened_anew_before_they_process() {
        for failure in [Failure::Abortable, Failure::ProducerLost] {
            assert_eq!(
                last(&[Event::Failed(failure), Event::Done]),
                (Phase::Reopening, Action::Reopen)
            );
            assert_eq!(
                last(&[Event::Failed(failure), Event::Done, Event::Reopened]),
                (Phase::Open, Action::Wait)
            );
        }
    }

    #[test]
    fn failures_without_a_commit_between_them_end_the_thread() {
        let mut transaction = Transaction::open();
        let fail = |transaction: &mut Transaction| {
            let action = transaction.on(Event::Failed(Failure::ProducerLost));
            if action == Action::Replace {
                transaction.on(Event::Done);
                transaction.on(Event::Reopened);
            }
            action
        };
        for _ in 0..FAILURES_MAX {
            assert_eq!(fail(&mut transaction), Action::Replace);
        }
        let mut committed_between = transaction;
        assert_eq!(fail(&mut transaction), Action::Stop);

        for event in [
            FLUSHED,
            Event::MemberKnown,
            Event::OutputAcknowledged,
            Event::Done,
            Event::Done,
            Event::Stored,
        ] {
            committed_between.on(event);
        }
        assert_eq!(fail(&mut committed_between), Action::Replace);
    }
}
