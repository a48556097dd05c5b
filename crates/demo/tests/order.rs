//! The demo with `--order per-user`, as its users start it: each user's events stay in order, whatever fails.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Output, Stdio};

use relaykit_iterable_handlers::testing::{Faults, StandIn};
use relaykit_suite::{Api, api};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

struct Ran {
    code: Option<i32>,
    report: Value,
    table: String,
    said: String,
}

impl Ran {
    fn of(output: &Output, file: &Path) -> Self {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = std::fs::read(file).unwrap_or_else(|error| panic!("no report: {error}\n{said}"));
        Self {
            code: output.status.code(),
            report: serde_json::from_slice(&json).expect("the report is JSON"),
            table: String::from_utf8_lossy(&output.stdout).into_owned(),
            said,
        }
    }

    /// The members of this name of the unordered and of the ordered run.
    fn both(&self, name: &str) -> [u64; 2] {
        [&self.report["unordered"], &self.report].map(|run| count(run, name))
    }

    fn kept(&self) -> u64 {
        self.report["undelivered"]
            .as_object()
            .expect("it is an object")
            .values()
            .filter_map(Value::as_u64)
            .sum()
    }
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is a count in {report}"))
}

fn demo(args: &[&str], report: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
    command.args(["--order", "per-user", "--report"]).arg(report).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(args: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("report.json");
    let output = demo(args, &file).output().await.expect("the demo starts");
    Ran::of(&output, &file)
}

/// Checks by the requests themselves, whether they took effect or not, that no user's event came after a later one.
fn assert_sent_in_order(api: &Api) {
    let mut latest: HashMap<String, u64> = HashMap::new();
    for request in api.requests() {
        for event in request.json()["events"].as_array().expect("it is a bulk request") {
            let user = event["userId"].as_str().expect("it names a user").to_owned();
            let number = count(&event["dataFields"], "number");
            let latest = latest.entry(user).or_default();
            assert!(number >= *latest, "event {number} came after {latest}");
            *latest = number;
        }
    }
    assert!(!latest.is_empty());
}

#[tokio::test]
async fn no_users_events_arrive_out_of_order_in_a_storm_and_without_the_barrier_they_do() {
    let runs = ["1", "2", "3"].map(|seed| {
        let args = ["--events", "1000", "--faults", "storm", "--seed", seed];
        tokio::spawn(async move { (seed, run(&args).await) })
    });
    let mut overtaken = 0;
    for ran in runs {
        let (seed, ran) = ran.await.unwrap();
        assert_eq!(ran.code, Some(0), "seed {seed}: {}", ran.table);
        assert_eq!((ran.both("delivered"), ran.both("lost")), ([1000, 1000], [0, 0]), "seed {seed}");
        assert!(
            ran.both("retried").into_iter().all(|events| events > 0),
            "seed {seed}: the storm hit nothing"
        );
        let [unordered, ordered] = ran.both("out_of_order");
        assert_eq!(ordered, 0, "seed {seed}");
        overtaken += unordered;
        for row in ["unordered", "per user", "out of order", "lost", "events a second"] {
            assert!(ran.table.contains(row), "{row} is missing in {}", ran.table);
        }
    }
    assert!(overtaken > 0, "nothing was overtaken without the barrier, so this shows nothing");
}

#[tokio::test]
async fn both_runs_read_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let line = |user| format!("{{\"event\":\"push\",\"payload\":{{\"sender\":{{\"login\":\"{user}\"}}}}}}\n");
    let lines: String = (0..300).map(|number| line(number % 7)).collect();
    std::fs::write(&file, lines + "not json\n").unwrap();
    let ran = run(&["--input", file.to_str().unwrap(), "--faults", "some", "--seed", "4"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.table);
    assert_eq!((ran.both("delivered"), ran.both("rejected")), ([300, 300], [1, 1]));
    assert_eq!(ran.both("out_of_order")[1], 0);
}

#[tokio::test]
async fn standard_input_is_run_once_and_the_demo_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let mut child = demo(&["--input", "-"], &file).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for _ in 0..20 {
        let line = b"{\"event\":\"push\",\"payload\":{\"sender\":{\"login\":\"ada\"}}}\n";
        input.write_all(line).await.unwrap();
    }
    drop(input);
    let ran = Ran::of(&child.wait_with_output().await.unwrap(), &file);
    assert_eq!(ran.code, Some(0), "{}", ran.table);
    assert!(ran.said.contains("standard input can be read only once"), "{}", ran.said);
    assert_eq!(ran.report.get("unordered"), None);
    assert_eq!((count(&ran.report, "delivered"), count(&ran.report, "out_of_order")), (20, 0));
}

#[tokio::test]
async fn a_server_of_the_users_gets_each_event_once_and_in_order_through_a_storm() {
    let api = api!(StandIn::builder().seed(5).faults(Faults::storm()));
    let ran = run(&["--events", "200", "--seed", "5", "--base-url", api.base_url()]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.table);
    assert!(ran.said.contains("a server of yours gets each event once"), "{}", ran.said);
    assert_eq!((count(&ran.report, "delivered"), api.events().len()), (200, 200));
    assert!(count(&ran.report, "retried") > 0, "the storm hit nothing: {}", ran.report);
    // Nobody watched but this test: the user's own fields are sent as they are.
    assert_eq!(ran.report["out_of_order"], Value::Null);
    assert_sent_in_order(&api);
    api.finish().await;
}

#[tokio::test]
async fn an_event_that_the_api_never_takes_does_not_hold_up_its_user() {
    let api = api!();
    api.disallow_event("star.created");
    let ran = run(&["--events", "200", "--seed", "1", "--base-url", api.base_url()]).await;
    let dead: u64 =
        ran.report["dead"].as_object().expect("it is an object").values().filter_map(Value::as_u64).sum();
    assert_eq!(ran.code, Some(0), "{}", ran.table);
    assert!(dead > 0, "{}", ran.report);
    assert_eq!(count(&ran.report, "delivered") + dead, 200);
    assert_sent_in_order(&api);
    api.finish().await;
}

#[tokio::test]
async fn events_that_the_api_refuses_are_kept() {
    let api = api!(StandIn::builder().require_key("another key"));
    let ran = run(&["--events", "50", "--base-url", api.base_url()]).await;
    assert_eq!((ran.code, count(&ran.report, "delivered"), ran.kept()), (Some(1), 0, 50));
    assert_eq!(count(&ran.report, "lost"), 0);
    api.finish().await;
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_keeps_what_was_not_delivered() {
    let (first, mut seen) = tokio::sync::mpsc::channel(1);
    let api = api!(StandIn::builder().seed(2).faults(Faults::storm()).on_request(move |_| {
        // Only the first matters.
        let _ = first.try_send(());
    }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    // Far more than the API's published limit lets through while this test runs.
    let child = demo(&["--events", "1000000", "--base-url", api.base_url()], &file).spawn().unwrap();
    seen.recv().await.unwrap();
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    let ran = Ran::of(&child.wait_with_output().await.unwrap(), &file);
    let read = count(&ran.report, "read");
    assert!(read > 0 && read < 1_000_000, "{read} read");
    assert_eq!(count(&ran.report, "delivered") + ran.kept(), read);
    assert_eq!((count(&ran.report, "lost"), &ran.report["complete"]), (0, &Value::Bool(false)));
    assert_eq!(ran.code, Some(i32::from(ran.kept() > 0)));
    assert_sent_in_order(&api);
    api.finish().await;
}
