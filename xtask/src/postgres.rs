mod binaries;
mod docker;
mod package;
mod source;

#[cfg(unix)]
mod cluster;
#[cfg(unix)]
mod pooler;
#[cfg(unix)]
mod stale;
#[cfg(unix)]
mod user;
mod watchdog;

use std::env;

use anyhow::bail;

use crate::process;
use crate::workspace::Workspace;
use source::{Found, Source};
use watchdog::Watchdog;

/// The environment variable that tells tests where Postgres is.
pub(crate) const TEST_URL: &str = "RELAYKIT_TEST_POSTGRES";

/// The environment variable that tells tests where a pooler in transaction mode is.
pub(crate) const TEST_POOLER_URL: &str = "RELAYKIT_TEST_PGBOUNCER";

/// The environment variable that tells `relaykit-torture` how the server is stopped and started.
const CONTROL: &str = "RELAYKIT_TORTURE_POSTGRES";

/// The feature of a crate that talks to Postgres.
const FEATURE: &str = "postgres";

/// A Postgres server for as long as a chore runs. One that we started is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) url: String,
    /// The URL of a pooler in transaction mode before it, if there is one.
    pub(crate) pooler: Option<String>,
    /// How it is stopped and started, if we started it here: as JSON.
    pub(crate) control: Option<String>,
    _stop: Option<Watchdog>,
}

impl Postgres {
    /// Returns the environment variables that tests read.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pooler = self.pooler.as_deref().map(|url| (TEST_POOLER_URL, url));
        let control = self.control.as_deref().map(|control| (CONTROL, control));
        [(TEST_URL, self.url.as_str())].into_iter().chain(pooler).chain(control)
    }
}

/// Tells whether some crate of the workspace talks to Postgres.
pub(crate) fn is_needed(workspace: &Workspace) -> bool {
    workspace.members.iter().any(|member| member.manifest.features.contains_key(FEATURE))
}

/// Finds or starts a server; `None`, after saying what to install, if that is not possible here.
///
/// # Errors
///
/// A server does not start, or there is none in CI.
pub(crate) fn obtain() -> anyhow::Result<Option<Postgres>> {
    let source = source::choose(&Found::here());
    if !matches!(source, Source::Given { .. }) {
        eprintln!("postgres: {source}");
    }
    match source {
        Source::Given { url } => {
            eprintln!("postgres: the server of DATABASE_URL");
            Ok(Some(Postgres { url, pooler: variable(TEST_POOLER_URL), control: None, _stop: None }))
        }
        Source::Binaries { folder } => start(&folder).map(Some),
        Source::Docker => docker::start().map(Some),
        Source::Package => {
            package::install()?;
            match binaries::find() {
                Some(folder) => start(&folder).map(Some),
                None => bail!("the package {} brought no initdb that could be found", package::NAME),
            }
        }
        Source::Nothing { advice } if process::is_ci() => bail!("no Postgres: {advice}"),
        Source::Nothing { advice } => {
            eprintln!("skip: no Postgres, so tests that need it do nothing: {advice}");
            Ok(None)
        }
    }
}

#[cfg(unix)]
fn start(folder: &std::path::Path) -> anyhow::Result<Postgres> {
    stale::sweep(folder);
    cluster::start(folder)
}

#[cfg(not(unix))]
fn start(_folder: &std::path::Path) -> anyhow::Result<Postgres> {
    bail!("set DATABASE_URL to a server that tests may use: starting one is written for Unix")
}

/// Returns an environment variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
