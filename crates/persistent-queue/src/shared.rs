use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Codec, Fill, FlushReason, Monotonic, Recorder, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError, Writer};
use relaykit_sql_store::torture::{crash_point, planted};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use crate::ballast::Ballast;
use crate::builder::{Config, QueueFault};
use crate::error::{QueueError, RejectReason};
use crate::format::Records;
use crate::metrics;
use crate::order::{Held, Keys};
use crate::state::{Content, Items, NotStored, OpenBatch, Phase, Sealed, State, Stored, Tell, Tries, Waiter};
use crate::store::{self, Due, NewRow};

/// The most stored batches whose place is known in memory; the others are read when their turn comes.
pub(crate) const MAX_READY: usize = 10_000;

/// What the handles, the workers, the keeper and the writer's answers share.
pub(crate) struct Shared<T> {
    pub(crate) config: Config<T>,
    state: Mutex<State<T>>,
    pub(crate) writer: Writer,
    /// Wall and monotonic time when the queue was opened: what is stored is measured by both, so a step of the wall
    /// clock moves nothing.
    opened: (Timestamp, Monotonic),
    /// Tells workers of a batch.
    pub(crate) work: Notify,
    /// Tells the keeper of a first item, a due time, a refused batch.
    pub(crate) keep: Notify,
    /// Tells pushes that there may be room.
    pub(crate) room: Notify,
    pub(crate) interrupt: watch::Sender<bool>,
    /// Held while sealed batches are handed to the writer, so that none overtakes another.
    turn: Mutex<()>,
    /// How often a batch did not get to the disk. What was on its way to the writer then must not overtake it.
    refusals: AtomicU64,
    /// One at a time: a batch that may have crashed the process is lent alone, so that no other is blamed.
    pub(crate) accused: Semaphore,
    pub(crate) ballast: Ballast,
    later: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl<T: Send + Sync + 'static> Shared<T> {
    pub(crate) fn new(
        config: Config<T>,
        state: State<T>,
        writer: Writer,
        opened: (Timestamp, Monotonic),
        ballast: Ballast,
    ) -> Self {
        Self {
            config,
            state: Mutex::new(state),
            writer,
            opened,
            work: Notify::new(),
            keep: Notify::new(),
            room: Notify::new(),
            interrupt: watch::Sender::new(false),
            turn: Mutex::new(()),
            refusals: AtomicU64::new(0),
            accused: Semaphore::new(1),
            ballast,
            later: Mutex::new(Vec::new()),
        }
    }

    /// Leaves something to the keeper, to be done in a while.
    pub(crate) fn later(&self, act: impl FnOnce() + Send + 'static) {
        self.later.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(act));
        self.keep.notify_one();
    }

    pub(crate) fn take_later(&self) -> Vec<Box<dyn FnOnce() + Send>> {
        std::mem::take(&mut *self.later.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn has_later(&self) -> bool {
        !self.later.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wall time as it was when the queue was opened, and what has passed since by the monotonic clock.
    pub(crate) fn now(&self) -> Timestamp {
        let (wall, monotonic) = self.opened;
        wall + self.config.clock.monotonic().since(monotonic)
    }

    /// When `at` comes, by the monotonic clock.
    pub(crate) fn monotonic_at(&self, at: Timestamp) -> Monotonic {
        let (wall, monotonic) = self.opened;
        monotonic + at.since(wall)
    }

    pub(crate) fn fault(&self, fault: &QueueFault) {
        match fault {
            QueueFault::Storage { error } => {
                tracing::error!(queue = self.config.name, error, "the storage failed");
            }
            QueueFault::Process { outcome, error, .. } => {
                tracing::debug!(queue = self.config.name, outcome, error, "a call of the handler failed");
            }
            QueueFault::Dead { items, reason, error } => {
                tracing::warn!(queue = self.config.name, items, %reason, error, "items were set aside");
            }
        }
        if let Some(tell) = &self.config.on_fault {
            // A panic here would end the writer's thread.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tell(fault)));
        }
    }

    pub(crate) fn record(&self, record: impl FnOnce(&dyn Recorder, &str)) {
        if let Some(recorder) = &self.config.recorder {
            record(&**recorder, &self.config.name);
        }
    }

    pub(crate) fn empty_batch(config: &Config<T>) -> OpenBatch<T> {
        let items = match &config.new_buffer {
            Some(new) => Items::Custom(new()),
            None => Items::Plain { items: Vec::new(), records: Records::default() },
        };
        OpenBatch { items, fill: Fill::default(), opened_at: Monotonic::default(), waiters: Vec::new() }
    }

    /// Closes the open batch, and puts it where [`pump`](Self::pump) finds it. Called under the lock.
    pub(crate) fn seal(&self, state: &mut State<T>, reason: FlushReason) {
        if state.open.fill.items == 0 {
            return;
        }
        let open = std::mem::replace(&mut state.open, Self::empty_batch(&self.config));
        let (items, records, waiters) = match open.items {
            Items::Plain { items, records } => {
                // The next one will be about as large.
                let like = Records::like(&records);
                state.open.items = Items::Plain { items: Vec::with_capacity(items.len()), records: like };
                (items, records, open.waiters)
            }
            Items::Custom(mut buffer) => {
                let mut records = Records::default();
                let mut encoded = Vec::new();
                for item in buffer.drain() {
                    // Each pushed item could be encoded. What a merge made of two may not.
                    match records.push(&item, &*self.config.codec) {
                        Ok(_) => encoded.push(item),
                        Err(error) => self.fault(&QueueFault::Storage {
                            error: format!("a merged item cannot be encoded, and is dropped: {error}"),
                        }),
                    }
                }
                (encoded, records, open.waiters)
            }
        };
        if items.is_empty() {
            return;
        }
        self.enqueue(state, items, records, waiters, reason, None);
    }

    /// Puts a batch where [`pump`](Self::pump) finds it. Called under the lock.
    pub(crate) fn enqueue(
        &self,
        state: &mut State<T>,
        items: Vec<T>,
        records: Records,
        waiters: Vec<Waiter<T>>,
        reason: FlushReason,
        due: Option<Due>,
    ) {
        state.sealed += 1;
        let number = state.sealed;
        state.unsaved.insert(number);
        state.unsaved_items += items.len();
        state.unsaved_bytes += records.len();
        let added_at = self.now();
        state.outbox.push_back(Sealed { number, items, records, waiters, reason, added_at, due });
    }

    /// Hands sealed batches to the writer, in their order: whoever sealed one calls this, after the lock.
    pub(crate) fn pump(self: &Arc<Self>) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (mut sealed, refusals) = {
                let mut state = self.state();
                let Some(sealed) = state.outbox.pop_front() else { return };
                // It must not overtake those that could not be stored.
                if !state.refused.is_empty() {
                    if state.phase == Phase::Open {
                        state.refused.push_back(sealed);
                    } else {
                        // Whoever waits for it would never be told.
                        drop(state);
                        self.held_up(sealed);
                    }
                    continue;
                }
                (sealed, self.refusals.load(Ordering::SeqCst))
            };
            if planted("ack_before_commit") {
                sealed.waiters.drain(..).for_each(|waiter| drop(waiter.tell.send(Ok(()))));
            }
            crash_point("push.sealed");
            let (tag, level) = (self.config.codec.tag(), self.config.compression);
            self.writer.submit(Box::new(Insert {
                shared: Arc::clone(self),
                sealed,
                tag,
                level,
                data: Vec::new(),
                id: 0,
                refusals,
                late: false,
            }));
        }
    }

    /// Puts what the disk refused back where [`pump`](Self::pump) finds it first. Called under the lock.
    pub(crate) fn take_up_refused(state: &mut State<T>) {
        let refused = std::mem::take(&mut state.refused);
        for sealed in refused.into_iter().rev() {
            state.outbox.push_front(sealed);
        }
    }

    /// The keys of a batch's items, if they keep their order.
    pub(crate) fn keys(&self, items: &[T]) -> Keys {
        self.config.key.as_ref().map(|key| Keys::of(items, key)).unwrap_or_default()
    }

    /// A batch is on disk.
    fn stored(self: &Arc<Self>, id: i64, sealed: Sealed<T>, bytes: usize) {
        let mut sealed_more = false;
        let Sealed { number, items, records, waiters, reason, added_at, due } = sealed;
        let count = items.len();
        let keys = self.keys(&items);
        {
            let mut state = self.state();
            state.trouble = None;
            state.starved = false;
            state.unsaved.remove(&number);
            state.unsaved_items -= count;
            state.unsaved_bytes -= records.len();
            state.counts.flushed += count as u64;
            state.book(id, added_at, records.count(), bytes);
            if let Some(due) = due {
                state.offer_waiting(id, keys, due.at);
            } else {
                let stored = Stored {
                    id,
                    added_at,
                    tries: Tries::default(),
                    deaths: 0,
                    first_failed_at: None,
                    delay: None,
                    due: None,
                    held: Held::default(),
                    count: records.count(),
                    bytes,
                    content: Content::Items(items),
                };
                state.offer(stored, keys, MAX_READY, self.config.memory_bytes);
            }
            state.end_flushes();
            if !state.open.waiters.is_empty() {
                // Somebody waits for the disk, which has just become free.
                self.seal(&mut state, FlushReason::Asked);
                sealed_more = true;
            }
        }
        if sealed_more {
            self.pump();
        }
        if due.is_some() {
            self.keep.notify_one();
        }
        self.work.notify_one();
        self.room.notify_waiters();
        self.record(|recorder, queue| {
            recorder.add(&metrics::FLUSHED, &[queue, reason.as_str()], count as u64);
        });
        crash_point("push.on_disk");
        for waiter in waiters {
            // Who stopped waiting does not need to know.
            let _ = waiter.tell.send(Ok(()));
        }
    }

    /// The disk did not take a batch.
    fn not_stored(&self, sealed: Sealed<T>, error: SqliteError) {
        let reason = match &error {
            SqliteError::Full => RejectReason::StorageFull,
            SqliteError::Closed => RejectReason::Closed,
            failed => RejectReason::StorageFailed { reason: failed.to_string() },
        };
        if !matches!(error, SqliteError::Closed) {
            self.fault(&QueueFault::Storage { error: error.to_string() });
        }
        self.refuse(sealed, &reason, QueueError::of(error));
    }

    /// A batch must wait for one before it that did not get to the disk.
    fn held_up(&self, sealed: Sealed<T>) {
        let failure = self.state().failure.clone();
        let (reason, failed) =
            failure.unwrap_or_else(|| (RejectReason::StorageFull, QueueError::of(SqliteError::Full)));
        self.refuse(sealed, &reason, failed);
    }

    /// A batch did not get to the disk: who waited learns it, and the rest is kept for another try.
    fn refuse(&self, mut sealed: Sealed<T>, reason: &RejectReason, failed: QueueError) {
        let (items, bytes) = (sealed.items.len(), sealed.records.len());
        let told = take_back(&mut sealed, &*self.config.codec);
        {
            let mut state = self.state();
            state.trouble = Some(reason.clone());
            state.starved |= matches!(reason, RejectReason::StorageFull);
            state.unsaved_items -= items - sealed.items.len();
            state.unsaved_bytes -= bytes - sealed.records.len();
            if sealed.items.is_empty() {
                state.unsaved.remove(&sealed.number);
            } else {
                // In the order in which they were sealed.
                let at = state.refused.partition_point(|other| other.number < sealed.number);
                state.refused.insert(at, sealed);
                self.refusals.fetch_add(1, Ordering::SeqCst);
            }
            for (_, done) in state.flushes.drain(..) {
                let _ = done.send(Err(failed.clone()));
            }
            state.failure = Some((reason.clone(), failed));
        }
        self.keep.notify_one();
        self.room.notify_waiters();
        for (tell, item) in told {
            let _ = tell.send(Err(NotStored { item, reason: reason.clone() }));
        }
    }

    /// Has something run on the writer's thread, in a transaction, without waiting for it.
    pub(crate) fn tell(&self, work: impl FnMut(&Connection) -> SqlResult<()> + Send + 'static) {
        let (tell, _told) = oneshot::channel();
        self.writer.submit(Box::new(Ask { work, result: None, tell }));
    }

    /// Runs something on the writer's thread, in a transaction, and waits for its result.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        work: impl FnMut(&Connection) -> SqlResult<R> + Send + 'static,
    ) -> Result<R, QueueError> {
        let (tell, told) = oneshot::channel();
        self.writer.submit(Box::new(Ask { work, result: None, tell }));
        told.await.unwrap_or(Err(SqliteError::Closed)).map_err(QueueError::of)
    }

    /// Returns how long ago the oldest batch was stored.
    pub(crate) fn oldest_age(&self, state: &State<T>) -> Duration {
        state.oldest.map_or(Duration::ZERO, |oldest| self.now().since(oldest.added_at))
    }

    /// Sets the gauges.
    pub(crate) fn show(&self) {
        if self.config.recorder.is_none() {
            return;
        }
        let (stored, age) = {
            let state = self.state();
            (state.stored, self.oldest_age(&state))
        };
        self.record(|recorder, queue| {
            recorder.set(&metrics::BATCHES, &[queue], number(stored.batches));
            recorder.set(&metrics::ITEMS, &[queue], number(stored.items));
            recorder.set(&metrics::DISK, &[queue], number(stored.bytes));
            recorder.set(&metrics::OLDEST, &[queue], age.as_secs_f64());
        });
    }
}

/// Takes the items that somebody waits for out of a batch, as far as they can be told apart; they go back to who waits.
fn take_back<T>(sealed: &mut Sealed<T>, codec: &dyn Codec<T>) -> Vec<(Tell<T>, Option<T>)> {
    let waiters = std::mem::take(&mut sealed.waiters);
    if waiters.iter().all(|waiter| waiter.at.is_none()) {
        return waiters.into_iter().map(|waiter| (waiter.tell, None)).collect();
    }
    let mut items: Vec<Option<T>> = std::mem::take(&mut sealed.items).into_iter().map(Some).collect();
    let told = waiters
        .into_iter()
        .map(|waiter| (waiter.tell, waiter.at.and_then(|at| items.get_mut(at)).and_then(Option::take)))
        .collect();
    let mut records = Records::default();
    // They were encoded before.
    sealed.items = items.into_iter().flatten().filter(|item| records.push(item, codec).is_ok()).collect();
    sealed.records = records;
    told
}

#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn number(value: u64) -> f64 {
    value as f64
}

/// Stores a batch.
struct Insert<T> {
    shared: Arc<Shared<T>>,
    sealed: Sealed<T>,
    tag: &'static str,
    level: Option<i32>,
    /// The batch as it is stored, made by the first run: this is work for the writer's thread, not for who pushes.
    data: Vec<u8>,
    id: i64,
    /// How many batches had not got to the disk when this was handed over.
    refusals: u64,
    /// One before it did not get to the disk, so it must not, either.
    late: bool,
}

impl<T: Send + Sync + 'static> Request for Insert<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        // The answers of a failed commit come before the next one, so this is known by now.
        self.late = self.refusals != self.shared.refusals.load(Ordering::SeqCst);
        if self.late {
            // Those after it in this commit must not overtake it.
            self.shared.refusals.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        if self.data.is_empty() {
            self.data = self.sealed.records.seal(self.tag, self.level);
        }
        let Sealed { added_at, due, .. } = self.sealed;
        let row = NewRow { added_at, due, items: self.sealed.records.count(), data: &self.data };
        self.id = store::insert(transaction, &row)?;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, sealed, data, id, late, .. } = *self;
        match result {
            Ok(()) if late => shared.held_up(sealed),
            Ok(()) => shared.stored(id, sealed, data.len()),
            Err(error) => shared.not_stored(sealed, error),
        }
    }

    fn bytes(&self) -> usize {
        self.sealed.records.len()
    }

    fn took_effect(&mut self, connection: &Connection) -> SqlResult<Option<bool>> {
        if self.late {
            return Ok(None);
        }
        store::is_there(connection, self.id).map(Some)
    }
}

/// Runs a closure and sends its result.
struct Ask<F, R> {
    work: F,
    result: Option<R>,
    tell: oneshot::Sender<Result<R, SqliteError>>,
}

impl<R: Send, F: FnMut(&Connection) -> SqlResult<R> + Send> Request for Ask<F, R> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.result = Some((self.work)(transaction)?);
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { result: output, tell, .. } = *self;
        // Who stopped waiting does not need to know.
        let _ = tell.send(result.and_then(|()| output.ok_or(SqliteError::Closed)));
    }
}
