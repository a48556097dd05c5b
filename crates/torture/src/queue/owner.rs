use std::sync::Arc;

use anyhow::{Context as _, ensure};
use relaykit_persistent_queue::OpenError;
use relaykit_sql_store::sqlite::rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use super::child::{Handler, Kept, Mode, Plan, UNSETTLED, Work, builder};
use super::life::{Life, Start, drain, next_id};
use crate::bench::{Bench, Round};
use crate::history::Event;
use crate::oracle::Promises;
use crate::report::Report;

/// Lets others try to open a file that is open: in another process, in one that is stopped, and behind a foreign lock.
pub(crate) async fn contended(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("owner");
    bench.play(&mut report, bench.rounds(30, 2_000), round).await;
    report
}

async fn round(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let folder = bench.fast_folder()?;
    let file = folder.path().join("queue.db");
    let mut plan = Plan {
        file,
        seed,
        first_id: 1,
        mode: Mode::Line,
        durability: Kept::Full,
        ballast: 0,
        work: Work::Push,
    };
    let start = Start::plain()?;
    let mut life = Life::begin(&start, &plan)?;
    ensure!(life.opened().await, "the first could not open it");
    is_taken(&plan)?;
    let id = life.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("the child is gone")?;
    // Whoever does not move holds it all the same.
    kill_process(id, Signal::STOP)?;
    is_taken(&plan)?;
    kill_process(id, Signal::CONT)?;
    is_taken(&plan)?;
    let mut history = life.kill().await?;
    // A killed one holds nothing.
    plan.first_id = next_id(&history);
    let mut life = Life::begin(&start, &plan)?;
    ensure!(life.opened().await, "a dead process holds the file");
    history.extend(life.kill().await?);
    history.extend(drain(&plan).await?);
    // A stranger's lock: refused at once, and nothing is changed.
    let stranger = Connection::open(&plan.file)?;
    stranger.execute_batch("BEGIN EXCLUSIVE")?;
    is_taken(&plan)?;
    stranger.execute_batch("ROLLBACK")?;
    drop(stranger);
    Ok(Round {
        trials: 5,
        promises: Promises { ordered: true, unsettled: UNSETTLED, successors_wait: false },
        history,
        folder,
    })
}

fn is_taken(plan: &Plan) -> anyhow::Result<()> {
    let nobody = Arc::new(Handler::telling(1, |_: &[Event]| {}));
    match builder(plan, nobody).open() {
        Err(OpenError::AlreadyOpen { .. }) => Ok(()),
        Err(error) => Err(error).context("it is open, and the second opener is told something else"),
        Ok(_) => anyhow::bail!("two have the file open"),
    }
}
