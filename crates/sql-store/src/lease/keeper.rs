use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, Monotonic, Rng};
use tracing::{debug, warn};

use super::leases::{Leases, Shared};
use super::plan::plan;
use super::store::{Instance, Lease, LeaseStore, View};
use crate::race::{first, within};
use crate::torture::crash_point;
use crate::{Shard, StoreError, error_chain};

/// Holds an instance's fair share of the shards: renews its leases, takes what is free, gives back what exceeds the
/// share.
///
/// [`leases`](Self::leases) shows what it holds to those who work on the shards. Exactly one of
/// [`run`](Self::run) and [`run_once`](Self::run_once) is called at a time.
#[derive(Debug)]
pub struct LeaseKeeper<S> {
    store: S,
    instance: Instance,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    rng: Mutex<Rng>,
    lease: Duration,
    margin: Duration,
    drain: Duration,
}

/// Builds a [`LeaseKeeper`].
#[derive(Debug)]
#[must_use = "a keeper is made by `build`"]
pub struct KeeperBuilder<S> {
    store: S,
    clock: Arc<dyn Clock>,
    rng: Rng,
    instance: Option<Instance>,
    lease: Duration,
    margin: Option<Duration>,
    drain: Duration,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lock().fmt(f)
    }
}

impl<S: LeaseStore> LeaseKeeper<S> {
    /// Begins a keeper of leases in `store`.
    pub fn builder(store: S, clock: impl Clock) -> KeeperBuilder<S> {
        KeeperBuilder {
            store,
            clock: Arc::new(clock),
            rng: Rng::from_entropy(),
            instance: None,
            lease: Duration::from_secs(30),
            margin: None,
            drain: Duration::from_secs(30),
        }
    }

    /// Returns the leases that are held.
    #[must_use]
    pub fn leases(&self) -> Leases {
        Leases::new(Arc::clone(&self.shared))
    }

    /// Returns the instance that holds them.
    #[must_use]
    pub const fn instance(&self) -> Instance {
        self.instance
    }

    /// Keeps leases until `shutdown` ends, then [`stop`](Self::stop)s. Returns the shards that could not be given
    /// back.
    ///
    /// It renews three times in a lease. After a failure it tries again sooner.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped run gives nothing back, and the leases run out.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) -> usize {
        let mut shutdown = pin!(shutdown);
        loop {
            let wait = match self.run_once().await {
                Ok(()) => self.interval(),
                Err(error) => {
                    warn!(instance = %self.instance, error = error_chain(&error), "could not keep leases");
                    self.interval() / 4
                }
            };
            let until = self.clock.monotonic() + self.jittered(wait);
            if first(self.give_back_until(until), shutdown.as_mut()).await.is_none() {
                return self.stop().await;
            }
        }
    }

    /// Renews the leases once, and takes and gives back what the fair share asks for.
    ///
    /// # Errors
    ///
    /// The store failed. What is held stays held until it runs out.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the next call learns what became of this one.
    pub async fn run_once(&self) -> Result<(), StoreError> {
        let view = self.heartbeat().await?;
        let (mine, free) = {
            let held = self.shared.lock();
            let stale: Vec<_> = held.stale().collect();
            let free: Vec<_> = view.free.iter().copied().filter(|shard| !stale.contains(shard)).collect();
            (held.by_preference(), free)
        };
        let plan = plan(&mine, &free, view.membership.share(view.shards));
        self.retire(&plan.give_back);
        self.give_back().await?;
        if !plan.take.is_empty() {
            let began = self.clock.monotonic();
            let taken =
                self.bounded("take leases", self.store.take(self.instance, self.lease, &plan.take)).await?;
            crash_point("lease.taken");
            // The take follows within a part of a lease, so what was given back then was not held and left since.
            let inherited = taken.iter().filter(|lease| view.expired.contains(&lease.shard)).count();
            debug!(instance = %self.instance, shards = taken.len(), inherited, "took leases");
            self.shared.lock().add(&taken, self.held_until(began), &view.expired);
            self.changed(&taken);
        }
        Ok(())
    }

    /// Begins no new work, gives each shard back as soon as the work on it has ended, and leaves. Leases are renewed
    /// meanwhile. Returns how many shards were not given back in time; they run out by themselves.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not given back runs out.
    pub async fn stop(&self) -> usize {
        let end = self.clock.monotonic() + self.drain;
        loop {
            self.shared.lock().retire_all();
            self.shared.renewals.notify_waiters();
            if let Err(error) = self.give_back().await {
                warn!(instance = %self.instance, error = error_chain(&error), "could not give leases back");
            }
            let now = self.clock.monotonic();
            if self.shared.lock().len() == 0 || now >= end {
                break;
            }
            let next = (now + self.interval()).min(end);
            self.wait_idle_until(next).await;
            if self.clock.monotonic() >= next {
                // Truth about calls in doubt comes with it, and shards that are still worked on are kept.
                if let Err(error) = self.heartbeat().await {
                    warn!(instance = %self.instance, error = error_chain(&error), "could not keep leases");
                }
            }
        }
        if let Err(error) = self.bounded("leave", self.store.leave(self.instance)).await {
            warn!(instance = %self.instance, error = error_chain(&error), "could not leave");
        }
        self.shared.lock().len()
    }

    async fn heartbeat(&self) -> Result<View, StoreError> {
        let began = self.clock.monotonic();
        let view = self.bounded("renew leases", self.store.heartbeat(self.instance, self.lease)).await?;
        crash_point("lease.renewed");
        let before = self.leases().held();
        let until = self.held_until(began);
        self.shared.lock().renew(&view.held, until, self.clock.monotonic());
        self.shared.renewals.notify_waiters();
        if before != self.leases().held() {
            self.changed(&view.held);
        }
        Ok(view)
    }

    /// Retires these shards, and tells work on them that waits.
    fn retire(&self, shards: &[Shard]) {
        self.shared.lock().retire(shards);
        if !shards.is_empty() {
            self.shared.renewals.notify_waiters();
        }
    }

    /// Gives back what can be given back now.
    async fn give_back(&self) -> Result<(), StoreError> {
        let leases = self.shared.lock().give_back();
        if leases.is_empty() {
            return Ok(());
        }
        self.bounded("give leases back", self.store.give_back(self.instance, &leases)).await?;
        crash_point("lease.given_back");
        debug!(instance = %self.instance, shards = leases.len(), "gave leases back");
        self.shared.lock().forget(&leases);
        self.changed(&leases);
        Ok(())
    }

    /// Waits until `until`, giving back meanwhile what becomes idle.
    async fn give_back_until(&self, until: Monotonic) {
        while self.wait_idle_until(until).await {
            if let Err(error) = self.give_back().await {
                warn!(instance = %self.instance, error = error_chain(&error), "could not give leases back");
            }
        }
    }

    /// Waits until work on a retiring shard has ended; tells whether that came before `until`.
    async fn wait_idle_until(&self, until: Monotonic) -> bool {
        first(self.shared.idle.notified(), self.clock.sleep_until(until)).await.is_some()
    }

    /// Bounds a call: after this long, the next heartbeat matters more than its answer.
    async fn bounded<T>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.interval();
        within(&*self.clock, limit, call).await.unwrap_or(Err(StoreError::Timeout { op, limit }))
    }

    /// Returns until when leases count that were asked for at `began`.
    fn held_until(&self, began: Monotonic) -> Monotonic {
        began + self.lease.saturating_sub(self.margin)
    }

    fn interval(&self) -> Duration {
        self.lease / 3
    }

    /// Shortens a wait by up to a tenth, so that instances that began together do not stay together.
    fn jittered(&self, wait: Duration) -> Duration {
        let unit = self.rng.lock().unwrap_or_else(PoisonError::into_inner).unit();
        wait.mul_f64(1.0 - unit / 10.0)
    }

    fn changed(&self, leases: &[Lease]) {
        if !leases.is_empty() {
            self.shared.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

impl<S: LeaseStore> KeeperBuilder<S> {
    /// Sets how long a lease lasts after its last renewal. Default: 30 s. At least 30 ms.
    ///
    /// So long do the shards of an instance that was killed wait for another one.
    pub const fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets how long before its end a lease no longer counts. Default: a tenth of the lease, at most half of it.
    ///
    /// It makes up for clocks that run at different speeds.
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = Some(margin);
        self
    }

    /// Sets how long a stop waits for work to end. Default: 30 s.
    pub const fn drain(mut self, drain: Duration) -> Self {
        self.drain = drain;
        self
    }

    /// Sets the instance. Default: a new one. It must never have been used before.
    pub const fn instance(mut self, instance: Instance) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Sets where jitter and the instance's id come from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Makes the keeper. It holds nothing until it runs.
    ///
    /// # Errors
    ///
    /// The lease is below 30 ms, or the margin above half of it.
    pub fn build(mut self) -> Result<LeaseKeeper<S>, InvalidSetting> {
        if self.lease < Duration::from_millis(30) {
            return Err(InvalidSetting::new("lease", format!("{:?}", self.lease), "at least 30 ms"));
        }
        let margin = self.margin.unwrap_or(self.lease / 10);
        if margin > self.lease / 2 {
            let bound = format!("at most half of the lease of {:?}", self.lease);
            return Err(InvalidSetting::new("margin", format!("{margin:?}"), bound));
        }
        let instance = self.instance.unwrap_or_else(|| Instance::new(self.clock.now(), &mut self.rng));
        Ok(LeaseKeeper {
            store: self.store,
            instance,
            shared: Shared::new(Arc::clone(&self.clock)),
            clock: self.clock,
            rng: Mutex::new(self.rng),
            lease: self.lease,
            margin,
            drain: self.drain,
        })
    }
}

#[cfg(test)]
mod tests;
