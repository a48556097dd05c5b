use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_persistent_queue::{Builder, Durability, Plain, Queue, RejectReason};
use relaykit_pipeline_traits::{
    BatchContext, BatchHandler, BatchOutcome, Classify, Clock as _, ErrorClass, Rng, SystemClock, Verdict,
};
use relaykit_retry::{Backoff, Jitter};
use relaykit_sql_store::sqlite::rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::history::{Event, Id, Left, Said};
use crate::item::Item;

/// What a child process is to do with a queue, handed over as one JSON argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) file: PathBuf,
    pub(crate) seed: u64,
    pub(crate) first_id: Id,
    pub(crate) mode: Mode,
    pub(crate) durability: Kept,
    /// Bytes; 1 keeps the log to 64 KiB, so that it is often written back.
    pub(crate) ballast: u64,
    pub(crate) work: Work,
}

/// How the queue is set up, and so what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// One worker: the order of pushing.
    Line,
    /// Several workers, retries, and the order of each key.
    Keys,
    /// Several workers, retries, and no order.
    Free,
}

/// What a commit is to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    Full,
    ProcessCrashOnly,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Pushes and handles until it is told to end, or killed.
    Push,
    /// Pushes so many items one after the other, durably, handles them, and closes; begins when told to if it `waits`.
    Script { items: u64, waits: bool },
    /// The same, but rests for a while before the close.
    Rest { items: u64 },
    /// Pushes so many items without handling any, and closes.
    Fill { items: u64 },
    /// Handles everything there is, and dies of the poisoned item each time that it comes.
    Poison,
    /// Handles everything there is, dead letters too, and closes.
    Drain,
    /// Holds the file, and does nothing else.
    Hold,
}

/// Items that may be handled and not settled: permits times batches times items.
pub(crate) const UNSETTLED: usize = PERMITS * BATCHES * BATCH_ITEMS;
const PERMITS: usize = 4;
const BATCHES: usize = 2;
const BATCH_ITEMS: usize = 12;

/// How long everything may take to be worked off.
const DRAIN: Duration = Duration::from_secs(30);

/// How long a script may take, waits after a fault among it.
const SCRIPT: Duration = Duration::from_secs(20);

/// Does what the plan says, and tells the parent what happens, a line at a time.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<ExitCode> {
    let mut builder = if plan.seed.is_multiple_of(2) {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    builder.worker_threads(2);
    let runtime = builder.enable_all().build()?;
    let code = runtime.block_on(live(plan))?;
    // Whoever still waits for a line must not hold up the end.
    runtime.shutdown_background();
    Ok(code)
}

async fn live(plan: &Plan) -> anyhow::Result<ExitCode> {
    let handler = Arc::new(Handler::new(plan));
    say(&[Event::Opening]);
    let queue = match builder(plan, Arc::clone(&handler)).open() {
        Ok(queue) => queue,
        Err(error) => {
            say(&[Event::Fault { error: format!("open: {}", chain(&error)) }]);
            return Ok(ExitCode::from(3));
        }
    };
    say(&[Event::Opened]);
    let end = orders();
    match plan.work {
        Work::Push => return push(plan, queue, end).await,
        Work::Script { items, waits } => {
            let mut end = end;
            if waits {
                let _ = end.wait_for(Option::is_some).await;
            }
            script(plan, &queue, items).await;
        }
        Work::Rest { items } => {
            script(plan, &queue, items).await;
            SystemClock::new().sleep(Duration::from_millis(1_300)).await;
        }
        Work::Poison => {
            wait_idle(&queue, SystemClock::new().monotonic() + SCRIPT).await;
        }
        Work::Fill { items } => {
            queue.pause();
            script(plan, &queue, items).await;
        }
        Work::Drain => return drain(plan, queue, &handler).await,
        Work::Hold => {
            let mut end = end;
            let _ = end.wait_for(Option::is_some).await;
        }
    }
    close(&queue, Duration::from_secs(2)).await;
    Ok(ExitCode::SUCCESS)
}

/// The queue as the mode wants it.
pub(crate) fn builder(plan: &Plan, handler: Arc<Handler>) -> Builder<Item, Plain<Arc<Handler>>> {
    let soon = Backoff::fixed(Duration::from_millis(5)).jitter(Jitter::None).unlimited_attempts().build();
    let durability = match plan.durability {
        Kept::Full => Durability::Full,
        Kept::ProcessCrashOnly => Durability::ProcessCrashOnly,
    };
    let tells = Arc::clone(&handler);
    let builder = Queue::builder(&plan.file, handler)
        .durability(durability)
        .retry(soon.expect("within bounds"))
        .rng(Rng::seeded(plan.seed))
        .linger(Duration::from_millis(2))
        .max_items(BATCH_ITEMS)
        .unsettled(PERMITS)
        .memory_bytes(50_000)
        .ballast_bytes(plan.ballast)
        .bounds(3_000, 1 << 30, relaykit_persistent_queue::WhenFull::Block)
        .on_fault(move |fault| (tells.tell)(&[Event::Fault { error: format!("{fault:?}") }]));
    match plan.mode {
        Mode::Line => builder.batches(BATCHES).max_crashes(1_000_000),
        Mode::Keys => {
            builder.workers(3).batches(BATCHES).max_crashes(1_000_000).order_by(|item: &Item| Some(item.key))
        }
        Mode::Free => builder.workers(3),
    }
}

/// Takes what happened.
type Tell = Box<dyn Fn(&[Event]) + Send + Sync>;

/// Says of each item that it is done, most of the time, and tells the parent.
pub(crate) struct Handler {
    rng: Mutex<Rng>,
    moody: bool,
    poisoned: bool,
    /// What comes now was a dead letter.
    finds: AtomicBool,
    tell: Tell,
}

impl Handler {
    fn new(plan: &Plan) -> Self {
        let moody = plan.mode != Mode::Line && plan.work == Work::Push;
        Self { moody, poisoned: plan.work == Work::Poison, ..Self::telling(plan.seed, say) }
    }

    /// One that handles everything at once, and tells whom it is told to tell.
    pub(crate) fn telling(seed: u64, tell: impl Fn(&[Event]) + Send + Sync + 'static) -> Self {
        let rng = Mutex::new(Rng::seeded(seed));
        Self { rng, moody: false, poisoned: false, finds: AtomicBool::new(false), tell: Box::new(tell) }
    }

    pub(crate) fn now_finds(&self) {
        self.finds.store(true, Ordering::SeqCst);
    }

    fn says(&self) -> Said {
        match self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(40) {
            0 | 1 if self.moody => Said::Again,
            2 if self.moody => Said::Dead,
            _ => Said::Done,
        }
    }

    fn below(&self, end: u64) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).below(end)
    }
}

/// Why an item was not handled: the mood.
#[derive(Debug, thiserror::Error)]
#[error("a mood")]
pub(crate) struct Mood;

impl Classify for Mood {
    fn class(&self) -> ErrorClass {
        ErrorClass::Transient
    }
}

impl BatchHandler<Item> for Handler {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, batch: &[Item], _cx: &BatchContext) -> BatchOutcome<(), Mood> {
        if self.moody && self.below(4) == 0 {
            SystemClock::new().sleep(Duration::from_micros(self.below(1_500))).await;
        }
        let (mut events, mut verdicts) = (Vec::new(), Vec::new());
        for item in batch {
            let (id, key) = (item.id, item.key);
            if self.poisoned && id == POISON {
                std::process::abort();
            }
            if !item.is_whole() {
                events.push(Event::Wrong { id });
            }
            if self.finds.load(Ordering::SeqCst) {
                events.push(Event::Found { id });
                verdicts.push(Verdict::Done(()));
                continue;
            }
            let said = self.says();
            events.push(Event::Lent { id, key, said });
            verdicts.push(match said {
                Said::Done => Verdict::Done(()),
                Said::Dead => Verdict::Dead(Mood),
                Said::Again => Verdict::Retry { after: None, error: Mood },
            });
        }
        // The effect: from here on it has happened, whoever dies.
        (self.tell)(&events);
        BatchOutcome::Each(verdicts)
    }
}

/// Pushes with three producers, each with keys of its own, until told how to end.
async fn push(
    plan: &Plan,
    queue: Queue<Item>,
    mut end: watch::Receiver<Option<Order>>,
) -> anyhow::Result<ExitCode> {
    let ids = Arc::new(AtomicU64::new(plan.first_id));
    let mut rng = Rng::seeded(plan.seed);
    let mut producers = tokio::task::JoinSet::new();
    for number in 0..3 {
        let producer = Producer {
            queue: queue.clone(),
            ids: Arc::clone(&ids),
            first_key: number * 10,
            mode: plan.mode,
            rng: rng.fork(),
        };
        producers.spawn(producer.run());
    }
    let order = end.wait_for(Option::is_some).await.ok().and_then(|order| *order);
    match order {
        Some(Order::Stop) => {
            let within = Duration::from_millis(rng.below(50));
            close(&queue, within).await;
            while producers.join_next().await.is_some() {}
        }
        // Everything is dropped as it is.
        Some(Order::Leave) | None => {}
    }
    Ok(ExitCode::SUCCESS)
}

struct Producer {
    queue: Queue<Item>,
    ids: Arc<AtomicU64>,
    first_key: u64,
    mode: Mode,
    rng: Rng,
}

impl Producer {
    async fn run(mut self) {
        loop {
            let open = match self.rng.below(4) {
                0 => self.push_and_flush().await,
                1 if self.mode != Mode::Line => self.push_after().await,
                _ => self.push_durable().await,
            };
            if !open {
                return;
            }
            // A push may be through at once; everybody else has a turn, too.
            tokio::task::yield_now().await;
        }
    }

    fn next(&mut self) -> Item {
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        // Without keys, each producer is one.
        let key = self.first_key + if self.mode == Mode::Line { 0 } else { self.rng.below(4) };
        say(&[Event::Offered { id, key }]);
        Item::new(id, key)
    }

    async fn push_durable(&mut self) -> bool {
        let item = self.next();
        let id = item.id;
        answered(
            id,
            self.queue.push_durable(item).await.map_err(|refused| (refused.item.is_some(), refused.reason)),
        )
        .await
    }

    async fn push_after(&mut self) -> bool {
        let (item, delay) = (self.next(), Duration::from_millis(self.rng.below(6)));
        let id = item.id;
        answered(
            id,
            self.queue
                .push_after(item, delay)
                .await
                .map_err(|refused| (refused.item.is_some(), refused.reason)),
        )
        .await
    }

    async fn push_and_flush(&mut self) -> bool {
        let mut pushed = Vec::new();
        for _ in 0..self.rng.below(20) {
            let item = self.next();
            let id = item.id;
            match self.queue.push(item).await {
                Ok(()) => pushed.push(id),
                Err(refused) => {
                    if !answered(id, Err((true, refused.reason))).await {
                        return false;
                    }
                }
            }
        }
        if self.queue.flush().await.is_ok() {
            let events: Vec<_> = pushed.into_iter().map(|id| Event::Acknowledged { id }).collect();
            say(&events);
        }
        true
    }
}

/// Tells what became of a durable push. Returns whether the queue is still open.
async fn answered(id: Id, result: Result<(), (bool, RejectReason)>) -> bool {
    match result {
        Ok(()) => say(&[Event::Acknowledged { id }]),
        Err((true, _)) => say(&[Event::Refused { id }]),
        // It was kept, or nobody knows.
        Err((false, _)) => {}
    }
    if result.is_err() {
        // A refusal comes at once, and would be all that this process does.
        SystemClock::new().sleep(Duration::from_millis(1)).await;
    }
    !matches!(result, Err((_, RejectReason::Closed)))
}

/// Pushes items one after the other, and goes on after a fault until so many were acknowledged.
async fn script(plan: &Plan, queue: &Queue<Item>, items: u64) {
    let clock = SystemClock::new();
    let until = clock.monotonic() + SCRIPT;
    let (mut id, mut acknowledged) = (plan.first_id, 0);
    while acknowledged < items && clock.monotonic() < until {
        say(&[Event::Offered { id, key: 0 }]);
        let result = queue.push_durable(Item::new(id, 0)).await;
        let good = result.is_ok();
        answered(id, result.map_err(|refused| (refused.item.is_some(), refused.reason))).await;
        id += 1;
        if good {
            acknowledged += 1;
        } else {
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
    let handles = !matches!(plan.work, Work::Fill { .. });
    let busy = || queue.stats().stored_items + queue.stats().buffered_items > 0;
    while handles && busy() && clock.monotonic() < until {
        clock.sleep(Duration::from_millis(1)).await;
    }
    if acknowledged < items || (handles && busy()) {
        say(&[Event::Fault { error: STALLED.to_owned() }]);
    }
}

/// The item that kills whoever handles it.
pub(crate) const POISON: Id = 30;

/// What a script says that did not get on after a fault.
pub(crate) const STALLED: &str = "stalled";

/// Handles everything there is, then the dead letters, and says what is left.
async fn drain(plan: &Plan, queue: Queue<Item>, handler: &Handler) -> anyhow::Result<ExitCode> {
    let left = work_off(&queue, handler, DRAIN).await;
    close(&queue, Duration::from_secs(1)).await;
    drop(queue);
    let left = look_at(&plan.file, left);
    say(&[Event::Ended { left }]);
    Ok(ExitCode::SUCCESS)
}

/// Waits until everything is handled, then replays the dead letters, so that it is known which they are.
pub(crate) async fn work_off(queue: &Queue<Item>, handler: &Handler, within: Duration) -> Left {
    let clock = SystemClock::new();
    let until = clock.monotonic() + within;
    let mut left = wait_idle(queue, until).await;
    handler.now_finds();
    let dead = queue.dead_letters(0, 1_000_000).await.unwrap_or_default();
    let ids: Vec<_> = dead.iter().map(|letter| letter.id).collect();
    if !ids.is_empty() && queue.replay(&ids).await.is_ok() {
        left = wait_idle(queue, until).await;
    }
    left
}

async fn wait_idle(queue: &Queue<Item>, until: relaykit_pipeline_traits::Monotonic) -> Left {
    let clock = SystemClock::new();
    loop {
        let stats = queue.stats();
        let in_flight = stats.in_flight_items + stats.buffered_items;
        if stats.stored_items + in_flight == 0 || clock.monotonic() >= until {
            return Left { stored: stats.stored_items, in_flight, ..Left::default() };
        }
        clock.sleep(Duration::from_micros(300)).await;
    }
}

/// Looks at a closed queue's file, behind its back.
pub(crate) fn look_at(file: &Path, left: Left) -> Left {
    let mut left = left;
    let count = |connection: &Connection, sql: &str| {
        let number: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap_or(-1);
        u64::try_from(number).unwrap_or(u64::MAX)
    };
    left.side_files = ["-wal", "-shm", "-journal", "-probe"]
        .iter()
        .filter(|suffix| Path::new(&format!("{}{suffix}", file.display())).exists())
        .count() as u64;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(connection) = Connection::open_with_flags(file, flags) else {
        return Left { damaged: true, ..left };
    };
    left.claims = count(&connection, "SELECT count(*) FROM claims");
    left.stored = left.stored.max(count(&connection, "SELECT coalesce(sum(items), 0) FROM batches"));
    let check: Result<String, _> = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    left.damaged = check.as_deref() != Ok("ok");
    left
}

/// Closes, and tells how that went.
async fn close(queue: &Queue<Item>, within: Duration) {
    let report = queue.close(within).await;
    // What could not be stored goes back to whoever is here: nobody.
    let refused: Vec<_> = report.unsaved.iter().map(|item| Event::Refused { id: item.id }).collect();
    say(&refused);
    // What a handler had, and is still booked as in flight, was handled and not written down.
    let unsettled = !report.file_closed || queue.stats().in_flight_items > 0;
    say(&[Event::Stopped { unsettled }]);
}

/// How the parent wants it to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Close. Or go, for a script that waits.
    Stop,
    /// Go without a close.
    Leave,
}

/// Ends when the order is to go as one is.
pub(crate) async fn left(mut orders: watch::Receiver<Option<Order>>) {
    if orders.wait_for(|order| *order == Some(Order::Leave)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for an order of the parent, on a thread of its own. A parent that is gone ends the process.
pub(crate) fn orders() -> watch::Receiver<Option<Order>> {
    let (tell, told) = watch::channel(None);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let order = match line.as_deref() {
                Ok("stop") => Order::Stop,
                Ok("leave") => Order::Leave,
                _ => break,
            };
            tell.send_replace(Some(order));
        }
        std::process::exit(4);
    });
    told
}

/// Tells the parent, in one write.
fn say(events: &[Event]) {
    if events.is_empty() {
        return;
    }
    let mut line = serde_json::to_string(events).expect("events are plain data");
    line.push('\n');
    // A parent that is gone needs no news.
    let _ = std::io::stdout().write_all(line.as_bytes());
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
