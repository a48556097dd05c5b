use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use super::child::{Kept, Mode, Order, Plan, UNSETTLED, Work};
use super::life::{Life, Start, drain, next_id};
use crate::bench::{Bench, Round};
use crate::oracle::Promises;
use crate::report::Report;

/// So many lives of one file, then it is drained and judged.
const LIVES: u64 = 25;

/// Kills the process at random moments, also while it opens the file.
pub(crate) async fn killed(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("kill");
    bench.play(&mut report, bench.rounds(104, 4_000), |bench, seed| lives(bench, seed, Ends::Killed)).await;
    report
}

/// Closes the queue at random moments, with more or less time for it, or goes without a close.
pub(crate) async fn shut_down(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("shutdown");
    bench.play(&mut report, bench.rounds(16, 800), |bench, seed| lives(bench, seed, Ends::Ordered)).await;
    report
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    Killed,
    Ordered,
}

async fn lives(bench: Arc<Bench>, seed: u64, ends: Ends) -> anyhow::Result<Round> {
    let mut rng = Rng::seeded(seed);
    let folder = if rng.chance(0.75) { bench.fast_folder() } else { bench.slow_folder() }?;
    let mode = [Mode::Line, Mode::Keys, Mode::Free][usize::try_from(seed % 3)?];
    let durability = if rng.chance(0.8) { Kept::Full } else { Kept::ProcessCrashOnly };
    let mut plan = Plan {
        file: folder.path().join("queue.db"),
        seed,
        first_id: 1,
        mode,
        durability,
        ballast: 1,
        work: Work::Push,
    };
    let (start, mut history) = (Start::plain()?, Vec::new());
    for _ in 0..LIVES {
        plan.seed = rng.next_u64() >> 1;
        plan.first_id = next_id(&history);
        let life = Life::begin(&start, &plan)?;
        history.extend(match ends {
            Ends::Killed => kill_soon(life, &mut rng).await?,
            Ends::Ordered => end_soon(life, &mut rng).await?,
        });
    }
    history.extend(drain(&plan).await?);
    let promises = Promises { ordered: mode != Mode::Free, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials: LIVES, promises, history, folder })
}

/// Kills a child, one time in five while it opens the file, else within a few milliseconds after that.
async fn kill_soon(mut life: Life, rng: &mut Rng) -> anyhow::Result<Vec<crate::history::Event>> {
    let clock = SystemClock::new();
    if rng.chance(0.2) {
        clock.sleep(Duration::from_micros(rng.below(6_000))).await;
    } else {
        life.opened().await;
        clock.sleep(Duration::from_micros(rng.below(15_000))).await;
    }
    life.kill().await
}

async fn end_soon(mut life: Life, rng: &mut Rng) -> anyhow::Result<Vec<crate::history::Event>> {
    life.opened().await;
    SystemClock::new().sleep(Duration::from_micros(rng.below(50_000))).await;
    life.order(if rng.chance(0.7) { Order::Stop } else { Order::Leave }).await;
    life.end().await
}
