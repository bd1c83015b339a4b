//! What is committed of an in-memory store: a sorted map, shared with snapshots and copied when one is held at a commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::Direction;

/// Committed entries by key.
pub(crate) type Entries = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// The committed side of an in-memory store.
pub(crate) type SharedEntries = Arc<Entries>;

/// The first entry, in `direction`, between two bounds.
pub(crate) fn first<'a>(
    entries: &'a Entries,
    from: Bound<&[u8]>,
    to: Bound<&[u8]>,
    direction: Direction,
) -> Option<(&'a [u8], &'a [u8])> {
    // `BTreeMap::range` panics on what is merely empty.
    if let (
        Bound::Included(low) | Bound::Excluded(low),
        Bound::Included(high) | Bound::Excluded(high),
    ) = (from, to)
        && low >= high
        && (low > high || !matches!((from, to), (Bound::Included(_), Bound::Included(_))))
    {
        return None;
    }
    let mut range = entries.range::<[u8], _>((from, to));
    let entry = match direction {
        Direction::Forward => range.next(),
        Direction::Backward => range.next_back(),
    };
    entry.map(|(key, value)| (&**key, &**value))
}

pub(crate) fn put(entries: &mut Entries, key: &[u8], value: Option<&[u8]>) {
    match value {
        None => {
            entries.remove(key);
        }
        Some(value) => match entries.get_mut(key) {
            Some(old) if old.len() == value.len() => old.copy_from_slice(value),
            Some(old) => *old = value.into(),
            None => {
                entries.insert(key.into(), value.into());
            }
        },
    }
}

/// Drops all keys below `end`.
pub(crate) fn drop_below(entries: &mut Entries, end: &[u8]) {
    while let Some(first) = entries.first_entry()
        && &**first.key() < end
    {
        first.remove();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::suite::store_suite;
    use crate::{Backend, KeyValueStore, Memory, StoreError, StoreSpec, Stores};

    store_suite!(Backend::InMemory);

    #[test]
    fn stores_in_memory_need_and_touch_no_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("task");
        let specs = [StoreSpec::key_value("store", Backend::InMemory)];
        let memory = Memory::new(0);
        for directory in [None, Some(directory.as_path())] {
            let stores = Stores::open(directory, &specs, &memory).unwrap();
            stores
                .key_value("store")
                .unwrap()
                .put(b"a", Some(b"1"))
                .unwrap();
        }
        assert!(!directory.exists());
    }

    #[test]
    fn a_store_named_twice_is_refused() {
        let specs = [
            StoreSpec::key_value("store", Backend::InMemory),
            StoreSpec::window("store", 1, Backend::InMemory),
        ];
        let result = Stores::open(None, &specs, &Memory::new(0)).map(|_| ());
        assert!(matches!(result, Err(StoreError::DuplicateStore { store }) if store == "store"));
    }

    #[test]
    fn a_retention_of_nothing_is_refused() {
        let specs = [StoreSpec::window("store", 0, Backend::InMemory)];
        let result = Stores::open(None, &specs, &Memory::new(0)).map(|_| ());
        assert!(matches!(
            result,
            Err(StoreError::NotPositive { found_ms: 0, .. })
        ));
    }
}
