//! What a user's closure may return where the type of the result is already fixed, and which keys fit a table's.

use std::error::Error;

use brooklet_streams_core::ProcessError;

/// What a predicate may return: `bool`, or `Result<bool, E>` when it can fail.
#[diagnostic::on_unimplemented(
    message = "a predicate returns `bool` or `Result<bool, E>`, not `{Self}`",
    note = "`E` is any error, or a message (`String`, `&str`)"
)]
pub trait Verdict {
    /// Yes, no, or why it cannot be said.
    ///
    /// # Errors
    /// What the closure returned.
    fn verdict(self) -> Result<bool, ProcessError>;
}

impl Verdict for bool {
    #[inline]
    fn verdict(self) -> Result<bool, ProcessError> {
        Ok(self)
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> Verdict for Result<bool, E> {
    #[inline]
    fn verdict(self) -> Result<bool, ProcessError> {
        self.map_err(ProcessError::new)
    }
}

/// What an aggregator or a reducer may return for an aggregate of type `T`: `T`, `Option<T>` (`None` deletes the row), `Result<T, E>` or
/// `Result<Option<T>, E>`.
///
/// `Shape` says which of them; the compiler finds it.
#[diagnostic::on_unimplemented(
    message = "a closure that returns `{Self}` cannot update an aggregate of type `{T}`",
    note = "return `{T}`, `Option<{T}>` (`None` deletes the row), or a `Result` of either"
)]
pub trait Outcome<T, Shape> {
    /// The new aggregate, `None` to delete the row, or why there is none.
    ///
    /// # Errors
    /// What the closure returned.
    fn outcome(self) -> Result<Option<T>, ProcessError>;
}

/// The [`Outcome`] of a closure that returns the aggregate.
pub enum Plain {}
/// The [`Outcome`] of a closure that returns an `Option` of the aggregate.
pub enum Deletable {}
/// The [`Outcome`] of a closure that returns a `Result` of the aggregate.
pub enum Fallible {}
/// The [`Outcome`] of a closure that returns a `Result` of an `Option` of the aggregate.
pub enum FallibleDeletable {}

impl<T> Outcome<T, Plain> for T {
    #[inline]
    fn outcome(self) -> Result<Option<T>, ProcessError> {
        Ok(Some(self))
    }
}

impl<T> Outcome<T, Deletable> for Option<T> {
    #[inline]
    fn outcome(self) -> Result<Option<T>, ProcessError> {
        Ok(self)
    }
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Outcome<T, Fallible> for Result<T, E> {
    #[inline]
    fn outcome(self) -> Result<Option<T>, ProcessError> {
        self.map(Some).map_err(ProcessError::new)
    }
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Outcome<T, FallibleDeletable>
    for Result<Option<T>, E>
{
    #[inline]
    fn outcome(self) -> Result<Option<T>, ProcessError> {
        self.map_err(ProcessError::new)
    }
}

/// Keys of a table that a stream with keys of type `KS` can be joined with: `KS` itself, or `T` where `KS` is `Option<T>`, whose `None` finds no row.
///
/// Implemented by the table's key, so that the types of both sides are known before the compiler compares them.
#[diagnostic::on_unimplemented(
    message = "a key of type `{KS}` cannot be joined with a table whose keys are of type `{Self}`",
    label = "the table's keys are `{Self}`, the other side's are `{KS}`",
    note = "give the stream the table's key first: `.select_key(|key, value| ...)` returning `{Self}` or `Option<{Self}>`",
    note = "or join with a global table, whose join takes a closure that finds its key"
)]
pub trait JoinKey<KS>: Sized {
    /// The key to look up; `None` when there is none.
    fn of(key: &KS) -> Option<&Self>;
}

impl<K> JoinKey<K> for K {
    #[inline]
    fn of(key: &K) -> Option<&K> {
        Some(key)
    }
}

impl<K> JoinKey<Option<K>> for K {
    #[inline]
    fn of(key: &Option<K>) -> Option<&K> {
        key.as_ref()
    }
}
