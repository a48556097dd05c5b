use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use relaykit_pipeline_traits::{Clock as _, SystemClock};

use super::place::Kind;
use super::scene::{Actor, Scene};
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::report::Report;

/// So many are asked to stop in a round.
const STOPS: u64 = 20;

/// How long a stop may take: what is on its way, the time to drain, and a machine whose cores are busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks those who handle to stop at random moments, and starts others in their places. In half of the rounds, each is asked a second
/// time, and leaves then as it is. In the others nothing is done twice, and no lease is left.
pub(crate) async fn stopped<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(4, 200), |bench, seed| round::<S>(bench, seed, kind)).await;
    report
}

async fn round<S: Subject>(bench: Arc<Bench>, seed: u64, kind: Kind) -> anyhow::Result<Round> {
    let (mut scene, clock) = (Scene::<S>::begin(&bench, kind, seed).await?, SystemClock::new());
    let twice = seed % 2 == 1;
    for _ in 0..STOPS {
        scene.wait(Duration::from_millis(250)).await;
        let Some(at) = scene.pick(Actor::works) else { break };
        let asked = clock.monotonic();
        let second = twice.then(|| Duration::from_micros(scene.rng.below(50_000)));
        scene.stop(at, second).await?;
        let took = clock.monotonic().since(asked);
        ensure!(took < PATIENCE, "a stop took {took:?}");
    }
    if twice {
        return scene.end(STOPS).await;
    }
    scene.stop_all().await?;
    let held = scene.ground.numbers("select count(*) from {shards} where owner is not null").await?;
    ensure!(held == [0], "{held:?} leases were not given back by those who stopped");
    scene.finish(STOPS).await
}
