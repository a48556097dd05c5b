use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::Mutex;

use super::place::Kind;
use super::scene::Scene;
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::report::Report;

/// So often does the server crash in a round.
const CRASHES: u64 = 5;

/// The environment variable that says, as JSON, how the server is stopped and started; `cargo xtask torture` sets it for a server
/// that it started itself.
const SERVER: &str = "RELAYKIT_TORTURE_POSTGRES";

/// How the server is stopped and started.
#[derive(Debug, Deserialize)]
struct Server {
    pg_ctl: PathBuf,
    data: PathBuf,
    log: PathBuf,
    /// The ids of the user and group to be, if they are not ours.
    user: Option<(u32, u32)>,
}

/// Stops the server at once, as a crash would, and starts it again, at random moments.
pub(crate) async fn crashed<S: Subject>(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("restarts");
    let server = std::env::var(SERVER).ok().and_then(|text| serde_json::from_str::<Server>(&text).ok());
    let Some(server) = server.filter(|_| Kind::Postgres.is_there()) else {
        bench
            .skip(&mut report, "needs a Postgres server that may be stopped: cargo xtask torture starts one");
        return report;
    };
    // One round at a time, since they share the server.
    let server = Arc::new(Mutex::new(server));
    let rounds = bench.rounds(4, 120);
    bench.play(&mut report, rounds, |bench, seed| round::<S>(bench, seed, Arc::clone(&server))).await;
    report
}

async fn round<S: Subject>(
    bench: Arc<Bench>,
    seed: u64,
    server: Arc<Mutex<Server>>,
) -> anyhow::Result<Round> {
    let server = server.lock().await;
    let mut scene = Scene::<S>::begin(&bench, Kind::Postgres, seed).await?;
    for _ in 0..CRASHES {
        scene.wait(Duration::from_millis(1_500)).await;
        server.crash().await?;
    }
    scene.end(CRASHES).await
}

impl Server {
    async fn crash(&self) -> anyhow::Result<()> {
        let mut restart = Command::new(&self.pg_ctl);
        restart.args(["restart", "--silent", "--wait", "--mode=immediate"]);
        restart.arg("--pgdata").arg(&self.data).arg("--log").arg(&self.log);
        restart.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        if let Some((user, group)) = self.user {
            restart.uid(user).gid(group);
        }
        let status = restart.status().await.context("could not start pg_ctl")?;
        ensure!(status.success(), "the server did not come up again: {status}");
        Ok(())
    }
}
