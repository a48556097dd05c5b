use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{
    BatchHandler, Buffer, Clock, Codec, FlushPolicy, InvalidSetting, Json, Recorder, RetryPolicy, Rng,
    SystemClock,
};
use relaykit_retry::{Backoff, Jitter, Policy};
use relaykit_sql_store::sqlite::{Durability, Location};

use crate::error::OpenError;
use crate::handler::{Plain, QueueHandler};
use crate::order::KeyOf;
use crate::queue::Queue;

/// What a push does when the queue holds as much as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for room. The default.
    #[default]
    Block,
    /// It is refused with [`RejectReason::Full`](crate::RejectReason::Full), and the item comes back.
    Reject,
    /// The oldest batch that no worker has is deleted to make room.
    DropOldest,
}

/// Makes the buffer of each batch.
pub(crate) type NewBuffer<T> = Arc<dyn Fn() -> Box<dyn Buffer<T>> + Send + Sync>;

/// Takes an error that concerns the queue itself, or one call of the handler.
pub(crate) type OnError = Arc<dyn Fn(&QueueFault) + Send + Sync>;

/// Something that went wrong, told to [`Builder::on_fault`]. The queue goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueFault {
    /// The storage failed; the queue tries again.
    Storage {
        /// What it says.
        error: String,
    },
    /// A call of the handler failed.
    Process {
        /// What became of it: `some_failed`, `retry_batch`, `split`, `refused`, `panicked`, `timed_out` or `wrong_verdicts`.
        outcome: &'static str,
        /// The batches it was lent.
        batches: Vec<i64>,
        /// What the first failed item met.
        error: String,
    },
    /// Items were set aside.
    Dead {
        /// How many.
        items: u64,
        /// Why.
        reason: crate::DeadReason,
        /// What was said last.
        error: String,
    },
}

/// What is configured, checked.
pub(crate) struct Config<T> {
    pub(crate) location: Location,
    pub(crate) durability: Durability,
    pub(crate) flush: FlushPolicy,
    pub(crate) codec: Arc<dyn Codec<T>>,
    pub(crate) compression: Option<i32>,
    pub(crate) new_buffer: Option<NewBuffer<T>>,
    pub(crate) workers: usize,
    pub(crate) batches: usize,
    pub(crate) unsettled: usize,
    pub(crate) key: Option<KeyOf<T>>,
    pub(crate) order_keys: usize,
    pub(crate) timeout: Duration,
    pub(crate) retry: Arc<dyn RetryPolicy>,
    pub(crate) max_crashes: u32,
    pub(crate) max_items: u64,
    pub(crate) max_bytes: u64,
    pub(crate) when_full: WhenFull,
    pub(crate) buffer_items: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) commit_window: Duration,
    pub(crate) ballast_bytes: u64,
    pub(crate) recreate_corrupt: bool,
    pub(crate) accept_loss: bool,
    pub(crate) runtime: Option<tokio::runtime::Handle>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
    pub(crate) name: String,
    pub(crate) recorder: Option<Arc<dyn Recorder>>,
    pub(crate) on_fault: Option<OnError>,
}

/// Opens a [`Queue`]; made by [`Queue::builder`] or [`Queue::builder_with`].
#[must_use = "a queue is opened by `open`"]
pub struct Builder<T, H> {
    handler: H,
    config: Config<T>,
}

impl<T: Send + Sync + 'static, H: BatchHandler<T> + 'static> Builder<T, Plain<H>>
where
    H::Error: fmt::Display + Sync,
{
    pub(crate) fn plain(location: Location, handler: H, codec: Arc<dyn Codec<T>>) -> Self {
        Builder::new(location, Plain(handler), codec)
    }
}

impl<T: Send + Sync + 'static, H: QueueHandler<T> + 'static> Builder<T, H> {
    pub(crate) fn new(location: Location, handler: H, codec: Arc<dyn Codec<T>>) -> Self {
        Self {
            handler,
            config: Config {
                location,
                durability: Durability::Full,
                flush: FlushPolicy {
                    max_bytes: Some(1024 * 1024),
                    linger: Duration::from_millis(100),
                    ..FlushPolicy::default()
                },
                codec,
                compression: None,
                new_buffer: None,
                workers: 1,
                batches: 1,
                unsettled: 64,
                key: None,
                order_keys: 1_000_000,
                timeout: Duration::from_secs(30),
                retry: Arc::new(forever()),
                max_crashes: 2,
                max_items: 10_000_000,
                max_bytes: 4 * 1024 * 1024 * 1024,
                when_full: WhenFull::Block,
                buffer_items: 20_000,
                buffer_bytes: 16 * 1024 * 1024,
                memory_bytes: 32 * 1024 * 1024,
                commit_window: Duration::ZERO,
                ballast_bytes: 16 * 1024 * 1024,
                recreate_corrupt: false,
                accept_loss: false,
                runtime: None,
                clock: Arc::new(SystemClock::new()),
                rng: Rng::from_entropy(),
                name: "default".to_owned(),
                recorder: None,
                on_fault: None,
            },
        }
    }

    /// Sets what a commit survives. Default: [`Durability::Full`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.config.durability = durability;
        self
    }

    /// Sets how many items a batch has at most, after merging. Default: 100. At least 1.
    pub fn max_items(mut self, items: usize) -> Self {
        self.config.flush.max_items = items;
        self
    }

    /// Sets after how many pushes a batch is stored, merged ones counted. Default: no limit. At least 1.
    pub fn max_pushes(mut self, pushes: usize) -> Self {
        self.config.flush.max_pushes = Some(pushes);
        self
    }

    /// Sets how many encoded bytes a batch has at most. Default: 1 MiB. From 1 to 64 MiB.
    ///
    /// An item that alone has more is refused.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.config.flush.max_bytes = Some(bytes);
        self
    }

    /// Sets how long a batch waits for more after its first item before it is stored. Default: 100 ms.
    ///
    /// [`Duration::ZERO`]: each push is stored by itself, and those that come while a commit runs share the next one.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.config.flush.linger = linger;
        self
    }

    /// Sets how items are encoded. Default: JSON.
    pub fn codec(mut self, codec: impl Codec<T> + 'static) -> Self {
        self.config.codec = Arc::new(codec);
        self
    }

    /// Compresses batches with zstd at this level, where that makes them smaller. Default: no. From 1 to 19.
    #[cfg(feature = "zstd")]
    pub fn zstd(mut self, level: i32) -> Self {
        self.config.compression = Some(level);
        self
    }

    /// Sets what gathers items before they are stored, such as a [`Merging`](relaykit_pipeline_traits::Merging) buffer. Default:
    /// one after the other.
    ///
    /// Items of several batches that a worker takes together pass such a buffer, too.
    pub fn buffer<B: Buffer<T> + 'static>(mut self, new: impl Fn() -> B + Send + Sync + 'static) -> Self {
        self.config.new_buffer = Some(Arc::new(move || Box::new(new())));
        self
    }

    /// Sets how many workers lend batches to the handler at once. Default: 1, which keeps the order of pushing, retries
    /// aside. From 1 to 1,000.
    pub fn workers(mut self, workers: usize) -> Self {
        self.config.workers = workers;
        self
    }

    /// Sets how many stored batches a worker lends together at most, if they were tried as often as each other. Default: 1. From 1 to
    /// 10,000.
    pub fn batches(mut self, batches: usize) -> Self {
        self.config.batches = batches;
        self
    }

    /// Sets how many calls' results may be on their way to the disk while workers go on. Default: 64. From 1 to 10,000.
    ///
    /// After a crash, their batches are lent again, like those in flight.
    pub fn unsettled(mut self, calls: usize) -> Self {
        self.config.unsettled = calls;
        self
    }

    /// Keeps the items of one key in order: while one is not done or dead, whether with the handler, waiting for its retry or
    /// for its delay, later ones of its key are held; other keys go on. Default: no order but that of a single worker. Items whose
    /// key is `None` are unordered.
    ///
    /// A call has one item of a key at most. The order is that of storing, also after a restart and with several workers. A
    /// key may be computed several times for an item, so the function must always give the same for it. Keys are compared by a
    /// 64-bit hash; should two meet in one value, they wait for each other.
    pub fn order_by<K: Hash>(mut self, key: impl Fn(&T) -> Option<K> + Send + Sync + 'static) -> Self {
        let hasher = RandomState::new();
        self.config.key = Some(Arc::new(move |item| {
            // Items whose key cannot be told are kept in order among each other; nothing may be lost by a panic.
            let key = catch_unwind(AssertUnwindSafe(|| key(item).map(|key| hasher.hash_one(key))));
            key.unwrap_or(Some(0))
        }));
        self
    }

    /// Sets how many keys of stored batches [`order_by`](Self::order_by) keeps in memory, about 100 bytes each; a key counts
    /// once for each batch. Default: 1,000,000. At least 1.
    ///
    /// Beyond it, and beyond 10,000 batches that wait or are held, no later batch is lent until some are done: the order is kept, and
    /// all keys wait.
    pub fn order_keys(mut self, keys: usize) -> Self {
        self.config.order_keys = keys;
        self
    }

    /// Sets how long one call of the handler may take. Default: 30 s. More than zero.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// Sets when failed items are lent again. Default: for ever, after 1 s, doubled up to 1 h, with a random part of a
    /// tenth.
    pub fn retry(mut self, policy: impl RetryPolicy + 'static) -> Self {
        self.config.retry = Arc::new(policy);
        self
    }

    /// Sets how often a batch may crash the process before it is set aside. Default: 2.
    ///
    /// The first crash after a clean start is not counted: nothing is written about batches in flight then.
    pub fn max_crashes(mut self, crashes: u32) -> Self {
        self.config.max_crashes = crashes;
        self
    }

    /// Sets how many items, and encoded bytes, the queue holds at most, and what a push does then. Defaults: 10,000,000
    /// items, 4 GiB, [`WhenFull::Block`]. At least one batch of each.
    pub fn bounds(mut self, items: u64, bytes: u64, when_full: WhenFull) -> Self {
        (self.config.max_items, self.config.max_bytes, self.config.when_full) = (items, bytes, when_full);
        self
    }

    /// Sets how many items, and encoded bytes, may be accepted and not on disk yet; then pushes wait for the disk. Defaults:
    /// 20,000 items, 16 MiB. At least one batch of each.
    pub fn buffer_bounds(mut self, items: usize, bytes: usize) -> Self {
        (self.config.buffer_items, self.config.buffer_bytes) = (items, bytes);
        self
    }

    /// Sets how many bytes of stored batches are kept in memory, too, so that they need not be read back. Default: 32 MiB.
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.config.memory_bytes = bytes;
        self
    }

    /// Sets how long a commit waits for more to write. Default: 0: what comes while a commit runs makes the next. At most
    /// 1 s.
    pub fn commit_window(mut self, window: Duration) -> Self {
        self.config.commit_window = window;
        self
    }

    /// Sets the size of the file that is given up when the disk is full, so that what is done can still be removed. Default:
    /// 16 MiB; 0 for none. The file's log is kept to a quarter of it, and to 4 MiB.
    pub fn ballast_bytes(mut self, bytes: u64) -> Self {
        self.config.ballast_bytes = bytes;
        self
    }

    /// Begins with an empty file if the present one is damaged, which is renamed to `….corrupt-N`. Default: no; opening is
    /// an error then.
    pub fn recreate_corrupt(mut self, recreate: bool) -> Self {
        self.config.recreate_corrupt = recreate;
        self
    }

    /// Opens a file whose log is gone although it was not closed: somebody deleted the log, or copied the file without it.
    /// Default: no; opening is an error then, under [`Durability::Full`].
    pub fn accept_loss(mut self, accept: bool) -> Self {
        self.config.accept_loss = accept;
        self
    }

    /// Sets the runtime that the workers run on. Default: the one that [`open`](Self::open) is called in.
    pub fn runtime(mut self, runtime: tokio::runtime::Handle) -> Self {
        self.config.runtime = Some(runtime);
        self
    }

    /// Sets where time comes from. Default: the [`SystemClock`].
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }

    /// Sets where the retry policy's jitter comes from. Default: a seed of its own.
    pub fn rng(mut self, rng: Rng) -> Self {
        self.config.rng = rng;
        self
    }

    /// Sets the value of the label `queue`. Default: `default`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Sets where the queue's numbers go, [`METRICS`](crate::METRICS). Default: nowhere.
    pub fn recorder(mut self, recorder: impl Recorder + 'static) -> Self {
        self.config.recorder = Some(Arc::new(recorder));
        self
    }

    /// Sets who is told what went wrong. Default: nobody but the log.
    ///
    /// It is called by workers and by the thread that writes, so it should not block.
    pub fn on_fault(mut self, tell: impl Fn(&QueueFault) + Send + Sync + 'static) -> Self {
        self.config.on_fault = Some(Arc::new(tell));
        self
    }

    /// Opens the queue, and begins to work through what it holds.
    ///
    /// # Errors
    ///
    /// If a setting is out of its bounds, the file cannot be opened, or is no queue. The file is as it was then.
    ///
    /// # Cancel safety
    ///
    /// Blocks for the time of a few reads of the file and is not asynchronous.
    pub fn open(self) -> Result<Queue<T>, OpenError> {
        self.config.check()?;
        Queue::open(self.handler, self.config)
    }
}

impl<T> Config<T> {
    fn check(&self) -> Result<(), InvalidSetting> {
        self.flush.check()?;
        if let Some(path) = self.location.path()
            && path.as_os_str().is_empty()
        {
            return Err(InvalidSetting::new("path", "empty", "the path of a file"));
        }
        let within = |field, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(InvalidSetting::new(field, value, format!("from {least} to {most}")))
        };
        let batch_bytes = self.flush.max_bytes.unwrap_or(usize::MAX) as u64;
        within("max_bytes", batch_bytes, 1, 64 * 1024 * 1024)?;
        within("workers", self.workers as u64, 1, 1_000)?;
        within("batches", self.batches as u64, 1, 10_000)?;
        within("unsettled", self.unsettled as u64, 1, 10_000)?;
        within("order_keys", self.order_keys as u64, 1, u64::MAX)?;
        within("buffer_bounds.items", self.buffer_items as u64, self.flush.max_items as u64, u64::MAX)?;
        within("buffer_bounds.bytes", self.buffer_bytes as u64, batch_bytes, u64::MAX)?;
        within("bounds.items", self.max_items, self.flush.max_items as u64, u64::MAX)?;
        within("bounds.bytes", self.max_bytes, batch_bytes, u64::MAX)?;
        if let Some(level) = self.compression {
            within("zstd", u64::try_from(level).unwrap_or(0), 1, 19)?;
        }
        if self.commit_window > Duration::from_secs(1) {
            return Err(InvalidSetting::new(
                "commit_window",
                format!("{:?}", self.commit_window),
                "at most 1 s",
            ));
        }
        if self.timeout.is_zero() {
            return Err(InvalidSetting::new("timeout", "0 s", "more than zero"));
        }
        Ok(())
    }
}

impl<T, H> fmt::Debug for Builder<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("location", &self.config.location)
            .field("flush", &self.config.flush)
            .finish_non_exhaustive()
    }
}

/// The default policy.
fn forever() -> Policy {
    let backoff = Backoff::exponential(Duration::from_secs(1)).max_delay(Duration::from_secs(3_600));
    backoff
        .jitter(Jitter::Proportional(0.1))
        .unlimited_attempts()
        .build()
        .expect("these settings are within bounds")
}

pub(crate) fn json<T>() -> Arc<dyn Codec<T>>
where
    Json: Codec<T>,
{
    Arc::new(Json)
}

/// Names a queue's file.
pub(crate) fn file(path: impl Into<PathBuf>) -> Location {
    Location::file(path)
}
