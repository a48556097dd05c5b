use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, Monotonic};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tracing::{debug, warn};

use super::pool::Guarded;
use crate::race::first;
use crate::{Names, Sql, StoreError, Wake};

/// The wait after the first connection that failed; it doubles up to [`MAX_WAIT`].
const MIN_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Returns the channel on which a store's hints go: short enough for Postgres, whatever the names are.
#[must_use]
pub fn channel(names: &Names) -> String {
    let digest = Sha256::digest(names.on_postgres().table("wake"));
    let tag = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("{}_{tag:08x}", names.prefix().as_str())
}

/// Hears the hints of other processes and passes them on as nudges. An option: polling finds everything, later.
///
/// It needs a connection of its own to the server itself: behind a pooler in transaction mode, nothing is heard.
#[derive(Debug)]
pub struct Listener {
    options: PgConnectOptions,
    channel: String,
    wake: Wake,
    clock: Arc<dyn Clock>,
}

impl Listener {
    /// Makes a listener to the hints of the store of these names.
    #[must_use]
    pub fn new(options: PgConnectOptions, names: &Names, wake: Wake, clock: impl Clock) -> Self {
        Self { options, channel: channel(names), wake, clock: Arc::new(clock) }
    }

    /// Listens until `shutdown` ends. It nudges for each hint, and each time that it has (re)connected, since hints
    /// may have been missed.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped run closes its connection.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let listen = async {
            let mut wait = MIN_WAIT;
            loop {
                match self.listen(&mut wait).await {
                    Ok(()) => debug!("the connection for hints was lost"),
                    Err(error) => warn!(%error, "cannot hear hints; polling goes on"),
                }
                self.clock.sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
        };
        let () = first(listen, pin!(shutdown)).await.unwrap_or_default();
    }

    async fn listen(&self, wait: &mut Duration) -> Result<(), sqlx::Error> {
        // A pool of one that is dropped with the connection, so that a broken one is never used again.
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.listen(&self.channel).await?;
        *wait = MIN_WAIT;
        self.wake.nudge();
        while listener.try_recv().await?.is_some() {
            self.wake.nudge();
        }
        Ok(())
    }
}

/// Sends hints to the listeners of other processes, at most one in an interval.
///
/// Send them after the commit, as here, in a transaction of their own: one in the producer's makes all
/// commits that carry one wait for each other.
#[derive(Debug, Clone)]
pub struct Notifier {
    pool: Guarded,
    channel: String,
    every: Duration,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The moment from which the next hint may go.
    next: Mutex<Monotonic>,
    /// Somebody waits for that moment already, and sends for all who come meanwhile.
    waiting: AtomicBool,
}

impl Notifier {
    /// Makes a notifier to the listeners of the store of these names, with at least `every` between its hints.
    #[must_use]
    pub fn new(pool: Guarded, names: &Names, every: Duration) -> Self {
        Self { pool, channel: channel(names), every, state: Arc::default() }
    }

    /// Sends a hint, now or as soon as the interval allows; tells whether it did, or left it to a call before it.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`] but those of a transaction. A hint that is not sent costs time only.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a hint that is dropped is not sent, and those that relied on it are found by polling.
    pub async fn notify(&self) -> Result<bool, StoreError> {
        if self.state.waiting.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        let waiting = Waiting(&self.state);
        let clock = self.pool.clock();
        let next = *self.state.next.lock().unwrap_or_else(PoisonError::into_inner);
        clock.sleep_until(next).await;
        *self.state.next.lock().unwrap_or_else(PoisonError::into_inner) = clock.monotonic() + self.every;
        // From here on, who has committed after this hint needs another one.
        drop(waiting);
        let channel = self.channel.clone();
        let notify = self.pool.statement(Sql::of_numbers(&[], &["select pg_catalog.pg_notify($1, '')"]));
        self.pool
            .run("send a hint", move |conn| {
                let (notify, channel) = (notify.clone(), channel.clone());
                Box::pin(async move {
                    notify.query().bind(channel).execute(conn).await?;
                    Ok(())
                })
            })
            .await?;
        Ok(true)
    }
}

struct Waiting<'a>(&'a State);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_fits_and_differs_between_schemas() {
        let long = Names::new("p".repeat(32)).unwrap().in_schema("s".repeat(48)).unwrap();
        assert!(channel(&long).len() < 64);
        let name = |schema| channel(&Names::new("outbox").unwrap().in_schema(schema).unwrap());
        assert_ne!(name("a"), name("b"));
        assert_eq!(name("public"), channel(&Names::new("outbox").unwrap()));
    }
}
