//! `join`, `left_join` of a stream with a table, or with a global table: each record of the stream looks up a row as it is now. The table's
//! changes cause no output.
//!
//! 1. Null values of the stream are dropped and counted.
//! 2. The key to look up is the record's own, or for a global table the one that a closure finds; then the record's own may be null.
//! 3. A null key finds nothing: the inner join drops and counts the record, the left join sends it on without a row (KIP-962).

use std::sync::Arc;

use brooklet_streams_core::ProcessError;
use brooklet_streams_core::processor::{DropReason, InitContext, Processor, ProcessorContext};
use brooklet_streams_core::record::{Datum, Record};
use brooklet_streams_core::typed_store::{GlobalKeyValueStore, StoreKey};

use super::{opened, parts};
use crate::null::NullCheck;
use crate::outcome::JoinKey;
use crate::rows::{OpenRows, Rows};

/// Key, value, the row if there is one; returns the joined value, `None` for no output, or why there is none.
pub(crate) trait Joiner<K, V, VT, VR>:
    Fn(&K, V, Option<&VT>) -> Result<Option<VR>, ProcessError> + Send + Sync + 'static
{
}
impl<K, V, VT, VR, F> Joiner<K, V, VT, VR> for F where
    F: Fn(&K, V, Option<&VT>) -> Result<Option<VR>, ProcessError> + Send + Sync + 'static
{
}

/// The table's side of a join.
pub(crate) trait Lookup<K, V>: 'static {
    /// The table's key.
    type Key;
    /// The table's value.
    type Row;
    /// What the key to look up is found in, beside the record's own key.
    type Selected;

    /// To be called in the operator's `init`.
    fn open<KO, VO>(&mut self, context: &InitContext<'_, KO, VO>) -> Result<(), ProcessError>;

    /// The first step to the key to look up.
    fn select(&self, key: &K, value: &V) -> Self::Selected;

    /// The key to look up, if there is one.
    fn table_key<'a>(key: &'a K, selected: &'a Self::Selected) -> Option<&'a Self::Key>;

    /// Reads the row of a key.
    fn read_with<R>(
        &self,
        table_key: &Self::Key,
        found: impl FnOnce(Option<&Self::Row>) -> R,
    ) -> Result<R, ProcessError>;
}

/// A table, by the record's key.
pub(crate) struct InTable<KT: StoreKey, VT: Datum> {
    /// The store behind the table.
    pub(crate) store_name: Arc<str>,
    pub(crate) rows: Arc<dyn Rows<KT, VT>>,
    pub(crate) open: Option<OpenRows<KT, VT>>,
}

impl<K, V, KT: StoreKey + JoinKey<K>, VT: Datum> Lookup<K, V> for InTable<KT, VT> {
    type Key = KT;
    type Row = VT;
    type Selected = ();

    fn open<KO, VO>(&mut self, context: &InitContext<'_, KO, VO>) -> Result<(), ProcessError> {
        let rows = self
            .rows
            .open(&self.store_name, &|name| context.store(name))?;
        self.open = Some(rows);
        Ok(())
    }

    #[inline]
    fn select(&self, _key: &K, _value: &V) {}

    #[inline]
    fn table_key<'a>(key: &'a K, (): &'a ()) -> Option<&'a KT> {
        KT::of(key)
    }

    #[inline]
    fn read_with<R>(
        &self,
        table_key: &KT,
        found: impl FnOnce(Option<&VT>) -> R,
    ) -> Result<R, ProcessError> {
        opened(&self.open)?.read_with(table_key, found)
    }
}

/// A global table, by the key that the closure finds.
pub(crate) struct InGlobalTable<KT: StoreKey, VT: Datum, S> {
    pub(crate) select: Arc<S>,
    pub(crate) store_name: Arc<str>,
    pub(crate) store: Option<GlobalKeyValueStore<KT, VT>>,
}

impl<K, V, KT, VT, R, S> Lookup<K, V> for InGlobalTable<KT, VT, S>
where
    KT: StoreKey + JoinKey<R>,
    VT: Datum,
    S: Fn(&K, &V) -> R + 'static,
{
    type Key = KT;
    type Row = VT;
    type Selected = R;

    fn open<KO, VO>(&mut self, context: &InitContext<'_, KO, VO>) -> Result<(), ProcessError> {
        self.store = Some(context.global_store(&self.store_name)?);
        Ok(())
    }

    #[inline]
    fn select(&self, key: &K, value: &V) -> R {
        (self.select)(key, value)
    }

    #[inline]
    fn table_key<'a>(_key: &'a K, selected: &'a R) -> Option<&'a KT> {
        KT::of(selected)
    }

    #[inline]
    fn read_with<T>(
        &self,
        table_key: &KT,
        found: impl FnOnce(Option<&VT>) -> T,
    ) -> Result<T, ProcessError> {
        opened(&self.store)?.read_with(table_key, |row| found(row.map(|row| &row.value)))
    }
}

pub(crate) struct StreamJoin<V, KT, L, F> {
    pub(crate) table: L,
    pub(crate) joiner: Arc<F>,
    pub(crate) keys: NullCheck<KT>,
    pub(crate) values: NullCheck<V>,
    /// A left join.
    pub(crate) left: bool,
}

impl<K, V, KT, VR, L, F> Processor<K, V, K, VR> for StreamJoin<V, KT, L, F>
where
    K: Datum,
    V: Datum,
    KT: StoreKey,
    VR: Datum,
    L: Lookup<K, V, Key = KT>,
    F: Joiner<K, V, L::Row, VR>,
{
    fn init(&mut self, context: &mut InitContext<'_, K, VR>) -> Result<(), ProcessError> {
        self.table.open(context)
    }

    fn process(
        &mut self,
        record: Record<K, V>,
        context: &mut ProcessorContext<'_, K, VR>,
    ) -> Result<(), ProcessError> {
        let (key, value, rest) = parts(record);
        if self.values.is_null(&value) {
            context.drop_record(DropReason::NullValue);
            return Ok(());
        }
        let selected = self.table.select(&key, &value);
        let table_key = L::table_key(&key, &selected).filter(|key| !self.keys.is_null(key));
        let joined = match table_key {
            Some(table_key) => self
                .table
                .read_with(table_key, |row| (self.joiner)(&key, value, row))??,
            None if self.left => (self.joiner)(&key, value, None)?,
            None => {
                context.drop_record(DropReason::NullKey);
                return Ok(());
            }
        };
        match joined {
            Some(value) => context.forward(rest.with(key, value)),
            None => Ok(()),
        }
    }
}
