//! What the crate promises on a real Postgres. `cargo xtask test` starts one.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod codec;
mod common;
mod drops;
mod leases;
mod migrations;
mod pool;
mod pooler;
mod shards;
mod wake;
