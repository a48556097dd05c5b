//! Finds the migrations that come with the crate, which it leaves to whoever uses it.
#![allow(clippy::print_stdout, reason = "a build script answers on standard output")]

use anyhow::Context;
use cargo_metadata::MetadataCommand;

const CRATE: &str = "outbox-postgres";

fn main() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().other_options(["--locked".to_owned()]).exec()?;
    let found = metadata.packages.iter().find(|package| package.name == CRATE);
    let folder =
        found.and_then(|package| package.manifest_path.parent()).context("the crate has no folder")?;
    println!("cargo::rustc-env=MIGRATIONS={}", folder.join("migrations"));
    println!("cargo::rerun-if-changed=Cargo.lock");
    Ok(())
}
