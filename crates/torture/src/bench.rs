use std::collections::BTreeMap;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use relaykit_pipeline_traits::{Clock as _, Monotonic, SystemClock};
use tokio::task::JoinSet;

use crate::history::{self, Event};
use crate::oracle::{self, Judgement, Promises};
use crate::report::Report;
use crate::seeds::Workshop;

/// What all tests of a run share.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What is tortured.
    pub(crate) what: &'static str,
    pub(crate) seed: u64,
    pub(crate) nightly: bool,
    rounds: Option<u64>,
    /// How long each test may go on.
    share: Option<Duration>,
    /// Since when each does.
    running: Mutex<BTreeMap<&'static str, Monotonic>>,
    pub(crate) workshop: Workshop,
    /// A folder in memory, if there is one: what the kernel has survives the death of a process, on any file system.
    fast: tempfile::TempDir,
    /// A folder on the disk.
    slow: tempfile::TempDir,
}

/// One history of a test, and what is needed to judge it.
pub(crate) struct Round {
    pub(crate) trials: u64,
    pub(crate) promises: Promises,
    pub(crate) history: Vec<Event>,
    /// Goes to the evidence if the history is not clean.
    pub(crate) folder: tempfile::TempDir,
}

/// How many rounds run at once: most of the time each waits for a disk or a timer.
const AT_ONCE: usize = 4;

impl Bench {
    /// Makes the folders.
    ///
    /// # Errors
    ///
    /// If they cannot be made.
    pub(crate) fn new(
        what: &'static str,
        seed: u64,
        nightly: bool,
        rounds: Option<u64>,
        share: Option<Duration>,
    ) -> anyhow::Result<Arc<Self>> {
        let program = std::env::current_exe()?;
        // The program lies in target/release or beside it.
        let target = program.parent().and_then(Path::parent).context("could not tell where cargo builds")?;
        let workshop = Workshop::in_target(target);
        std::fs::create_dir_all(workshop.root())?;
        let memory = Path::new("/dev/shm");
        let fast = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }?;
        let slow = tempfile::tempdir_in(workshop.root())?;
        let running = Mutex::default();
        Ok(Arc::new(Self { what, seed, nightly, rounds, share, running, workshop, fast, slow }))
    }

    /// Returns how many rounds a test has in this profile.
    pub(crate) fn rounds(&self, pr: u64, nightly: u64) -> u64 {
        self.rounds.unwrap_or(if self.nightly { nightly } else { pr })
    }

    /// Returns the seeds of a test's rounds, those that failed in former runs first.
    pub(crate) fn seeds(&self, test: &str, rounds: u64) -> Vec<u64> {
        let mut seeds = self.workshop.failed_seeds(&self.name(test));
        seeds.extend(self.seed..self.seed + rounds);
        seeds
    }

    /// Makes a folder for a round, in memory.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn fast_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(self.fast.path())?)
    }

    /// Makes a folder for a round, on the disk.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn slow_folder(&self) -> anyhow::Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(self.slow.path())?)
    }

    /// Runs rounds of a test, several at once, those that failed in former runs first, and judges each; until its time is over, if
    /// it has one.
    pub(crate) async fn play<F>(
        self: &Arc<Self>,
        report: &mut Report,
        rounds: u64,
        round: impl Fn(Arc<Self>, u64) -> F,
    ) where
        F: Future<Output = anyhow::Result<Round>> + Send + 'static,
    {
        self.play_while(report, rounds, round, |test| !self.is_over(test)).await;
    }

    /// Runs rounds of a test as [`play`](Self::play) does, all of them, however long it takes.
    pub(crate) async fn play_all<F>(
        self: &Arc<Self>,
        report: &mut Report,
        rounds: u64,
        round: impl Fn(Arc<Self>, u64) -> F,
    ) where
        F: Future<Output = anyhow::Result<Round>> + Send + 'static,
    {
        self.play_while(report, rounds, round, |_| true).await;
    }

    /// Runs rounds of a test as [`play_all`](Self::play_all) does, and more until it is enough, at most so many times as many.
    pub(crate) async fn play_until<F>(
        self: &Arc<Self>,
        report: &mut Report,
        (rounds, times): (u64, u64),
        round: impl Fn(Arc<Self>, u64) -> F,
        is_enough: impl Fn() -> bool,
    ) where
        F: Future<Output = anyhow::Result<Round>> + Send + 'static,
    {
        self.play_all(report, rounds, &round).await;
        let more = self.seed + rounds..self.seed + rounds * times;
        self.play_seeds(report, more, round, |_| !is_enough()).await;
    }

    async fn play_while<F>(
        self: &Arc<Self>,
        report: &mut Report,
        rounds: u64,
        round: impl Fn(Arc<Self>, u64) -> F,
        goes_on: impl Fn(&'static str) -> bool,
    ) where
        F: Future<Output = anyhow::Result<Round>> + Send + 'static,
    {
        let seeds = self.seeds(report.test, rounds);
        self.play_seeds(report, seeds, round, goes_on).await;
    }

    async fn play_seeds<F>(
        self: &Arc<Self>,
        report: &mut Report,
        seeds: impl IntoIterator<Item = u64>,
        round: impl Fn(Arc<Self>, u64) -> F,
        goes_on: impl Fn(&'static str) -> bool,
    ) where
        F: Future<Output = anyhow::Result<Round>> + Send + 'static,
    {
        let mut seeds = seeds.into_iter();
        let mut playing = JoinSet::new();
        loop {
            while playing.len() < AT_ONCE
                && goes_on(report.test)
                && let Some(seed) = seeds.next()
            {
                let round = round(Arc::clone(self), seed);
                playing.spawn(async move { (seed, round.await) });
            }
            let Some(played) = playing.join_next().await else { break };
            match played {
                Ok((seed, Ok(round))) => self.judge(report, seed, &round),
                Ok((seed, Err(error))) => {
                    report.trials += 1;
                    report.fail(format!("{error:#}; {}", self.failed(report.test, seed)));
                }
                Err(error) => report.fail(format!("a round ended by itself: {error}")),
            }
        }
    }

    /// Returns whether a test has had its time. It begins when this is asked first.
    pub(crate) fn is_over(&self, test: &'static str) -> bool {
        let Some(share) = self.share else { return false };
        let now = SystemClock::new().monotonic();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *running.entry(test).or_insert(now);
        now.since(since) >= share
    }

    fn judge(&self, report: &mut Report, seed: u64, round: &Round) {
        let judgement = oracle::judge(&round.history, round.promises);
        report.add(round.trials, &judgement);
        for event in &round.history {
            let Event::Recovered { micros, bound } = event else { continue };
            report.recovered(*micros);
            if micros > bound {
                let late = format!("recovered after {micros} µs, more than {bound}");
                let kept = self.keep(report.test, seed, &round.history, round.folder.path());
                let kept = kept.map(|at| at.display().to_string()).unwrap_or_default();
                report.fail(format!("{late}; kept in {kept}; {}", self.failed(report.test, seed)));
            }
        }
        let acknowledged = round.history.iter().filter_map(|event| match event {
            Event::Acknowledged { id } => Some(*id),
            _ => None,
        });
        // Two may have been told of the same.
        report.items += acknowledged.collect::<HashSet<_>>().len() as u64;
        if !judgement.is_clean() {
            report.fail(self.complain(report.test, seed, &judgement, round));
        }
    }

    fn complain(&self, test: &str, seed: u64, judgement: &Judgement, round: &Round) -> String {
        let kept = self.keep(test, seed, &round.history, round.folder.path());
        let kept = kept.map_or_else(
            |error| format!("nothing could be kept: {error:#}"),
            |at| format!("kept in {}", at.display()),
        );
        format!("{}; {kept}; {}", judgement.complaint(), self.failed(test, seed))
    }

    /// Keeps history and files of what failed.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub(crate) fn keep(
        &self,
        test: &str,
        seed: u64,
        events: &[Event],
        files: &Path,
    ) -> anyhow::Result<PathBuf> {
        let folder = self.workshop.evidence(&self.name(test), seed)?;
        history::save(events, &folder.join("history.jsonl"))?;
        for entry in files.read_dir()?.flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.join(entry.file_name()))?;
            }
        }
        Ok(folder)
    }

    /// Says that a test cannot run here, and what to do about it. Where nothing may be skipped, that is a failure.
    pub(crate) fn skip(&self, report: &mut Report, reason: &str) {
        let ci = std::env::var("CI").unwrap_or_default();
        if matches!(&*ci, "" | "0" | "false") && !self.nightly {
            report.note(format!("SKIPPED: {reason}"));
        } else {
            report.fail(format!("skipped, which CI and nightly runs may not: {reason}"));
        }
    }

    /// How a test is called among those of all that can be tortured.
    fn name(&self, test: &str) -> String {
        if self.what == "queue" { test.to_owned() } else { format!("{}-{test}", self.what) }
    }

    /// Remembers the seed, and returns the command that repeats it.
    pub(crate) fn failed(&self, test: &str, seed: u64) -> String {
        let what = self.what;
        let command = format!("again: cargo xtask torture {what} --only {test} --seed {seed} --rounds 1");
        match self.workshop.remember(&self.name(test), seed) {
            Ok(()) => command,
            Err(error) => format!("{command} (the seed could not be remembered: {error:#})"),
        }
    }
}

/// Runs the tests of a program, all unless some are named, and tells how each went as it ends.
pub(crate) async fn run_all<T: ValueEnum + Copy + PartialEq>(
    only: &[T],
    run: impl AsyncFn(T) -> Report,
) -> Vec<Report> {
    let clock = SystemClock::new();
    let mut reports = Vec::new();
    for test in T::value_variants() {
        if !only.is_empty() && !only.contains(test) {
            continue;
        }
        let begun = clock.monotonic();
        let report = run(*test).await.took(clock.monotonic().since(begun));
        println!("{}: {} trials in {:.1} s", report.test, report.trials, report.seconds);
        reports.push(report);
    }
    reports
}
