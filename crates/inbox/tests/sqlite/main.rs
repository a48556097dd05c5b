//! The store in a SQLite file, beside connections of the application.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod common;
mod conformance;
mod dead;
mod erasing;
mod handling;
#[path = "../processes/mod.rs"]
mod ledger;
mod pages;
mod processes;
mod receiving;
mod routing;
mod settling;
