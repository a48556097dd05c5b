use std::collections::HashSet;

use relaykit_sql_store::Depth;

use super::place::Ground;
use super::plan::Role;
use crate::history::{Event, Id};

/// What is tortured on a database, by processes of its own.
pub(crate) trait Subject: Sized + Send + Sync + 'static {
    /// The subcommand of its child processes.
    const CHILD: &'static str;

    /// Who is there from the beginning.
    const CAST: &'static [Role];

    /// Among how many decided last are those that an engine may have handled and not settled.
    const UNSETTLED: usize;

    /// The places of its own where processes are made to die, beside those of every engine.
    const PLACES: &'static [(Role, &'static str)] = &[];

    /// Makes its tables.
    ///
    /// # Errors
    ///
    /// If that fails.
    fn make(ground: &Ground) -> impl Future<Output = anyhow::Result<Self>> + Send;

    /// Counts what waits.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    fn depth(&self) -> impl Future<Output = anyhow::Result<Depth>> + Send;

    /// Reads what was committed.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    fn committed(&self, ground: &Ground) -> impl Future<Output = anyhow::Result<HashSet<Id>>> + Send;

    /// Reads what else the database says in the end.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    fn testimony(&self, ground: &Ground) -> impl Future<Output = anyhow::Result<Vec<Event>>> + Send;
}
