//! What the demo serves to Prometheus while it runs.

use std::process::Stdio;

use relaykit_suite::api;
use reqwest::StatusCode;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};

/// How often a number is looked up that is about to change. A look takes a good part of a millisecond.
const LOOKS: u32 = 20_000;

struct Demo {
    child: Child,
    /// What the demo says. Kept, so that it can go on saying.
    said: Lines<BufReader<ChildStderr>>,
    /// Where the metrics are.
    url: String,
    http: reqwest::Client,
}

impl Demo {
    /// Starts the demo and waits until it says where its metrics are.
    async fn start(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"));
        let command = command.args(["--metrics", "127.0.0.1:0", "--input", "-"]).args(args);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("the demo starts");
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let url = loop {
            let line = said.next_line().await.expect("it is UTF-8").expect("the demo says where they are");
            if let Some(url) = line.strip_prefix("metrics at ") {
                break url.to_owned();
            }
        };
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        Self { child, said, url, http }
    }

    async fn send(&mut self, lines: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        input.write_all(lines.as_bytes()).await.expect("the demo reads");
        input.flush().await.expect("the demo reads");
    }

    async fn metrics(&self) -> String {
        let response = self.http.get(&self.url).send().await.expect("the demo serves");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
        response.text().await.expect("it is text")
    }

    /// Looks until one line of the metrics is `line`.
    async fn shows(&self, line: &str) -> String {
        let mut text = String::new();
        for _ in 0..LOOKS {
            text = self.metrics().await;
            if text.lines().any(|shown| shown == line) {
                return text;
            }
        }
        panic!("{line} is not in\n{text}");
    }

    /// Ends the input and waits for the demo's end.
    async fn finish(mut self) {
        drop(self.child.stdin.take());
        while self.said.next_line().await.expect("it is UTF-8").is_some() {}
        assert!(self.child.wait().await.expect("the demo ends").success());
        let gone = self.http.get(&self.url).send().await.expect_err("nobody serves any more");
        assert!(gone.is_connect(), "{gone:?}");
    }
}

const PUSH: &str = "{\"event\":\"push\",\"payload\":{\"sender\":{\"login\":\"ada\"}}}\n";

#[tokio::test]
async fn the_numbers_can_be_read_while_events_are_delivered() {
    let api = api!();
    let mut demo = Demo::start(&["--base-url", api.base_url()]).await;
    assert!(!demo.metrics().await.contains("outcome="), "nothing has been done yet");

    demo.send(&PUSH.repeat(3)).await;
    let text = demo.shows(r#"batch_items_total{batcher="events",outcome="done"} 3"#).await;
    for line in [
        "# TYPE batch_items_waiting gauge",
        "# TYPE batch_handler_seconds histogram",
        "# TYPE iterable_exchange_seconds histogram",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    assert!(
        text.contains(r#"iterable_calls_total{endpoint="POST events/trackBulk",outcome="ok"} "#),
        "{text}"
    );

    demo.send(PUSH).await;
    demo.shows(r#"batch_items_total{batcher="events",outcome="done"} 4"#).await;
    demo.finish().await;
    assert_eq!(api.events().len(), 4);
    api.finish().await;
}

#[tokio::test]
async fn an_ordered_run_has_numbers_too() {
    let mut demo = Demo::start(&["--order", "per-user"]).await;
    demo.send(&PUSH.repeat(2)).await;
    demo.shows(r#"batch_items_total{batcher="events-in-order",outcome="done"} 2"#).await;
    demo.finish().await;
}

#[tokio::test]
async fn nothing_else_is_served() {
    let demo = Demo::start(&[]).await;
    let other = demo.url.replace("/metrics", "/");
    let status = async |request: reqwest::RequestBuilder| request.send().await.unwrap().status();
    assert_eq!(status(demo.http.get(other)).await, StatusCode::NOT_FOUND);
    assert_eq!(status(demo.http.get(format!("{}/more", demo.url))).await, StatusCode::NOT_FOUND);
    assert_eq!(status(demo.http.post(&demo.url)).await, StatusCode::METHOD_NOT_ALLOWED);
    demo.finish().await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_relaykit-demo"))
        .args(["--events", "1", "--metrics", &address])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("could not listen on {address}")));
}
