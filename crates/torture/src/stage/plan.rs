use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::place::Place;
use crate::history::Id;

/// What a child process is to do, handed over as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) place: Place,
    pub(crate) ledger: PathBuf,
    /// Under which number it tells; of several engines, the first one's.
    pub(crate) life: usize,
    pub(crate) seed: u64,
    pub(crate) role: Role,
    pub(crate) trouble: Trouble,
}

/// What goes wrong within the processes themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trouble {
    /// Nothing but that messages fail now and then.
    #[default]
    Usual,
    /// Handlers panic, hang, refuse, and answer wrongly.
    Handlers,
    /// Wall clocks jump.
    Clocks,
    /// Messages of one key kill whoever handles them.
    Poison,
}

/// The key whose messages kill.
pub(crate) const POISON: u64 = 1_000_000;

/// How often a message is tried where there is poison.
pub(crate) const ATTEMPTS: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Brings messages of its own keys.
    Feed { slot: u64 },
    /// Handles them with so many engines, which fail now and then.
    Work { engines: usize },
    /// Handles what is left.
    Drain,
}

/// For how long an engine holds its shards.
pub(crate) const LEASE: Duration = Duration::from_millis(1_200);

/// How long an engine waits at the most before it looks for messages again.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// How long a call of a store may wait for a connection, and how long it may take then.
pub(crate) const CALL: Duration = Duration::from_secs(2);

/// Ids of a life, or of a slot; the next one's begin after them.
pub(crate) const IDS: Id = 1_000_000;

impl Role {
    /// How many tell the ledger each for itself.
    pub(crate) fn lives(self) -> usize {
        if let Self::Work { engines } = self { engines } else { 1 }
    }
}
