//! What became of the transactions whose batches a walk passes: which data was aborted, and which markers nobody needs any more.
//!
//! A walk goes over the whole log from its start, so it has seen a transaction's data, if there is any left, when it comes to the marker.
//!
//! 1. A batch of data belongs to an aborted transaction if the index says that its producer had one begin at or before it whose marker
//!    has not come by yet. It goes.
//! 2. A marker without a batch before it in this walk is of an emptied transaction: it may go, after a delete horizon of its own.
//! 3. An abort marker that stays has its entry in the transaction index of the segment it lies in.

use foldhash::{HashMap, HashSet};

use crate::log::transaction_index::AbortedTransactionEntry;
use crate::protocol::record_batch::EndTransaction;

/// The transactions of one walk.
#[derive(Debug)]
pub(super) struct Transactions {
    /// By first offset; those before `next` have begun.
    aborted: Vec<AbortedTransactionEntry>,
    next: usize,
    /// Producer → its aborted transaction, and whether a batch of it was seen.
    ongoing_aborted: HashMap<i64, (AbortedTransactionEntry, bool)>,
    /// Producers of whose transaction, not known to be aborted, a batch was seen.
    ongoing_other: HashSet<i64>,
}

/// What a walk does with a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MarkerFate {
    /// Nothing of its transaction is left: it goes after its delete horizon.
    pub(super) is_of_emptied: bool,
    /// What has to be in the transaction index of the marker's segment.
    pub(super) index_entry: Option<AbortedTransactionEntry>,
}

impl Transactions {
    pub(super) fn new(mut aborted: Vec<AbortedTransactionEntry>) -> Self {
        aborted.sort_unstable_by_key(|transaction| transaction.first_offset);
        Transactions {
            aborted,
            next: 0,
            ongoing_aborted: HashMap::default(),
            ongoing_other: HashSet::default(),
        }
    }

    fn begin_up_to(&mut self, offset: i64) {
        while let Some(transaction) = self
            .aborted
            .get(self.next)
            .filter(|transaction| transaction.first_offset <= offset)
        {
            self.ongoing_aborted
                .entry(transaction.producer_id)
                .or_insert((*transaction, false));
            self.next += 1;
        }
    }

    /// Whether a transactional batch of data was aborted.
    pub(super) fn is_aborted(&mut self, producer_id: i64, last_offset: i64) -> bool {
        self.begin_up_to(last_offset);
        if let Some((_, seen)) = self.ongoing_aborted.get_mut(&producer_id) {
            *seen = true;
            true
        } else {
            self.ongoing_other.insert(producer_id);
            false
        }
    }

    /// What becomes of a marker.
    pub(super) fn end(
        &mut self,
        producer_id: i64,
        last_offset: i64,
        marker: EndTransaction,
    ) -> MarkerFate {
        self.begin_up_to(last_offset);
        match marker.commit {
            false => {
                let ended = self.ongoing_aborted.remove(&producer_id);
                let index_entry = ended.filter(|(_, seen)| *seen).map(|(entry, _)| entry);
                // An abort that the index does not know of has had data all the same.
                let other = self.ongoing_other.remove(&producer_id);
                MarkerFate {
                    is_of_emptied: index_entry.is_none() && !other,
                    index_entry,
                }
            }
            true => MarkerFate {
                is_of_emptied: !self.ongoing_other.remove(&producer_id),
                index_entry: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABORT: EndTransaction = EndTransaction {
        commit: false,
        coordinator_epoch: 0,
    };
    const COMMIT: EndTransaction = EndTransaction {
        commit: true,
        coordinator_epoch: 0,
    };

    fn aborted(producer_id: i64, first_offset: i64, last_offset: i64) -> AbortedTransactionEntry {
        AbortedTransactionEntry {
            producer_id,
            first_offset,
            last_offset,
            last_stable_offset: last_offset + 1,
        }
    }

    #[test]
    fn data_between_the_first_offset_and_the_marker_is_aborted() {
        let mut transactions = Transactions::new(vec![aborted(1, 10, 20), aborted(2, 30, 40)]);
        assert!(!transactions.is_aborted(1, 9));
        assert!(!transactions.end(1, 9, COMMIT).is_of_emptied);
        assert!(transactions.is_aborted(1, 10));
        assert!(!transactions.is_aborted(2, 12));
        let fate = transactions.end(1, 20, ABORT);
        assert_eq!(
            fate,
            MarkerFate {
                is_of_emptied: false,
                index_entry: Some(aborted(1, 10, 20))
            }
        );
        assert!(!transactions.is_aborted(1, 21));
    }

    #[test]
    fn a_marker_without_data_is_of_an_emptied_transaction() {
        let mut transactions = Transactions::new(vec![aborted(1, 10, 20)]);
        assert!(transactions.end(1, 20, ABORT).is_of_emptied);
        assert!(transactions.end(2, 21, COMMIT).is_of_emptied);
        transactions.is_aborted(2, 22);
        assert!(!transactions.end(2, 23, COMMIT).is_of_emptied);
        assert!(transactions.end(2, 24, COMMIT).is_of_emptied);
    }
}
