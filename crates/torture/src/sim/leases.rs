use std::time::Duration;

use relaykit_sql_store::{Instance, Lease, LeaseStore, MemoryLeaseStore, Shard, StoreError, View};

use super::line::Line;
use super::trace::What;
use super::world::Side;

/// Leases at the other end of a line.
#[derive(Debug, Clone)]
pub(super) struct FarLeases {
    pub(super) inner: MemoryLeaseStore,
    pub(super) line: Line,
    pub(super) side: Side,
}

impl LeaseStore for FarLeases {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        let inner = self.inner.clone();
        let call = async move { inner.heartbeat(instance, lease).await };
        self.line.call(self.side, "renew leases", call).await
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        let (inner, shards, line) = (self.inner.clone(), shards.to_vec(), self.line.clone());
        let call = async move {
            let taken = inner.take(instance, lease, &shards).await?;
            line.world.note(line.life, What::Leases { op: "took", shards: numbers(&taken) });
            Ok(taken)
        };
        self.line.call(self.side, "take leases", call).await
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        let (inner, leases, line) = (self.inner.clone(), leases.to_vec(), self.line.clone());
        let call = async move {
            line.world.note(line.life, What::Leases { op: "gave back", shards: numbers(&leases) });
            inner.give_back(instance, &leases).await
        };
        self.line.call(self.side, "give leases back", call).await
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        self.line.call(self.side, "leave", async move { inner.leave(instance).await }).await
    }
}

fn numbers(leases: &[Lease]) -> Vec<(u16, i64)> {
    leases.iter().map(|lease| (lease.shard.number(), lease.token)).collect()
}
