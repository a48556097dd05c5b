//! The demo with `--direct --outbox`: every delivered event has a receipt, however often things fail.

mod own_database;

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use self::own_database::OwnDatabase;

async fn demo(place: &str, report: &Path) -> (Output, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
    command
        .args([
            "--direct", "--events", "2000", "--faults", "storm", "--seed", "5", "--outbox", place, "--report",
        ])
        .arg(report);
    let output = command.output().await.expect("the demo starts");
    let report = std::fs::read_to_string(report).unwrap_or_default();
    (output, serde_json::from_str(&report).unwrap_or_default())
}

fn assert_complete(output: &Output, report: &Value) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let receipts = &report["receipts"];
    assert_eq!((&receipts["written"], &receipts["missing"]), (&2_000.into(), &0.into()), "{receipts}");
    assert_eq!(receipts["filed"], 2_000, "{receipts}");
    // The file fails before and after its writes, so this was put to the test.
    assert!(receipts["retried"].as_u64() > Some(0), "{receipts}");
}

#[tokio::test]
async fn each_delivered_event_has_a_receipt_through_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let place = format!("sqlite:{}", folder.path().join("app.db").display());
    let (output, report) = demo(&place, &folder.path().join("report.json")).await;
    assert_complete(&output, &report);
}

#[tokio::test]
async fn each_delivered_event_has_a_receipt_through_postgres() {
    let Some(database) = OwnDatabase::new().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (output, report) = demo(&database.url, &folder.path().join("report.json")).await;
    assert_complete(&output, &report);
    database.drop().await;
}
