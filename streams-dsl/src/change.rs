//! What travels along the edges of a table.

/// An update of a table's row: the row after it and, where somebody downstream wants it, the row before it.
///
/// `new: None` deletes the row. `old` is `None` when there was no row, and also when nobody asked for old values: the plan decides that
/// once for every edge, when the topology is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<V> {
    /// The row from now on; `None` when it is deleted.
    pub new: Option<V>,
    /// The row until now.
    pub old: Option<V>,
}
