mod disk;
mod trace;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::Rng;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::disk::Disk;
use self::trace::Step;
use super::child::{Kept, Mode, Plan, UNSETTLED, Work};
use super::life::{Life, Start};
use super::reopen::{Reopened, reopen};
use super::syscalls::traces;
use crate::bench::Bench;
use crate::history::Event;
use crate::oracle::{self, Judgement, Promises};
use crate::report::Report;

/// States that are made from one trace.
const STATES: u64 = 3_900;

/// How many files are opened at once.
const AT_ONCE: usize = 16;

/// How long a file may take to be worked off.
const WITHIN: Duration = Duration::from_secs(5);

/// What is found after the power came back.
#[derive(Debug, Default)]
struct Tally {
    states: u64,
    /// States, and items in them.
    with_loss: u64,
    lost: u64,
    /// Refused, damaged, or with items that nobody pushed.
    corrupt: u64,
}

/// Cuts the power at every moment of a traced run, and opens what the disk may hold then.
pub(crate) async fn cut(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("power");
    if let Err(error) = traces().await {
        bench.skip(&mut report, &format!("{error:#}"));
        return report;
    }
    for seed in bench.seed..bench.seed + bench.rounds(4, 500) {
        if bench.is_over(report.test) {
            break;
        }
        if let Err(error) = full(bench, seed, &mut report).await {
            report.fail(format!("{error:#}; {}", bench.failed("power", seed)));
        }
    }
    if let Err(error) = controls(bench, &mut report).await {
        report.fail(format!("controls: {error:#}"));
    }
    report
}

/// With full durability, nothing that was acknowledged may be missing, and nothing damaged.
async fn full(bench: &Arc<Bench>, seed: u64, report: &mut Report) -> anyhow::Result<()> {
    let steps = record(bench, seed, Kept::Full).await?;
    let mut results = states(bench, seed, &steps, STATES, Disk::default(), Kept::Full);
    let mut complained = false;
    while let Some(state) = results.join_next().await {
        let State { judgement, reopened, history, folder } = state?;
        report.add(1, &judgement);
        report.items +=
            history.iter().filter(|event| matches!(event, Event::Acknowledged { .. })).count() as u64;
        let refused = reopened.refused.map(|error| format!("{error:?}"));
        if (refused.is_some() || !judgement.is_clean() || reopened.undecodable > 0) && !complained {
            complained = true;
            let kept = bench.keep("power", seed, &history, folder.path())?;
            let refused = refused.unwrap_or_default();
            let again = bench.failed("power", seed);
            report.fail(format!("{}{refused}; kept in {}; {again}", judgement.complaint(), kept.display()));
        }
    }
    Ok(())
}

/// What is not promised must show: a commit that is not synced may be lost, and without any sync files break.
async fn controls(bench: &Arc<Bench>, report: &mut Report) -> anyhow::Result<()> {
    let states_each = if bench.nightly { STATES } else { 1_500 };
    let unsynced = record(bench, bench.seed, Kept::ProcessCrashOnly).await?;
    let results = states(bench, bench.seed, &unsynced, states_each, Disk::default(), Kept::ProcessCrashOnly);
    let tally = count(results).await?;
    report.note(format!(
        "process crash only: {} of {} states lost acknowledged items, {} items in all; {} states were corrupt",
        tally.with_loss, tally.states, tally.lost, tally.corrupt
    ));
    if tally.corrupt > 0 {
        report.fail("a commit that is not synced may be lost, but nothing may be corrupt");
    }
    let synced = record(bench, bench.seed, Kept::Full).await?;
    let lies = Disk::that_lies();
    let tally = count(states(bench, bench.seed, &synced, states_each, lies, Kept::Full)).await?;
    report.note(format!(
        "a disk that syncs nothing: {} of {} states were corrupt, {} lost acknowledged items",
        tally.corrupt, tally.states, tally.with_loss
    ));
    if tally.corrupt == 0 || tally.with_loss == 0 {
        report.fail("the negative control shows nothing: this test cannot see corruption");
    }
    Ok(())
}

async fn count(mut results: JoinSet<State>) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    while let Some(state) = results.join_next().await {
        let State { judgement, reopened, .. } = state?;
        tally.states += 1;
        let damaged =
            !judgement.leaks.is_empty() || !judgement.phantom.is_empty() || reopened.undecodable > 0;
        if damaged || reopened.refused.is_some() {
            tally.corrupt += 1;
        } else {
            tally.with_loss += u64::from(!judgement.lost.is_empty());
            tally.lost += judgement.lost.len() as u64;
        }
    }
    Ok(tally)
}

/// Traces a run: one that handles what it pushes, or one that only stores it.
async fn record(bench: &Bench, seed: u64, durability: Kept) -> anyhow::Result<Vec<Step>> {
    let folder = bench.fast_folder()?;
    let (file, log) = (folder.path().join("queue.db"), folder.path().join("strace.log"));
    let work = if seed.is_multiple_of(2) {
        Work::Fill { items: 60 }
    } else {
        Work::Script { items: 60, waits: false }
    };
    let path = file.to_string_lossy().into_owned();
    let plan = Plan { file, seed, first_id: 1, mode: Mode::Line, durability, ballast: 1, work };
    let calls = "trace=openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink";
    let strace = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", calls, "-o", &log.to_string_lossy()];
    let start = Start { under: strace.map(OsString::from).to_vec(), ..Start::plain()? };
    Life::begin(&start, &plan)?.end().await?;
    let steps = trace::parse(&std::fs::read_to_string(&log)?, &path);
    let writes = steps.iter().filter(|step| matches!(step, Step::Write { .. })).count();
    anyhow::ensure!(writes > 200, "the trace has {writes} writes only");
    Ok(steps)
}

/// A disk after the power came back, and what was found on it.
struct State {
    judgement: Judgement,
    reopened: Reopened,
    history: Vec<Event>,
    folder: tempfile::TempDir,
}

/// Cuts the power after each step, several times, and has the files opened.
fn states(
    bench: &Arc<Bench>,
    seed: u64,
    steps: &[Step],
    count: u64,
    mut disk: Disk,
    durability: Kept,
) -> JoinSet<State> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut results = JoinSet::new();
    let mut rng = Rng::seeded(seed);
    let mut history = Vec::new();
    let mut made = 0;
    for (at, step) in steps.iter().enumerate() {
        disk.take(step);
        if let Step::Told(events) = step {
            history.extend(events.iter().cloned());
        }
        let due = count * (at as u64 + 1) / steps.len() as u64;
        for _ in made..due {
            let (bench, room) = (Arc::clone(bench), Arc::clone(&room));
            let (disk, history, mut rng) = (disk.clone(), history.clone(), rng.fork());
            results.spawn(async move {
                let _place = room.acquire().await;
                let folder = bench.fast_folder().expect("there is room in the temporary folder");
                let file = folder.path().join("queue.db");
                for (suffix, bytes) in disk.cut(&mut rng) {
                    let path = format!("{}{suffix}", file.display());
                    std::fs::write(path, bytes).expect("there is room in the temporary folder");
                }
                let reopened = reopen(&file, durability, WITHIN).await;
                let mut history = history;
                history.push(Event::Killed);
                history.extend(reopened.events.iter().cloned());
                let judgement = oracle::judge(
                    &history,
                    Promises { ordered: true, unsettled: UNSETTLED, successors_wait: false },
                );
                State { judgement, reopened, history, folder }
            });
        }
        made = due;
    }
    results
}
