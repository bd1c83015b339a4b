//! The key-value store over both backends.

use std::ops::Bound;
use std::rc::Rc;

use crate::merge::{KeyRange, Merge};
use crate::state::StoreState;
use crate::{Direction, KeyValueStore, StoreError, StoreIterator};

/// A handle on a key-value store of a task.
pub(crate) struct KeyValue(pub(crate) Rc<StoreState>);

impl KeyValueStore for KeyValue {
    fn read(&self, key: &[u8], out: &mut Vec<u8>) -> Result<bool, StoreError> {
        self.0.read(key, out)
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
        self.0.check_lengths(key, value)?;
        self.0.overlay.borrow_mut().put(key, value);
        Ok(())
    }

    fn range(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        direction: Direction,
    ) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        Ok(Box::new(Merge::live(
            &self.0,
            KeyRange::new(from, to),
            direction,
        )?))
    }

    fn prefix_scan(&self, prefix: &[u8]) -> Result<Box<dyn StoreIterator + '_>, StoreError> {
        Ok(Box::new(Merge::live(
            &self.0,
            KeyRange::prefix(prefix),
            Direction::Forward,
        )?))
    }

    fn approximate_num_entries(&self) -> u64 {
        self.0.approximate_num_entries()
    }
}
