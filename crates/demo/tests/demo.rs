//! The demo without HTTP and inbox, as its users start it. It talks to a stand-in that holds every request to the API's description.

use std::path::Path;
use std::process::{Output, Stdio};

use relaykit_iterable_handlers::testing::{Faults, StandIn};
use relaykit_suite::{Api, api, shared_file};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(args: &[&str]) -> Output {
    demo(args).output().await.expect("the demo starts")
}

/// Runs the demo against the API and returns its exit code and report.
async fn report(api: &Api, args: &[&str]) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("report.json");
    let mut all = vec!["--base-url", api.base_url(), "--report", path(&file)];
    all.extend(args);
    let output = run(&all).await;
    let json = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("no report: {error}\n{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), serde_json::from_slice(&json).expect("the report is JSON"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("the path is UTF-8")
}

/// The members that must be what they are, in one value.
fn counts(report: &Value) -> [u64; 4] {
    ["read", "delivered", "rejected", "lost"].map(|name| report[name].as_u64().expect("it is a count"))
}

#[tokio::test]
async fn of_329_real_webhooks_325_are_delivered_and_4_name_no_user() {
    let Some(webhooks) = shared_file("data/github-webhooks.ndjson") else { return };
    let api = api!();
    let (code, report) = report(&api, &["--input", path(&webhooks)]).await;
    assert_eq!((code, counts(&report)), (Some(0), [329, 325, 4, 0]));
    assert_eq!(api.events().len(), 325);
    let reasons = report["rejected_lines"].as_array().unwrap();
    assert!(reasons.iter().all(|line| line["reason"].as_str().unwrap().starts_with("no user")));
    assert_eq!(reasons[0]["line"], 288);
    api.finish().await;
}

#[tokio::test]
async fn a_storm_of_faults_loses_none_of_them() {
    let Some(webhooks) = shared_file("data/github-webhooks.ndjson") else { return };
    let api = api!(StandIn::builder().seed(7).faults(Faults::storm()));
    let (code, report) = report(&api, &["--input", path(&webhooks)]).await;
    assert_eq!((code, counts(&report)), (Some(0), [329, 325, 4, 0]));
    assert_eq!(api.events().len(), 325);
    assert!(report["retried"].as_u64().unwrap() > 0, "the storm hit nothing: {report}");
    api.finish().await;
}

#[tokio::test]
async fn malformed_lines_are_reported_and_skipped() {
    let api = api!();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let mut child = demo(&["--input", "-", "--base-url", api.base_url(), "--report", path(&file)])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "{\"event\":\"push\",\"payload\":{\"sender\":{\"login\":\"ada\"}}}\n\
                 not json\n\n\
                 {\"event\":\"push\",\"payload\":{}}\n\
                 {\"event\":\"star\",\"payload\":{\"action\":\"created\",\"sender\":{\"login\":\"ada\"}}}";
    let mut input = child.stdin.take().unwrap();
    input.write_all(lines.as_bytes()).await.unwrap();
    drop(input);
    let output = child.wait_with_output().await.unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((output.status.code(), counts(&report)), (Some(0), [4, 2, 2, 0]));
    let lines: Vec<_> =
        report["rejected_lines"].as_array().unwrap().iter().map(|line| &line["line"]).collect();
    assert_eq!(lines, [2, 4]);
    let sent = api.requests()[0].json();
    assert_eq!(sent["events"][1]["eventName"], "star.created");
    assert_eq!(sent["events"][1]["userId"], "ada");
    api.finish().await;
}

#[tokio::test]
async fn events_that_the_api_refuses_are_kept_and_the_exit_code_says_so() {
    let api = api!(StandIn::builder().require_key("another key"));
    let (code, report) = report(&api, &["--direct", "--events", "50"]).await;
    assert_eq!((code, counts(&report)), (Some(1), [50, 0, 0, 0]));
    let kept: u64 = report["undelivered"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(kept, 50);
    assert_eq!(report["dead"], serde_json::json!({}));
    api.finish().await;
}

#[tokio::test]
async fn events_that_the_api_never_takes_are_dead_by_its_reason_and_that_is_no_failure() {
    let api = api!();
    api.disallow_event("star.created");
    let (code, report) = report(&api, &["--direct", "--events", "200", "--seed", "1"]).await;
    let dead: u64 = report["dead"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(code, Some(0));
    assert!(dead > 0, "{report}");
    assert_eq!(report["delivered"].as_u64().unwrap() + dead, 200);
    api.finish().await;
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_stops_gracefully_and_still_prints_the_table() {
    let (first, mut seen) = tokio::sync::mpsc::channel(1);
    let api = api!(StandIn::builder().on_request(move |_| {
        // Only the first matters.
        let _ = first.try_send(());
    }));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    // Far more than the API's published limit lets through while this test runs.
    let child =
        demo(&["--direct", "--events", "1000000", "--base-url", api.base_url(), "--report", path(&file)])
            .spawn()
            .unwrap();
    seen.recv().await.unwrap();
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let [read, delivered, rejected, lost] = counts(&report);
    let kept: u64 = report["undelivered"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(read > 0 && read < 1_000_000, "{read} read");
    assert_eq!((delivered + kept, rejected, lost), (read, 0, 0));
    // What was cut off may or may not have arrived.
    assert!((delivered..=delivered + kept).contains(&(api.events().len() as u64)));
    assert_eq!(report["complete"], false);
    assert_eq!(output.status.code(), Some(i32::from(kept > 0)));
    assert!(String::from_utf8_lossy(&output.stdout).contains("delivered"));
    api.finish().await;
}

#[tokio::test]
async fn input_that_cannot_be_read_is_an_error_of_its_own() {
    let output = run(&["--input", "no/such/file"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("could not open no/such/file"));
    let output = run(&["--api-key-env", "NO_SUCH_VARIABLE"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("NO_SUCH_VARIABLE"));
}
