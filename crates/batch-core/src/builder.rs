use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchHandler, Clock, FlushPolicy, InvalidSetting, NoRetry, Recorder, RetryPolicy, Rng, SystemClock,
};
use tokio::sync::{Semaphore, mpsc};

use crate::metrics::Meter;
use crate::processor::Processor;
use crate::responses::{Overflow, Responses};
use crate::shared::{Config, Shared, StreamEnd};

/// How items are tried that could not be judged in company.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Recovery {
    /// In halves, then halves of halves, one call after the other within the batch's place: about 2·log₂ n calls
    /// for one poison item among n. This is the default.
    #[default]
    Bisect,
    /// Each by itself, up to `concurrency` at once over the whole processor, beside the batches.
    Individual {
        /// The most calls with a single item at once. At least 1.
        concurrency: usize,
    },
    /// Not at all: they are answered with [`Cause::NotIsolated`](crate::Cause::NotIsolated).
    Off,
}

/// Builds a [`Processor`]; made by [`Processor::builder`].
#[must_use = "a processor is made by `build`"]
pub struct Builder<T, H> {
    handler: H,
    flush: FlushPolicy,
    capacity: usize,
    capacity_bytes: Option<usize>,
    concurrency: usize,
    timeout: Duration,
    retry: Arc<dyn RetryPolicy>,
    recovery: Recovery,
    weigh: Option<WeightOf<T>>,
    key: Option<KeyOf<T>>,
    clock: Arc<dyn Clock>,
    rng: Rng,
    name: String,
    recorder: Option<Arc<dyn Recorder>>,
}

/// Weighs an item, in bytes.
pub(crate) type WeightOf<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// Hashes an item's ordering key, for items that have one.
pub(crate) type KeyOf<T> = Arc<dyn Fn(&T) -> Option<NonZeroU64> + Send + Sync>;

impl<T, H> Builder<T, H>
where
    T: Send + Sync + 'static,
    H: BatchHandler<T> + 'static,
    H::Output: 'static,
    H::Error: Sync + 'static,
{
    pub(crate) fn new(handler: H) -> Self {
        Self {
            handler,
            flush: FlushPolicy::default(),
            capacity: 2_000,
            capacity_bytes: None,
            concurrency: 8,
            timeout: Duration::from_secs(30),
            retry: Arc::new(NoRetry),
            recovery: Recovery::default(),
            weigh: None,
            key: None,
            clock: Arc::new(SystemClock::new()),
            rng: Rng::from_entropy(),
            name: "default".to_owned(),
            recorder: None,
        }
    }

    /// Sets the most items of a batch, a hard limit. Default: 100. At least 1.
    pub fn max_items(mut self, items: usize) -> Self {
        self.flush.max_items = items;
        self
    }

    /// Sets the most bytes of a batch, a hard limit, and what weighs an item. Default: no limit. At least 1.
    ///
    /// An item that alone weighs more is refused with [`TooLarge`](crate::RejectReason::TooLarge).
    pub fn max_bytes(mut self, bytes: usize, weigh: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        self.flush.max_bytes = Some(bytes);
        self.weigh = Some(Arc::new(weigh));
        self
    }

    /// Sets how long a batch waits for more after its first item. Default: 5 s.
    ///
    /// [`Duration::ZERO`]: a free worker takes what is there at once, and items gather only while all workers are
    /// busy. [`Duration::MAX`]: a batch goes only when it is full, or by [`flush`](Processor::flush) or stop.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.flush.linger = linger;
        self
    }

    /// Sets how many items are held that no worker has taken yet; whoever adds more waits. Default: 2,000.
    /// At least [`max_items`](Self::max_items).
    pub fn capacity(mut self, items: usize) -> Self {
        self.capacity = items;
        self
    }

    /// Sets how many bytes are held that no worker has taken yet; whoever adds more waits. Default: no limit.
    ///
    /// Needs [`max_bytes`](Self::max_bytes), which weighs the items, and is at least as much and at most 4 GiB; at
    /// least twice as much if batches [`linger`](Self::linger) for ever.
    pub fn capacity_bytes(mut self, bytes: usize) -> Self {
        self.capacity_bytes = Some(bytes);
        self
    }

    /// Sets how many batches are worked on at once. Default: 8. From 1 to 10,000.
    ///
    /// 1 means strictly one after the other, retries included, in the order of adding. A batch that waits to be
    /// tried again keeps its place.
    pub fn concurrency(mut self, batches: usize) -> Self {
        self.concurrency = batches;
        self
    }

    /// Sets how long one call of the handler may take. Default: 30 s. More than zero.
    ///
    /// The call is dropped then, and counts as a failed attempt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets when failed items are lent again. Default: never, so that the caller decides.
    pub fn retry(mut self, policy: impl RetryPolicy + 'static) -> Self {
        self.retry = Arc::new(policy);
        self
    }

    /// Sets how items are tried that could not be judged in company. Default: [`Recovery::Bisect`].
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// Keeps the items of one key in order: while one is unanswered, whether in a batch, with the handler or waiting
    /// to be tried again, later ones of its key wait. Default: no order. Items whose key is `None` are unordered.
    ///
    /// Keys are compared by a 64-bit hash; should two meet in one value, they wait for each other.
    pub fn order_by<K: Hash>(mut self, key: impl Fn(&T) -> Option<K> + Send + Sync + 'static) -> Self {
        let hasher = RandomState::new();
        self.key = Some(Arc::new(move |item| {
            let hash = hasher.hash_one(key(item)?);
            Some(NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN))
        }));
        self
    }

    /// Sets where the processor's numbers go, [`METRICS`](crate::METRICS). Default: nowhere.
    pub fn recorder(mut self, recorder: impl Recorder + 'static) -> Self {
        self.recorder = Some(Arc::new(recorder));
        self
    }

    /// Sets the value of the label `batcher`, which tells several processors' numbers apart. Default: `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Sets where time comes from. Default: the [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Sets where the retry policy's jitter comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.rng = rng;
        self
    }

    /// Checks the settings and makes a processor, which is stopped. Answers to items given to
    /// [`send`](Processor::send) are discarded.
    ///
    /// # Errors
    ///
    /// Refuses settings outside their bounds, and pairs of settings that contradict each other.
    pub fn build(self) -> Result<Processor<T, H>, InvalidSetting> {
        self.build_with(None)
    }

    /// Checks the settings and makes a processor, which is stopped, and the stream of the answers to items given to
    /// [`send`](Processor::send). It holds up to `capacity` of them, at least 1.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    #[expect(clippy::type_complexity, reason = "a pair, and an alias would hide what is in it")]
    pub fn build_with_responses(
        self,
        capacity: usize,
        overflow: Overflow,
    ) -> Result<(Processor<T, H>, Responses<T, H::Output, H::Error>), InvalidSetting> {
        if !(1..=Semaphore::MAX_PERMITS).contains(&capacity) {
            let bound = format!("from 1 to {}", Semaphore::MAX_PERMITS);
            return Err(InvalidSetting::new("responses", capacity, bound));
        }
        let (sender, receiver) = mpsc::channel(capacity);
        let processor = self.build_with(Some(StreamEnd { sender, overflow }))?;
        Ok((processor, Responses::new(receiver)))
    }

    fn build_with(
        self,
        stream: Option<StreamEnd<T, H::Output, H::Error>>,
    ) -> Result<Processor<T, H>, InvalidSetting> {
        self.check()?;
        let config = Config {
            flush: self.flush,
            capacity: self.capacity,
            capacity_bytes: self.capacity_bytes,
            concurrency: self.concurrency,
            timeout: self.timeout,
            retry: self.retry,
            recovery: self.recovery,
            weigh: self.weigh,
            key: self.key,
        };
        let meter = Meter::new(self.name, self.recorder);
        Ok(Processor::new(Shared::new(self.handler, config, stream, self.clock, self.rng, meter)))
    }

    fn check(&self) -> Result<(), InvalidSetting> {
        self.flush.check()?;
        let most = Semaphore::MAX_PERMITS;
        if self.capacity < self.flush.max_items || self.capacity > most {
            let bound = format!("from max_items, {}, to {most}", self.flush.max_items);
            return Err(InvalidSetting::new("capacity", self.capacity, bound));
        }
        if let Some(bytes) = self.capacity_bytes {
            let Some(max_bytes) = self.flush.max_bytes else {
                return Err(InvalidSetting::new(
                    "capacity_bytes",
                    bytes,
                    "unset without max_bytes, which weighs",
                ));
            };
            if self.flush.linger == Duration::MAX && bytes / 2 < max_bytes {
                // An open batch that never goes by itself could keep out every item that does not fit into it.
                let bound = format!("at least twice max_bytes, {max_bytes}, if batches linger for ever");
                return Err(InvalidSetting::new("capacity_bytes", bytes, bound));
            }
            if bytes < max_bytes || u32::try_from(bytes).is_err() {
                let bound = format!("from max_bytes, {max_bytes}, to {}", u32::MAX);
                return Err(InvalidSetting::new("capacity_bytes", bytes, bound));
            }
        }
        if !(1..=10_000).contains(&self.concurrency) {
            return Err(InvalidSetting::new("concurrency", self.concurrency, "from 1 to 10000"));
        }
        if self.timeout.is_zero() {
            return Err(InvalidSetting::new("timeout", "0 s", "more than zero"));
        }
        match self.recovery {
            Recovery::Individual { concurrency } if !(1..=10_000).contains(&concurrency) => {
                Err(InvalidSetting::new("recovery.concurrency", concurrency, "from 1 to 10000"))
            }
            _ => Ok(()),
        }
    }
}

impl<T, H> fmt::Debug for Builder<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("flush", &self.flush)
            .field("capacity", &self.capacity)
            .field("capacity_bytes", &self.capacity_bytes)
            .field("concurrency", &self.concurrency)
            .field("timeout", &self.timeout)
            .field("retry", &self.retry)
            .field("recovery", &self.recovery)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
