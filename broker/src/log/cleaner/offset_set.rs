//! A set of offsets within a range of bounded length, a bit for each.

use std::ops::Range;

#[derive(Debug)]
pub(crate) struct OffsetSet {
    base_offset: i64,
    words: Vec<u64>,
}

const WORD_BITS: u64 = u64::BITS as u64;

impl OffsetSet {
    /// An empty set of so many offsets from `base_offset` on, rounded up.
    pub(crate) fn new(base_offset: i64, offsets: u64) -> Self {
        let words = usize::try_from(offsets.div_ceil(WORD_BITS)).unwrap_or(usize::MAX);
        OffsetSet {
            base_offset,
            words: vec![0; words],
        }
    }

    /// Nothing, if the offset is outside the range.
    #[inline]
    pub(crate) fn insert(&mut self, offset: i64) {
        if let Some(bit) = self.bit(offset)
            && let Some(word) = self.words.get_mut((bit / WORD_BITS) as usize)
        {
            *word |= 1 << (bit % WORD_BITS);
        }
    }

    #[inline]
    pub(crate) fn contains(&self, offset: i64) -> bool {
        self.bit(offset).is_some_and(|bit| {
            let word = self.words.get((bit / WORD_BITS) as usize);
            word.is_some_and(|word| word >> (bit % WORD_BITS) & 1 == 1)
        })
    }

    /// How many of these offsets are in the set. They are within its range, and not none.
    pub(crate) fn count(&self, offsets: Range<i64>) -> u64 {
        let (Some(first), Some(last)) = (self.bit(offsets.start), self.bit(offsets.end - 1)) else {
            return 0;
        };
        let (first_word, last_word) = ((first / WORD_BITS) as usize, (last / WORD_BITS) as usize);
        let words = self.words.get(first_word..=last_word).unwrap_or_default();
        let mut count = 0;
        for (index, word) in words.iter().enumerate() {
            let mut word = *word;
            if index == 0 {
                word &= u64::MAX << (first % WORD_BITS);
            }
            if first_word + index == last_word {
                word &= u64::MAX >> (WORD_BITS - 1 - last % WORD_BITS);
            }
            count += u64::from(word.count_ones());
        }
        count
    }

    /// The range that it is made for.
    pub(crate) fn range(&self) -> Range<i64> {
        let bits = self.words.len() as u64 * WORD_BITS;
        self.base_offset..self.base_offset.saturating_add_unsigned(bits)
    }

    pub(crate) fn size_bytes(&self) -> usize {
        size_of_val(self.words.as_slice())
    }

    #[inline]
    fn bit(&self, offset: i64) -> Option<u64> {
        u64::try_from(offset.checked_sub(self.base_offset)?).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_within_its_range(
            base in -100i64..100, length in 0u64..300, offsets in prop::collection::vec(-400i64..400, 0..200),
            from in 0u64..300, count in 1u64..300,
        ) {
            let mut set = OffsetSet::new(base, length);
            let range = set.range();
            prop_assert!(range.end >= base + i64::try_from(length).unwrap());
            let mut model = BTreeSet::new();
            for offset in &offsets {
                set.insert(*offset);
                if range.contains(offset) {
                    model.insert(*offset);
                }
            }
            for offset in -400..400 {
                prop_assert_eq!(set.contains(offset), model.contains(&offset));
            }
            let from = base.saturating_add_unsigned(from);
            let to = from.saturating_add_unsigned(count).min(range.end);
            if from < to {
                prop_assert_eq!(set.count(from..to), model.range(from..to).count() as u64);
            }
        }
    }
}
