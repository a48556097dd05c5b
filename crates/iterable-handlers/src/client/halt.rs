use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic, Timestamp};

use super::Endpoint;
use crate::wire::IterableCode;

/// Keeps requests back after the API refused the key.
///
/// A 401 is about the key and halts all endpoints; a 403 is about what the key may do and halts its endpoint.
#[derive(Debug)]
pub(super) struct Halts {
    key: Halt,
    endpoints: Vec<Halt>,
    halt_for: Duration,
}

impl Halts {
    pub(super) fn new(halt_for: Duration) -> Self {
        Self {
            key: Halt::default(),
            endpoints: Endpoint::ALL.iter().map(|_| Halt::default()).collect(),
            halt_for,
        }
    }

    /// Says whether a call would be let through, without letting it through.
    pub(super) fn check(&self, endpoint: Endpoint, clock: &dyn Clock) -> Result<(), Halted> {
        let now = clock.monotonic();
        self.key.lock().check(now)?;
        self.endpoints[endpoint.index()].lock().check(now)
    }

    /// Lets a call through, or says why not. After a halt, one call at a time is the probe.
    pub(super) fn admit<'a>(&'a self, endpoint: Endpoint, clock: &'a dyn Clock) -> Result<Pass<'a>, Halted> {
        let now = clock.monotonic();
        let key_probe = self.key.lock().admit(now)?;
        // From here on the pass gives the key's probe back, whatever happens.
        let mut pass = Pass { halts: self, endpoint, clock, key_probe, endpoint_probe: false };
        pass.endpoint_probe = self.endpoints[endpoint.index()].lock().admit(now)?;
        Ok(pass)
    }
}

/// A call that was let through. Dropped without an answer, it leaves the probe to the next call.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    halts: &'a Halts,
    endpoint: Endpoint,
    clock: &'a dyn Clock,
    key_probe: bool,
    endpoint_probe: bool,
}

impl Pass<'_> {
    /// Takes note of the API's answer. Returns whether it halts calls.
    pub(super) fn answered(mut self, status: u16, code: Option<&IterableCode>) -> bool {
        let scope = scope(status, code);
        let now = self.clock.monotonic();
        let refusal =
            || Halted { since: self.clock.now(), status, code: code.cloned(), retry_in: self.halts.halt_for };
        let endpoint = &self.halts.endpoints[self.endpoint.index()];
        match scope {
            Some(Scope::Key) => self.halts.key.lock().halt(refusal(), now + self.halts.halt_for),
            Some(Scope::Endpoint) => endpoint.lock().halt(refusal(), now + self.halts.halt_for),
            None => {}
        }
        // An answer other than a refusal ends the halt that this call probed; a 403 still shows a known key.
        if self.key_probe && scope != Some(Scope::Key) {
            self.halts.key.lock().end();
        }
        if self.endpoint_probe && scope.is_none() {
            endpoint.lock().end();
        }
        if self.endpoint_probe && scope == Some(Scope::Key) {
            endpoint.lock().give_back();
        }
        self.key_probe = false;
        self.endpoint_probe = false;
        scope.is_some()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.key_probe {
            self.halts.key.lock().give_back();
        }
        if self.endpoint_probe {
            self.halts.endpoints[self.endpoint.index()].lock().give_back();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Key,
    Endpoint,
}

/// Says what an answer halts.
fn scope(status: u16, code: Option<&IterableCode>) -> Option<Scope> {
    match (status, code) {
        // These parameters are forbidden, others are not.
        (403, Some(IterableCode::ForbiddenParamsError)) => None,
        (401, _) | (403, Some(IterableCode::BadApiKey | IterableCode::Unauthorized)) => Some(Scope::Key),
        (403, _) => Some(Scope::Endpoint),
        _ => None,
    }
}

/// Why and since when calls are kept back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Halted {
    pub(super) since: Timestamp,
    pub(super) status: u16,
    pub(super) code: Option<IterableCode>,
    pub(super) retry_in: Duration,
}

#[derive(Debug, Default)]
struct Halt(Mutex<State>);

impl Halt {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Open,
    Halted {
        why: Halted,
        until: Monotonic,
        probing: bool,
    },
}

impl State {
    fn check(&self, now: Monotonic) -> Result<(), Halted> {
        match self {
            Self::Halted { why, until, probing } if *probing || now < *until => {
                Err(Halted { retry_in: until.since(now), ..why.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Lets a call through; `true` makes it the probe.
    fn admit(&mut self, now: Monotonic) -> Result<bool, Halted> {
        self.check(now)?;
        match self {
            Self::Open => Ok(false),
            Self::Halted { probing, .. } => {
                *probing = true;
                Ok(true)
            }
        }
    }

    fn halt(&mut self, why: Halted, until: Monotonic) {
        // A halt that goes on keeps the moment it began.
        let since = match self {
            Self::Halted { why, .. } => why.since,
            Self::Open => why.since,
        };
        *self = Self::Halted { why: Halted { since, ..why }, until, probing: false };
    }

    fn end(&mut self) {
        *self = Self::Open;
    }

    fn give_back(&mut self) {
        if let Self::Halted { probing, .. } = self {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests;
