use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

use super::place::Kind;
use super::plan::LEASE;
use super::scene::Scene;
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::history::Event;
use crate::report::Report;

/// So many processes stand still in a round.
const STALLS: u64 = 6;

/// Stops those who handle for longer than their lease, and lets them go on.
pub(crate) async fn stalled<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(6, 300), |bench, seed| round::<S>(bench, seed, kind)).await;
    report
}

async fn round<S: Subject>(bench: Arc<Bench>, seed: u64, kind: Kind) -> anyhow::Result<Round> {
    let (mut scene, clock) = (Scene::<S>::begin(&bench, kind, seed).await?, SystemClock::new());
    for _ in 0..STALLS {
        scene.wait(Duration::from_millis(600)).await;
        let at = scene.pick(super::scene::Actor::works).context("somebody works")?;
        let actor = &scene.actors[at];
        let numbers = actor.numbers();
        let id =
            actor.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).context("a process is gone")?;
        kill_process(id, Signal::STOP)?;
        scene.note(numbers, &Event::Stalled);
        clock.sleep(LEASE).await;
        scene.wait(LEASE / 2).await;
        kill_process(id, Signal::CONT)?;
    }
    clock.sleep(LEASE / 2).await;
    scene.end(STALLS).await
}
