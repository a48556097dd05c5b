//! The client against the stand-in, which holds every request to the API's description.

mod calls;
mod failures;
mod limits;

use relaykit_iterable_handlers::{ApiKey, Client, ClientBuilder};
use relaykit_suite::Api;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// What no error and no log may show.
const KEY: &str = "s3cret-key-0123456789";

/// Configures a client of the stand-in without rate limits.
fn client(api: &Api) -> ClientBuilder {
    Client::builder(ApiKey::new(KEY).expect("a key")).base_url(api.base_url()).no_rate_limits()
}

/// Writes the latest request as method, path and query.
fn latest(api: &Api) -> String {
    let requests = api.requests();
    let request = requests.last().expect("a request was sent");
    let query = request.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
    format!("{} {}{query}", request.method, request.path)
}

/// Returns the latest request's body.
fn latest_body(api: &Api) -> Value {
    api.requests().last().expect("a request was sent").json()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).expect("JSON")
}

/// Lets everything that can run do so until the condition holds. What waits for the network gets its turn, too.
async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..5_000_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never came to pass: {what}");
}
