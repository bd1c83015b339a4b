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

/// Of a key, in parts, so that a slot has no padding.
pub(crate) type KeyHash = [u32; 4];

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: KeyHash,
    /// `VACANT` if there is none.
    relative_offset: u32,
}

const VACANT: u32 = u32::MAX;

const EMPTY: Slot = Slot {
    hash: [0; 4],
    relative_offset: VACANT,
};

/// What became of a record that was to be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The first of its key.
    First,
    /// The record of its key at this offset was the last one until now.
    Supersedes(i64),
    /// The map is full: nothing was noted.
    Full,
}

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

    /// Has the slots of these keys read, and with them in the cache, so that the searches that follow wait for memory once and not each in its
    /// turn: no search depends on another, which a processor sees only if they are not apart.
    #[inline]
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = KeyHash>) {
        let slots = hashes.filter_map(|hash| self.slots.get(self.home(hash)));
        let read = slots.fold(0, |read, slot| read ^ slot.relative_offset);
        std::hint::black_box(read);
    }

    /// Notes that the last record so far of the key with this hash is at `offset`; offsets rise from call to call.
    #[inline]
    pub(crate) fn put(&mut self, hash: KeyHash, offset: i64) -> Put {
        let base = *self.base_offset.get_or_insert(offset);
        let relative_offset = match u32::try_from(offset - base) {
            Ok(relative_offset) if relative_offset != VACANT && self.len < self.len_max => {
                relative_offset
            }
            _ => return Put::Full,
        };
        self.latest_offset = offset;
        let index = self.search(hash);
        // `search` answers a slot that is there.
        let Some(slot) = self.slots.get_mut(index) else {
            return Put::Full;
        };
        let before = std::mem::replace(&mut slot.relative_offset, relative_offset);
        if before == VACANT {
            slot.hash = hash;
            self.len += 1;
            Put::First
        } else {
            Put::Supersedes(base + i64::from(before))
        }
    }

    /// The last offset of the key with this hash, if it is there.
    #[inline]
    pub(crate) fn get(&self, hash: KeyHash) -> Option<i64> {
        let slot = self.slots.get(self.search(hash))?;
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
    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        let hash = XxHash3_128::oneshot_with_seed(self.seed, key);
        [
            (hash >> 96) as u32,
            (hash >> 64) as u32,
            (hash >> 32) as u32,
            hash as u32,
        ]
    }

    /// Where the search for this hash begins.
    #[inline]
    fn home(&self, hash: KeyHash) -> usize {
        let [high, middle, ..] = hash;
        let word = u64::from(high) << 32 | u64::from(middle);
        // The high half of the product: below the number of slots.
        ((u128::from(word) * self.slots.len() as u128) >> 64) as usize
    }

    /// The slot of this hash, or the vacant one where it belongs.
    #[inline]
    fn search(&self, hash: KeyHash) -> usize {
        let mut index = self.home(hash);
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
        let (a, b) = (map.hash(b"a"), map.hash(b"b"));
        assert_eq!(map.put(a, 5), Put::First);
        assert_eq!(map.put(b, 6), Put::Full);
        assert_eq!((map.get(a), map.get(b)), (Some(5), None));
        assert_eq!(map.latest_offset(), 5);
    }

    #[test]
    fn an_offset_too_far_from_the_first_is_as_if_full() {
        let mut map = OffsetMap::new(10, 1 << 20, 90, 7);
        let [a, b, c] = [b"a", b"b", b"c"].map(|key| map.hash(key));
        assert_eq!(map.put(a, 1 << 40), Put::First);
        assert_eq!(map.put(b, (1 << 40) + i64::from(u32::MAX) - 1), Put::First);
        assert_eq!(map.put(c, (1 << 40) + i64::from(u32::MAX)), Put::Full);
        assert_eq!(map.get(b), Some((1 << 40) + i64::from(u32::MAX) - 1));
    }

    proptest! {
        #[test]
        fn the_map_is_a_map_until_it_is_full(keys in prop::collection::vec(0u16..300, 0..600), room in 1u64..400, seed: u64) {
            let mut map = OffsetMap::new(room, 1 << 20, 90, seed);
            let mut model = HashMap::new();
            for (offset, key) in keys.iter().enumerate() {
                let put = map.put(map.hash(&key.to_be_bytes()), offset as i64);
                if put == Put::Full {
                    prop_assert!(model.len() >= room as usize);
                    break;
                }
                let before = model.insert(*key, offset as i64);
                prop_assert_eq!(put, before.map_or(Put::First, Put::Supersedes));
            }
            prop_assert_eq!(map.len(), model.len());
            for key in 0u16..300 {
                prop_assert_eq!(map.get(map.hash(&key.to_be_bytes())), model.get(&key).copied());
            }
        }
    }
}
