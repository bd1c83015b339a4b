//! Iterating over uncommitted writes merged with what is committed.
//!
//! 1. Both sides stand before their next entry within what remains of the range.
//! 2. The nearer key is taken; on equal keys the uncommitted one, and the committed one is passed too.
//! 3. A delete is passed over.
//! 4. Before each step both sides look whether they were changed since (by a put, a commit, a discard), and if so go
//!    again to the key last taken.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::memory::{self, SharedEntries};
use crate::overlay::OverlayCursor;
use crate::rocksdb::ColumnCursor;
use crate::state::StoreState;
use crate::{Direction, StoreError, StoreIterator};

/// A range of keys, half open; `to` is `None` when there is no bound above.
pub(crate) struct KeyRange {
    pub(crate) from: Vec<u8>,
    pub(crate) to: Option<Vec<u8>>,
}

impl KeyRange {
    pub(crate) fn new(from: Bound<&[u8]>, to: Bound<&[u8]>) -> KeyRange {
        // The next key after one is itself with a zero byte.
        let after = |key: &[u8]| [key, &[0]].concat();
        KeyRange {
            from: match from {
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => after(key),
                Bound::Unbounded => Vec::new(),
            },
            to: match to {
                Bound::Included(key) => Some(after(key)),
                Bound::Excluded(key) => Some(key.to_vec()),
                Bound::Unbounded => None,
            },
        }
    }

    /// Keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> KeyRange {
        let mut to = prefix.to_vec();
        // The first key after all of them: the last byte that can grow does, and what follows it goes.
        while to.pop_if(|byte| *byte == 0xff).is_some() {}
        let to = to.last_mut().map(|byte| *byte += 1).map(|()| to);
        KeyRange {
            from: prefix.to_vec(),
            to,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }
}

/// The committed side of a merge.
pub(crate) enum CommittedCursor<'a> {
    Memory(SharedEntries),
    RocksDb(ColumnCursor<'a>),
}

/// What of a live store a merge looks at besides what is committed.
struct Live<'a> {
    cursor: OverlayCursor,
    state: &'a StoreState,
    epoch: u64,
}

pub(crate) struct Merge<'a> {
    range: KeyRange,
    direction: Direction,
    /// `None` in a snapshot, which never changes.
    live: Option<Live<'a>>,
    committed: CommittedCursor<'a>,
    /// The key last taken, once there is one.
    key: Vec<u8>,
    value: Vec<u8>,
    /// The entry last taken is a delete.
    deleted: bool,
    started: bool,
    ended: bool,
}

impl<'a> Merge<'a> {
    pub(crate) fn live(
        state: &'a StoreState,
        range: KeyRange,
        direction: Direction,
    ) -> Result<Merge<'a>, StoreError> {
        let committed = state.committed.cursor(&range, direction)?;
        let mut merge = Merge::snapshot(committed, range, direction);
        merge.live = Some(Live {
            cursor: OverlayCursor::default(),
            state,
            epoch: state.epoch.get(),
        });
        Ok(merge)
    }

    pub(crate) fn snapshot(
        committed: CommittedCursor<'a>,
        range: KeyRange,
        direction: Direction,
    ) -> Merge<'a> {
        Merge {
            ended: range.is_empty(),
            range,
            direction,
            live: None,
            committed,
            key: Vec::new(),
            value: Vec::new(),
            deleted: false,
            started: false,
        }
    }
}

/// Which side the next entry comes from.
enum Taken {
    Uncommitted,
    Committed,
    /// Both have the key.
    Both,
}

impl StoreIterator for Merge<'_> {
    fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StoreError> {
        Ok(self
            .advance()?
            .then_some((self.key.as_slice(), self.value.as_slice())))
    }
}

impl Merge<'_> {
    /// Goes to the next entry; false at the end.
    pub(crate) fn advance(&mut self) -> Result<bool, StoreError> {
        while self.step()? {
            if !self.deleted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The key `advance` went to.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// The value `advance` went to.
    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }

    /// Takes one entry into `key` and `value`; false at the end.
    fn step(&mut self) -> Result<bool, StoreError> {
        if self.ended {
            return Ok(false);
        }
        self.follow_commits()?;
        let direction = self.direction;
        let Merge {
            range,
            live,
            committed,
            key,
            value,
            ..
        } = self;

        // What remains: beyond the key last taken, within the range.
        let (from, to) = remaining(range, direction, self.started.then_some(key.as_slice()));
        let near = match direction {
            Direction::Forward => from,
            Direction::Backward => to,
        };
        let mut uncommitted_side = live
            .as_mut()
            .map(|live| (live.state.overlay.borrow_mut(), &mut live.cursor));
        let uncommitted_next = match &mut uncommitted_side {
            Some((overlay, cursor)) if !overlay.is_empty() => {
                overlay.follow(cursor, near, direction);
                overlay
                    .peek(cursor, direction)
                    .filter(|(key, _)| match direction {
                        Direction::Forward => {
                            range.to.as_ref().is_none_or(|to| *key < to.as_slice())
                        }
                        Direction::Backward => *key >= range.from.as_slice(),
                    })
            }
            _ => None,
        };
        let committed_next = match committed {
            CommittedCursor::Memory(entries) => memory::first(entries, from, to, direction),
            CommittedCursor::RocksDb(cursor) => cursor.peek()?,
        };

        let taken = match (&uncommitted_next, &committed_next) {
            (None, None) => {
                self.ended = true;
                return Ok(false);
            }
            (Some(_), None) => Taken::Uncommitted,
            (None, Some(_)) => Taken::Committed,
            (Some((uncommitted, _)), Some((committed, _))) => {
                match (uncommitted.cmp(committed), direction) {
                    (Ordering::Equal, _) => Taken::Both,
                    (Ordering::Less, Direction::Forward)
                    | (Ordering::Greater, Direction::Backward) => Taken::Uncommitted,
                    _ => Taken::Committed,
                }
            }
        };
        let next = match taken {
            Taken::Committed => committed_next.map(|(key, value)| (key, Some(value))),
            Taken::Uncommitted | Taken::Both => uncommitted_next,
        };
        if let Some((next_key, next_value)) = next {
            key.clear();
            key.extend_from_slice(next_key);
            value.clear();
            value.extend_from_slice(next_value.unwrap_or_default());
            self.deleted = next_value.is_none();
            self.started = true;
        }

        if let (Taken::Uncommitted | Taken::Both, Some((_, cursor))) = (&taken, uncommitted_side) {
            cursor.advance(direction);
        }
        if let (Taken::Committed | Taken::Both, CommittedCursor::RocksDb(cursor)) =
            (taken, committed)
        {
            cursor.advance(direction);
        }
        Ok(true)
    }

    /// Opens the committed side again when it was written since.
    fn follow_commits(&mut self) -> Result<(), StoreError> {
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        if live.epoch == live.state.epoch.get() {
            return Ok(());
        }
        live.epoch = live.state.epoch.get();
        if self.started {
            match self.direction {
                Direction::Forward => {
                    self.range.from.clone_from(&self.key);
                    self.range.from.push(0);
                }
                Direction::Backward => self.range.to = Some(self.key.clone()),
            }
        }
        if self.range.is_empty() {
            self.ended = true;
            return Ok(());
        }
        self.committed = live.state.committed.cursor(&self.range, self.direction)?;
        Ok(())
    }
}

/// The bounds of what is left of a range when `taken` was the last key.
fn remaining<'r>(
    range: &'r KeyRange,
    direction: Direction,
    taken: Option<&'r [u8]>,
) -> (Bound<&'r [u8]>, Bound<&'r [u8]>) {
    let from = Bound::Included(range.from.as_slice());
    let to = match &range.to {
        Some(to) => Bound::Excluded(to.as_slice()),
        None => Bound::Unbounded,
    };
    match (taken, direction) {
        (None, _) => (from, to),
        (Some(taken), Direction::Forward) => (Bound::Excluded(taken), to),
        (Some(taken), Direction::Backward) => (from, Bound::Excluded(taken)),
    }
}
