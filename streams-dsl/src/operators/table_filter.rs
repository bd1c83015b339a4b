//! `KTable::filter`, `filter_not`: a row that the predicate rejects is a deleted one.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};

use crate::change::Change;
use crate::outcome::Verdict;

pub(crate) struct TableFilter<F> {
    pub(crate) predicate: Arc<F>,
    /// The verdict that passes: `false` for `filter_not`.
    pub(crate) passes: bool,
    /// Old values come in: then a row that was not passed on before and is not now is no news. Without them every rejected row is a
    /// tombstone.
    pub(crate) knows_old: bool,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
}

impl<F> TableFilter<F> {
    fn passing<K, V, R: Verdict>(&self, key: &K, row: Option<V>) -> Result<Option<V>, ProcessError>
    where
        F: Fn(&K, &V) -> R,
    {
        match row {
            Some(row) if (self.predicate)(key, &row).verdict()? == self.passes => Ok(Some(row)),
            _ => Ok(None),
        }
    }
}

impl<K, V, R, F> Processor<K, Change<V>, K, Change<V>> for TableFilter<F>
where
    K: Datum,
    V: Datum,
    R: Verdict,
    F: Fn(&K, &V) -> R + 'static,
{
    fn process(
        &mut self,
        record: Record<K, Change<V>>,
        context: &mut ProcessorContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        let Record {
            key,
            value,
            timestamp,
            headers,
        } = record;
        let new = self.passing(&key, value.new)?;
        let old = if self.knows_old {
            self.passing(&key, value.old)?
        } else {
            None
        };
        if self.knows_old && new.is_none() && old.is_none() {
            return Ok(());
        }
        let old = old.filter(|_| self.sends_old);
        context.forward(Record {
            key,
            value: Change { new, old },
            timestamp,
            headers,
        })
    }
}
