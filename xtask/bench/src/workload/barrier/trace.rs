use std::collections::VecDeque;

use relaykit_event_barrier::State;
use relaykit_pipeline_traits::Rng;

use super::bare::Books;
use super::setting::{Mix, Setting};
use super::zipf::Draw;

/// How many jobs come to their end in one run of all threads' traces.
const JOBS: usize = 1_000_000;
/// The same with one key: its jobs need many passes.
const JOBS_OF_ONE_KEY: usize = 200_000;
/// How many refused jobs of a key wait for a later pass. While so many wait, further ones are left out.
const WAITING: usize = 100;

/// What one thread does, written down ahead, so that neither chance nor the reader's own books are measured.
///
/// A job that was refused is picked again once its key opens, later jobs of its key after it, as the protocol wants. Each
/// thread has jobs of its own keys, unless there is but one.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    /// How many jobs come to their end.
    pub(super) ended: usize,
    /// How many steps are refused if no other thread is in the way.
    pub(super) refused: usize,
    /// Beyond any job of the trace.
    pub(super) next_job: u64,
}

/// One step of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// A pass begins.
    Sync,
    /// A job is picked, and this becomes of it.
    Pass { key: u64, job: u64, state: State },
    /// A job is picked, and refused if no other thread is in the way.
    Refused { key: u64, job: u64 },
}

impl Trace {
    /// Writes down what a thread does.
    pub(super) fn of_thread(setting: &Setting, thread: u64) -> Self {
        Planner::new(setting, thread).plan(jobs(setting))
    }

    pub(super) fn asked(&self) -> usize {
        self.steps.iter().filter(|step| **step != Step::Sync).count()
    }
}

fn jobs(setting: &Setting) -> usize {
    let all = if setting.keys == 1 { JOBS_OF_ONE_KEY } else { JOBS };
    all / usize::try_from(setting.threads).unwrap_or(1)
}

/// A reader and its workers, one job after the other, around bare books.
struct Planner<'a> {
    setting: &'a Setting,
    rng: Rng,
    draw: Draw,
    books: Books,
    keys: Vec<Key>,
    /// Failed jobs, by the number of passes until they are tried again.
    retries: VecDeque<Vec<Job>>,
    /// Keys with waiting jobs whose failed job ended, or that had no room, in the pass before.
    woken: Vec<usize>,
    pass: u32,
    trace: Trace,
}

#[derive(Debug, Clone, Default)]
struct Key {
    waiting: VecDeque<u64>,
    /// The last pass in which a job was refused.
    refused_in: u32,
    failed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    key: usize,
    job: u64,
}

impl<'a> Planner<'a> {
    fn new(setting: &'a Setting, thread: u64) -> Self {
        let keys = (setting.keys / setting.threads).max(1);
        let draw = match u32::try_from(keys) {
            Ok(keys) if setting.zipf => Draw::zipf(keys),
            _ => Draw::uniform(keys),
        };
        Self {
            setting,
            rng: Rng::seeded(thread + 1),
            draw,
            books: Books::new(setting.mix.limits()),
            keys: vec![Key::default(); usize::try_from(keys).unwrap_or(1)],
            retries: VecDeque::new(),
            woken: Vec::new(),
            pass: 0,
            trace: Trace { steps: Vec::new(), ended: 0, refused: 0, next_job: thread },
        }
    }

    fn plan(mut self, jobs: usize) -> Trace {
        while self.trace.ended < jobs {
            let mut picked = self.begin();
            // Jobs that find their key closed fill a page, too.
            while picked < self.setting.page {
                picked += 1;
                let key = usize::try_from(self.draw.next(&mut self.rng)).unwrap_or(0);
                let job = self.next_job();
                self.arrive(Job { key, job });
            }
        }
        self.settle();
        self.trace
    }

    /// Lets failed jobs have their retry and draining keys one more job, so that the books are empty in the end. What was
    /// never let in is left out.
    fn settle(&mut self) {
        loop {
            self.keys.iter_mut().for_each(|key| key.waiting.clear());
            self.begin();
            for key in self.books.draining() {
                let job = self.next_job();
                self.ask(
                    Job { key: usize::try_from(key / self.setting.threads).unwrap_or(0), job },
                    State::Succeeded,
                );
            }
            if self.books.size() == 0 && self.retries.iter().all(Vec::is_empty) {
                return;
            }
        }
    }

    /// Begins a pass: sync, then the failed jobs whose time has come, then those that waited for them.
    fn begin(&mut self) -> usize {
        self.pass += 1;
        self.trace.steps.push(Step::Sync);
        self.books.sync();
        let before = self.trace.steps.len();
        let woken = std::mem::take(&mut self.woken);
        for job in self.retries.pop_front().unwrap_or_default() {
            self.retry(job);
        }
        for key in woken {
            while let Some(job) = self.keys[key].waiting.pop_front() {
                if !self.pick(Job { key, job }) {
                    self.keys[key].waiting.push_front(job);
                    break;
                }
            }
        }
        self.trace.steps.len() - before
    }

    fn arrive(&mut self, job: Job) {
        let key = &mut self.keys[job.key];
        let closed = key.refused_in == self.pass || !key.waiting.is_empty();
        if closed && key.waiting.len() >= WAITING {
            return;
        }
        if closed || !self.pick(job) {
            self.keys[job.key].waiting.push_back(job.job);
        }
    }

    /// Picks a job for the first time, or after it was refused; answers whether it passed.
    fn pick(&mut self, job: Job) -> bool {
        let failing = self.rng.chance(self.setting.mix.failing());
        let state = if failing { State::Failed } else { State::Succeeded };
        let passed = self.ask(job, state);
        if !passed {
            let key = &mut self.keys[job.key];
            key.refused_in = self.pass;
            // It had no room: the next sync may make some. Behind a failed job, it waits for that.
            if !key.failed {
                self.woken.push(job.key);
            }
        } else if failing {
            self.keys[job.key].failed = true;
            let backoff = self.setting.backoff();
            if self.retries.len() < backoff {
                self.retries.resize_with(backoff, Vec::new);
            }
            self.retries[backoff - 1].push(job);
        }
        passed
    }

    fn retry(&mut self, job: Job) {
        let state = if self.setting.mix == Mix::Limits { State::Aborted } else { State::Succeeded };
        let passed = self.ask(job, state);
        debug_assert!(passed, "a retry of {job:?} was refused");
        self.keys[job.key].failed = false;
        self.woken.push(job.key);
    }

    /// Numbers a job. Threads take turns, so that the jobs of one key come in about the same order on both.
    fn next_job(&mut self) -> u64 {
        let job = self.trace.next_job;
        self.trace.next_job += self.setting.threads;
        job
    }

    fn ask(&mut self, job: Job, state: State) -> bool {
        let name = self.name(job.key);
        let passed = self.books.enter(name, job.job);
        self.trace.steps.push(if passed {
            self.books.tell(name, job.job, state);
            self.trace.ended += usize::from(state != State::Failed);
            Step::Pass { key: name, job: job.job, state }
        } else {
            self.trace.refused += 1;
            Step::Refused { key: name, job: job.job }
        });
        passed
    }

    /// Returns the key's number among those of all threads.
    fn name(&self, key: usize) -> u64 {
        if self.setting.keys == 1 {
            return 0;
        }
        let thread = self.trace.next_job % self.setting.threads;
        key as u64 * self.setting.threads + thread
    }
}
