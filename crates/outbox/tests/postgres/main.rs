//! What the outbox promises on a real Postgres. `cargo xtask test` starts one.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod adding;
mod archive;
mod common;
mod conformance;
mod dead;
mod late;
mod load;
mod migrations;
mod pages;
mod plans;
mod pooler;
mod processes;
mod role;
mod roles;
mod sending;
mod settling;
