use std::sync::Arc;

use super::child::{Kept, Mode, Plan, UNSETTLED, Work};
use super::life::{Life, Start, drain};
use crate::bench::{Bench, Round};
use crate::history::{Event, Left};
use crate::oracle::Promises;
use crate::report::Report;

/// So many deaths are more than enough to find the batch that causes them: each batch beside it may be suspected first.
const DEATHS: u64 = 60;

/// An item kills whoever handles it: its batch becomes a dead letter, and all others are handled.
pub(crate) async fn poisoned(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("poison");
    bench.play(&mut report, bench.rounds(12, 500), round).await;
    report
}

async fn round(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let folder = bench.fast_folder()?;
    let file = folder.path().join("queue.db");
    let mut plan = Plan {
        file,
        seed,
        first_id: 1,
        mode: Mode::Free,
        durability: Kept::Full,
        ballast: 1,
        work: Work::Fill { items: 60 },
    };
    let start = Start::plain()?;
    let mut history = Life::begin(&start, &plan)?.end().await?;
    plan.work = Work::Poison;
    let mut deaths = 0;
    loop {
        let (events, died) = Life::begin(&start, &plan)?.end_or_kill().await?;
        history.extend(events);
        if !died {
            history.extend(drain(&plan).await?);
            break;
        }
        deaths += 1;
        if deaths == DEATHS {
            history.push(Event::Ended { left: Left { stored: u64::MAX, ..Left::default() } });
            break;
        }
    }
    let promises = Promises { ordered: false, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials: deaths, promises, history, folder })
}
