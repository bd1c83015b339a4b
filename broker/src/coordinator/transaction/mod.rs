//! The transaction coordinator: what is known of each transactional id, kept in `__transaction_state`.

pub mod machine;
pub mod records;
