use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic};

use super::plan::Membership;
use super::store::{Instance, Lease, LeaseStore, View};
use crate::{Shard, Shards, StoreError};

/// A [`LeaseStore`] in memory, for tests and for instances within one process. Copies share it.
#[derive(Debug, Clone)]
pub struct MemoryLeaseStore {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct State {
    members: BTreeMap<Instance, Monotonic>,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Default)]
struct Row {
    owner: Option<Instance>,
    token: i64,
    until: Monotonic,
}

impl MemoryLeaseStore {
    /// Makes a store in which nobody holds anything.
    #[must_use]
    pub fn new(shards: Shards, clock: impl Clock) -> Self {
        let rows = vec![Row::default(); usize::from(shards.count())];
        Self { state: Arc::new(Mutex::new(State { members: BTreeMap::new(), rows })), clock: Arc::new(clock) }
    }

    /// Writes under leases: passes the shards whose token is stale, and lets none of the others change its owner meanwhile.
    pub fn fenced<T>(&self, leases: &[Lease], write: impl FnOnce(&[Shard]) -> T) -> T {
        let held = self.lock();
        let is_stale = |lease: &&Lease| {
            let row = held.rows.get(usize::from(lease.shard.number()));
            row.is_none_or(|row| row.token != lease.token)
        };
        let stale: Vec<Shard> = leases.iter().filter(is_stale).map(|lease| lease.shard).collect();
        write(&stale)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rows(&mut self) -> impl Iterator<Item = (Shard, &mut Row)> {
        (0..).map(Shard::new).zip(&mut self.rows)
    }
}

impl LeaseStore for MemoryLeaseStore {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        let now = self.clock.monotonic();
        let mut state = self.lock();
        state.members.retain(|_, until| *until >= now);
        state.members.insert(instance, now + lease);
        let membership = Membership {
            members: u32::try_from(state.members.len()).unwrap_or(u32::MAX),
            rank: u32::try_from(state.members.range(..instance).count()).unwrap_or(u32::MAX),
        };
        let (mut held, mut free, mut expired) = (Vec::new(), Vec::new(), Vec::new());
        for (shard, row) in state.rows() {
            if row.owner == Some(instance) {
                row.until = now + lease;
                held.push(Lease { shard, token: row.token });
            } else if row.owner.is_none() || row.until < now {
                free.push(shard);
                if row.owner.is_some() {
                    expired.push(shard);
                }
            }
        }
        let shards = u16::try_from(state.rows.len()).expect("Shards are counted in a u16");
        Ok(View { held, free, expired, membership, shards })
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        let now = self.clock.monotonic();
        let mut taken = Vec::new();
        for (shard, row) in self.lock().rows() {
            if shards.contains(&shard) && (row.owner.is_none() || row.until < now) {
                *row = Row { owner: Some(instance), token: row.token + 1, until: now + lease };
                taken.push(Lease { shard, token: row.token });
            }
        }
        Ok(taken)
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        for (shard, row) in self.lock().rows() {
            if row.owner == Some(instance) && leases.contains(&Lease { shard, token: row.token }) {
                row.owner = None;
            }
        }
        Ok(())
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        self.lock().members.remove(&instance);
        Ok(())
    }
}
