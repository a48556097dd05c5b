use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{BatchHandler, Codec, FlushReason, Json, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{
    Durability, Location, Options, Request, SqliteError, Writer, WriterOptions, open as open_file,
};
use relaykit_sql_store::torture::{crash_point, planted};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use crate::ballast::Ballast;
use crate::blocking::Blocking;
use crate::builder::{Builder, Config, WhenFull, file, json};
use crate::dead::{DeadLetter, DeadReason};
use crate::error::{OpenError, QueueError, RejectReason, Rejected};
use crate::format;
use crate::handler::{Plain, QueueHandler};
use crate::keeper::keep;
use crate::metrics;
use crate::order::{Line, MAX_AWAY};
use crate::shared::Shared;
use crate::state::{Items, Levels, NotStored, Oldest, Phase, State, Stored, Tell, Waiter};
use crate::stats::{CloseReport, Stats};
use crate::store::{self, Due, Foreign, Opened};
use crate::worker::work;

/// A durable queue in one SQLite file. Cheap to clone; all clones are one queue.
///
/// When the last clone is dropped, the queue closes by itself: what was accepted is stored, handlers are interrupted. Use
/// [`close`](Self::close) to wait for that, and to learn what is left.
pub struct Queue<T: Send + Sync + 'static> {
    handle: Arc<Handle<T>>,
}

struct Handle<T: Send + Sync + 'static> {
    shared: Arc<Shared<T>>,
    runtime: tokio::runtime::Handle,
    tasks: Mutex<Option<JoinSet<()>>>,
}

/// How long a close waits, beyond its deadline, for handlers to give way and for the disk.
const GRACE: Duration = Duration::from_secs(1);

/// A stored batch, as [`Queue::list`] shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchInfo {
    /// Its id; ids ascend in the order of storing.
    pub id: i64,
    /// When it was stored.
    pub added_at: Timestamp,
    /// How many items it holds.
    pub items: u32,
    /// Its bytes.
    pub bytes: u64,
    /// Attempts spent.
    pub attempts: u32,
    /// When it is tried again, if it waits.
    pub due: Option<Timestamp>,
}

impl<T: Send + Sync + 'static> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<T: Send + Sync + 'static> Queue<T> {
    /// Returns a builder for a queue in the file, with items as JSON, for any batch handler.
    pub fn builder<H>(path: impl Into<PathBuf>, handler: H) -> Builder<T, Plain<H>>
    where
        H: BatchHandler<T> + 'static,
        H::Error: fmt::Display + Sync,
        Json: Codec<T>,
    {
        Builder::plain(file(path), handler, json())
    }

    /// Returns a builder for a queue in memory, which behaves the same and is gone when it is closed.
    pub fn in_memory<H>(handler: H) -> Builder<T, Plain<H>>
    where
        H: BatchHandler<T> + 'static,
        H::Error: fmt::Display + Sync,
        Json: Codec<T>,
    {
        Builder::plain(Location::Memory, handler, json())
    }

    /// Returns a builder for a queue in the file, with items as JSON, for a handler that wants to push back.
    pub fn builder_with<H>(path: impl Into<PathBuf>, handler: H) -> Builder<T, H>
    where
        H: QueueHandler<T> + 'static,
        Json: Codec<T>,
    {
        Builder::new(file(path), handler, json())
    }

    pub(crate) fn open<H: QueueHandler<T> + 'static>(
        handler: H,
        config: Config<T>,
    ) -> Result<Self, OpenError> {
        let runtime = match &config.runtime {
            Some(runtime) => runtime.clone(),
            None => tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?,
        };
        let path = config.location.path().map(Path::to_path_buf);
        let (wall, monotonic) = (config.clock.now(), config.clock.monotonic());
        let (connection, opened) = match connect(&config, wall) {
            Err(OpenError::Corrupt { path, .. }) if config.recreate_corrupt => {
                set_corrupt_aside(&path)?;
                connect(&config, wall)?
            }
            connected => connected?,
        };
        let mut options = WriterOptions::default();
        options.name = String::from("queue-writer");
        options.window = config.commit_window;
        options.commit_seconds = config.recorder.clone().map(|recorder| (recorder, &metrics::COMMIT));
        options.reopen = path.is_some().then(|| (config.location.clone(), file_options(&config)));
        let writer = Writer::start(connection, Arc::clone(&config.clock), options)
            .map_err(|source| OpenError::Thread { source })?;
        let ballast = Ballast::beside(path.as_deref(), config.ballast_bytes);
        let crashed_items = opened.crashed_items;
        let line = config.key.is_some().then(|| Line::new(config.order_keys));
        let state = State::new(Shared::empty_batch(&config), opened, line);
        let mut rng = config.rng.clone();
        let (workers, unsettled) = (config.workers, config.unsettled);
        let shared = Arc::new(Shared::new(config, state, writer, (wall, monotonic), ballast));
        if crashed_items > 0 {
            let (items, reason) = (crashed_items, DeadReason::Crashed);
            shared.record(|recorder, queue| recorder.add(&metrics::DEAD, &[queue, reason.as_str()], items));
            let error = "the process died too often while it handled them".to_owned();
            shared.fault(&crate::QueueFault::Dead { items, reason, error });
        }
        let handler = Arc::new(handler);
        let unsettled = Arc::new(Semaphore::new(unsettled.max(workers)));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let work = work(Arc::clone(&shared), Arc::clone(&handler), Arc::clone(&unsettled), rng.fork());
            tasks.spawn_on(work, &runtime);
        }
        tasks.spawn_on(keep(Arc::clone(&shared)), &runtime);
        Ok(Self { handle: Arc::new(Handle { shared, runtime, tasks: Mutex::new(Some(tasks)) }) })
    }

    /// Adds an item. Returns once the queue holds it in memory; it is on disk after the linger, or the next
    /// [`flush`](Self::flush). Waits for room under [`WhenFull::Block`].
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the item is dropped with it and was not added.
    pub async fn push(&self, item: T) -> Result<(), Rejected<T>> {
        let mut item = item;
        loop {
            let freed = self.shared().room.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.put(item, None) {
                Err(Rejected { item: back, reason }) if self.waits_for(&reason) => item = back,
                done => return done,
            }
            freed.await;
        }
    }

    /// Adds an item if there is room now.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    pub fn try_push(&self, item: T) -> Result<(), Rejected<T>> {
        self.put(item, None)
    }

    /// Adds an item and waits until it is on disk. Items of several callers share one commit.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason. If the disk failed while it was written, `None` comes back instead of an item that
    /// was merged with others: it is kept and stored when that is possible again.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the item was not added. Dropped later, it was, and is stored all the same.
    pub async fn push_durable(&self, item: T) -> Result<(), Rejected<Option<T>>> {
        let mut item = item;
        let told = loop {
            let freed = self.shared().room.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let (tell, told) = oneshot::channel();
            match self.put(item, Some(tell)) {
                Ok(()) => break told,
                Err(Rejected { item: back, reason }) if self.waits_for(&reason) => item = back,
                Err(Rejected { item, reason }) => return Err(Rejected { item: Some(item), reason }),
            }
            freed.await;
        };
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotStored { item, reason })) => Err(Rejected { item, reason }),
            Err(_gone) => Err(Rejected { item: None, reason: RejectReason::Closed }),
        }
    }

    /// Adds items one after the other.
    ///
    /// # Errors
    ///
    /// At the first item that is refused. It comes back first, with those after it; the ones before it were added.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for room, the items added so far stay added.
    pub async fn push_all(&self, items: impl IntoIterator<Item = T>) -> Result<(), Rejected<Vec<T>>> {
        let mut items = items.into_iter();
        while let Some(item) = items.next() {
            if let Err(Rejected { item, reason }) = self.push(item).await {
                return Err(Rejected { item: std::iter::once(item).chain(items).collect(), reason });
            }
        }
        Ok(())
    }

    /// Adds an item that is lent after `delay` at the earliest, in a batch of its own, and waits until it is on disk.
    ///
    /// # Errors
    ///
    /// The item comes back with the reason.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the item is added even if the future is dropped.
    pub async fn push_after(&self, item: T, delay: Duration) -> Result<(), Rejected<Option<T>>> {
        let shared = self.shared();
        let mut records = format::Records::default();
        if let Err(error) = records.push(&item, &*shared.config.codec) {
            let reason = RejectReason::Unencodable { reason: error.to_string() };
            return Err(Rejected { item: Some(item), reason });
        }
        let (tell, told) = oneshot::channel();
        {
            let mut state = shared.state();
            if let Err(reason) = self.admit(&state, records.len()) {
                drop(state);
                return Err(Rejected { item: Some(item), reason });
            }
            state.counts.pushed += 1;
            let due = (!delay.is_zero()).then(|| Due { at: shared.now() + delay, delay });
            let waiters = vec![Waiter { at: Some(0), tell }];
            if shared.config.key.is_some() {
                // It must not overtake what was pushed before it.
                shared.seal(&mut state, FlushReason::Asked);
            }
            shared.enqueue(&mut state, vec![item], records, waiters, FlushReason::Asked, due);
        }
        shared.pump();
        shared.record(|recorder, queue| recorder.add(&metrics::PUSHED, &[queue], 1));
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(NotStored { item, reason })) => Err(Rejected { item, reason }),
            Err(_gone) => Err(Rejected { item: None, reason: RejectReason::Closed }),
        }
    }

    /// Stores everything that was pushed before, and returns once it is on disk.
    ///
    /// # Errors
    ///
    /// If the disk failed. What could not be stored is kept and tried again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, everything is stored all the same.
    pub async fn flush(&self) -> Result<(), QueueError> {
        let shared = self.shared();
        let wait = {
            let mut state = shared.state();
            if state.phase == Phase::Closed {
                return Err(QueueError::Closed);
            }
            if !planted("flush_forgets_the_tail") {
                shared.seal(&mut state, FlushReason::Asked);
            }
            if state.unsaved.is_empty() {
                return Ok(());
            }
            if state.phase == Phase::Closing && state.unsaved.len() == state.refused.len() {
                // Nothing is on its way, and what was refused is not tried again: nobody would answer.
                return Err(QueueError::Closed);
            }
            let (done, wait) = oneshot::channel();
            let number = state.sealed;
            state.flushes.push((number, done));
            wait
        };
        shared.pump();
        wait.await.unwrap_or(Err(QueueError::Closed))
    }

    /// Stops lending batches to the handler; calls under way go on. Pushing goes on.
    pub fn pause(&self) {
        self.shared().state().paused = true;
    }

    /// Lends batches again.
    pub fn resume(&self) {
        self.shared().state().paused = false;
        self.shared().work.notify_one();
    }

    /// Returns what the queue holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = self.shared();
        let state = shared.state();
        Stats {
            buffered_items: state.buffered_items() as u64,
            stored_items: state.stored.items,
            stored_batches: state.stored.batches,
            stored_bytes: state.stored.bytes,
            in_flight_items: state.in_flight_items as u64,
            dead_items: state.dead_items,
            oldest_age: shared.oldest_age(&state),
            pushed: state.counts.pushed,
            flushed: state.counts.flushed,
            processed: state.counts.processed,
            died: state.counts.dead,
            dropped: state.counts.dropped,
            calls: state.counts.calls,
        }
    }

    /// Lists stored batches whose id is greater than `after`, up to `limit` of them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn list(&self, after: i64, limit: usize) -> Result<Vec<BatchInfo>, QueueError> {
        self.shared().ask(move |tx| store::list(tx, after, limit)).await
    }

    /// Reads the items of stored batches, oldest first, up to `limit` items; what cannot be read is left out. They stay where
    /// they are.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn peek(&self, limit: usize) -> Result<Vec<T>, QueueError> {
        let stored = self.shared().ask(move |tx| store::first_items(tx, limit)).await?;
        let codec = &self.shared().config.codec;
        let readable = stored.iter().filter_map(|data| format::open(data, codec).ok());
        Ok(readable.flatten().take(limit).collect())
    }

    /// Lists dead letters whose id is greater than `after`, up to `limit` of them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn dead_letters(&self, after: i64, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared().ask(move |tx| store::dead_letters(tx, after, limit)).await
    }

    /// Puts dead letters back to the end of the queue, as if they were never tried. Returns how many items that are; ids that
    /// are gone count nothing.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was moved.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are moved all the same.
    pub async fn replay(&self, ids: &[i64]) -> Result<u64, QueueError> {
        let ids = ids.to_vec();
        let shared = self.shared();
        let request = Replay { shared: Arc::clone(shared), ids, moved: Levels::default(), tell: None };
        let (tell, told) = oneshot::channel();
        shared.writer.submit(Box::new(Replay { tell: Some(tell), ..request }));
        told.await.unwrap_or(Err(QueueError::Closed))
    }

    /// Deletes dead letters. Returns how many items they had.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Then none was deleted.
    ///
    /// # Cancel safety
    ///
    /// Dropped, they are deleted all the same.
    pub async fn purge(&self, ids: &[i64]) -> Result<u64, QueueError> {
        let ids = ids.to_vec();
        let shared = self.shared();
        let items = shared.ask(move |tx| store::purge(tx, &ids)).await?;
        let mut state = shared.state();
        state.dead_items = state.dead_items.saturating_sub(items);
        Ok(items)
    }

    /// Closes the queue: takes no more, stores what was accepted, waits for handlers until `within` has passed, interrupts the
    /// rest without spending an attempt, and closes the file. A second close finds nothing left to do.
    ///
    /// A handler that blocks its thread, or a disk that does not answer, holds it up for a second each beyond that.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the queue takes no more, and closes when its last handle is gone.
    pub async fn close(&self, within: Duration) -> CloseReport<T> {
        let shared = self.shared();
        let clock = &shared.config.clock;
        let deadline = clock.monotonic() + within;
        self.handle.begin_close();
        crash_point("close.begun");
        let tasks = self.handle.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            let all = async { while tasks.join_next().await.is_some() {} };
            tokio::pin!(all);
            tokio::select! {
                biased;
                () = &mut all => {}
                () = clock.sleep_until(deadline) => {
                    shared.interrupt.send_replace(true);
                    // A handler that gives way is dropped now; one that blocks its thread keeps it.
                    tokio::select! {
                        () = &mut all => {}
                        () = clock.sleep(GRACE) => {}
                    }
                }
            }
        }
        // What was handled and could not be written down gets its last try, and so does what could not be stored.
        shared.take_later().into_iter().for_each(|act| act());
        Shared::take_up_refused(&mut shared.state());
        shared.pump();
        // Everything submitted before this is done before it. A disk that hangs must not hold up the caller for ever.
        let grace = (clock.monotonic() + GRACE).max(deadline);
        let mark = async {
            let marked = match shared.ask(store::set_clean).await {
                // The disk may have failed for a moment.
                Err(QueueError::Storage { .. }) => shared.ask(store::set_clean).await,
                marked => marked,
            };
            marked.and(shared.ask(store::let_go_of_log).await)
        };
        let clean = tokio::select! {
            biased;
            clean = mark => clean,
            () = clock.sleep_until(grace) => Err(QueueError::Closed),
        };
        if let Err(error) = clean
            && !matches!(error, QueueError::Closed)
        {
            tracing::warn!(%error, "could not mark the queue as closed");
        }
        crash_point("close.marked_clean");
        shared.writer.stop();
        let writer = shared.writer.clone();
        let left = deadline.since(clock.monotonic()).max(GRACE);
        let file_closed = self.runtime().spawn_blocking(move || writer.join(left)).await.unwrap_or(false);
        let mut state = shared.state();
        state.phase = Phase::Closed;
        state.trouble = None;
        let refused = std::mem::take(&mut state.refused);
        state.unsaved.clear();
        (state.unsaved_items, state.unsaved_bytes) = (0, 0);
        for (_, flush) in state.flushes.drain(..) {
            // Who flushed may be gone.
            let _ = flush.send(Err(QueueError::Closed));
        }
        CloseReport {
            stored_items: state.stored.items,
            interrupted_items: (state.interrupted_items + state.in_flight_items) as u64,
            unsaved: refused.into_iter().flat_map(|sealed| sealed.items).collect(),
            file_closed,
        }
    }

    fn shared(&self) -> &Arc<Shared<T>> {
        &self.handle.shared
    }

    /// Returns a handle for threads that are not asynchronous.
    #[must_use]
    pub fn blocking(&self) -> Blocking<T> {
        Blocking::new(self.clone())
    }

    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.handle.runtime
    }

    /// Whether a push waits until the reason is gone.
    pub(crate) fn waits_for(&self, reason: &RejectReason) -> bool {
        match reason {
            RejectReason::Busy => true,
            RejectReason::Full => self.shared().config.when_full == WhenFull::Block,
            _ => false,
        }
    }

    /// Whether an item of so many bytes may come in.
    fn admit(&self, state: &State<T>, bytes: usize) -> Result<(), RejectReason> {
        let config = &self.shared().config;
        if state.phase != Phase::Open {
            return Err(RejectReason::Closed);
        }
        if let Some(max) = config.flush.max_bytes
            && bytes > max
        {
            return Err(RejectReason::TooLarge { bytes, max });
        }
        if self.shared().ballast.is_spent() {
            return Err(RejectReason::StorageFull);
        }
        // What is refused now would only wait behind what cannot be stored.
        if let Some(trouble) = state.trouble.as_ref().filter(|_| !state.refused.is_empty()) {
            return Err(trouble.clone());
        }
        if state.held_items() >= config.max_items || state.held_bytes() + bytes as u64 > config.max_bytes {
            let room = config.when_full == WhenFull::DropOldest && state.stored.batches > 0;
            if !room {
                return Err(RejectReason::Full);
            }
        }
        let buffered = state.buffered_items();
        if buffered >= config.buffer_items
            || (buffered > 0 && state.buffered_bytes() + bytes > config.buffer_bytes)
        {
            return Err(RejectReason::Busy);
        }
        Ok(())
    }

    /// Puts an item into the open batch, and sends the batch off if it is full.
    fn put(&self, item: T, tell: Option<Tell<T>>) -> Result<(), Rejected<T>> {
        let shared = self.shared();
        let (mut first, mut over, mut pump) = (false, false, false);
        let durable = tell.is_some();
        let result = {
            let mut state = shared.state();
            let result = self.put_in(&mut state, item, tell);
            if result.is_ok() {
                state.counts.pushed += 1;
                let config = &shared.config;
                first = state.open.fill.pushes == 1 && !state.watched;
                over = config.when_full == WhenFull::DropOldest && !state.dropping && state.is_over(config);
                state.dropping |= over;
                // Whoever waits for the disk does not linger: their batch goes at once, or as soon as the one before it is
                // there, with all that have come by then.
                let eager = config.flush.linger.is_zero().then_some(FlushReason::Linger);
                let asked = (durable && state.unsaved.is_empty()).then_some(FlushReason::Asked);
                if let Some(reason) = config.flush.full(state.open.fill).or(eager).or(asked) {
                    shared.seal(&mut state, reason);
                    first = false;
                }
            }
            pump |= !state.outbox.is_empty();
            result
        };
        if pump {
            shared.pump();
        }
        if first {
            shared.keep.notify_one();
        }
        if over {
            self.drop_oldest();
        }
        if result.is_ok() {
            shared.record(|recorder, queue| recorder.add(&metrics::PUSHED, &[queue], 1));
        }
        result
    }

    fn put_in(&self, state: &mut State<T>, item: T, tell: Option<Tell<T>>) -> Result<(), Rejected<T>> {
        let shared = self.shared();
        let config = &shared.config;
        if state.phase != Phase::Open {
            return Err(Rejected { item, reason: RejectReason::Closed });
        }
        let unencodable = |error: relaykit_pipeline_traits::CodecError| RejectReason::Unencodable {
            reason: error.to_string(),
        };
        let (bytes, at) = match &mut state.open.items {
            Items::Plain { items, records } => match records.push(&item, &*config.codec) {
                Ok(bytes) => (bytes, Some(items.len())),
                Err(error) => return Err(Rejected { item, reason: unencodable(error) }),
            },
            Items::Custom(_) => {
                let mut scratch = format::Records::default();
                match scratch.push(&item, &*config.codec) {
                    Ok(bytes) => (bytes, None),
                    Err(error) => return Err(Rejected { item, reason: unencodable(error) }),
                }
            }
        };
        let admitted = self.admit(state, bytes);
        let fits = config.flush.has_room(state.open.fill, bytes);
        if (admitted.is_err() || !fits)
            && let Items::Plain { records, .. } = &mut state.open.items
        {
            records.pop(bytes);
        }
        if let Err(reason) = admitted {
            return Err(Rejected { item, reason });
        }
        if !fits {
            shared.seal(state, FlushReason::Bytes);
            return self.put_in(state, item, tell);
        }
        if state.open.fill.pushes == 0 {
            state.open.opened_at = config.clock.monotonic();
        }
        state.open.waiters.extend(tell.map(|tell| Waiter { at, tell }));
        match &mut state.open.items {
            Items::Plain { items, .. } => {
                items.push(item);
                state.open.fill.add(bytes);
            }
            Items::Custom(buffer) => {
                buffer.push(item);
                state.open.fill.items = buffer.len();
                state.open.fill.pushes = buffer.pushes();
                // Merged bytes are not known before they are encoded; the sum is the most they can be, for merges that do
                // not grow.
                state.open.fill.bytes += bytes;
            }
        }
        Ok(())
    }

    /// Deletes the oldest batches that nobody has, until the queue holds no more than it may.
    fn drop_oldest(&self) {
        let shared = self.shared();
        let request = {
            let mut state = shared.state();
            let mut victims = Vec::new();
            while state.is_over(&shared.config)
                && let Some(victim) = state.take_victim()
            {
                victims.push(victim);
            }
            let more = state.is_over(&shared.config);
            DropOldest {
                shared: Arc::clone(shared),
                victims,
                more,
                taken: state.in_use(),
                dropped: Vec::new(),
            }
        };
        shared.writer.submit(Box::new(request));
    }
}

/// Deletes the oldest batches.
struct DropOldest<T> {
    shared: Arc<Shared<T>>,
    victims: Vec<Stored<T>>,
    /// One more is to go, which is on disk only.
    more: bool,
    taken: HashSet<i64>,
    dropped: Vec<store::Dropped>,
}

impl<T: Send + Sync + 'static> Request for DropOldest<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.dropped.clear();
        for victim in &self.victims {
            store::remove(transaction, victim.id)?;
        }
        if self.more {
            self.dropped.extend(store::drop_oldest(transaction, &self.taken)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, victims, dropped, .. } = *self;
        let mut state = shared.state();
        state.dropping = false;
        if result.is_ok() {
            let now = shared.now();
            for victim in &victims {
                state.taken.remove(&victim.id);
                state.forget(victim.id, now);
                state.counts.dropped += u64::from(victim.count);
            }
            for one in &dropped {
                state.unbook(one.id, one.items, one.bytes);
                // It may have been read meanwhile.
                state.unready(one.id);
                state.taken.remove(&one.id);
                state.forget(one.id, now);
                state.counts.dropped += u64::from(one.items);
            }
            let items: u64 = victims.iter().map(|victim| u64::from(victim.count)).sum();
            let items = items + dropped.iter().map(|one| u64::from(one.items)).sum::<u64>();
            drop(state);
            shared.record(|recorder, queue| recorder.add(&metrics::DROPPED, &[queue], items));
            shared.room.notify_waiters();
            shared.work.notify_one();
            return;
        }
        // They stay, and the next push tries again.
        for victim in victims.into_iter().rev() {
            state.book(victim.id, victim.added_at, victim.count, victim.bytes);
            state.put_first(victim);
        }
    }
}

/// Puts dead letters back.
struct Replay<T> {
    shared: Arc<Shared<T>>,
    ids: Vec<i64>,
    moved: Levels,
    tell: Option<oneshot::Sender<Result<u64, QueueError>>>,
}

impl<T: Send + Sync + 'static> Request for Replay<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.moved = store::replay(transaction, &self.ids)?;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, moved, tell, .. } = *self;
        if result.is_ok() && moved.batches > 0 {
            let mut state = shared.state();
            state.stored.batches += moved.batches;
            state.stored.items += moved.items;
            state.stored.bytes += moved.bytes;
            state.dead_items = state.dead_items.saturating_sub(moved.items);
            state.more = true;
            let oldest = Oldest { id: i64::MAX, added_at: shared.now(), known: false };
            state.oldest.get_or_insert(oldest);
            drop(state);
            shared.work.notify_one();
            shared.keep.notify_one();
        }
        // Who asked may be gone.
        let _ = tell.map(|tell| tell.send(result.map(|()| moved.items).map_err(QueueError::of)));
    }
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Takes no more, and sends what is open to the disk.
    fn begin_close(&self) {
        let shared = &self.shared;
        {
            let mut state = shared.state();
            if state.phase != Phase::Open {
                return;
            }
            state.phase = Phase::Closing;
            shared.seal(&mut state, FlushReason::Stop);
            Shared::take_up_refused(&mut state);
        }
        shared.pump();
        shared.work.notify_waiters();
        shared.keep.notify_waiters();
        shared.keep.notify_one();
        shared.room.notify_waiters();
    }
}

impl<T: Send + Sync + 'static> Drop for Handle<T> {
    fn drop(&mut self) {
        self.begin_close();
        // Workers that are in a call end with it being dropped; the writer ends once all requests are done.
        if self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            self.shared.take_later().into_iter().for_each(|act| act());
            self.shared.tell(store::set_clean);
            self.shared.tell(store::let_go_of_log);
        }
        self.shared.writer.stop();
    }
}

fn file_options<T>(config: &Config<T>) -> Options {
    let mut options = Options::default();
    options.durability = config.durability;
    // On a full disk the log can be written back only if the ballast has as much room as it.
    let wal_bytes = match config.ballast_bytes {
        0 => MAX_LOG,
        ballast => u32::try_from(ballast / 4).unwrap_or(MAX_LOG).clamp(MIN_LOG, MAX_LOG),
    };
    options.wal_bytes = wal_bytes;
    options.log_ends_with_close = false;
    options
}

/// Bounds of the file's log, in bytes.
const MIN_LOG: u32 = 64 * 1024;
const MAX_LOG: u32 = 4 * 1024 * 1024;

fn connect<T>(config: &Config<T>, now: Timestamp) -> Result<(Connection, Opened), OpenError> {
    let path = config.location.path().map(Path::to_path_buf);
    let shown = path.clone().unwrap_or_default();
    let had_log = path.as_deref().is_none_or(|path| named(path, "-wal").exists());
    let connection = open_file(&config.location, &file_options(config)).map_err(|error| match error {
        SqliteError::AlreadyOpen { path } => OpenError::AlreadyOpen { path },
        SqliteError::Corrupt { ref path, .. } => OpenError::Corrupt { path: path.clone(), source: error },
        source => OpenError::Storage { source },
    })?;
    crash_point("open.connected");
    let failed = |source| storage(path.clone(), source);
    match store::owner(&connection).map_err(failed)? {
        Ok(true) => {
            // Until it is closed, a queue's file has a log beside it.
            let loss = !had_log && !store::was_closed(&connection).map_err(failed)?;
            if loss && config.durability == Durability::Full && !config.accept_loss {
                return Err(OpenError::LogMissing { path: shown });
            }
            if loss {
                tracing::warn!(path = %shown.display(), "the queue was not closed, and its log is gone");
            }
        }
        Ok(false) => store::create(&connection).map_err(failed)?,
        Err(Foreign::Application(application_id)) => {
            return Err(OpenError::Foreign { path: shown, application_id });
        }
        Err(Foreign::Schema(found)) => return Err(OpenError::Version { path: shown, found }),
    }
    let in_flight = (config.workers + config.unsettled).saturating_mul(config.batches);
    crash_point("open.has_tables");
    // Batches that are held stay behind while later ones are lent.
    let in_flight = in_flight.saturating_add(if config.key.is_some() { MAX_AWAY } else { 0 });
    let opened = store::take_over(&connection, config.max_crashes, in_flight, now).map_err(failed)?;
    crash_point("open.taken_over");
    Ok((connection, opened))
}

fn named(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn storage(path: Option<PathBuf>, source: relaykit_sql_store::sqlite::rusqlite::Error) -> OpenError {
    use relaykit_sql_store::sqlite::rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

    let path = path.unwrap_or_default();
    match source.sqlite_error_code() {
        Some(DatabaseCorrupt | NotADatabase) => {
            OpenError::Corrupt { path: path.clone(), source: SqliteError::Corrupt { path, source } }
        }
        _ => OpenError::Storage { source: SqliteError::of(source) },
    }
}

/// Renames a damaged file and its log to the first free `….corrupt-N`.
fn set_corrupt_aside(path: &Path) -> Result<(), OpenError> {
    let named = |suffix: &str| named(path, suffix);
    let free = (1..10_000).map(|n| format!(".corrupt-{n}")).find(|suffix| !named(suffix).exists());
    let suffix = free.unwrap_or_default();
    let failed = |source: std::io::Error| OpenError::Storage {
        source: SqliteError::Open { path: path.to_path_buf(), source: source.into() },
    };
    std::fs::rename(path, named(&suffix)).map_err(failed)?;
    for side in ["-wal", "-shm"] {
        let from = named(side);
        if from.exists() {
            std::fs::rename(&from, named(&format!("{suffix}{side}"))).map_err(failed)?;
        }
    }
    tracing::error!(path = %path.display(), "the queue's file was damaged; it was renamed, and an empty one made");
    Ok(())
}

impl<T: Send + Sync + 'static> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("location", &self.shared().config.location).finish_non_exhaustive()
    }
}
