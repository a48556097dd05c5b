use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock, InvalidSetting, NoRecorder, Recorder, Rng, SystemClock};
use relaykit_sql_store::{StoreError, error_chain};

use crate::metrics;
use crate::retention::{Erased, Retention};
use crate::store::InboxStore;

/// Erases what is past its time, in small steps, again and again.
///
/// Nothing is erased unless one runs. Any number may run beside each other.
pub struct Cleaner<S> {
    store: S,
    retention: Retention,
    clock: Arc<dyn Clock>,
    rng: Rng,
    recorder: Arc<dyn Recorder>,
    name: String,
    every: Duration,
    chunk: u32,
}

/// How long a step rests, for what others want of the store.
const REST: Duration = Duration::from_millis(50);

impl<S: InboxStore> Cleaner<S> {
    /// Makes a cleaner. `longest_retry` is the longest time after which a sender repeats a message: ids are remembered longer.
    ///
    /// # Errors
    ///
    /// Ids would be forgotten too early.
    pub fn new(store: S, retention: Retention, longest_retry: Duration) -> Result<Self, InvalidSetting> {
        retention.check(longest_retry)?;
        Ok(Self {
            store,
            retention,
            clock: Arc::new(SystemClock::new()),
            rng: Rng::from_entropy(),
            recorder: Arc::new(NoRecorder),
            name: "inbox".to_owned(),
            every: Duration::from_secs(60 * 60),
            chunk: 1_000,
        })
    }

    /// Sets the name, a label of every metric. Default: `inbox`.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets how often it looks, give or take a tenth. Default: every hour. At least a second.
    ///
    /// # Errors
    ///
    /// It is less.
    pub fn every(mut self, every: Duration) -> Result<Self, InvalidSetting> {
        if every < Duration::from_secs(1) {
            return Err(InvalidSetting::new("every", format!("{every:?}"), "at least 1 s"));
        }
        self.every = every;
        Ok(self)
    }

    /// Sets the clock. Default: the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets where jitter comes from. Default: a seed of its own.
    #[must_use]
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Sets where its numbers go. Default: nowhere.
    #[must_use]
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Erases all that is past its time now, at most 1,000 of each sort in a transaction.
    ///
    /// # Errors
    ///
    /// The store failed. What was erased before stays erased.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the step on its way is done as a whole, or not at all.
    pub async fn run_once(&self) -> Result<Erased, StoreError> {
        let mut erased = Erased::default();
        loop {
            let step = self.store.erase(&self.retention, self.chunk).await?;
            erased.add(step);
            for (sort, count) in [("payloads", step.payloads), ("dead", step.dead), ("ids", step.ids)] {
                if count > 0 {
                    self.recorder.add(&metrics::ERASED, &[&self.name, sort], count);
                }
            }
            if step.most() < u64::from(self.chunk) {
                return Ok(erased);
            }
            self.clock.sleep(REST).await;
        }
    }

    /// Erases at once and then again and again, until `shutdown` ends. Returns what was erased. A store that fails is tried again
    /// the next time.
    ///
    /// # Cancel safety
    ///
    /// As [`run_once`](Self::run_once).
    pub async fn run(&mut self, shutdown: impl Future<Output = ()>) -> Erased {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut erased = Erased::default();
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return erased,
                step = self.run_once() => match step {
                    Ok(step) => erased.add(step),
                    Err(error) => {
                        let error = error_chain(&error);
                        tracing::warn!(inbox = self.name, error, "could not erase what is past its time");
                    }
                },
            }
            let wait = self.every.mul_f64(0.9 + self.rng.unit() / 5.0);
            tokio::select! {
                biased;
                () = &mut shutdown => return erased,
                () = self.clock.sleep(wait) => {}
            }
        }
    }
}

impl<S> fmt::Debug for Cleaner<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaner")
            .field("name", &self.name)
            .field("retention", &self.retention)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{ManualClock, Message, MessageId, Timestamp};
    use relaykit_sql_store::Shards;

    use super::*;
    use crate::memory::MemoryInbox;
    use crate::name::{HandlerKey, Scope};
    use crate::routes::{Route, Routes};

    const HOUR: Duration = Duration::from_secs(3600);

    /// Receives so many messages that one handler is done with.
    async fn finished(clock: &ManualClock, count: u64) -> MemoryInbox {
        let store = MemoryInbox::new(Shards::new(1).unwrap(), clock.clone());
        let handler = HandlerKey::new("h").unwrap();
        let mut routes = Routes::new();
        routes.add("push", Route { handler: handler.clone(), ordered: false }).unwrap();
        let (at, scope) = (Timestamp::from_millis(1), Scope::new("github").unwrap());
        for seed in 0..count {
            let message = Message::builder(MessageId::new(at, &mut Rng::seeded(seed)), "push", at);
            store.receive(&scope, &[message.build().unwrap()], &routes).await.unwrap();
        }
        store.finish_all();
        store
    }

    #[tokio::test]
    async fn all_that_is_past_its_time_is_erased_step_by_step() {
        let clock = ManualClock::new();
        let store = finished(&clock, 5).await;
        clock.advance(HOUR);
        let retention = Retention::default().payloads(Some(HOUR / 2));
        let cleaner =
            Cleaner { chunk: 2, ..Cleaner::new(store, retention, HOUR).unwrap() }.clock(clock.clone());
        let rests = async {
            loop {
                clock.advance_to_next_sleeper();
                tokio::task::yield_now().await;
            }
        };
        let erased = tokio::select! {
            erased = cleaner.run_once() => erased.unwrap(),
            () = rests => unreachable!("it goes on for ever"),
        };
        assert_eq!(erased, Erased { payloads: 5, ..Erased::default() });
    }
}
