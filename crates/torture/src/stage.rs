pub(crate) mod backends;
pub(crate) mod kill;
pub(crate) mod ledger;
pub(crate) mod place;
pub(crate) mod restarts;
pub(crate) mod scene;
pub(crate) mod zombie;
