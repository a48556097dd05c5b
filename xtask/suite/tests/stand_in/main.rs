//! What the stand-in of the Iterable API does, shown with plain HTTP.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is an answer")]

mod bulk;
mod caller;
mod faults;
mod life;
mod limits;
mod refusals;
mod script;
mod single;
