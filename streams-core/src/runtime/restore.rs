//! What is to be restored of a store, decided from its position and its changelog's ends. Pure.

/// What to do with a store before its task may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restoration {
    /// It holds its changelog to the end.
    Complete,
    /// It lacks the offsets from here to the end.
    From(i64),
    /// What it holds does not fit its changelog: empty it, and begin at this offset.
    Rebuild {
        /// Where the changelog begins.
        from: i64,
        /// Why, for the log.
        reason: RebuildReason,
    },
}

/// Why a store is rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RebuildReason {
    /// The changelog's log start has passed the position: deletes between the two would be missed.
    BehindLogStart,
    /// The changelog ends before the position: it is not the changelog this store was written with.
    BeyondEnd,
}

/// Decides by the store's position (exclusive end offset of the changelog in it), and the changelog's log start and end.
pub(crate) fn decide(position: Option<i64>, log_start: i64, end: i64) -> Restoration {
    match position {
        None if end <= log_start => Restoration::Complete,
        None => Restoration::From(log_start),
        Some(position) if position > end => Restoration::Rebuild {
            from: log_start,
            reason: RebuildReason::BeyondEnd,
        },
        Some(position) if position < log_start => Restoration::Rebuild {
            from: log_start,
            reason: RebuildReason::BehindLogStart,
        },
        Some(position) if position == end => Restoration::Complete,
        Some(position) => Restoration::From(position),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_missing_tail_is_restored() {
        assert_eq!(decide(None, 0, 0), Restoration::Complete);
        assert_eq!(decide(None, 5, 9), Restoration::From(5));
        assert_eq!(decide(Some(9), 0, 9), Restoration::Complete);
        assert_eq!(decide(Some(4), 0, 9), Restoration::From(4));
    }

    #[test]
    fn a_store_that_does_not_fit_its_changelog_is_rebuilt() {
        assert_eq!(
            decide(Some(10), 0, 9),
            Restoration::Rebuild {
                from: 0,
                reason: RebuildReason::BeyondEnd
            }
        );
        assert_eq!(
            decide(Some(3), 5, 9),
            Restoration::Rebuild {
                from: 5,
                reason: RebuildReason::BehindLogStart
            }
        );
    }
}
