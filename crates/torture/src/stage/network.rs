use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, SystemClock};
use relaykit_sql_store::postgres::TEST_POSTGRES;

use super::place::Kind;
use super::plan::{CALL, LEASE};
use super::recovery;
use super::scene::{Scene, Setting};
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::proxy::{Fault, Proxy};
use crate::report::Report;

/// So often is each thing done in a round.
const TIMES: u64 = 2;

/// Does to connections what networks do.
pub(crate) async fn torn<S: Subject>(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("network");
    if !Kind::Postgres.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(4, 200), round::<S>).await;
    report
}

async fn round<S: Subject>(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let url = std::env::var(TEST_POSTGRES)?;
    let proxy = Proxy::before(&url).await?;
    let setting = Setting { through: Some(proxy.url(&url)), ..Setting::default() };
    let mut scene = Scene::<S>::begin_in(&bench, Kind::Postgres, seed, setting).await?;
    let clock = SystemClock::new();
    scene.wait(Duration::from_millis(500)).await;
    for _ in 0..TIMES {
        for fault in Fault::ALL {
            let spared = scene.rng.below(3);
            proxy.suffer(fault, spared);
            clock.sleep(Duration::from_millis(50)).await;
            // Now and then for longer than a lease, and than a call may take.
            let at_most = if scene.rng.chance(0.2) { LEASE + CALL } else { LEASE / 4 };
            scene.wait(at_most).await;
            proxy.heal();
            scene.wait(Duration::from_millis(300)).await;
        }
    }
    let everybody: HashSet<usize> = scene.everybody();
    let bound = recovery::bound() + CALL * 2;
    scene.recovers(clock.now(), &everybody, &HashSet::new(), bound).await?;
    scene.end(TIMES * Fault::ALL.len() as u64).await
}
