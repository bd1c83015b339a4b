//! What a commit stands for.

use std::collections::BTreeMap;

/// How much of its changelog each store holds, and what operators want kept beside it.
///
/// Given to [`Stores::commit`](crate::Stores::commit) it says what to change: names that are not in it keep what they have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    offsets: BTreeMap<String, i64>,
    metadata: BTreeMap<String, Vec<u8>>,
}

impl Positions {
    /// The store holds its changelog up to `end_offset`, exclusive.
    pub fn set_offset(&mut self, store: impl Into<String>, end_offset: i64) {
        self.offsets.insert(store.into(), end_offset);
    }

    /// Keeps opaque bytes under a name (an operator's own time, say), atomically with the commit.
    pub fn set_metadata(&mut self, name: impl Into<String>, bytes: Vec<u8>) {
        self.metadata.insert(name.into(), bytes);
    }

    /// The changelog's end offset in the store, exclusive; `None` when it was never committed or restored.
    pub fn offset(&self, store: &str) -> Option<i64> {
        self.offsets.get(store).copied()
    }

    /// The bytes kept under a name.
    pub fn metadata(&self, name: &str) -> Option<&[u8]> {
        self.metadata.get(name).map(Vec::as_slice)
    }

    /// Stores with their end offsets, by name.
    pub fn offsets(&self) -> impl Iterator<Item = (&str, i64)> {
        self.offsets
            .iter()
            .map(|(store, offset)| (store.as_str(), *offset))
    }

    /// All kept bytes, by name.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.metadata
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Whether giving it to `update` would change nothing.
    pub(crate) fn has_all_of(&self, newer: &Positions) -> bool {
        (newer.offsets.iter()).all(|(store, offset)| self.offsets.get(store) == Some(offset))
            && (newer.metadata.iter()).all(|(name, bytes)| self.metadata.get(name) == Some(bytes))
    }

    pub(crate) fn update(&mut self, newer: &Positions) {
        for (store, offset) in &newer.offsets {
            self.offsets.insert(store.clone(), *offset);
        }
        for (name, bytes) in &newer.metadata {
            self.metadata.insert(name.clone(), bytes.clone());
        }
    }
}
