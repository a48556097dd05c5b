use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::Clock;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::held::Held;
use super::store::Lease;
use crate::Shard;

/// The leases that a [`LeaseKeeper`](super::LeaseKeeper) holds, for those who work under them. Copies share them.
///
/// A lease counts as held from the answer that gave it until a margin before the store lets it run out, measured from
/// before the request; so two instances never hold one shard, as long as their clocks run equally fast. Where they
/// do not, the token tells: settle under it ([`FENCE`](crate::FENCE)).
#[derive(Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    held: Mutex<Held>,
    clock: Arc<dyn Clock>,
    /// Counts the changes of what is held.
    pub(super) changes: watch::Sender<u64>,
    /// Tells work that waits for its time that leases were renewed, or are to be given back, or were lost. Whoever waits longest is woken
    /// first, so that a run with a seed repeats itself.
    pub(super) renewals: Notify,
    /// Tells the keeper that a shard can be given back.
    pub(super) idle: Notify,
}

impl Shared {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::default(),
            clock,
            changes: watch::Sender::new(0),
            renewals: Notify::new(),
            idle: Notify::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Returns the leases under which work may begin now, in the order of their shards.
    #[must_use]
    pub fn held(&self) -> Vec<Lease> {
        let now = self.shared.clock.monotonic();
        self.shared.lock().usable(now).map(|(lease, _)| lease).collect()
    }

    /// Returns how long the shard is still ours; zero if it is not.
    #[must_use]
    pub fn remaining(&self, shard: Shard) -> Duration {
        let now = self.shared.clock.monotonic();
        let held = self.shared.lock();
        let lease = held.usable(now).find(|(lease, _)| lease.shard == shard);
        lease.map_or(Duration::ZERO, |(_, remaining)| remaining)
    }

    /// Returns the token under which the shard is ours, if it is.
    #[must_use]
    pub fn token(&self, shard: Shard) -> Option<i64> {
        let now = self.shared.clock.monotonic();
        let held = self.shared.lock();
        held.usable(now).find(|(lease, _)| lease.shard == shard).map(|(lease, _)| lease.token)
    }

    /// Returns whether the shard was inherited: its last owner did not give it back, but let its lease run out, so it may have
    /// died, with work on the shard under way. Also if nobody knows. `false` if the lease is not held.
    #[must_use]
    pub fn is_inherited(&self, lease: Lease) -> bool {
        self.shared.lock().is_inherited(lease)
    }

    /// Begins work on a shard. The shard is not given back to others until the permit is dropped.
    ///
    /// `None` if it is not ours, is about to be given back, or earlier work of ours that lost its lease has not ended.
    #[must_use]
    pub fn enter(&self, shard: Shard) -> Option<Permit> {
        let now = self.shared.clock.monotonic();
        let lease = self.shared.lock().enter(shard, now)?;
        Some(Permit { shared: Arc::clone(&self.shared), lease })
    }

    /// Returns a channel that changes whenever shards come or go.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leases").field("held", &self.held()).finish()
    }
}

/// The leave to work on a shard; given back when it is dropped.
#[must_use = "work on the shard has ended once this is dropped"]
pub struct Permit {
    shared: Arc<Shared>,
    lease: Lease,
}

impl Permit {
    /// Returns the shard.
    #[must_use]
    pub const fn shard(&self) -> Shard {
        self.lease.shard
    }

    /// Returns the lease.
    #[must_use]
    pub const fn lease(&self) -> Lease {
        self.lease
    }

    /// Returns the token under which the work settles.
    #[must_use]
    pub const fn token(&self) -> i64 {
        self.lease.token
    }

    /// Returns how long the lease still counts, as renewed meanwhile; zero if it is lost. No send may take longer.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        let now = self.shared.clock.monotonic();
        self.shared.lock().remaining(self.lease, now)
    }

    /// Takes note that the lease is another's, as the store said: nothing more begins under it, whatever the clock says. After a machine was
    /// suspended its clock may have missed that.
    pub fn lose(&self) {
        let lost = self.shared.lock().lose(self.lease);
        if lost {
            self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
            self.shared.renewals.notify_waiters();
        }
    }

    /// Returns whether the shard is given back as soon as the work on it has ended.
    pub(crate) fn is_retiring(&self) -> bool {
        self.shared.lock().is_retiring(self.lease)
    }

    /// Waits until leases are renewed, or are to be given back, or are lost.
    pub(crate) fn renewal(&self) -> Notified<'_> {
        self.shared.renewals.notified()
    }

    /// Returns how long the leases counted when they were renewed last.
    pub(crate) fn given(&self) -> Duration {
        self.shared.lock().given()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.shared.lock().leave(self.lease) {
            self.shared.idle.notify_one();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("lease", &self.lease).finish_non_exhaustive()
    }
}
