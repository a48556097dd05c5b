//! A store, a reader, workers and a committer around a barrier. Whatever they do that another could see happens in
//! steps, and chance alone decides whose step is next.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use relaykit_event_barrier::{Admission, Barrier, Permit, Reader, State, Turn};
use relaykit_pipeline_traits::{Monotonic, Rng};

use crate::setup::{Protocol, Setup};

/// Not seeded by the process, so that one seed gives one run.
type Hasher = BuildHasherDefault<DefaultHasher>;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every job ended, each after all older ones of its key, and the barrier forgot them.
    Ordered,
    /// A job ended while an older one of its key was unfinished.
    Violation(String),
    /// Nothing can happen any more, and jobs are unfinished.
    Stuck(String),
    /// All is done, and the barrier still holds something.
    Leftover(String),
}

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    pub(crate) steps: u64,
    /// What happened, if asked for.
    pub(crate) trace: Vec<String>,
}

/// Runs `setup` with the schedule and the outcomes of `seed`.
pub(crate) fn run(setup: Setup, seed: u64, traced: bool) -> Run {
    let mut world = World::new(setup, seed, traced);
    let verdict = loop {
        if let Some(verdict) = world.verdict.take() {
            break verdict;
        }
        if world.is_done() {
            break world.leftover();
        }
        if world.steps == MAX_STEPS {
            break Verdict::Stuck(format!("not done after {MAX_STEPS} steps"));
        }
        world.step();
    };
    Run { verdict, steps: world.steps, trace: world.trace.unwrap_or_default() }
}

/// Far more than a run of 30 jobs takes; reaching it means that it goes round in circles.
const MAX_STEPS: u64 = 200_000;

struct World {
    setup: Setup,
    rng: Rng,
    barrier: Barrier<u64, u64, Hasher>,
    reader: Reader<u64, u64, Hasher>,
    rows: Vec<Row>,
    unfinished: u64,
    /// Rows from here on have not arrived yet.
    arrived: u64,
    pass: Pass,
    /// Passes in a row that found the pipeline empty and took nothing.
    idle_passes: u32,
    workers: Vec<Worker>,
    /// Outcomes on their way to the store, in the order of their sending.
    outcomes: VecDeque<Outcome>,
    batch: Batch,
    /// Jobs of dead workers that the store still calls executing.
    lost: Vec<u64>,
    speeds: Speeds,
    page: usize,
    buffer: usize,
    steps: u64,
    verdict: Option<Verdict>,
    trace: Option<Vec<String>>,
}

struct Row {
    key: u64,
    status: Status,
    /// Its last status was a failure.
    failed: bool,
    /// A worker sent or dropped it for good; perhaps that is not stored yet.
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Readable,
    Executing,
    Done,
}

/// A pass of the reader over the store.
struct Pass {
    next: Next,
    page: VecDeque<u64>,
    /// The last job that was read.
    read_to: u64,
    refused_keys: BTreeSet<u64>,
    taken: Option<Task>,
    accepted: u32,
    /// When it began, nothing was in flight and no job was still to arrive; since, no refusal was by chance.
    decisive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Begin,
    Sync,
    Read,
    Walk,
    HandOver,
}

#[derive(Default)]
struct Worker {
    tasks: VecDeque<Task>,
}

struct Task {
    job: u64,
    key: u64,
    permit: Permit<'static, u64, u64, Hasher>,
    /// It is given up without being sent.
    drained: bool,
    /// It passed the second gate.
    passed: bool,
}

struct Outcome {
    job: u64,
    state: State,
    /// Gone if the barrier has been told.
    permit: Option<Permit<'static, u64, u64, Hasher>>,
}

/// What the committer is doing with the first so many outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batch {
    None,
    Persist(usize),
    Notify { next: usize, len: usize },
}

/// How often each gets its turn. Drawn anew now and then, so that one is held up while another runs ahead.
struct Speeds {
    arrivals: u64,
    reader: u64,
    worker: u64,
    committer: u64,
}

impl Speeds {
    fn draw(rng: &mut Rng) -> Self {
        let mut speed = || 1 << rng.below(7);
        Self { arrivals: speed(), reader: speed(), worker: speed(), committer: speed() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Arrive,
    Reader,
    Worker(usize),
    Commit,
    Restore,
    Die(usize),
    Restart,
}

impl World {
    fn new(setup: Setup, seed: u64, traced: bool) -> Self {
        let mut rng = Rng::seeded(seed);
        let (barrier, reader) = build(&setup);
        let rows = (0..setup.jobs)
            .map(|_| Row {
                key: rng.below(setup.keys),
                status: Status::Readable,
                failed: false,
                ended: false,
            })
            .collect();
        let speeds = Speeds::draw(&mut rng);
        Self {
            barrier,
            reader,
            rows,
            unfinished: setup.jobs,
            arrived: 1 + rng.below(setup.jobs),
            pass: Pass::new(),
            idle_passes: 0,
            workers: (0..setup.workers).map(|_| Worker::default()).collect(),
            outcomes: VecDeque::new(),
            batch: Batch::None,
            lost: Vec::new(),
            speeds,
            page: [2, 7, 30][usize_below(&mut rng, 3)],
            buffer: 1 + usize_below(&mut rng, 20),
            steps: 0,
            verdict: None,
            trace: traced.then(Vec::new),
            setup,
            rng,
        }
    }

    fn now(&self) -> Monotonic {
        Monotonic::from_origin(Duration::from_micros(self.steps))
    }

    fn is_done(&self) -> bool {
        self.unfinished == 0 && self.is_pipeline_empty() && self.pass.taken.is_none()
    }

    fn is_pipeline_empty(&self) -> bool {
        self.outcomes.is_empty() && self.lost.is_empty() && self.workers.iter().all(|w| w.tasks.is_empty())
    }

    /// Everything is done: once the idle time of a drain limit is over, too, nothing must be known any more.
    fn leftover(&mut self) -> Verdict {
        let later = self.now() + Duration::from_secs(3600);
        self.reader.sync(self.now());
        self.reader.sync(later);
        self.reader.sync(later + Duration::from_secs(3600));
        match self.barrier.size() {
            0 => Verdict::Ordered,
            _ => Verdict::Leftover(self.barrier.to_string()),
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        if self.steps.is_multiple_of(8) {
            self.speeds = Speeds::draw(&mut self.rng);
        }
        match self.choose() {
            Step::Arrive => {
                let more = 1 + self.rng.below(5);
                self.arrived = self.setup.jobs.min(self.arrived + more);
                self.note(|w| format!("jobs up to {} have arrived", w.arrived));
            }
            Step::Reader => self.read(),
            Step::Worker(worker) => self.work(worker),
            Step::Commit => self.commit(),
            Step::Restore => {
                for job in std::mem::take(&mut self.lost) {
                    let row = self.row(job);
                    (row.status, row.failed) = (Status::Readable, true);
                    self.note(|_| format!("store: {job} was lost, and can be read again"));
                }
            }
            Step::Die(worker) => {
                self.note(|_| format!("worker {worker} dies"));
                while let Some(task) = self.workers[worker].tasks.pop_front() {
                    self.lost.push(task.job);
                    drop(task.permit);
                }
            }
            Step::Restart => self.restart(),
        }
    }

    fn choose(&mut self) -> Step {
        let mut steps = [(0, Step::Arrive); 16];
        let mut count = 0;
        let mut add = |weight: u64, step: Step| {
            steps[count] = (weight, step);
            count += 1;
        };
        // In 1024ths, so that faults can be rare.
        add(self.speeds.reader << 10, Step::Reader);
        if self.arrived < self.setup.jobs {
            add(self.speeds.arrivals << 9, Step::Arrive);
        }
        for (n, worker) in self.workers.iter().enumerate() {
            if !worker.tasks.is_empty() {
                add(self.speeds.worker << 10, Step::Worker(n));
                if self.setup.faults {
                    add(60, Step::Die(n));
                }
            }
        }
        if !self.outcomes.is_empty() {
            add(self.speeds.committer << 10, Step::Commit);
        }
        if !self.lost.is_empty() {
            add(1 << 10, Step::Restore);
        }
        if self.setup.faults {
            add(10, Step::Restart);
        }
        let steps = &steps[..count];
        let mut at = self.rng.below(steps.iter().map(|(weight, _)| weight).sum());
        for &(weight, step) in steps {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        unreachable!("`at` is below the sum")
    }

    // The reader.

    fn read(&mut self) {
        match self.pass.next {
            Next::Begin => {
                self.pass = Pass::new();
                self.pass.decisive = self.is_pipeline_empty() && self.arrived == self.setup.jobs;
                if self.setup.protocol == Protocol::ReadThenSync {
                    self.read_page();
                    self.pass.next = Next::Sync;
                } else {
                    self.sync();
                    self.pass.next = Next::Read;
                }
            }
            Next::Sync => {
                self.sync();
                self.pass.next = Next::Walk;
            }
            Next::Read => {
                self.read_page();
                self.pass.next = Next::Walk;
            }
            Next::Walk => self.walk(),
            Next::HandOver => {
                let task = self.pass.taken.take().expect("walk took it");
                let worker = self.worker_of(task.key);
                self.note(|_| format!("reader: {} goes to worker {worker}", task.job));
                self.workers[worker].tasks.push_back(task);
                self.pass.next = Next::Walk;
            }
        }
    }

    fn sync(&mut self) {
        let synced = self.reader.sync(self.now());
        self.note(|_| format!("sync: {} applied, {:?} opened", synced.applied, synced.opened));
    }

    fn read_page(&mut self) {
        let arrived = usize::try_from(self.arrived).expect("few jobs");
        let from = usize::try_from(self.pass.read_to).expect("few jobs");
        for (n, row) in self.rows[..arrived].iter().enumerate().skip(from) {
            if row.status == Status::Readable {
                self.pass.page.push_back(n as u64 + 1);
                if self.pass.page.len() == self.page {
                    break;
                }
            }
        }
        self.pass.read_to = self.pass.page.back().copied().unwrap_or(self.arrived);
        self.note(|w| format!("reader: page {:?}", w.pass.page));
    }

    /// Goes on to the next job that is taken, or to the end of the page.
    fn walk(&mut self) {
        let Self { rows, pass, .. } = self;
        let is_open = |job: u64| !pass.refused_keys.contains(&rows[index(job)].key);
        let skipped = pass.page.iter().take_while(|&&job| !is_open(job)).count();
        pass.page.drain(..skipped);
        let Some(job) = self.pass.page.pop_front() else {
            if self.pass.read_to < self.arrived {
                self.read_page();
            } else {
                self.end_pass();
            }
            return;
        };
        let Row { key, failed, .. } = *self.row(job);
        let drained = failed && self.rng.chance(0.1);
        let in_backoff = failed && !drained && self.rng.chance(0.15);
        if in_backoff || self.workers[self.worker_of(key)].tasks.len() >= self.buffer {
            self.pass.decisive &= !in_backoff;
            self.refuse(job, key, "is in backoff, or its worker is full");
            return;
        }
        let barrier = self.barrier.clone();
        let permit = match barrier.enter(&key, job, self.now()) {
            Admission::Accepted(permit) | Admission::Bypassed(permit) => permit,
            refusal => {
                self.refuse(job, key, format_args!("is refused: {refusal:?}"));
                return;
            }
        };
        if !drained && self.rng.chance(0.03) {
            self.pass.decisive = false;
            drop(permit);
            self.refuse(job, key, "is throttled");
            return;
        }
        // The store calls it executing from here on, so nobody reads it again if its worker dies.
        let mut permit = permit.into_owned();
        if self.setup.protocol != Protocol::DeadWorkersLeave {
            permit = permit.fail_on_drop();
        }
        self.row(job).status = Status::Executing;
        self.note(|_| format!("reader: {job} of key {key} enters{}", if drained { ", drained" } else { "" }));
        self.pass.taken = Some(Task { job, key, permit, drained, passed: false });
        self.pass.accepted += 1;
        self.pass.next = Next::HandOver;
    }

    fn refuse(&mut self, job: u64, key: u64, why: impl fmt::Display) {
        self.pass.refused_keys.insert(key);
        self.note(|_| format!("reader: {job} of key {key} {why}"));
    }

    fn end_pass(&mut self) {
        self.pass.next = Next::Begin;
        if !self.pass.decisive || self.pass.accepted > 0 {
            self.idle_passes = 0;
            return;
        }
        // The first may have been told of changes between its sync and its reading.
        self.idle_passes += 1;
        if self.idle_passes == 3 {
            self.verdict = Some(Verdict::Stuck(self.barrier.to_string()));
        }
    }

    // The workers.

    fn work(&mut self, worker: usize) {
        let Some(task) = self.workers[worker].tasks.front_mut() else { return };
        let asks = !task.drained || self.setup.protocol != Protocol::GiveUpUnasked;
        if asks && !task.passed {
            let turn = task.permit.wait(Monotonic::from_origin(Duration::from_micros(self.steps)));
            task.passed = turn == Turn::Go;
            let job = task.job;
            self.note(|_| format!("worker {worker}: {job} asks: {turn:?}"));
            if let Turn::Wait { .. } = turn {
                self.report(worker, State::Waiting);
            }
            return;
        }
        let state = match (task.drained, self.rng.below(3)) {
            (true, _) | (_, 0) => State::Aborted,
            (_, 1) => State::Failed,
            _ => State::Succeeded,
        };
        self.report(worker, state);
    }

    /// Sends the worker's first job on its way to the store.
    fn report(&mut self, worker: usize, state: State) {
        let Task { job, key, permit, .. } =
            self.workers[worker].tasks.pop_front().expect("the caller looked at it");
        self.note(|_| format!("worker {worker}: {job} {state}"));
        match state {
            State::Waiting => {}
            State::Failed => {
                if self.setup.protocol != Protocol::FailAfterPersist {
                    self.tell(permit, state);
                    self.outcomes.push_back(Outcome { job, state, permit: None });
                    return;
                }
            }
            _ => {
                self.check(job, key, "ended", |row| row.ended);
                self.row(job).ended = true;
            }
        }
        self.outcomes.push_back(Outcome { job, state, permit: Some(permit) });
    }

    fn tell(&mut self, permit: Permit<'static, u64, u64, Hasher>, state: State) {
        let job = permit.job();
        let change = permit.settle(state, self.now());
        self.note(|_| format!("barrier: told that {job} {state}: {change:?}"));
        if self.setup.protocol == Protocol::OpenAtOnce {
            self.sync();
        }
    }

    fn check(&mut self, job: u64, key: u64, what: &str, is_past: impl Fn(&Row) -> bool) {
        let older = (1..job).find(|&older| {
            let row = self.row(older);
            row.key == key && !is_past(row)
        });
        if let Some(older) = older {
            self.verdict
                .get_or_insert_with(|| Verdict::Violation(format!("{job} {what} while {older} had not")));
        }
    }

    // The committer.

    fn commit(&mut self) {
        let notify_first = self.setup.protocol == Protocol::NotifyThenPersist;
        match self.batch {
            Batch::None => {
                let len = 1 + usize_below(&mut self.rng, self.outcomes.len());
                if notify_first {
                    self.batch = Batch::Notify { next: 0, len };
                    self.notify(0);
                    self.batch = Batch::Notify { next: 1, len };
                } else {
                    self.persist(len);
                    self.batch = Batch::Notify { next: 0, len };
                }
            }
            Batch::Notify { next, len } if next < len => {
                self.notify(next);
                self.batch = Batch::Notify { next: next + 1, len };
            }
            Batch::Notify { len, .. } if notify_first => self.batch = Batch::Persist(len),
            Batch::Notify { len, .. } => self.finish_batch(len),
            Batch::Persist(len) => {
                self.persist(len);
                self.finish_batch(len);
            }
        }
    }

    fn finish_batch(&mut self, len: usize) {
        self.outcomes.drain(..len);
        self.batch = Batch::None;
    }

    fn notify(&mut self, at: usize) {
        let Outcome { state, permit, .. } = &mut self.outcomes[at];
        let state = *state;
        if let Some(permit) = permit.take() {
            self.tell(permit, state);
        }
    }

    /// Stores the batch in one transaction.
    fn persist(&mut self, len: usize) {
        for n in 0..len {
            let Outcome { job, state, .. } = self.outcomes[n];
            let done = matches!(state, State::Succeeded | State::Aborted);
            self.note(|_| format!("store: {job} {state}"));
            if done {
                let key = self.row(job).key;
                self.check(job, key, "was stored as done", |row| row.status == Status::Done);
            }
            self.unfinished -= u64::from(done);
            let row = self.row(job);
            row.status = if done { Status::Done } else { Status::Readable };
            row.failed = state == State::Failed;
        }
    }

    /// Begins with what the store knows, and an empty barrier.
    fn restart(&mut self) {
        self.note(|_| "the process restarts".to_owned());
        (self.barrier, self.reader) = build(&self.setup);
        self.pass = Pass::new();
        self.workers.iter_mut().for_each(|worker| worker.tasks.clear());
        self.outcomes.clear();
        self.batch = Batch::None;
        self.lost.clear();
        for row in &mut self.rows {
            if row.status == Status::Executing {
                row.status = Status::Readable;
            }
            row.ended = row.status == Status::Done;
        }
    }

    fn worker_of(&self, key: u64) -> usize {
        usize::try_from(key).expect("few keys") % self.workers.len()
    }

    fn row(&mut self, job: u64) -> &mut Row {
        &mut self.rows[index(job)]
    }

    fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if let Some(mut trace) = self.trace.take() {
            trace.push(format!("{:5} {}", self.steps, text(self)));
            self.trace = Some(trace);
        }
    }
}

impl Pass {
    fn new() -> Self {
        Self {
            next: Next::Begin,
            page: VecDeque::new(),
            read_to: 0,
            refused_keys: BTreeSet::new(),
            taken: None,
            accepted: 0,
            decisive: false,
        }
    }
}

fn build(setup: &Setup) -> (Barrier<u64, u64, Hasher>, Reader<u64, u64, Hasher>) {
    Barrier::builder()
        .limits(setup.limits)
        .hasher(Hasher::default())
        .build()
        .expect("the limits have no zero duration")
}

fn index(job: u64) -> usize {
    usize::try_from(job - 1).expect("few jobs")
}

fn usize_below(rng: &mut Rng, end: usize) -> usize {
    usize::try_from(rng.below(end as u64)).expect("it is below a usize")
}
