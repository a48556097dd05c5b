use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use relaykit_sql_store::postgres::sqlx;

use super::place::{Ground, Kind};
use super::scene::Scene;
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::report::Report;

/// So often is a session ended in a round.
const ENDS: u64 = 60;

/// Ends sessions at random moments, in whatever they do.
pub(crate) async fn ended<S: Subject>(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("backends");
    if !Kind::Postgres.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    bench.play(&mut report, bench.rounds(6, 300), round::<S>).await;
    report
}

/// One session of this round, but not the one that asks.
pub(crate) const END_ONE: &str = "select pg_terminate_backend(pid) from (
    select pid from pg_stat_activity
    where application_name = current_setting('application_name') and pid <> pg_backend_pid()
    order by random() limit 1) one";

async fn round<S: Subject>(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let mut scene = Scene::<S>::begin(&bench, Kind::Postgres, seed).await?;
    let Ground::Postgres { db } = &scene.ground else { bail!("this is about sessions") };
    let mut connection = db.connection().await;
    for _ in 0..ENDS {
        scene.wait(Duration::from_millis(120)).await;
        sqlx::query(END_ONE).execute(&mut connection).await?;
    }
    scene.end(ENDS).await
}
