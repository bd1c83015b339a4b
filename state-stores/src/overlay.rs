//! Uncommitted writes of one store.
//!
//! 1. Keys and values lie in one arena; an entry says where. A hash table finds the entry of a key, so a put or a
//!    read costs one hash and no allocation.
//! 2. Order is made only when somebody asks for it: entries added since the last time are sorted into a run, and runs
//!    are merged as long as the one before is less than twice as long. So there are at most log(n) runs, an iteration
//!    merges them as it goes, and putting and iterating in turns costs log(n) a put, not a sort.
//! 3. A value that fits the room of the one before replaces it in place; else it goes to the end and leaves a hole.
//!    Holes count as uncommitted bytes: they are memory.

use std::cmp::Ordering;
use std::hash::BuildHasher;
use std::ops::{Bound, Range};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::Direction;

/// Length that stands for a delete.
const TOMBSTONE: u32 = u32::MAX;

/// The longest key or value, in bytes.
pub(crate) const LENGTH_MAX: usize = (u32::MAX - 1) as usize;

/// What an entry costs beside its bytes: itself, its place in the hash table and in a run.
const ENTRY_BYTES: usize = size_of::<Entry>() + 2 * size_of::<u32>() + 2;

/// Arenas up to this size are kept for the next commit.
const KEPT_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Copy)]
struct Entry {
    key_at: usize,
    value_at: usize,
    key_bytes: u32,
    /// [`TOMBSTONE`] for a delete.
    value_bytes: u32,
    value_room: u32,
}

#[derive(Default)]
pub(crate) struct Overlay {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// Sorted by key; each less than half as long as the one before. Together they hold the entries below `sorted`.
    runs: Vec<Vec<u32>>,
    sorted: usize,
    /// Changes whenever a cursor's places do.
    version: u64,
}

/// A place in an overlay: per run, how many entries are before it.
#[derive(Default)]
pub(crate) struct OverlayCursor {
    version: Option<u64>,
    places: Vec<usize>,
    /// The run that `peek` chose.
    chosen: Option<usize>,
}

fn length(bytes: usize) -> u32 {
    debug_assert!(bytes <= LENGTH_MAX, "{bytes} bytes were let through");
    bytes as u32
}

fn bytes_at(arena: &[u8], at: usize, length: u32) -> &[u8] {
    // Entries point into the arena they were appended to, which only grows until all entries are cleared.
    #[allow(clippy::indexing_slicing)]
    &arena[at..at + length as usize]
}

/// Numbers in the order of their keys; equal keys stay in the order of their numbers.
///
/// Most comparisons are of eight bytes held beside the number, those after what all keys begin with (the segment, in a window store); only
/// equal ones look at the keys.
pub(crate) fn in_order_of_keys<'k>(
    numbers: Range<u32>,
    key_of: impl Fn(u32) -> &'k [u8],
) -> Vec<u32> {
    if numbers.is_empty() {
        return Vec::new();
    }
    let first = key_of(numbers.start);
    let common = numbers.clone().skip(1).fold(first.len(), |common, at| {
        let same = std::iter::zip(first, key_of(at)).take_while(|(a, b)| a == b);
        common.min(same.take(common).count())
    });
    let mut order: Vec<(u64, u32)> = numbers
        .map(|at| {
            let rest = key_of(at).get(common..).unwrap_or_default();
            let prefix = match rest.first_chunk() {
                Some(eight) => *eight,
                None => {
                    let mut prefix = [0; 8];
                    std::iter::zip(&mut prefix, rest).for_each(|(to, from)| *to = *from);
                    prefix
                }
            };
            (u64::from_be_bytes(prefix), at)
        })
        .collect();
    // A short key is filled up with zeros, and is equal then to one that has them: the keys decide.
    order.sort_unstable_by(|(prefix_a, a), (prefix_b, b)| {
        prefix_a
            .cmp(prefix_b)
            .then_with(|| key_of(*a).cmp(key_of(*b)))
            .then(a.cmp(b))
    });
    order.into_iter().map(|(_, at)| at).collect()
}

impl Overlay {
    /// Sets the value of a key; `None` deletes it. Neither may be longer than [`LENGTH_MAX`].
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        let hash = self.hasher.hash_one(key);
        let (arena, entries) = (&self.arena, &self.entries);
        let found = self
            .index
            .find(hash, |&at| key_of(arena, entries, at) == key);
        match found.copied() {
            Some(at) => self.overwrite(at, value),
            None => self.insert(hash, key, value),
        }
    }

    fn overwrite(&mut self, at: u32, value: Option<&[u8]>) {
        // The hash table holds places in `entries` only.
        #[allow(clippy::indexing_slicing)]
        let entry = &mut self.entries[at as usize];
        let Some(value) = value else {
            entry.value_bytes = TOMBSTONE;
            return;
        };
        entry.value_bytes = length(value.len());
        if entry.value_bytes <= entry.value_room {
            #[allow(clippy::indexing_slicing)]
            // `value_room` bytes at `value_at` belong to this entry.
            self.arena[entry.value_at..entry.value_at + value.len()].copy_from_slice(value);
        } else {
            entry.value_room = entry.value_bytes;
            entry.value_at = self.arena.len();
            self.arena.extend_from_slice(value);
        }
    }

    fn insert(&mut self, hash: u64, key: &[u8], value: Option<&[u8]>) {
        let key_at = self.arena.len();
        self.arena.extend_from_slice(key);
        let value_at = self.arena.len();
        self.arena.extend_from_slice(value.unwrap_or_default());
        let at = u32::try_from(self.entries.len()).expect("fewer than 2^32 uncommitted entries");
        let value_room = length(value.map_or(0, <[u8]>::len));
        self.entries.push(Entry {
            key_at,
            value_at,
            key_bytes: length(key.len()),
            value_bytes: if value.is_some() {
                value_room
            } else {
                TOMBSTONE
            },
            value_room,
        });
        let (arena, entries, hasher) = (&self.arena, &self.entries, &self.hasher);
        self.index
            .insert_unique(hash, at, |&at| hasher.hash_one(key_of(arena, entries, at)));
    }

    /// Forgets all writes.
    pub(crate) fn clear(&mut self) {
        if self.arena.capacity() > KEPT_BYTES_MAX {
            self.arena = Vec::new();
            self.entries = Vec::new();
            self.index = HashTable::new();
        } else {
            self.arena.clear();
            self.entries.clear();
            self.index.clear();
        }
        self.runs.clear();
        self.sorted = 0;
        self.version += 1;
    }

    /// Puts all entries in order; see the module's second point.
    fn sort(&mut self) {
        if self.sorted == self.entries.len() {
            return;
        }
        let (arena, entries) = (&self.arena, &self.entries);
        let mut run = self.sorted_tail();
        while let Some(before) = self.runs.pop_if(|before| before.len() < 2 * run.len()) {
            run = merge_runs(&before, &run, |a, b| {
                key_of(arena, entries, a).cmp(key_of(arena, entries, b))
            });
        }
        self.runs.push(run);
        self.sorted = self.entries.len();
        self.version += 1;
    }

    /// Entries that are in no run yet, by key.
    fn sorted_tail(&self) -> Vec<u32> {
        let (arena, entries) = (&self.arena, &self.entries);
        // `insert` keeps the number of entries in a u32.
        let tail = self.sorted as u32..entries.len() as u32;
        in_order_of_keys(tail, |at| key_of(arena, entries, at))
    }

    /// Moves the cursor, when writes have come since its last move, to the first entry of what remains: between
    /// `from` (inclusive at the beginning, exclusive once the cursor has passed it) and its like above.
    pub(crate) fn follow(
        &mut self,
        cursor: &mut OverlayCursor,
        near: Bound<&[u8]>,
        direction: Direction,
    ) {
        self.sort();
        if cursor.version == Some(self.version) {
            return;
        }
        cursor.version = Some(self.version);
        cursor.chosen = None;
        let (arena, entries) = (&self.arena, &self.entries);
        cursor.places.clear();
        cursor
            .places
            .extend(self.runs.iter().map(|run| match (near, direction) {
                (Bound::Unbounded, Direction::Forward) => 0,
                (Bound::Unbounded, Direction::Backward) => run.len(),
                (Bound::Included(near), Direction::Forward)
                | (Bound::Excluded(near), Direction::Backward) => {
                    run.partition_point(|&at| key_of(arena, entries, at) < near)
                }
                (Bound::Excluded(near), Direction::Forward)
                | (Bound::Included(near), Direction::Backward) => {
                    run.partition_point(|&at| key_of(arena, entries, at) <= near)
                }
            }));
    }

    /// The entry the cursor is before; `Some(None)` as value is a delete.
    pub(crate) fn peek(
        &self,
        cursor: &mut OverlayCursor,
        direction: Direction,
    ) -> Option<(&[u8], Option<&[u8]>)> {
        let mut best: Option<(usize, u32, &[u8])> = None;
        for (number, (run, &place)) in self.runs.iter().zip(&cursor.places).enumerate() {
            let at = match direction {
                Direction::Forward => run.get(place),
                Direction::Backward => place.checked_sub(1).and_then(|place| run.get(place)),
            };
            let Some(&at) = at else { continue };
            let key = self.key(at);
            let better = best.is_none_or(|(_, _, best)| match direction {
                Direction::Forward => key < best,
                Direction::Backward => key > best,
            });
            if better {
                best = Some((number, at, key));
            }
        }
        cursor.chosen = best.map(|(number, ..)| number);
        best.map(|(_, at, key)| (key, self.value(at)))
    }

    /// The value of a key; `Some(None)` when it is deleted, `None` when nothing was written to it.
    pub(crate) fn read(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        if self.entries.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let at = *self.index.find(hash, |&at| self.key(at) == key)?;
        Some(self.value(at))
    }

    /// Calls `visit` with every write, in the order of keys.
    pub(crate) fn in_order(&mut self, mut visit: impl FnMut(&[u8], Option<&[u8]>)) {
        self.sort();
        if self.runs.len() > 1 {
            let (arena, entries) = (&self.arena, &self.entries);
            let all = self.runs.drain(..).reduce(|a, b| {
                merge_runs(&a, &b, |a, b| {
                    key_of(arena, entries, a).cmp(key_of(arena, entries, b))
                })
            });
            self.runs.extend(all);
            self.version += 1;
        }
        for &at in self.runs.iter().flatten() {
            visit(self.key(at), self.value(at));
        }
    }

    fn key(&self, at: u32) -> &[u8] {
        key_of(&self.arena, &self.entries, at)
    }

    fn value(&self, at: u32) -> Option<&[u8]> {
        #[allow(clippy::indexing_slicing)] // Runs and the hash table hold places in `entries` only.
        let entry = &self.entries[at as usize];
        (entry.value_bytes != TOMBSTONE)
            .then(|| bytes_at(&self.arena, entry.value_at, entry.value_bytes))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory the writes take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len() + self.entries.len() * ENTRY_BYTES
    }
}

impl OverlayCursor {
    /// Passes the entry that `peek` returned last.
    pub(crate) fn advance(&mut self, direction: Direction) {
        let place = self.chosen.take().and_then(|run| self.places.get_mut(run));
        if let Some(place) = place {
            match direction {
                Direction::Forward => *place += 1,
                // `peek` chose this run, so an entry is before the place.
                Direction::Backward => *place -= 1,
            }
        }
    }
}

fn key_of<'a>(arena: &'a [u8], entries: &[Entry], at: u32) -> &'a [u8] {
    #[allow(clippy::indexing_slicing)] // Runs and the hash table hold places in `entries` only.
    let entry = &entries[at as usize];
    bytes_at(arena, entry.key_at, entry.key_bytes)
}

fn merge_runs(a: &[u32], b: &[u32], mut compare: impl FnMut(u32, u32) -> Ordering) -> Vec<u32> {
    let mut merged = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a, b);
    while let (Some((&first_a, rest_a)), Some((&first_b, rest_b))) =
        (a.split_first(), b.split_first())
    {
        if compare(first_a, first_b).is_le() {
            merged.push(first_a);
            a = rest_a;
        } else {
            merged.push(first_b);
            b = rest_b;
        }
    }
    merged.extend_from_slice(a);
    merged.extend_from_slice(b);
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn contents(overlay: &mut Overlay) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        overlay.in_order(|key, value| all.push((key.to_vec(), value.map(<[u8]>::to_vec))));
        all
    }

    fn walk(overlay: &mut Overlay, direction: Direction) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut cursor = OverlayCursor::default();
        let mut all = Vec::new();
        overlay.follow(&mut cursor, Bound::Unbounded, direction);
        while let Some((key, value)) = overlay.peek(&mut cursor, direction) {
            all.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            cursor.advance(direction);
        }
        all
    }

    proptest! {
        #[test]
        fn the_last_write_of_a_key_wins_in_every_way_of_reading(
            writes in prop::collection::vec(
                (prop::collection::vec(0..4u8, 0..4), prop::option::of(prop::collection::vec(any::<u8>(), 0..9)), any::<bool>()),
                0..60,
            ),
        ) {
            let mut overlay = Overlay::default();
            let mut model = BTreeMap::new();
            for (key, value, sort_now) in writes {
                overlay.put(&key, value.as_deref());
                model.insert(key, value);
                if sort_now {
                    overlay.sort();
                }
            }
            for (key, value) in &model {
                prop_assert_eq!(overlay.read(key), Some(value.as_deref()));
            }
            prop_assert_eq!(overlay.read(b"absent"), None);
            let mut expected: Vec<_> = model.into_iter().collect();
            prop_assert_eq!(&walk(&mut overlay, Direction::Forward), &expected);
            prop_assert_eq!(&contents(&mut overlay), &expected);
            expected.reverse();
            prop_assert_eq!(walk(&mut overlay, Direction::Backward), expected);
        }
    }

    #[test]
    fn putting_and_iterating_in_turns_leaves_few_runs() {
        let mut overlay = Overlay::default();
        for i in 0..1000u32 {
            overlay.put(&i.wrapping_mul(2_654_435_761).to_be_bytes(), Some(b"v"));
            overlay.sort();
        }
        assert!(overlay.runs.len() <= 10, "{} runs", overlay.runs.len());
    }

    #[test]
    fn a_value_that_fits_is_replaced_in_place() {
        let mut overlay = Overlay::default();
        overlay.put(b"key", Some(b"long value"));
        let bytes = overlay.bytes();
        overlay.put(b"key", Some(b"short"));
        overlay.put(b"key", None);
        overlay.put(b"key", Some(b"also fits"));
        assert_eq!(overlay.bytes(), bytes);
        assert_eq!(overlay.read(b"key"), Some(Some(&b"also fits"[..])));
    }

    #[test]
    fn nothing_is_left_after_clear() {
        let mut overlay = Overlay::default();
        overlay.put(b"key", Some(b"value"));
        overlay.clear();
        assert_eq!((overlay.len(), overlay.bytes()), (0, 0));
        assert_eq!(overlay.read(b"key"), None);
        assert!(walk(&mut overlay, Direction::Forward).is_empty());
    }
}
