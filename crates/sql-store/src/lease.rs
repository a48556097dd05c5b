mod held;
mod keeper;
mod leases;
mod memory;
mod plan;
mod store;

pub use keeper::{KeeperBuilder, LeaseKeeper};
pub use leases::{Leases, Permit};
pub use memory::MemoryLeaseStore;
pub use plan::{Membership, Plan, plan};
pub use store::{Instance, Lease, LeaseStore, View};
