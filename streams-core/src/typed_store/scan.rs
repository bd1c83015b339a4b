//! Iterations over a store and what its cache has: dirty keys are sorted by their bytes and merged with the store's entries, and a value
//! that the cache has is the cache's. Nothing is borrowed between two steps, so a processor may write while it iterates.

use std::collections::{BTreeMap, VecDeque};
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::vec;

use brooklet_state_stores::{Direction, StoreError};

use super::backing::{KeyValueBacking, WindowBacking};
use super::store::{Core, Store};
use super::{StoreKey, ValueAndTimestamp};
use crate::error::ProcessError;
use crate::record::Datum;
use crate::serde::{Window, Windowed};

/// How many entries are taken from the bytes store at a time.
const PAGE_ENTRIES: usize = 256;

/// Bounds of keys, as bytes.
type KeyBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Entries of a [`TimestampedKeyValueStore`](super::TimestampedKeyValueStore).
pub struct KeyValueRange<K: StoreKey, V: Datum> {
    store: Rc<Store<K, V, KeyValueBacking>>,
    /// What is still to be taken from the bytes store; `None` when nothing is.
    rest: Option<KeyBounds>,
    direction: Direction,
    page: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// The next is the last.
    dirty: Vec<(Vec<u8>, K)>,
}

impl<K: StoreKey, V: Datum> KeyValueRange<K, V> {
    pub(super) fn new(
        store: Rc<Store<K, V, KeyValueBacking>>,
        keys: &impl RangeBounds<K>,
        direction: Direction,
    ) -> Result<Self, ProcessError> {
        let core = store.core()?;
        let bytes = |key: &K| {
            let mut bytes = Vec::new();
            core.serialise_key(key, &mut bytes).map(|()| bytes)
        };
        let bound = |bound: Bound<&K>| {
            Ok::<_, ProcessError>(match bound {
                Bound::Included(key) => Bound::Included(bytes(key)?),
                Bound::Excluded(key) => Bound::Excluded(bytes(key)?),
                Bound::Unbounded => Bound::Unbounded,
            })
        };
        let range = (bound(keys.start_bound())?, bound(keys.end_bound())?);
        let mut dirty = Vec::new();
        for (key, _) in core.dirty_keys() {
            let bytes = bytes(key)?;
            if range.contains(&bytes) {
                dirty.push((bytes, key.clone()));
            }
        }
        match direction {
            Direction::Forward => dirty.sort_unstable_by(|a, b| b.0.cmp(&a.0)),
            Direction::Backward => dirty.sort_unstable_by(|a, b| a.0.cmp(&b.0)),
        }
        drop(core);
        Ok(Self {
            store,
            rest: Some(range),
            direction,
            page: VecDeque::new(),
            dirty,
        })
    }

    fn fill_page(&mut self) -> Result<(), ProcessError> {
        let Some((from, to)) = &mut self.rest else {
            return Ok(());
        };
        let core = self.store.core()?;
        let in_store = |error: StoreError| core.failure("", error);
        let mut entries = core
            .backing
            .0
            .range(
                from.as_ref().map(Vec::as_slice),
                to.as_ref().map(Vec::as_slice),
                self.direction,
            )
            .map_err(in_store)?;
        while self.page.len() < PAGE_ENTRIES {
            let Some((key, value)) = entries.next().map_err(in_store)? else {
                break;
            };
            self.page.push_back((key.to_vec(), value.to_vec()));
        }
        match self.page.back() {
            Some((last, _)) if self.page.len() == PAGE_ENTRIES => {
                let end = if self.direction == Direction::Forward {
                    from
                } else {
                    to
                };
                drop(entries);
                *end = Bound::Excluded(last.clone());
            }
            _ => {
                drop(entries);
                self.rest = None;
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<Option<(K, ValueAndTimestamp<V>)>, ProcessError> {
        loop {
            if self.page.is_empty() {
                self.fill_page()?;
            }
            let is_dirty_next = match (self.page.front(), self.dirty.last()) {
                (None, None) => return Ok(None),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some((stored, _)), Some((dirty, _))) => match self.direction {
                    Direction::Forward => dirty <= stored,
                    Direction::Backward => dirty >= stored,
                },
            };
            if is_dirty_next && let Some((bytes, key)) = self.dirty.pop() {
                if self
                    .page
                    .front()
                    .is_some_and(|(stored, _)| *stored == bytes)
                {
                    self.page.pop_front();
                }
                if let Some(value) = self.store.core()?.peek(&key, 0)? {
                    return Ok(Some((key, value)));
                }
            } else if let Some((key, value)) = self.page.pop_front() {
                let core = self.store.core()?;
                let key = core.deserialise_key(&key)?;
                match core.cached(&key, 0)? {
                    Some(Some(value)) => return Ok(Some((key, value))),
                    Some(None) => {}
                    None => return Ok(Some((key, core.deserialise_value(&value)?))),
                }
            }
        }
    }
}

impl<K: StoreKey, V: Datum> Iterator for KeyValueRange<K, V> {
    type Item = Result<(K, ValueAndTimestamp<V>), ProcessError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.rest = None;
            self.page.clear();
            self.dirty.clear();
        }
        step.transpose()
    }
}

impl<K, V> Core<K, V, WindowBacking> {
    /// The part of a span of window starts that reads see; both ends inclusive.
    fn visible(&self, from: i64, to: i64) -> (i64, i64) {
        (
            from.max(self.backing.visible_start_min()),
            to.min(self.backing.stream_time_ms()),
        )
    }
}

/// The windows of one key, by start.
pub(super) fn windows_of<K: StoreKey, V: Datum>(
    store: &Store<K, V, WindowBacking>,
    key: &K,
    from: i64,
    to: i64,
) -> Result<Vec<(i64, ValueAndTimestamp<V>)>, ProcessError> {
    let mut core = store.core()?;
    let (from, to) = core.visible(from, to);
    if from > to {
        return Ok(Vec::new());
    }
    let mut windows = BTreeMap::new();
    {
        let mut bytes = Vec::new();
        core.serialise_key(key, &mut bytes)?;
        let in_store = |error: StoreError| core.failure("", error);
        let mut stored = core
            .backing
            .store
            .fetch(&bytes, from, to, Direction::Forward)
            .map_err(in_store)?;
        while let Some((_, start, value)) = stored.next().map_err(in_store)? {
            windows.insert(start, core.deserialise_value(value)?);
        }
    }
    let dirty: Vec<_> = core
        .dirty_keys()
        .filter(|(dirty, start)| *dirty == key && (from..=to).contains(start))
        .map(|(_, start)| start)
        .collect();
    for start in dirty {
        match core.peek(key, start)? {
            Some(value) => windows.insert(start, value),
            None => windows.remove(&start),
        };
    }
    Ok(windows.into_iter().collect())
}

/// Windows of a [`TimestampedWindowStore`](super::TimestampedWindowStore).
pub struct WindowRange<K: StoreKey, V: Datum> {
    store: Rc<Store<K, V, WindowBacking>>,
    /// What is still to be read, both ends inclusive; nothing when the first is above the second.
    rest: (i64, i64),
    page: vec::IntoIter<(Windowed<K>, ValueAndTimestamp<V>)>,
}

impl<K: StoreKey, V: Datum> WindowRange<K, V> {
    pub(super) fn new(
        store: Rc<Store<K, V, WindowBacking>>,
        from: i64,
        to: i64,
    ) -> Result<Self, ProcessError> {
        let rest = store.core()?.visible(from, to);
        Ok(Self {
            store,
            rest,
            page: Vec::new().into_iter(),
        })
    }

    /// Reads one segment. The windows of a segment are ordered by key bytes and start together, as the store has them.
    fn fill_page(&mut self) -> Result<(), ProcessError> {
        let mut core = self.store.core()?;
        let (from, to) = self.rest;
        let segment = core.backing.segment_of(from);
        // The last segment ends with the end of time.
        let segment_end = (segment + 1).checked_mul(core.backing.segment_interval_ms);
        let last = segment_end.map_or(to, |end| to.min(end - 1));
        let size_ms = core.backing.window_size_ms;
        let order = |mut key: Vec<u8>, start: i64| {
            key.extend_from_slice(&start.to_be_bytes());
            key
        };
        let windowed = |key: K, start: i64| Windowed::new(key, Window::starting_at(start, size_ms));

        let mut windows = BTreeMap::new();
        {
            let in_store = |error: StoreError| core.failure("", error);
            let mut stored = core
                .backing
                .store
                .fetch_all(from, last, Direction::Forward)
                .map_err(in_store)?;
            while let Some((key, start, value)) = stored.next().map_err(in_store)? {
                let entry = (
                    windowed(core.deserialise_key(key)?, start),
                    core.deserialise_value(value)?,
                );
                windows.insert(order(key.to_vec(), start), entry);
            }
        }
        let dirty: Vec<_> = core
            .dirty_keys()
            .filter(|(_, start)| (from..=last).contains(start))
            .map(|(key, start)| (key.clone(), start))
            .collect();
        for (key, start) in dirty {
            let mut bytes = Vec::new();
            core.serialise_key(&key, &mut bytes)?;
            match core.peek(&key, start)? {
                Some(value) => windows.insert(order(bytes, start), (windowed(key, start), value)),
                None => windows.remove(&order(bytes, start)),
            };
        }
        self.page = windows.into_values().collect::<Vec<_>>().into_iter();
        self.rest = last.checked_add(1).map_or((1, 0), |from| (from, to));
        Ok(())
    }
}

impl<K: StoreKey, V: Datum> Iterator for WindowRange<K, V> {
    type Item = Result<(Windowed<K>, ValueAndTimestamp<V>), ProcessError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            if self.rest.0 > self.rest.1 {
                return None;
            }
            if let Err(error) = self.fill_page() {
                self.rest = (1, 0);
                return Some(Err(error));
            }
        }
    }
}
