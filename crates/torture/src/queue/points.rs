use std::sync::Arc;

use relaykit_pipeline_traits::Rng;

use super::child::{Kept, Mode, Order, Plan, UNSETTLED, Work};
use super::life::{Life, Start, drain, next_id};
use crate::bench::{Bench, Round};
use crate::oracle::Promises;
use crate::report::Report;
use crate::sabotage;

/// Every named place where the process is made to die.
const POINTS: [&str; 16] = [
    "open.connected",
    "open.has_tables",
    "open.taken_over",
    "push.sealed",
    "push.on_disk",
    "claim.noted",
    "handler.answered",
    "settle.on_disk",
    "writer.before_begin",
    "writer.after_request",
    "writer.after_commit",
    "writer.before_answer",
    "writer.before_write_back",
    "writer.before_close",
    "close.begun",
    "close.marked_clean",
];

/// Lets the process die at each named place, at an early visit and at later ones.
pub(crate) async fn points(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("points");
    let program = match sabotage::build(bench) {
        Ok(program) => program,
        Err(error) => {
            report.fail(format!("{error:#}"));
            return report;
        }
    };
    let visits = bench.rounds(20, 300);
    for point in POINTS {
        let (program, before) = (program.clone(), report.trials);
        bench
            .play_all(&mut report, visits, move |bench, seed| {
                let start = Start { program: program.clone(), under: Vec::new(), environment: Vec::new() };
                dies_at(bench, seed, point, start)
            })
            .await;
        if report.trials == before {
            report.fail(format!("nobody died at {point}"));
        }
    }
    report.note(format!("{} places", POINTS.len()));
    report
}

async fn dies_at(
    bench: Arc<Bench>,
    seed: u64,
    point: &'static str,
    mut start: Start,
) -> anyhow::Result<Round> {
    let mut rng = Rng::seeded(seed);
    let folder = bench.fast_folder()?;
    let mode = [Mode::Line, Mode::Keys, Mode::Free][usize::try_from(rng.below(3))?];
    let file = folder.path().join("queue.db");
    let mut plan =
        Plan { file, seed, first_id: 1, mode, durability: Kept::Full, ballast: 1, work: Work::Push };
    let mut history = Vec::new();
    // A life before, so that there are batches that may have been in flight.
    if point == "claim.noted" || rng.chance(0.5) {
        let mut life = Life::begin(&Start::plain()?, &plan)?;
        life.opened().await;
        history.extend(life.kill().await?);
        plan.first_id = next_id(&history);
    }
    // What happens once in a life has a first visit only.
    let once = ["open.", "close.", "claim.", "writer.before_close", "writer.before_write_back"]
        .iter()
        .any(|start| point.starts_with(start));
    let visit = if once || rng.chance(0.3) { 1 } else { 1 + rng.below(8) };
    start.environment = vec![("RELAYKIT_CRASH_AT", format!("{point}:{visit}"))];
    if point == "writer.before_write_back" {
        // It comes in idle moments only.
        plan.work = Work::Rest { items: 5 };
    }
    let mut life = Life::begin(&start, &plan)?;
    if point.contains("close") {
        life.opened().await;
        life.order(Order::Stop).await;
    }
    let (events, aborted) = life.end_or_kill().await?;
    history.extend(events);
    let trials = u64::from(aborted);
    history.extend(drain(&plan).await?);
    let promises = Promises { ordered: mode != Mode::Free, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials, promises, history, folder })
}
