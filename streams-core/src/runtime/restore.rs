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
    /// The topic has another id than the one this store was written with.
    OtherTopic,
    /// Its first restoration was cut off before it had a position.
    Begun,
}

/// What a store holds of its changelog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Everything below; `None` when that was never said.
    pub(crate) position: Option<i64>,
    /// Something that is not below the position, but below this: a restoration was cut off.
    pub(crate) ahead: Option<i64>,
    /// All that is of another topic, which had the changelog's name before or has it elsewhere.
    pub(crate) is_of_other_topic: bool,
}

/// Decides by what the store holds, and the changelog's log start and end.
pub(crate) fn decide(held: Held, log_start: i64, end: i64) -> Restoration {
    match held.position {
        None if held.ahead.is_some() => Restoration::Rebuild {
            from: log_start,
            reason: RebuildReason::Begun,
        },
        Some(_) if held.is_of_other_topic => Restoration::Rebuild {
            from: log_start,
            reason: RebuildReason::OtherTopic,
        },
        None if end <= log_start => Restoration::Complete,
        None => Restoration::From(log_start),
        Some(position) if position.max(held.ahead.unwrap_or(position)) > end => {
            Restoration::Rebuild {
                from: log_start,
                reason: RebuildReason::BeyondEnd,
            }
        }
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

    fn at(position: i64) -> Held {
        Held {
            position: Some(position),
            ..Held::default()
        }
    }

    #[test]
    fn only_the_missing_tail_is_restored() {
        let nothing = Held::default();
        assert_eq!(decide(nothing, 0, 0), Restoration::Complete);
        assert_eq!(decide(nothing, 5, 9), Restoration::From(5));
        assert_eq!(decide(at(9), 0, 9), Restoration::Complete);
        assert_eq!(decide(at(4), 0, 9), Restoration::From(4));
    }

    #[test]
    fn a_store_that_does_not_fit_its_changelog_is_rebuilt() {
        let rebuilt = |from, reason| Restoration::Rebuild { from, reason };
        let of_other_topic = Held {
            is_of_other_topic: true,
            ..at(4)
        };
        assert_eq!(
            decide(of_other_topic, 0, 9),
            rebuilt(0, RebuildReason::OtherTopic)
        );
        assert_eq!(decide(at(10), 0, 9), rebuilt(0, RebuildReason::BeyondEnd));
        assert_eq!(
            decide(at(3), 5, 9),
            rebuilt(5, RebuildReason::BehindLogStart)
        );
    }

    #[test]
    fn rows_beyond_the_position_are_written_again_or_the_store_is_rebuilt() {
        let ahead = |position, ahead| Held {
            position,
            ahead: Some(ahead),
            is_of_other_topic: false,
        };
        let rebuilt = |from, reason| Restoration::Rebuild { from, reason };
        assert_eq!(decide(ahead(Some(4), 9), 0, 9), Restoration::From(4));
        assert_eq!(
            decide(ahead(Some(4), 10), 0, 9),
            rebuilt(0, RebuildReason::BeyondEnd)
        );
        assert_eq!(
            decide(ahead(None, 4), 0, 9),
            rebuilt(0, RebuildReason::Begun)
        );
        assert_eq!(
            decide(ahead(None, 4), 0, 0),
            rebuilt(0, RebuildReason::Begun)
        );
    }
}
