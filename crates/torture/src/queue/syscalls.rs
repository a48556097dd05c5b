use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::child::{Kept, Mode, Order, Plan, STALLED, UNSETTLED, Work};
use super::life::{Life, Start, drain};
use crate::bench::Bench;
use crate::history::Event;
use crate::oracle::{self, Judgement, Promises};
use crate::report::Report;

/// Pushes; about as many settlements come on top.
const ITEMS: u64 = 30;

/// How many runs go on at once; after a fault they mostly wait.
const AT_ONCE: usize = 24;

/// A system call, and the errors that it may give.
const CALLS: [(&str, &[&str]); 5] = [
    ("pwrite64", &["EIO", "ENOSPC", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("ftruncate", &["EIO", "EINTR"]),
    ("unlink", &["EIO"]),
];

/// The thread whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// It opens the file, and makes the tables.
    Opener,
    /// It does everything after that.
    Writer,
}

/// What is done at one call after the other.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    thread: Thread,
    call: &'static str,
    /// `None`: the process is killed at the call.
    error: Option<&'static str>,
}

/// Kills the process at every call that writes, syncs, truncates or unlinks, and lets each fail once.
pub(crate) async fn swept(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("syscalls");
    if let Err(error) = traces().await {
        bench.skip(&mut report, &format!("{error:#}"));
        return report;
    }
    let (room, mut sweeps) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for thread in [Thread::Opener, Thread::Writer] {
        for (call, errors) in CALLS {
            for error in std::iter::once(None).chain(errors.iter().copied().map(Some)) {
                let sweep = Sweep { thread, call, error };
                sweeps.spawn(sweep.run(Arc::clone(bench), Arc::clone(&room)));
            }
        }
    }
    let (mut killed, mut failed) = (0, 0);
    while let Some(swept) = sweeps.join_next().await {
        match swept {
            Ok((sweep, results)) => {
                let count = results.len() as u64;
                *if sweep.error.is_none() { &mut killed } else { &mut failed } += count;
                for result in results {
                    match result {
                        Ok((judgement, None)) => report.add(1, &judgement),
                        Ok((judgement, Some(complaint))) => {
                            report.add(1, &judgement);
                            report.fail(complaint);
                        }
                        Err(error) => report.fail(format!("{sweep:?}: {error:#}")),
                    }
                }
            }
            Err(error) => report.fail(format!("a sweep ended by itself: {error}")),
        }
    }
    report.note(format!("{killed} calls killed, {failed} calls failed, each once, in a run of {ITEMS} pushes and their settlements"));
    if killed < 200 || failed < 400 {
        report.fail("fewer calls were met than such a run has");
    }
    report
}

/// Looks whether calls can be traced.
///
/// # Errors
///
/// If not, with what to do about it.
pub(crate) async fn traces() -> anyhow::Result<()> {
    let traced =
        Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status().await;
    if traced.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    bail!("needs strace (`apt-get install strace`), and the right to trace")
}

type Swept = Vec<anyhow::Result<(Judgement, Option<String>)>>;

impl Sweep {
    async fn run(self, bench: Arc<Bench>, room: Arc<Semaphore>) -> (Self, Swept) {
        let mut results = Vec::new();
        for nth in 1.. {
            let _place = room.acquire().await;
            match self.run_once(&bench, nth).await {
                Ok(Some(result)) => results.push(Ok(result)),
                Ok(None) => break,
                Err(error) => {
                    results.push(Err(error.context(format!("call {nth}"))));
                    break;
                }
            }
        }
        (self, results)
    }

    /// One run; `None` if it has no such call any more.
    async fn run_once(self, bench: &Bench, nth: u64) -> anyhow::Result<Option<(Judgement, Option<String>)>> {
        let folder = bench.fast_folder()?;
        let (file, log) = (folder.path().join("queue.db"), folder.path().join("strace.log"));
        let work = Work::Script { items: ITEMS, waits: self.thread == Thread::Writer };
        let plan = Plan {
            file,
            seed: bench.seed,
            first_id: 1,
            mode: Mode::Line,
            durability: Kept::Full,
            ballast: 1,
            work,
        };
        let fault = self.error.map_or_else(|| "signal=SIGKILL".to_owned(), |error| format!("error={error}"));
        let inject = format!("inject={}:{fault}:when={nth}", self.call);
        let trace = format!("trace={}", self.call);
        let strace =
            ["strace", "-o", &log.to_string_lossy(), "-e", &trace, "-e", &inject].map(OsString::from);
        let mut history = match self.thread {
            Thread::Opener => {
                let start = Start { under: strace.to_vec(), ..Start::plain()? };
                Life::begin(&start, &plan)?.end().await?
            }
            Thread::Writer => run_attached(&plan, &strace).await?,
        };
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        if !log.contains("INJECTED") && !log.contains("killed by SIGKILL") {
            return Ok(None);
        }
        let stalled = history.contains(&Event::Fault { error: STALLED.to_owned() });
        history.extend(drain(&plan).await?);
        let judgement =
            oracle::judge(&history, Promises { ordered: true, unsettled: UNSETTLED, successors_wait: false });
        if judgement.is_clean() && !stalled {
            return Ok(Some((judgement, None)));
        }
        let name = format!("syscalls-{:?}-{}-{}", self.thread, self.call, self.error.unwrap_or("SIGKILL"))
            .to_lowercase();
        let kept = bench.keep(&name, nth, &history, folder.path())?;
        let what = if stalled { "it did not get on after the fault; " } else { "" };
        let complaint = format!(
            "{} {} at call {nth} of the {:?}: {what}{}; kept in {}; again: cargo xtask torture queue --only syscalls --seed {}",
            self.call,
            self.error.unwrap_or("SIGKILL"),
            self.thread,
            judgement.complaint(),
            kept.display(),
            bench.seed,
        );
        Ok(Some((judgement, Some(complaint))))
    }
}

/// Traces the writer's thread alone: calls are counted for each thread.
async fn run_attached(plan: &Plan, strace: &[OsString]) -> anyhow::Result<Vec<Event>> {
    let mut life = Life::begin(&Start::plain()?, plan)?;
    if !life.opened().await {
        bail!("the file could not be opened, though nothing failed");
    }
    let process = life.id().context("the child is gone")?;
    let thread = writers_thread(process).await.context("the child has no writer")?;
    let mut tracer = Command::new(&strace[0]);
    tracer.args(&strace[1..]).args(["-p", &thread]).stderr(Stdio::piped()).kill_on_drop(true);
    let mut tracer = tracer.spawn()?;
    let stderr = tracer.stderr.take().context("strace says nothing")?;
    let mut lines = BufReader::new(stderr).lines();
    let attached = lines.next_line().await?.unwrap_or_default();
    if !attached.contains("attached") {
        bail!("strace could not attach: {attached}");
    }
    life.order(Order::Stop).await;
    let events = life.end().await?;
    tracer.wait().await?;
    Ok(events)
}

/// Finds the writer's thread. It takes a moment until it has its name.
async fn writers_thread(process: u32) -> Option<String> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    for _ in 0..1_000 {
        let mut threads = tasks.read_dir().ok()?.flatten();
        let writer = threads.find(|thread| {
            std::fs::read_to_string(thread.path().join("comm"))
                .is_ok_and(|name| name.trim() == "queue-writer")
        });
        if let Some(writer) = writer {
            return Some(writer.file_name().to_string_lossy().into_owned());
        }
        SystemClock::new().sleep(Duration::from_millis(1)).await;
    }
    None
}
