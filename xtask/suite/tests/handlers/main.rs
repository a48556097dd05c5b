//! The six handlers against the stand-in, which holds every request to the API's description.

mod bulk;
mod email;
mod lists;
mod whole;

use relaykit_iterable_handlers::testing::Recorded;
use relaykit_iterable_handlers::{
    ApiKey, Client, Delivered, DeliveryError, EventTrack, Identity, Prepared, Request, Stamper, UserUpdate,
};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, ManualClock, Rng, Verdict};
use relaykit_suite::Api;
use serde_json::Value;

const TRACK: &str = "/api/events/trackBulk";
const USERS: &str = "/api/users/bulkUpdate";
const SUBSCRIPTIONS: &str = "/api/users/bulkUpdateSubscriptions";
const SUBSCRIBE: &str = "/api/lists/subscribe";
const UPDATE_EMAIL: &str = "/api/users/updateEmail";

type Outcome = BatchOutcome<Delivered, DeliveryError>;

/// Makes a client of the stand-in without rate limits. Its clock stands still.
fn client(api: &Api) -> Client {
    let key = ApiKey::new("key").expect("a header can carry it");
    let builder = Client::builder(key).base_url(api.base_url()).no_rate_limits();
    builder.clock(ManualClock::new()).build().expect("the settings are valid")
}

fn prepare<R: Request>(requests: impl IntoIterator<Item = R>) -> Vec<Prepared<R>> {
    let stamper = Stamper::new(ManualClock::new(), Rng::seeded(1));
    let prepare = |request: R| request.prepare(&stamper).expect("the request is valid");
    requests.into_iter().map(prepare).collect()
}

fn event(user: &str) -> EventTrack {
    EventTrack::new(identity(user), "login")
}

fn user(user: &str) -> UserUpdate {
    UserUpdate::new(identity(user)).field("plan", "free")
}

/// Names a user by address if it looks like one, else by id.
fn identity(user: &str) -> Identity {
    if user.contains('@') { Identity::email(user) } else { Identity::user_id(user) }
}

async fn attempt<T, H>(handler: &H, batch: &[T], attempt: u32) -> Outcome
where
    H: BatchHandler<T, Output = Delivered, Error = DeliveryError>,
{
    handler.handle(batch, &BatchContext::new(attempt)).await
}

async fn handle<T, H>(handler: &H, batch: &[T]) -> Outcome
where
    H: BatchHandler<T, Output = Delivered, Error = DeliveryError>,
{
    attempt(handler, batch, 1).await
}

/// Writes an outcome in a word, or a letter for each message: Done, Retry, X for dead, Isolate, U for untried.
fn word(outcome: &Outcome) -> String {
    let letter = |verdict: &Verdict<_, _>| match verdict {
        Verdict::Done(_) => 'D',
        Verdict::Retry { .. } => 'R',
        Verdict::Dead(_) => 'X',
        Verdict::Isolate(_) => 'I',
        Verdict::Untried => 'U',
        _ => '?',
    };
    match outcome {
        BatchOutcome::Each(verdicts) => verdicts.iter().map(letter).collect(),
        BatchOutcome::RetryBatch { .. } => "retry".to_owned(),
        BatchOutcome::Split(_) => "split".to_owned(),
        BatchOutcome::Refused(_) => "refused".to_owned(),
        _ => "?".to_owned(),
    }
}

/// Returns the error of the message at this place, or of the whole batch.
fn error(outcome: &Outcome, at: usize) -> &DeliveryError {
    match outcome {
        BatchOutcome::Each(verdicts) => match &verdicts[at] {
            Verdict::Retry { error, .. } | Verdict::Dead(error) | Verdict::Isolate(error) => error,
            other => panic!("{other:?} has no error"),
        },
        BatchOutcome::RetryBatch { error, .. }
        | BatchOutcome::Split(error)
        | BatchOutcome::Refused(error) => error,
        other => panic!("{other:?} has no error"),
    }
}

fn reason(outcome: &Outcome, at: usize) -> String {
    error(outcome, at).reason().map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn bodies(api: &Api) -> Vec<Value> {
    api.requests().iter().map(Recorded::json).collect()
}

fn paths(api: &Api) -> Vec<String> {
    api.requests().iter().map(|request| request.path.clone()).collect()
}

/// Does what an engine does, in the plainest way: lends again, in halves what cannot be judged in company, until each
/// message has its last word or `rounds` calls are made. Returns a letter for each message, U for those without.
async fn drive<R, H>(handler: &H, batch: &[Prepared<R>], rounds: usize) -> String
where
    R: Request + Clone,
    H: BatchHandler<Prepared<R>, Output = Delivered, Error = DeliveryError>,
{
    let mut last = vec!['U'; batch.len()];
    let mut queue = std::collections::VecDeque::from([(0..batch.len()).collect::<Vec<_>>()]);
    for _ in 0..rounds {
        let Some(lent) = queue.pop_front() else { break };
        let items: Vec<Prepared<R>> = lent.iter().map(|&at| batch[at].clone()).collect();
        let verdicts = word(&attempt(handler, &items, 2).await);
        let verdicts = match verdicts.as_str() {
            "retry" | "refused" => "R".repeat(items.len()),
            "split" => "I".repeat(items.len()),
            _ => verdicts,
        };
        let (mut again, mut isolate) = (Vec::new(), Vec::new());
        for (&at, letter) in lent.iter().zip(verdicts.chars()) {
            match letter {
                'R' | 'U' => again.push(at),
                'I' => isolate.push(at),
                done => last[at] = done,
            }
        }
        let half = isolate.len().div_ceil(2);
        let parts = [isolate.split_off(half), isolate, again];
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            queue.push_front(part);
        }
    }
    last.into_iter().collect()
}
