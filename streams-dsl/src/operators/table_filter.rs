//! `KTable::filter`, `filter_not`: a row that the predicate rejects is a deleted one.

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::StoreKey;

use super::parts;
use super::row_store::RowStore;
use crate::change::Change;
use crate::outcome::Verdict;

pub(crate) struct TableFilter<K: StoreKey, V: Datum, F> {
    pub(crate) predicate: Arc<F>,
    /// The verdict that passes: `false` for `filter_not`.
    pub(crate) passes: bool,
    /// Old values come in: then a row that was not passed on before and is not now is no news. Without them every rejected row is a
    /// tombstone.
    pub(crate) knows_old: bool,
    /// Somebody downstream wants old values.
    pub(crate) sends_old: bool,
    /// Where the rows that pass are kept; `None`: nowhere.
    pub(crate) rows: Option<RowStore<K, V>>,
}

impl<K: StoreKey, V: Datum, F> TableFilter<K, V, F> {
    fn passing<R: Verdict>(&self, key: &K, row: Option<V>) -> Result<Option<V>, ProcessError>
    where
        F: Fn(&K, &V) -> R,
    {
        match row {
            Some(row) if (self.predicate)(key, &row).verdict()? == self.passes => Ok(Some(row)),
            _ => Ok(None),
        }
    }
}

impl<K, V, R, F> Processor<K, Change<V>, K, Change<V>> for TableFilter<K, V, F>
where
    K: StoreKey,
    V: Datum,
    R: Verdict,
    F: Fn(&K, &V) -> R + 'static,
{
    fn init(&mut self, context: &mut InitContext<'_, K, Change<V>>) -> Result<(), ProcessError> {
        self.rows.iter_mut().try_for_each(|rows| rows.open(context))
    }

    fn process(
        &mut self,
        record: Record<K, Change<V>>,
        context: &mut ProcessorContext<'_, K, Change<V>>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        let new = self.passing(&key, value.new)?;
        let old = if self.knows_old {
            self.passing(&key, value.old)?
        } else {
            None
        };
        if self.knows_old && new.is_none() && old.is_none() {
            return Ok(());
        }
        if let Some(rows) = &self.rows {
            return rows.put(rest.with(key, new), context);
        }
        let old = old.filter(|_| self.sends_old);
        context.forward(rest.with(key, Change { new, old }))
    }
}
