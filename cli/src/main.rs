//! The `brooklet` command.
fn main() {}
