use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use relaykit_pipeline_traits::{Clock, InvalidSetting, NoRecorder, Recorder, Rng, SystemClock};
use relaykit_sql_store::StoreError;
use tracing::{debug, warn};

use crate::archive::Archive;
use crate::metrics;

/// The most days that are made ahead.
const MAX_AHEAD: u16 = 60;

/// The most days that are kept: ten years.
const MAX_KEPT: u16 = 3_660;

/// The most rows that one transaction moves or deletes.
const MAX_CHUNK: u32 = 5_000;

/// How long others have the database to themselves between two transactions that delete.
const PAUSE: Duration = Duration::from_millis(10);

/// How often an archive is asked to delete more before it is left for the next time.
const MAX_ROUNDS: u32 = 10_000;

/// Keeps an archive's days: makes those to come, drops those that are past, now and then.
///
/// Run it in one process or in all; they wait for each other. Days are those of UTC, by the store's clock. If it never runs, messages
/// are still sent and archived, and none is dropped.
///
/// ```
/// # use relaykit_outbox::{Archive, Retention};
/// # use relaykit_pipeline_traits::InvalidSetting;
/// # fn keep_a_month<A: Archive>(archive: A) -> Result<Retention<A>, InvalidSetting> {
/// Retention::builder(archive).days_kept(30).build()
/// # }
/// ```
#[must_use = "it does nothing until it runs"]
pub struct Retention<A> {
    name: String,
    archive: A,
    upkeep: Upkeep,
    period: Duration,
    clock: Arc<dyn Clock>,
    rng: Mutex<Rng>,
    recorder: Arc<dyn Recorder>,
    observer: Option<Observer>,
}

type Observer = Arc<dyn Fn(&Result<Maintained, StoreError>) + Send + Sync>;

/// How an archive is kept: the settings of a [`Retention`], for archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upkeep {
    /// How many days have a partition beforehand, today among them.
    pub days_ahead: u16,
    /// How many days before today are kept.
    pub days_kept: u16,
    /// How many rows a transaction moves or deletes at most.
    pub chunk: u32,
    /// How long a change of the tables waits for others, and others behind it.
    pub lock_timeout: Duration,
}

/// What was done to keep an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Maintained {
    /// Days that got a partition.
    pub made: u32,
    /// Partitions that were dropped, with all that was in them.
    pub dropped: u32,
    /// Messages that were moved from the default partition to that of their day.
    pub moved: u64,
    /// Messages that were deleted one by one, since their day had no partition.
    pub deleted: u64,
    /// Messages that are in the default partition now, counted up to 100,000.
    pub in_default: u64,
    /// Steps that were put off, since other transactions were in the way. They are done the next time.
    pub postponed: u32,
    /// Whether more is left to be deleted: ask again.
    pub more: bool,
}

impl Maintained {
    /// Adds what was done next.
    fn then(self, next: Self) -> Self {
        Self {
            made: self.made + next.made,
            dropped: self.dropped + next.dropped,
            moved: self.moved + next.moved,
            deleted: self.deleted + next.deleted,
            ..next
        }
    }
}

/// Builds a [`Retention`].
#[must_use = "it is made by `build`"]
pub struct RetentionBuilder<A> {
    retention: Retention<A>,
}

impl<A: Archive> Retention<A> {
    /// Begins to keep an archive.
    pub fn builder(archive: A) -> RetentionBuilder<A> {
        RetentionBuilder {
            retention: Self {
                name: "outbox".to_owned(),
                archive,
                upkeep: Upkeep {
                    days_ahead: 3,
                    days_kept: 7,
                    chunk: 1_000,
                    lock_timeout: Duration::from_millis(100),
                },
                period: Duration::from_secs(3600),
                clock: Arc::new(SystemClock::new()),
                rng: Mutex::new(Rng::from_entropy()),
                recorder: Arc::new(NoRecorder),
                observer: None,
            },
        }
    }

    /// Returns the archive.
    pub const fn archive(&self) -> &A {
        &self.archive
    }

    /// Keeps the archive until `shutdown` ends: at once, and then once each period, less up to a quarter of chance. What fails is
    /// told, and tried again the next time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each step is done as a whole or not at all.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let mut shutdown = pin!(shutdown);
        loop {
            let round = pin!(async {
                // Whoever is to be told has been.
                let _ = self.run_once().await;
                self.clock.sleep(self.wait()).await;
            });
            if let Either::Right(_) = select(round, shutdown.as_mut()).await {
                return;
            }
        }
    }

    /// Makes the days to come and drops those that are past, once.
    ///
    /// That others were in the way is no error, but in the answer. All that is not mentioned there was done.
    ///
    /// # Errors
    ///
    /// Every variant of [`StoreError`]. What came before was done.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: each step is done as a whole or not at all.
    pub async fn run_once(&self) -> Result<Maintained, StoreError> {
        let result = self.rounds().await;
        let (name, outcome) = (self.name.as_str(), outcome(&result));
        self.recorder.add(&metrics::ARCHIVE_PASSES, &[name, outcome], 1);
        match &result {
            Ok(done) => {
                #[expect(clippy::cast_precision_loss, reason = "it is at most 100,000")]
                self.recorder.set(&metrics::ARCHIVE_DEFAULT, &[name], done.in_default as f64);
                if done.postponed > 0 {
                    warn!(
                        outbox = name,
                        postponed = done.postponed,
                        "other transactions keep the archive from being maintained"
                    );
                } else {
                    debug!(
                        outbox = name,
                        made = done.made,
                        dropped = done.dropped,
                        moved = done.moved,
                        deleted = done.deleted,
                        "archive is maintained"
                    );
                }
            }
            Err(error) => warn!(
                outbox = name,
                error = error as &dyn std::error::Error,
                "archive could not be maintained"
            ),
        }
        if let Some(observer) = &self.observer {
            observer(&result);
        }
        result
    }

    async fn rounds(&self) -> Result<Maintained, StoreError> {
        let mut sum = self.archive.maintain(&self.upkeep).await?;
        for _ in 1..MAX_ROUNDS {
            if !sum.more {
                break;
            }
            self.clock.sleep(PAUSE).await;
            sum = sum.then(self.archive.maintain(&self.upkeep).await?);
        }
        Ok(sum)
    }

    fn wait(&self) -> Duration {
        let chance = self.rng.lock().unwrap_or_else(PoisonError::into_inner).unit();
        self.period.mul_f64(1.0 - chance / 4.0)
    }
}

fn outcome(result: &Result<Maintained, StoreError>) -> &'static str {
    match result {
        Ok(done) if done.postponed == 0 => "done",
        Ok(_) => "postponed",
        Err(_) => "failed",
    }
}

/// Tells whether a step may be left for the next time: others were in the way. If it was done after all, the next time sees that.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) const fn is_busy(error: &StoreError) -> bool {
    matches!(error, StoreError::Conflict { .. } | StoreError::Timeout { .. })
}

impl<A: Archive> RetentionBuilder<A> {
    /// Sets the name, a label of every metric. Default: `outbox`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.retention.name = name.into();
        self
    }

    /// Sets how many days before today are kept. Default: 7. At most 3,660; 0 keeps today's messages only.
    pub const fn days_kept(mut self, days: u16) -> Self {
        self.retention.upkeep.days_kept = days;
        self
    }

    /// Sets how many days have a partition beforehand, today among them. Default: 3. From 1 to 60. On SQLite, which has no
    /// partitions, it changes nothing.
    pub const fn days_ahead(mut self, days: u16) -> Self {
        self.retention.upkeep.days_ahead = days;
        self
    }

    /// Sets how many rows one transaction moves or deletes at most. Default: 1,000. From 1 to 5,000.
    ///
    /// A day with more rows than that in the default partition gets none of its own: they stay there until they are past.
    pub const fn chunk(mut self, rows: u32) -> Self {
        self.retention.upkeep.chunk = rows;
        self
    }

    /// Sets how long a change of the tables waits for the locks of others. Default: 100 ms. From 1 ms to 5 s. It is tried five
    /// times, and then put off to the next time. On SQLite it changes nothing.
    ///
    /// So long do settlements wait that come while it waits.
    pub const fn lock_timeout(mut self, limit: Duration) -> Self {
        self.retention.upkeep.lock_timeout = limit;
        self
    }

    /// Sets how often [`run`](Retention::run) looks. Default: 1 h. From 1 s to 24 h.
    pub const fn period(mut self, period: Duration) -> Self {
        self.retention.period = period;
        self
    }

    /// Sets where its numbers go. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.retention.recorder = recorder;
        self
    }

    /// Sets who is told how each time went. Must not block. Default: nobody.
    pub fn on_pass(
        mut self,
        observer: impl Fn(&Result<Maintained, StoreError>) + Send + Sync + 'static,
    ) -> Self {
        self.retention.observer = Some(Arc::new(observer));
        self
    }

    /// Sets the clock of the period. Default: the machine's. What is past, the store's clock says.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.retention.clock = Arc::new(clock);
        self
    }

    /// Sets where jitter comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.retention.rng = Mutex::new(rng);
        self
    }

    /// Makes it.
    ///
    /// # Errors
    ///
    /// A setting is out of bounds.
    pub fn build(self) -> Result<Retention<A>, InvalidSetting> {
        let Retention { upkeep, period, .. } = &self.retention;
        let out =
            |field, value: &dyn fmt::Display, bound: &str| Err(InvalidSetting::new(field, value, bound));
        if upkeep.days_ahead == 0 || upkeep.days_ahead > MAX_AHEAD {
            return out("days_ahead", &upkeep.days_ahead, "from 1 to 60");
        }
        if upkeep.days_kept > MAX_KEPT {
            return out("days_kept", &upkeep.days_kept, "at most 3660");
        }
        if upkeep.chunk == 0 || upkeep.chunk > MAX_CHUNK {
            return out("chunk", &upkeep.chunk, "from 1 to 5000");
        }
        if upkeep.lock_timeout < Duration::from_millis(1) || upkeep.lock_timeout > Duration::from_secs(5) {
            return out("lock_timeout", &format_args!("{:?}", upkeep.lock_timeout), "from 1 ms to 5 s");
        }
        if *period < Duration::from_secs(1) || *period > Duration::from_secs(24 * 3600) {
            return out("period", &format_args!("{period:?}"), "from 1 s to 24 h");
        }
        Ok(self.retention)
    }
}

impl<A> fmt::Debug for Retention<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retention")
            .field("name", &self.name)
            .field("upkeep", &self.upkeep)
            .field("period", &self.period)
            .finish_non_exhaustive()
    }
}

impl<A> fmt::Debug for RetentionBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.retention.fmt(f)
    }
}

#[cfg(test)]
mod tests;
