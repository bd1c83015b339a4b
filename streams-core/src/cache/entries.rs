//! The entries of one cache: found by key, ordered by use, without allocation on a hit.
//!
//! Entries lie in a slab and are named by their place in it. A hash table of places finds them by key (which is kept once, in the
//! entry), and a doubly linked list orders them by use.
//!
//! ## Links beside the entries, not in them
//! A hit takes its entry out of the list and puts it in front, which touches three others. In an array of their own the links of four
//! entries share a cache line and those of ten thousand stay in the nearest caches; in the entries each would be a miss of its own.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::record::{Headers, RecordMetadata};
use crate::typed_store::ValueAndTimestamp;

/// End of a list.
const NONE: u32 = u32::MAX;

/// A key of a store and what is known of its value.
pub(crate) struct Entry<K, V> {
    pub(crate) key: K,
    /// 0 in a key-value store.
    pub(crate) window_start: i64,
    /// `None`: the key has no value.
    pub(crate) value: Option<ValueAndTimestamp<V>>,
    /// An update failed while it had the value, and nobody else has it.
    pub(crate) is_lost: bool,
    pub(crate) is_dirty: bool,
    /// What the store has while the entry is dirty.
    pub(crate) stored: Stored<V>,
    /// Timestamp of the latest update: that of the value, or of the record that deleted it.
    pub(crate) timestamp: i64,
    /// Record context of the latest update.
    pub(crate) metadata: Option<RecordMetadata>,
    pub(crate) headers: Headers,
    pub(crate) updated: u64,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    /// What the thread's budget was charged.
    pub(crate) charged: usize,
}

/// What the store has for a dirty entry.
#[derive(Debug)]
pub(crate) enum Stored<V> {
    Unknown,
    Absent,
    /// A value, kept where the flush listener wants it.
    Present(Option<V>),
}

impl<K, V> Entry<K, V> {
    pub(crate) fn new(key: K, window_start: i64, value: Option<ValueAndTimestamp<V>>) -> Self {
        Self {
            key,
            window_start,
            value,
            is_lost: false,
            is_dirty: false,
            stored: Stored::Unknown,
            timestamp: -1,
            metadata: None,
            headers: Headers::default(),
            updated: 0,
            key_bytes: 0,
            value_bytes: 0,
            charged: 0,
        }
    }

    /// What the entry costs: see the module comment of the cache.
    pub(crate) fn cost(&self) -> usize {
        // The slab is doubled when full, and the table of places is at least an eighth empty.
        let fixed = size_of::<Slot<K, V>>() + size_of::<Link>() + 2 * (size_of::<u32>() + 1);
        let old = if matches!(self.stored, Stored::Present(Some(_))) {
            self.value_bytes
        } else {
            0
        };
        fixed + self.key_bytes + self.value_bytes + old
    }
}

// An entry is moved into its slot once.
#[allow(clippy::large_enum_variant)]
enum Slot<K, V> {
    Taken(Entry<K, V>),
    /// The next free slot.
    Free(u32),
}

/// When an entry was used, and its neighbours by use.
#[derive(Clone, Copy)]
struct Link {
    used: u64,
    newer: u32,
    older: u32,
}

/// The entries of one cache.
pub(crate) struct Entries<K, V> {
    slots: Vec<Slot<K, V>>,
    /// As many as slots.
    links: Vec<Link>,
    free: u32,
    places: HashTable<u32>,
    hasher: RandomState,
    newest: u32,
    oldest: u32,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            links: Vec::new(),
            free: NONE,
            places: HashTable::new(),
            hasher: RandomState::default(),
            newest: NONE,
            oldest: NONE,
        }
    }
}

#[inline]
fn hash<K: Hash>(hasher: &RandomState, key: &K, window_start: i64) -> u64 {
    let mut state = hasher.build_hasher();
    key.hash(&mut state);
    state.write_i64(window_start);
    state.finish()
}

#[inline]
fn taken<K, V>(slots: &[Slot<K, V>], place: u32) -> &Entry<K, V> {
    match slots.get(place as usize) {
        Some(Slot::Taken(entry)) => entry,
        _ => unreachable!("place {place} of the cache is free"),
    }
}

impl<K: Hash + Eq, V> Entries<K, V> {
    /// The place of a key's entry.
    #[inline]
    pub(crate) fn find(&self, key: &K, window_start: i64) -> Option<u32> {
        let is_it = |place: &u32| {
            let entry = taken(&self.slots, *place);
            entry.window_start == window_start && entry.key == *key
        };
        self.places
            .find(hash(&self.hasher, key, window_start), is_it)
            .copied()
    }

    /// Adds an entry, as the newest. Its key must not be there.
    pub(crate) fn insert(&mut self, entry: Entry<K, V>, used: u64) -> u32 {
        debug_assert!(self.find(&entry.key, entry.window_start).is_none());
        let hash_of_entry = hash(&self.hasher, &entry.key, entry.window_start);
        let place = match self.slots.get(self.free as usize) {
            Some(Slot::Free(next)) => std::mem::replace(&mut self.free, *next),
            _ => {
                self.slots.push(Slot::Free(NONE));
                self.links.push(Link {
                    used: 0,
                    newer: NONE,
                    older: NONE,
                });
                u32::try_from(self.slots.len() - 1)
                    .ok()
                    .filter(|place| *place != NONE)
                    .expect("a cache has fewer than 2^32 - 1 entries")
            }
        };
        if let Some(slot) = self.slots.get_mut(place as usize) {
            *slot = Slot::Taken(entry);
        }
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.places.insert_unique(hash_of_entry, place, |place| {
            let entry = taken(slots, *place);
            hash(hasher, &entry.key, entry.window_start)
        });
        self.link_mut(place).used = used;
        self.link_newest(place);
        place
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, place: u32) -> Entry<K, V> {
        self.unlink(place);
        let entry = self.entry(place);
        let hash = hash(&self.hasher, &entry.key, entry.window_start);
        if let Ok(found) = self
            .places
            .find_entry(hash, |candidate| *candidate == place)
        {
            found.remove();
        }
        let freed = Slot::Free(std::mem::replace(&mut self.free, place));
        match self
            .slots
            .get_mut(place as usize)
            .map(|slot| std::mem::replace(slot, freed))
        {
            Some(Slot::Taken(entry)) => entry,
            _ => unreachable!("place {place} of the cache is free"),
        }
    }
}

impl<K, V> Entries<K, V> {
    #[inline]
    pub(crate) fn entry(&self, place: u32) -> &Entry<K, V> {
        taken(&self.slots, place)
    }

    #[inline]
    pub(crate) fn entry_mut(&mut self, place: u32) -> &mut Entry<K, V> {
        match self.slots.get_mut(place as usize) {
            Some(Slot::Taken(entry)) => entry,
            _ => unreachable!("place {place} of the cache is free"),
        }
    }

    /// Makes an entry the newest.
    #[inline]
    pub(crate) fn touch(&mut self, place: u32, used: u64) {
        self.link_mut(place).used = used;
        if self.newest != place {
            self.unlink(place);
            self.link_newest(place);
        }
    }

    /// The place of the least recently used entry.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// When an entry was used last.
    pub(crate) fn used(&self, place: u32) -> u64 {
        self.link(place).used
    }

    #[inline]
    fn link(&self, place: u32) -> &Link {
        match self.links.get(place as usize) {
            Some(link) => link,
            None => unreachable!("place {place} of the cache has no slot"),
        }
    }

    #[inline]
    fn link_mut(&mut self, place: u32) -> &mut Link {
        match self.links.get_mut(place as usize) {
            Some(link) => link,
            None => unreachable!("place {place} of the cache has no slot"),
        }
    }

    fn unlink(&mut self, place: u32) {
        let Link { newer, older, .. } = *self.link(place);
        match newer {
            NONE => self.newest = older,
            newer => self.link_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.link_mut(older).newer = newer,
        }
    }

    fn link_newest(&mut self, place: u32) {
        let older = std::mem::replace(&mut self.newest, place);
        let link = self.link_mut(place);
        (link.newer, link.older) = (NONE, older);
        match older {
            NONE => self.oldest = place,
            older => self.link_mut(older).newer = place,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(keys: &[&'static str]) -> Entries<&'static str, ()> {
        let mut entries = Entries::default();
        for (used, key) in keys.iter().copied().enumerate() {
            entries.insert(Entry::new(key, 0, None), used as u64);
        }
        entries
    }

    fn by_age(mut entries: Entries<&'static str, ()>) -> Vec<&'static str> {
        std::iter::from_fn(|| entries.oldest().map(|place| entries.remove(place).key)).collect()
    }

    #[test]
    fn the_oldest_is_the_least_recently_touched() {
        let mut entries = entries(&["a", "b", "c", "d"]);
        for key in ["a", "c", "c"] {
            let place = entries.find(&key, 0).expect("was inserted");
            entries.touch(place, 9);
        }
        assert_eq!(by_age(entries), ["b", "d", "a", "c"]);
    }

    #[test]
    fn the_window_is_part_of_the_key() {
        let mut entries = entries(&["a"]);
        assert_eq!(entries.find(&"a", 1), None);
        let place = entries.insert(Entry::new("a", 1, None), 1);
        assert_eq!(entries.find(&"a", 1), Some(place));
        assert_ne!(entries.find(&"a", 0), Some(place));
    }

    #[test]
    fn a_freed_slot_is_used_again() {
        let mut entries = entries(&["a", "b", "c"]);
        let place = entries.find(&"b", 0).expect("was inserted");
        assert_eq!(entries.remove(place).key, "b");
        assert_eq!(entries.find(&"b", 0), None);
        assert_eq!(entries.insert(Entry::new("e", 0, None), 5), place);
        assert_eq!(entries.len(), 3);
        assert_eq!(by_age(entries), ["a", "c", "e"]);
    }

    #[test]
    fn the_only_entry_is_the_newest_and_the_oldest() {
        let mut entries = entries(&["a"]);
        let place = entries.oldest().expect("there is one");
        entries.touch(place, 7);
        entries.remove(place);
        assert_eq!(entries.oldest(), None);
        assert_eq!(by_age(entries), [""; 0]);
    }
}
