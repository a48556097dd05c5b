//! Applications that write to a SQLite file.
//!
//! Their transactions begin with `BEGIN IMMEDIATE`: one that begins by reading, and finds that the relay has written since,
//! could not write any more.

pub mod diesel;
pub mod sea_orm;
pub mod sqlx;
