//! The last offset of each key in the dirty section, in memory of a fixed size.
//!
//! An open-addressed table of slots, 20 bytes each: the key's 128-bit hash, and its offset relative to the first one put in. Kafka's
//! has 24 and MD5. Nothing grows: when the table is full the pass ends there, and the next one goes on.
//!
//! ## A hash for a key, not the key
//! Two keys with one hash would be taken for one, and the older record would go. With 128 bits and n keys the odds are n² / 2¹²⁹:
//! for the six million that fit into Kafka's default buffer less than 10⁻²⁵ a pass, far below those of a bit flipped unseen on the way to the disk. The
//! seed is another one in each pass, so that nobody can look for such keys beforehand, and a collision, if there were one, would not be there twice.

use twox_hash::XxHash3_128;

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = size_of::<Slot>();

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// In parts, so that a slot has no padding.
    hash: [u32; 4],
    /// `VACANT` if there is none.
    relative_offset: u32,
}

const VACANT: u32 = u32::MAX;

const EMPTY: Slot = Slot {
    hash: [0; 4],
    relative_offset: VACANT,
};

/// Key → last offset, for the keys of one pass.
#[derive(Debug)]
pub(crate) struct OffsetMap {
    slots: Vec<Slot>,
    len: usize,
    len_max: usize,
    seed: u64,
    /// The first offset put in.
    base_offset: Option<i64>,
    /// All records of the dirty section up to and including this one are accounted for; -1 before any.
    latest_offset: i64,
}

impl OffsetMap {
    /// With room for `keys_max` keys, as far as `bytes_max` allows; at least for one. Of the slots `load_percent` are used: with more,
    /// searches get long.
    pub(crate) fn new(keys_max: u64, bytes_max: usize, load_percent: usize, seed: u64) -> Self {
        let load_percent = load_percent.clamp(1, 99);
        let wanted = usize::try_from(keys_max)
            .unwrap_or(usize::MAX)
            .saturating_mul(100)
            / load_percent
            + 2;
        let slots = wanted.min(bytes_max / SLOT_BYTES).max(2);
        OffsetMap {
            slots: vec![EMPTY; slots],
            len: 0,
            // Less than the slots: a search always ends at a vacant one.
            len_max: (slots / 100 * load_percent + slots % 100 * load_percent / 100)
                .clamp(1, slots - 1),
            seed,
            base_offset: None,
            latest_offset: -1,
        }
    }

    /// Notes that this key's last record so far is at `offset`; offsets rise from call to call. `false` if the map is full: nothing was noted.
    pub(crate) fn put(&mut self, key: &[u8], offset: i64) -> bool {
        let base = *self.base_offset.get_or_insert(offset);
        let relative_offset = match u32::try_from(offset - base) {
            Ok(relative_offset) if relative_offset != VACANT && self.len < self.len_max => {
                relative_offset
            }
            _ => return false,
        };
        let hash = self.hash(key);
        let index = self.search(hash);
        if let Some(slot) = self.slots.get_mut(index) {
            self.len += usize::from(slot.relative_offset == VACANT);
            *slot = Slot {
                hash,
                relative_offset,
            };
        }
        self.latest_offset = offset;
        true
    }

    /// The key's last offset, if the key is there.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<i64> {
        let slot = self.slots.get(self.search(self.hash(key)))?;
        (slot.relative_offset != VACANT)
            .then(|| self.base_offset.unwrap_or(0) + i64::from(slot.relative_offset))
    }

    /// Notes that everything up to and including this offset is accounted for.
    pub(crate) fn advance_to(&mut self, offset: i64) {
        self.latest_offset = self.latest_offset.max(offset);
    }

    pub(crate) fn latest_offset(&self) -> i64 {
        self.latest_offset
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.slots.len() * SLOT_BYTES
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> [u32; 4] {
        let hash = XxHash3_128::oneshot_with_seed(self.seed, key);
        [
            (hash >> 96) as u32,
            (hash >> 64) as u32,
            (hash >> 32) as u32,
            hash as u32,
        ]
    }

    /// The slot of this hash, or the vacant one where it belongs.
    #[inline]
    fn search(&self, hash: [u32; 4]) -> usize {
        let [high, middle, ..] = hash;
        let word = u64::from(high) << 32 | u64::from(middle);
        // The high half of the product: below the number of slots.
        let mut index = ((u128::from(word) * self.slots.len() as u128) >> 64) as usize;
        loop {
            match self.slots.get(index) {
                Some(slot) if slot.relative_offset == VACANT || slot.hash == hash => return index,
                Some(_) => index += 1,
                // `len_max` leaves a vacant slot.
                None => index = 0,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slot_has_twenty_bytes_and_the_limit_holds() {
        assert_eq!(SLOT_BYTES, 20);
        assert!(OffsetMap::new(u64::MAX, 1 << 20, 90, 0).size_bytes() <= 1 << 20);
        assert!(OffsetMap::new(10, 1 << 20, 90, 0).size_bytes() < 300);
    }

    #[test]
    fn a_full_map_says_so_and_keeps_what_it_has() {
        let mut map = OffsetMap::new(1, 0, 90, 7);
        assert!(map.put(b"a", 5));
        assert!(!map.put(b"b", 6));
        assert_eq!((map.get(b"a"), map.get(b"b")), (Some(5), None));
        assert_eq!(map.latest_offset(), 5);
    }

    #[test]
    fn an_offset_too_far_from_the_first_is_as_if_full() {
        let mut map = OffsetMap::new(10, 1 << 20, 90, 7);
        assert!(map.put(b"a", 1 << 40));
        assert!(map.put(b"b", (1 << 40) + i64::from(u32::MAX) - 1));
        assert!(!map.put(b"c", (1 << 40) + i64::from(u32::MAX)));
        assert_eq!(map.get(b"b"), Some((1 << 40) + i64::from(u32::MAX) - 1));
    }

    proptest! {
        #[test]
        fn the_map_is_a_map_until_it_is_full(keys in prop::collection::vec(0u16..300, 0..600), room in 1u64..400, seed: u64) {
            let mut map = OffsetMap::new(room, 1 << 20, 90, seed);
            let mut model = HashMap::new();
            for (offset, key) in keys.iter().enumerate() {
                if !map.put(&key.to_be_bytes(), offset as i64) {
                    prop_assert!(model.len() >= room as usize);
                    break;
                }
                model.insert(*key, offset as i64);
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0u16..300 {
                prop_assert_eq!(map.get(&key.to_be_bytes()), model.get(&key).copied());
            }
        }
    }
}
