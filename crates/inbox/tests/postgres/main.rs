//! What the inbox promises on a real Postgres. `cargo xtask test` starts one.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;
mod conformance;
mod dead;
mod harness;
#[path = "../processes/mod.rs"]
mod ledger;
mod migrations;
mod pages;
mod plans;
mod pooled;
mod pooler;
mod processes;
mod receiving;
mod retention;
mod role;
mod roles;
mod routing;
mod transactional;
