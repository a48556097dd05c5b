//! Workers in processes of their own tell what they do, and it is checked here that nothing of it is without a reason.
#![expect(clippy::print_stderr, reason = "a random test says its seed, and what it saw")]

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::conformance::TestError;
use relaykit_inbox::{
    HandlerKey, Handlers, Inbox, InboxStore, Received, Registration, Routes, Scope, Worker, WorkerEvent,
};
use relaykit_pipeline_traits::{
    BatchContext, Handler, Message, MessageId, Rng, SystemClock, Timestamp, Verdict,
};
use relaykit_retry::{Backoff, Policy};
use tokio::sync::watch;

/// How many messages of the plain handler a worker has on its way at most: called, and not written what became of them.
const CONCURRENCY: usize = 32;

/// How many messages are received at once, and how many of these came before.
const RECEIVED: usize = 500;
const AGAIN: usize = 50;

/// The kinds of messages. All go to `calls`, which is plain and keeps order, and to `effects`, which is transactional. One in ten
/// is a `star` and goes to `audit`, too, which is transactional and keeps order.
const KINDS: [&str; 2] = ["push", "star"];

pub(crate) fn scope() -> Scope {
    Scope::new("github").unwrap()
}

pub(crate) fn handler(key: &str) -> HandlerKey {
    HandlerKey::new(key).unwrap()
}

/// Reads the number of a message.
pub(crate) fn number(message: &Message) -> i64 {
    std::str::from_utf8(message.payload()).unwrap().parse().unwrap()
}

/// Fails one time in twenty.
pub(crate) fn verdict(rng: &mut Rng) -> Verdict<(), TestError> {
    if rng.chance(0.05) {
        return Verdict::Retry { after: None, error: TestError("failed") };
    }
    Verdict::Done(())
}

fn retry() -> Policy {
    let wait = Duration::from_millis(5);
    Backoff::fixed(wait).unlimited_attempts().max_hint(wait).build().unwrap()
}

/// Tells whoever started this process, by its standard error: one write a line, so that the lines of processes do not mix, and a
/// new line first, lest somebody has begun one.
fn tell(what: &str, number: i64) {
    let line = format!("\n{what} {} {number}\n", std::process::id());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

struct Calls;

impl Handler<Message> for Calls {
    type Output = ();
    type Error = TestError;

    async fn handle(&self, message: &Message, _: &BatchContext) -> Verdict<(), TestError> {
        tell("called", number(message));
        Verdict::Done(())
    }
}

pub(crate) fn handlers<S: InboxStore>(
    transactional: impl Fn(&'static str) -> S::Transactional,
) -> Handlers<S> {
    let writer = |key| Registration::transactional(handler(key), transactional(key));
    let list: [Registration<S>; 3] = [
        Registration::new(handler("calls"), Calls).on("push").on("star").ordered().concurrency(CONCURRENCY),
        writer("effects").on("push").on("star"),
        writer("audit").on("star").ordered(),
    ];
    let mut handlers = Handlers::new();
    for registration in list {
        handlers.register(registration.timeout(Duration::from_secs(1)).retry(retry())).unwrap();
    }
    handlers
}

/// Is a worker until its standard input ends.
pub(crate) async fn be_a_worker<S: InboxStore>(store: S, handlers: Handlers<S>) {
    let worker = Worker::builder(store, handlers)
        .lease(Duration::from_secs(4))
        .settle_timeout(Duration::from_secs(1))
        .poll(Duration::from_millis(20), Duration::from_millis(200))
        .on_event(|key, event| match event {
            WorkerEvent::LeaseLost { messages, .. } if key.as_str() == "calls" => {
                tell("lost", i64::try_from(*messages).unwrap());
            }
            _ => {}
        })
        .build()
        .unwrap();
    let told = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let summary = worker.run(async { drop(told.await) }).await;
    let unfinished: usize = summary.handlers.iter().map(|(_, summary)| summary.unfinished).sum();
    assert_eq!((unfinished, summary.kept_shards), (0, 0), "{summary:?}");
}

/// The messages of a test, and what is known of them.
pub(crate) struct Messages {
    rng: Rng,
    keys: Vec<u64>,
    kinds: Vec<&'static str>,
    ids: Vec<MessageId>,
    repeated: u64,
}

impl Messages {
    pub(crate) fn new() -> Self {
        let seed = Rng::from_entropy().next_u64();
        eprintln!("seed {seed}");
        let rng = Rng::seeded(seed);
        Self { rng, keys: Vec::new(), kinds: Vec::new(), ids: Vec::new(), repeated: 0 }
    }

    /// Receives so many messages, and one more in ten that came before.
    pub(crate) async fn receive<S: InboxStore>(&mut self, store: S, routes: Routes, count: usize) {
        let inbox = Inbox::new(store, routes);
        while self.ids.len() < count {
            let before = self.ids.len();
            let mut messages: Vec<Message> = (0..RECEIVED).map(|_| self.next()).collect();
            for _ in 0..AGAIN {
                let place = if before == 0 { messages.len() } else { self.below(messages.len()) };
                let number = self.below(if before == 0 { RECEIVED } else { before });
                messages.insert(place, self.message(number));
            }
            let answers = inbox.receive_all(&scope(), &messages).await.unwrap();
            let of = |meant: Received| answers.iter().filter(|answer| **answer == Ok(meant)).count();
            assert_eq!((of(Received::Stored), of(Received::AlreadyKnown)), (RECEIVED, AGAIN));
            self.repeated += AGAIN as u64;
        }
        assert_eq!((self.ids.len(), self.repeated), (count, count as u64 / 10));
    }

    pub(crate) fn count(&self, kind: &str) -> usize {
        self.kinds.iter().filter(|known| **known == kind).count()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    fn next(&mut self) -> Message {
        self.keys.push(self.rng.below(1_000));
        self.kinds.push(KINDS[usize::from(self.rng.chance(0.1))]);
        self.ids.push(MessageId::new(Timestamp::from_millis(1_763_683_200_000), &mut self.rng));
        self.message(self.ids.len() - 1)
    }

    fn message(&self, number: usize) -> Message {
        let at = Timestamp::from_millis(1_763_683_200_000);
        let message = Message::builder(self.ids[number], self.kinds[number], at);
        let message = message.ordering_key(format!("k{}", self.keys[number])).payload(number.to_string());
        message.build().unwrap()
    }

    /// Checks what the plain handler was called with: every message; those of a key in order; and again only what a process
    /// had on its way when it was killed, or when it lost its lease as it said.
    ///
    /// A worker lends at most [`CONCURRENCY`] messages of a handler at a time, and does not lend another before it is written
    /// what became of one. So this is the most that can be called again after it is killed. While one is not written, no other of
    /// its key is lent: what is called again of a key is what was called last.
    pub(crate) fn check(&self, told: &Told, killed: &HashSet<u32>) {
        let mut last_of_key: HashMap<u64, usize> = HashMap::new();
        let mut callers: Vec<Vec<u32>> = vec![Vec::new(); self.ids.len()];
        for (process, number) in &told.called {
            let key = self.keys[*number];
            if let Some(last) = last_of_key.insert(key, *number) {
                assert!(last <= *number, "of the key {key}, {number} came behind {last}");
            }
            callers[*number].push(*process);
        }
        let missing = callers.iter().filter(|callers| callers.is_empty()).count();
        assert_eq!(missing, 0, "messages that were never handled");
        let mut again: HashMap<u32, usize> = HashMap::new();
        for callers in &callers {
            for process in &callers[..callers.len() - 1] {
                *again.entry(*process).or_default() += 1;
            }
        }
        eprintln!(
            "called again, by whom it was called before: {again:?}; killed {killed:?}; lost {:?}",
            told.lost
        );
        for (process, count) in again {
            let on_its_way = if killed.contains(&process) { CONCURRENCY } else { 0 };
            let lost = told.lost.get(&process).copied().unwrap_or_default();
            assert!(count <= on_its_way + lost, "{count} of {process} were called again without a reason");
        }
    }
}

/// What the workers told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Which process called the plain handler with which message.
    called: Vec<(u32, usize)>,
    /// Of how many messages a process lost the lease before it could write what became of them.
    lost: HashMap<u32, usize>,
}

/// Processes that run a worker: this test again.
pub(crate) struct Workers {
    name: &'static str,
    values: Vec<(&'static str, String)>,
    running: Vec<Child>,
    pub(crate) killed: HashSet<u32>,
    writer: PipeWriter,
    reader: std::thread::JoinHandle<Told>,
    calls: watch::Receiver<usize>,
}

impl Workers {
    pub(crate) fn new(name: &'static str, values: Vec<(&'static str, String)>) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let (count, calls) = watch::channel(0);
        let reader = std::thread::spawn(move || listen(reader, &count));
        Self { name, values, running: Vec::new(), killed: HashSet::new(), writer, reader, calls }
    }

    pub(crate) fn start(&mut self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", self.name, "--nocapture"]).envs(self.values.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(self.writer.try_clone().unwrap());
        self.running.push(command.spawn().unwrap());
    }

    /// Stops the oldest as one should.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.running.remove(0);
        drop(child.stdin.take());
        let ended = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
    }

    /// Kills the oldest, whatever it does.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.remove(0);
        child.kill().unwrap();
        child.wait().unwrap();
        self.killed.insert(child.id());
    }

    /// Waits until the plain handler was called so often.
    pub(crate) async fn called(&mut self, count: usize) {
        self.calls.wait_for(|calls| *calls >= count).await.unwrap();
    }

    /// Stops all that run, and returns what was told.
    pub(crate) async fn told(mut self) -> (Told, HashSet<u32>) {
        while !self.running.is_empty() {
            self.stop().await;
        }
        drop(self.writer);
        (self.reader.join().unwrap(), self.killed)
    }
}

/// Waits until no handler has anything left.
pub(crate) async fn until_all_is_handled<S: InboxStore>(store: &S) {
    let clock: Arc<dyn relaykit_pipeline_traits::Clock> = Arc::new(SystemClock::new());
    for key in ["calls", "effects", "audit"] {
        loop {
            let depth = store.depth(&handler(key)).await.unwrap();
            assert_eq!(depth.dead, 0);
            if depth.pending == 0 {
                break;
            }
            clock.sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Reads what is told until all that tell have ended. What is something else is passed on.
fn listen(reader: PipeReader, calls: &watch::Sender<usize>) -> Told {
    let mut told = Told::default();
    for line in BufReader::new(reader).lines().map_while(Result::ok) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["called", process, number] => {
                told.called.push((process.parse().unwrap(), number.parse().unwrap()));
                calls.send_replace(told.called.len());
            }
            ["lost", process, count] => {
                *told.lost.entry(process.parse().unwrap()).or_default() += count.parse::<usize>().unwrap();
            }
            [""] => {}
            _ => eprintln!("{line}"),
        }
    }
    told
}
