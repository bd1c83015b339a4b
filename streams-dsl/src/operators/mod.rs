//! What runs in a task: one file an operator. Each takes records as they come, and keeps nothing but what its file says.

pub(crate) mod aggregate;
pub(crate) mod changes;
pub(crate) mod filter;
pub(crate) mod flat_map;
pub(crate) mod map;
pub(crate) mod pass_through;
pub(crate) mod peek;
pub(crate) mod present;
pub(crate) mod split;
pub(crate) mod stream_global_join;
pub(crate) mod stream_table_join;
pub(crate) mod table_filter;
pub(crate) mod table_map_values;
pub(crate) mod table_source;
pub(crate) mod to_stream;
pub(crate) mod window_aggregate;
