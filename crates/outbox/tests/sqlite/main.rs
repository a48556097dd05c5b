//! The store in a SQLite file, beside connections of the application.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod adding;
mod archive;
mod common;
mod conformance;
mod dead;
mod pages;
mod sending;
mod settling;
mod sharing;
