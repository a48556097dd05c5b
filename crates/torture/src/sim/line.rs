use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::Clock as _;
use relaykit_sql_store::StoreError;

use super::clock::NodeClock;
use super::trace::{Life, What};
use super::world::{Side, World};

/// The line from a process to what is elsewhere: calls take time, fail on the way there or back, and arrive late.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) world: Arc<World>,
    pub(super) clock: NodeClock,
    /// The process; `None` for producers.
    pub(super) life: Option<Life>,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Before,
    After,
    Late,
}

/// The call that commits what a handler wrote. It is not done late: the rows that it locks keep what comes later waiting.
pub(super) const HANDLE: &str = "handle";

/// How long a call takes that is slow, at most.
const SLOW: Duration = Duration::from_secs(8);

/// How late something is done at most that is done late.
pub(super) const LATEST: Duration = Duration::from_secs(32);

impl Line {
    /// Waits for as long as a message takes: often not at all, now and then for long.
    pub(super) async fn pass(&self, slow: f64) {
        let wait = if self.world.goes_wrong(slow) {
            self.world.wait(SLOW)
        } else if self.world.chance(0.4) {
            self.world.wait(Duration::from_millis(20))
        } else {
            Duration::ZERO
        };
        if wait.is_zero() {
            self.clock.thaw().await;
        } else {
            self.clock.sleep(wait).await;
        }
    }

    fn fault(&self) -> Fault {
        let rates = self.world.menu.stores;
        for (rate, fault) in
            [(rates.before, Fault::Before), (rates.after, Fault::After), (rates.late, Fault::Late)]
        {
            if self.world.goes_wrong(rate) {
                return fault;
            }
        }
        Fault::None
    }

    /// Calls a database.
    pub(super) async fn call<T, F>(&self, side: Side, op: &'static str, effect: F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
        T: Send + 'static,
    {
        let slow = self.world.menu.stores.slow;
        let fault = self.fault();
        self.pass(slow).await;
        if self.world.is_down(side) {
            self.note(op, "down");
            return Err(StoreError::Unavailable { op, source: "down".into() });
        }
        match fault {
            Fault::None => {}
            Fault::Before => {
                self.note(op, "before");
                return Err(StoreError::Unavailable { op, source: "lost on the way there".into() });
            }
            Fault::After | Fault::Late if fault == Fault::After || op == HANDLE => {
                let done = effect.await;
                self.note(op, "after");
                self.pass(slow).await;
                done?;
                return Err(StoreError::CommitUnknown { op, source: "lost on the way back".into() });
            }
            Fault::After | Fault::Late => {
                self.note(op, "late");
                let (time, wait) = (self.world.time.clone(), self.world.wait(LATEST));
                tokio::spawn(async move {
                    time.sleep(wait).await;
                    drop(effect.await);
                });
                let limit = self.world.wait(SLOW);
                self.clock.sleep(limit).await;
                return Err(StoreError::Timeout { op, limit });
            }
        }
        let done = effect.await;
        self.pass(slow).await;
        done
    }

    fn note(&self, op: &'static str, fault: &'static str) {
        self.world.note(self.life, What::Fault { op, fault });
    }
}
