use std::sync::Arc;
use std::time::Duration;

use super::place::Kind;
use super::scene::Scene;
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::report::Report;

/// So many processes are killed in a round.
const KILLS: u64 = 30;

/// Kills those who feed and those who handle at random moments, and starts others in their places.
pub(crate) async fn killed<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(12, 600), |bench, seed| round::<S>(bench, seed, kind)).await;
    report
}

async fn round<S: Subject>(bench: Arc<Bench>, seed: u64, kind: Kind) -> anyhow::Result<Round> {
    let mut scene = Scene::<S>::begin(&bench, kind, seed).await?;
    for _ in 0..KILLS {
        scene.wait(Duration::from_millis(300)).await;
        let works = scene.rng.chance(0.7);
        if let Some(at) = scene.pick(|actor| actor.works() == works) {
            scene.kill(at).await?;
        }
    }
    scene.end(KILLS).await
}
