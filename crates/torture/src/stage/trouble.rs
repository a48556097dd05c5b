use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, SystemClock};

use super::place::Kind;
use super::plan::Trouble;
use super::scene::{Scene, Setting};
use super::subject::Subject;
use super::temper::MISDEED;
use crate::bench::{Bench, Round};
use crate::history::Event;
use crate::report::Report;

/// How long a round is left to itself.
const LONG: Duration = Duration::from_secs(5);

/// Handlers panic, hang, block, refuse and answer wrongly.
pub(crate) async fn handlers<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    in_trouble::<S>(bench, test, kind, Trouble::Handlers).await
}

/// Wall clocks jump by up to an hour, four times a second.
pub(crate) async fn clocks<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    in_trouble::<S>(bench, test, kind, Trouble::Clocks).await
}

async fn in_trouble<S: Subject>(
    bench: &Arc<Bench>,
    test: &'static str,
    kind: Kind,
    trouble: Trouble,
) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    let rounds = bench.rounds(3, 150);
    bench.play(&mut report, rounds, |bench, seed| round::<S>(bench, seed, kind, trouble)).await;
    report
}

async fn round<S: Subject>(
    bench: Arc<Bench>,
    seed: u64,
    kind: Kind,
    trouble: Trouble,
) -> anyhow::Result<Round> {
    let setting = Setting { trouble, ..Setting::default() };
    let scene = Scene::<S>::begin_in(&bench, kind, seed, setting).await?;
    SystemClock::new().sleep(LONG).await;
    let mut round = scene.end(0).await?;
    let misdeed = |event: &&Event| matches!(event, Event::Fault { error } if error.starts_with(MISDEED));
    round.trials = match trouble {
        Trouble::Handlers => round.history.iter().filter(misdeed).count() as u64,
        // Jumps.
        _ => u64::try_from(LONG.as_millis() / super::clock::STAYS.as_millis()).unwrap_or(u64::MAX),
    };
    Ok(round)
}
