//! Iterators that lend what they stand on, and the order they go in.

use crate::StoreError;

/// The order of an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    #[default]
    Forward,
    /// Descending (KIP-617).
    Backward,
}

/// Entries of a key-value store, in byte-lexicographic order of their keys.
///
/// It lends: what `next` returns is valid until the following call, and nothing is allocated per entry.
/// Writes to the same store while it is open are allowed, and are seen when they are ahead of it; that
/// holds for a commit too.
pub trait StoreIterator {
    /// The next key and value; `None` at the end, and from then on.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    #[allow(clippy::should_implement_trait)] // It lends, which `Iterator` cannot say.
    #[allow(clippy::type_complexity)] // A named type could not borrow from `self`.
    fn next(&mut self) -> Result<Option<(&[u8], &[u8])>, StoreError>;
}

/// Entries of a window store: key, window start in milliseconds since the epoch, value.
///
/// Order: by segment of time, then by the bytes of the [window key](crate::key_schema), as Kafka's persistent window
/// store has it. So the windows of a single key are in the order of time, and keys of equal length in their own.
pub trait WindowIterator {
    /// The next entry; `None` at the end, and from then on.
    ///
    /// # Errors
    /// When the disk cannot be read or what is on it is corrupt.
    #[allow(clippy::should_implement_trait)] // It lends, which `Iterator` cannot say.
    #[allow(clippy::type_complexity)] // A named type could not borrow from `self`.
    fn next(&mut self) -> Result<Option<(&[u8], i64, &[u8])>, StoreError>;
}
