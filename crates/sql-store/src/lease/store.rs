use std::fmt;
use std::time::Duration;

use relaykit_pipeline_traits::uuid::Uuid;
use relaykit_pipeline_traits::{MessageId, Rng, Timestamp};

use super::plan::Membership;
use crate::{Shard, StoreError};

/// One running relay or worker among those that share a store's shards. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instance(Uuid);

impl Instance {
    /// Makes a new instance.
    #[must_use]
    pub fn new(now: Timestamp, rng: &mut Rng) -> Self {
        Self(MessageId::new(now, rng).as_uuid())
    }

    /// Takes an id that was made elsewhere, such as the one that a table holds.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns the id.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The right to work on a shard, until somebody else gets a higher token for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The shard.
    pub shard: Shard,
    /// The fencing token. It grows whenever the shard changes its owner.
    pub token: i64,
}

/// What a heartbeat learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The leases that this instance holds, in the order of their shards. They have just been renewed.
    pub held: Vec<Lease>,
    /// The shards that nobody holds, in order.
    pub free: Vec<Shard>,
    /// Those of them whose last owner did not give them back: its lease ran out.
    pub expired: Vec<Shard>,
    /// The instances that are alive.
    pub membership: Membership,
    /// How many shards there are.
    pub shards: u16,
}

/// Where leases are kept.
///
/// The store's own clock decides; a lease lasts from a moment between the request and its answer. For every store:
///
/// - a shard has one owner at a time, and [`take`](Self::take) gives only what is free or has expired;
/// - each `take` of a shard gives a higher token than all before;
/// - [`heartbeat`](Self::heartbeat) renews what the instance owns, even if it had expired, unless somebody has taken
///   it;
/// - calls may take effect although they failed, and late.
pub trait LeaseStore: Send + Sync + 'static {
    /// Says that the instance is alive for another `lease`, renews its leases for as long, and looks around.
    fn heartbeat(
        &self,
        instance: Instance,
        lease: Duration,
    ) -> impl Future<Output = Result<View, StoreError>> + Send;

    /// Takes those of the shards that are free or have expired.
    fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> impl Future<Output = Result<Vec<Lease>, StoreError>> + Send;

    /// Gives leases back that the instance holds, so that others can take them at once.
    fn give_back(
        &self,
        instance: Instance,
        leases: &[Lease],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Says that the instance is gone. Leases that it still holds run out by themselves.
    fn leave(&self, instance: Instance) -> impl Future<Output = Result<(), StoreError>> + Send;
}
