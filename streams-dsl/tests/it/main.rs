//! What programs do, from the calls to the records: one binary, since links are slow.

mod cases;
mod describe;
mod operators;
mod recorded;
mod ui;
