//! The whole chain, as its users start it: webhooks over HTTP in, events at the API and receipts in a file out.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod own_database;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use relaykit_iterable_handlers::testing::StandIn;
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use relaykit_suite::api;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::own_database::OwnDatabase;

const SECRET: &str = "known to this test alone";

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
    command.args(args).env("WEBHOOK_SECRET", SECRET);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs the whole chain and returns its ledger.
async fn chain(args: &[&str]) -> (Output, Value) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("report.json");
    let output = demo(args).arg("--report").arg(&file).output().await.expect("the demo starts");
    let report = std::fs::read(&file).unwrap_or_default();
    (output, serde_json::from_slice(&report).unwrap_or_default())
}

fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} is a count in {report}"))
}

fn assert_whole(output: &Output, report: &Value, events: u64) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", String::from_utf8_lossy(&output.stdout));
    let all = ["made", "accepted", "stored", "delivered"].map(|name| count(report, name));
    assert_eq!(all, [events; 4], "{report}");
    let none = ["lost", "out_of_order"].map(|name| count(report, name));
    assert_eq!(none, [0; 2], "{report}");
    let receipts = &report["receipts"];
    let receipts = ["filed", "missing", "left", "out_of_order"].map(|name| count(receipts, name));
    assert_eq!(receipts, [events, 0, 0, 0], "{report}");
    assert!(count(report, "duplicates_dropped") > 0 && count(report, "rejected") > 0, "{report}");
}

#[tokio::test]
async fn by_itself_it_delivers_every_webhook_once_and_in_order() {
    let (output, report) = chain(&["--events", "1000", "--seed", "3"]).await;
    assert_whole(&output, &report, 1_000);
    assert_eq!(count(&report, "failed"), 0);
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("duplicates dropped") && table.contains("receipts missing"), "{table}");
}

#[tokio::test]
async fn a_storm_loses_duplicates_and_reorders_nothing() {
    let (output, report) = chain(&["--events", "600", "--seed", "5", "--faults", "storm"]).await;
    assert_whole(&output, &report, 600);
    // Each part was put to the test.
    assert!(count(&report, "failed") > 0 && count(&report, "retried") > 0, "{report}");
    assert!(count(&report["receipts"], "retried") > 0, "{report}");
}

#[tokio::test]
async fn receipts_go_through_postgres_in_a_storm_too() {
    let Some(database) = OwnDatabase::new().await else { return };
    let args = ["--events", "400", "--seed", "7", "--faults", "storm", "--outbox", &database.url];
    let (output, report) = chain(&args).await;
    assert_whole(&output, &report, 400);
    database.drop().await;
}

/// A process that takes webhooks.
struct Site {
    child: Child,
    url: String,
    http: reqwest::Client,
}

impl Site {
    /// Starts it in a folder and waits until it says where it listens.
    async fn start(folder: &Path, api: &str) -> Self {
        let folder = folder.to_str().expect("the path is UTF-8");
        let mut command = demo(&["--serve", "127.0.0.1:0", "--dir", folder, "--base-url", api]);
        let report = Path::new(folder).join("report.json");
        command.args(["--secret-env", "WEBHOOK_SECRET", "--report"]).arg(report);
        let mut child = command.spawn().expect("the demo starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let url = loop {
            let line = said.next_line().await.expect("it is UTF-8").expect("it says where it listens");
            if let Some(url) = line.strip_prefix("webhooks at ") {
                break url.split(';').next().expect("there is a first part").to_owned();
            }
        };
        // It goes on saying things.
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        Self { child, url, http }
    }

    fn post(&self, webhook: &Webhook) -> reqwest::RequestBuilder {
        self.http
            .post(&self.url)
            .header("X-GitHub-Delivery", &webhook.delivery)
            .header("X-GitHub-Event", "push")
            .header("X-Hub-Signature-256", &webhook.signature)
            .body(webhook.body.clone())
    }

    /// Ends it as Ctrl-C does, and returns what it reports.
    async fn stop(mut self, folder: &Path) -> Value {
        let id = self.child.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().await.unwrap().success());
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "{status}");
        let report = std::fs::read(folder.join("report.json")).expect("there is a report");
        serde_json::from_slice(&report).expect("the report is JSON")
    }
}

/// What a sender sends.
#[derive(Clone)]
struct Webhook {
    delivery: String,
    signature: String,
    body: String,
}

impl Webhook {
    fn new(number: usize) -> Self {
        let user = format!("user-{}", number % 17);
        let body = json!({ "number": number, "__sequence": number, "sender": { "login": user } }).to_string();
        let delivery = format!("00000000-0000-7000-8000-{number:012x}");
        Self { delivery, signature: sign(SECRET, &body), body }
    }
}

fn sign(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    mac.finalize().into_bytes().iter().fold("sha256=".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// How often each id took effect at the stand-in, and how many ids there are.
#[derive(Clone)]
struct Effects {
    times: Arc<Mutex<HashMap<String, u64>>>,
    count: Arc<watch::Sender<usize>>,
}

impl Effects {
    fn new() -> Self {
        Self { times: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    fn note(&self, id: &str) {
        let mut times = self.times.lock().unwrap();
        *times.entry(id.to_owned()).or_default() += 1;
        self.count.send_replace(times.len());
    }

    async fn at_least(&self, count: usize) {
        self.count.subscribe().wait_for(|seen| *seen >= count).await.expect("the sender is here");
    }

    fn of(&self, id: &str) -> u64 {
        self.times.lock().unwrap().get(id).copied().unwrap_or(0)
    }
}

#[tokio::test]
async fn a_repeated_delivery_is_answered_as_the_first_and_takes_effect_once() {
    let effects = Effects::new();
    let noted = effects.clone();
    let api = api!(StandIn::builder().on_event(move |event| noted.note(&event.id)));
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), api.base_url()).await;
    let webhook = Webhook::new(1);
    for status in ["stored", "already_known", "already_known"] {
        let response = site.post(&webhook).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::ACCEPTED);
        assert_eq!(response.text().await.unwrap(), json!({ "status": status }).to_string());
    }
    // A later one of the same user: when it has arrived, no repetition of the first is on its way.
    assert_eq!(site.post(&Webhook::new(18)).send().await.unwrap().status(), StatusCode::ACCEPTED);
    effects.at_least(2).await;
    let report = site.stop(folder.path()).await;
    assert_eq!(effects.of(&webhook.delivery), 1);
    assert_eq!((count(&report, "stored"), count(&report, "duplicates_dropped")), (2, 2));
    api.finish().await;
}

#[tokio::test]
async fn what_is_no_webhook_or_of_somebody_else_is_refused_and_not_stored() {
    let api = api!();
    let folder = tempfile::tempdir().unwrap();
    let site = Site::start(folder.path(), api.base_url()).await;
    let signed =
        |body: &str| Webhook { signature: sign(SECRET, body), body: body.to_owned(), ..Webhook::new(1) };
    let answer = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        (status, serde_json::from_str::<Value>(&text).unwrap_or_default()["error"].clone())
    };
    let forged = Webhook { signature: sign("guessed", &Webhook::new(1).body), ..Webhook::new(1) };
    assert_eq!(answer(site.post(&forged)).await, (StatusCode::UNAUTHORIZED, json!("unauthorized")));
    let unsigned = Webhook { signature: String::new(), ..Webhook::new(1) };
    assert_eq!(answer(site.post(&unsigned)).await.0, StatusCode::UNAUTHORIZED);
    // Nobody without the secret learns what is taken.
    let nonsense = Webhook { body: "nonsense".to_owned(), ..Webhook::new(1) };
    assert_eq!(answer(site.post(&nonsense)).await.0, StatusCode::UNAUTHORIZED);

    assert_eq!(answer(site.post(&signed("nonsense"))).await, (StatusCode::BAD_REQUEST, json!("bad_request")));
    assert_eq!(answer(site.post(&signed("{}"))).await.0, StatusCode::BAD_REQUEST);
    let nameless = site.http.post(&site.url).body("{}");
    assert_eq!(answer(nameless).await.0, StatusCode::BAD_REQUEST);
    let large = signed(&format!(r#"{{"sender":{{"login":"ada"}},"more":"{}"}}"#, "x".repeat(300 * 1024)));
    assert_eq!(answer(site.post(&large)).await, (StatusCode::PAYLOAD_TOO_LARGE, json!("too_large")));
    assert_eq!(answer(site.http.get(&site.url)).await.0, StatusCode::METHOD_NOT_ALLOWED);

    assert_eq!(answer(site.post(&Webhook::new(1))).await.0, StatusCode::ACCEPTED);
    let other = signed(r#"{"sender":{"login":"eve"}}"#);
    assert_eq!(answer(site.post(&other)).await, (StatusCode::CONFLICT, json!("conflict")));
    let report = site.stop(folder.path()).await;
    assert_eq!((count(&report, "stored"), count(&report, "rejected")), (1, 3));
    api.finish().await;
}

const WEBHOOKS: usize = 1_200;
const LANES: usize = 17;

/// Posts one lane of webhooks, which has one user, each until it is accepted, for as long as the endpoint answers. Returns the number of
/// the first that was not accepted.
async fn post_lane(site: Arc<Site>, from: usize, accepted: Arc<watch::Sender<usize>>) -> usize {
    let mut number = from;
    while number < WEBHOOKS {
        match site.post(&Webhook::new(number)).send().await {
            Ok(response) => {
                assert_eq!(response.status(), StatusCode::ACCEPTED);
                accepted.send_modify(|count| *count += 1);
                number += LANES;
            }
            // It was killed.
            Err(_) => return number,
        }
    }
    number
}

#[tokio::test]
async fn killed_in_the_middle_it_loses_nothing_that_it_accepted() {
    let effects = Effects::new();
    let noted = effects.clone();
    let api = api!(StandIn::builder().on_event(move |event| noted.note(&event.id)));
    let folder = tempfile::tempdir().unwrap();
    let accepted = Arc::new(watch::Sender::new(0));
    let mut lanes: Vec<usize> = (0..LANES).collect();
    for run in 1..=3 {
        let site = Arc::new(Site::start(folder.path(), api.base_url()).await);
        let id = site.child.id().unwrap().to_string();
        let mut posting = JoinSet::new();
        for (lane, from) in lanes.iter().copied().enumerate() {
            let (site, accepted) = (Arc::clone(&site), Arc::clone(&accepted));
            posting.spawn(async move { (lane, post_lane(site, from, accepted).await) });
        }
        if run < 3 {
            accepted.subscribe().wait_for(|count| *count >= run * WEBHOOKS / 3).await.unwrap();
            // SIGKILL: nothing is finished, given back or said.
            assert!(Command::new("kill").args(["-KILL", &id]).status().await.unwrap().success());
        }
        while let Some(posted) = posting.join_next().await {
            let (lane, next) = posted.unwrap();
            lanes[lane] = next;
        }
        let mut site = Arc::into_inner(site).expect("all lanes have ended");
        if run < 3 {
            site.child.wait().await.unwrap();
            assert!(lanes.iter().any(|next| *next < WEBHOOKS), "everything was posted before the last kill");
            continue;
        }
        effects.at_least(WEBHOOKS).await;
        receipts(folder.path(), WEBHOOKS).await;
        let report = site.stop(folder.path()).await;
        assert_eq!((count(&report, "dead"), count(&report, "left_in_inbox")), (0, 0), "{report}");
    }
    assert_eq!(effects.times.lock().unwrap().len(), WEBHOOKS);
    assert_eq!(api.out_of_order(), 0);
    api.finish().await;
}

/// Waits until so many events have their receipts.
async fn receipts(folder: &Path, expected: usize) {
    let (clock, file) = (SystemClock::new(), folder.join("app.db.receipts"));
    let mut events = HashSet::new();
    for _ in 0..1_200 {
        let text = std::fs::read_to_string(&file).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        events = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].to_string())
            .collect();
        if events.len() >= expected {
            break;
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(events.len(), expected);
}
