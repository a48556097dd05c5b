//! The demo with `--durable`, killed in mid-run and started again on the same file: nothing is lost.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use relaykit_iterable_handlers::testing::StandIn;
use relaykit_suite::api;
use tokio::process::{Child, Command};
use tokio::sync::watch;

const EVENTS: usize = 4_000;

/// The ids that took effect at the stand-in, and how many there are.
#[derive(Clone)]
struct Effects {
    ids: Arc<Mutex<HashSet<String>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Effects {
    fn new() -> Self {
        Self { ids: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    fn note(&self, id: &str) {
        let mut ids = self.ids.lock().expect("nobody panics with the lock");
        ids.insert(id.to_owned());
        self.count.send_replace(ids.len());
    }

    fn len(&self) -> usize {
        *self.count.borrow()
    }

    async fn at_least(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.expect("the sender is here");
    }
}

fn demo(url: &str, input: &Path, queue: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
    command.args(["--base-url", url, "--input"]).arg(input).arg("--durable").arg(queue);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("the demo starts")
}

#[tokio::test]
async fn killed_three_times_in_mid_run_it_loses_nothing() {
    let effects = Effects::new();
    let noted = effects.clone();
    let api = api!(StandIn::builder().on_event(move |event| noted.note(&event.id)));
    let folder = tempfile::tempdir().unwrap();
    let (input, queue) = (folder.path().join("events.ndjson"), folder.path().join("queue.db"));
    let mut lines = String::new();
    for n in 0..EVENTS {
        let user = n % 97;
        writeln!(
            lines,
            r#"{{"event":"push","payload":{{"number":{n},"sender":{{"login":"user-{user}"}}}}}}"#
        )
        .unwrap();
    }
    std::fs::write(&input, lines).unwrap();

    for _ in 0..3 {
        let seen = effects.len();
        let mut child = demo(api.base_url(), &input, &queue);
        effects.at_least((seen + EVENTS / 8).min(EVENTS)).await;
        // SIGKILL: nothing is flushed, closed or said.
        child.kill().await.unwrap();
    }
    let killed_at = effects.len();
    assert!(killed_at < EVENTS, "everything was delivered before the last kill");

    let output = demo(api.base_url(), &input, &queue).wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("lines of the input were stored before"), "{said}");
    // Each line's event took effect, under the one id that it has in every run.
    assert_eq!(effects.len(), EVENTS);
    api.finish().await;
}
