//! Applications that write to Postgres.

pub mod diesel;
pub mod diesel_async;
pub mod sea_orm;
pub mod tokio_postgres;
