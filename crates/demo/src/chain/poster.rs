use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use relaykit_pipeline_traits::{Classify, Clock as _, ErrorClass, MessageId, Rng, SystemClock};
use relaykit_retry::{Policy, retry};
use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::book::Book;
use super::webhook::{DELIVERY, EVENT, SIGNATURE, Signer};
use crate::delivery::retry_policy;
use crate::generator::Generator;
use crate::lines::Source;

/// How many webhooks are posted at once. Those of a user go one after the other, in the same lane.
const LANES: usize = 32;

/// Webhooks that wait in a lane.
const LANE: usize = 8;

/// How many of a lane's webhooks wait at most to be delivered a second time.
const LATER: usize = 8;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Posts made-up webhooks as a careless sender does: some twice, some again much later, some with a wrong signature, and all again
/// until they are accepted.
pub(super) struct Poster {
    http: reqwest::Client,
    url: String,
    signer: Signer,
    policy: Policy,
    book: Book,
    posted: Mutex<Posted>,
}

/// What was posted, and how that was answered.
#[derive(Debug, Clone, Default)]
pub(super) struct Posted {
    /// Webhooks made.
    pub(super) made: u64,
    /// Requests.
    pub(super) requests: u64,
    /// Requests with a wrong signature that were answered with 401.
    pub(super) rejected: u64,
    /// Requests that were answered with 202 after one of the same webhook was.
    pub(super) repeated: u64,
    /// Requests that failed and were posted again.
    pub(super) failed: u64,
    /// Webhooks that were not accepted in the end, by reason.
    pub(super) refused: BTreeMap<String, u64>,
}

/// A webhook, and what its sender does with it.
struct Post {
    id: MessageId,
    event: String,
    body: Vec<u8>,
    plan: Plan,
}

/// What a careless sender does with a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Posts it with a wrong signature first.
    forged: bool,
    /// Posts it again at once.
    again: bool,
    /// Posts it again after others.
    later: bool,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Self {
        Self { forged: rng.chance(0.02), again: rng.chance(0.05), later: rng.chance(0.05) }
    }
}

/// Why a request was not answered as it should be.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("no answer: {0}")]
    NoAnswer(#[source] reqwest::Error),
    #[error("answered with {0}")]
    Answered(StatusCode),
    #[error("not posted")]
    Stopped,
}

impl Classify for PostError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Answered(status) if status.is_client_error() || status.is_success() => {
                ErrorClass::Permanent
            }
            Self::NoAnswer(_) | Self::Answered(_) | Self::Stopped => ErrorClass::Transient,
        }
    }
}

impl Poster {
    pub(super) fn new(url: String, secret: &str, book: Book) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build()?;
        let (signer, policy) = (Signer::new(secret.as_bytes())?, retry_policy()?);
        Ok(Self { http, url, signer, policy, book, posted: Mutex::default() })
    }

    /// Returns what was posted so far.
    pub(super) fn posted(&self) -> Posted {
        self.lock().clone()
    }

    /// Posts all webhooks that are made up, until `stop` says so. Returns whether all were posted.
    pub(super) async fn post_all(
        self: &Arc<Self>,
        events: Generator,
        seed: u64,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<bool> {
        let (clock, mut rng) = (SystemClock::new(), Rng::seeded(seed));
        let mut tasks = JoinSet::new();
        let lanes: Vec<mpsc::Sender<Post>> = (0..LANES)
            .map(|_| {
                let (lane, posts) = mpsc::channel(LANE);
                tasks.spawn(Arc::clone(self).lane(posts, stop.clone()));
                lane
            })
            .collect();
        let mut events = Source::Generator(events).read();
        loop {
            let line = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                line = events.recv() => line,
            };
            let Some(line) = line else { break };
            let line = line.context("could not make up a webhook")?;
            let Ok(content) = line.content else { continue };
            let (event, user, body) = split(&content, line.number).context("a webhook was made up wrong")?;
            let id = MessageId::new(clock.now(), &mut rng);
            self.book.post(id, line.number);
            self.lock().made += 1;
            let post = Post { id, event, body, plan: Plan::draw(&mut rng) };
            // A lane ends before its posts do only when all is to stop.
            let _ = lanes[lane_of(&user)].send(post).await;
        }
        drop(lanes);
        while let Some(ended) = tasks.join_next().await {
            ended.context("a lane broke down")?;
        }
        Ok(!*stop.borrow())
    }

    async fn lane(self: Arc<Self>, mut posts: mpsc::Receiver<Post>, mut stop: watch::Receiver<bool>) {
        let work = async {
            let mut later = VecDeque::new();
            while let Some(post) = posts.recv().await {
                if post.plan.forged {
                    self.forge(&post).await;
                }
                if !self.post(&post).await {
                    continue;
                }
                self.book.accepted(post.id);
                if post.plan.again {
                    self.repeat(&post).await;
                }
                if post.plan.later {
                    later.push_back(post);
                }
                if later.len() > LATER
                    && let Some(post) = later.pop_front()
                {
                    self.repeat(&post).await;
                }
            }
            for post in later {
                self.repeat(&post).await;
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = work => {}
        }
    }

    /// Posts a webhook until it is accepted. Returns whether it was.
    async fn post(&self, post: &Post) -> bool {
        let signature = self.signer.sign(&post.body);
        match self.until(post, &signature, StatusCode::ACCEPTED).await {
            Ok(()) => true,
            Err(error) => {
                *self.lock().refused.entry(error.to_string()).or_default() += 1;
                false
            }
        }
    }

    async fn repeat(&self, post: &Post) {
        if self.post(post).await {
            self.lock().repeated += 1;
        }
    }

    /// Posts a webhook as somebody does who does not know the secret.
    async fn forge(&self, post: &Post) {
        let signature = self.signer.sign(b"something else");
        match self.until(post, &signature, StatusCode::UNAUTHORIZED).await {
            Ok(()) => self.lock().rejected += 1,
            Err(error) => {
                let reason = format!("a wrong signature was {error}");
                *self.lock().refused.entry(reason).or_default() += 1;
            }
        }
    }

    /// Sends a request until it is answered as expected, or in a way that will not change.
    async fn until(&self, post: &Post, signature: &str, expected: StatusCode) -> Result<(), PostError> {
        let attempt = async |_attempt| {
            self.lock().requests += 1;
            let sent = self.send(post, signature).await;
            let answered =
                sent.and_then(
                    |status| {
                        if status == expected { Ok(()) } else { Err(PostError::Answered(status)) }
                    },
                );
            if answered.as_ref().is_err_and(|error| error.class() == ErrorClass::Transient) {
                self.lock().failed += 1;
            }
            answered
        };
        let answered = retry(self.policy, SystemClock::new(), attempt).await;
        answered.map_err(|error| error.into_error().unwrap_or(PostError::Stopped))
    }

    async fn send(&self, post: &Post, signature: &str) -> Result<StatusCode, PostError> {
        let request = self
            .http
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(DELIVERY, post.id.to_string())
            .header(EVENT, &post.event)
            .header(SIGNATURE, signature)
            .body(post.body.clone());
        Ok(request.send().await.map_err(PostError::NoAnswer)?.status())
    }

    fn lock(&self) -> MutexGuard<'_, Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes kind, user and body of a line. The body gets the line's number, by which the stand-in watches the order.
fn split(line: &[u8], number: u64) -> anyhow::Result<(String, String, Vec<u8>)> {
    let mut line: Value = serde_json::from_slice(line)?;
    let event = line["event"].as_str().context("no event")?.to_owned();
    let user = line["payload"]["sender"]["login"].as_str().context("no user")?.to_owned();
    let mut payload = line["payload"].take();
    payload["__sequence"] = json!(number);
    Ok((event, user, payload.to_string().into_bytes()))
}

fn lane_of(user: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_has_its_kind_user_and_number() {
        let line = br#"{"event":"star","payload":{"action":"created","sender":{"login":"ada"}}}"#;
        let (event, user, body) = split(line, 7).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((event.as_str(), user.as_str()), ("star", "ada"));
        assert_eq!((&body["__sequence"], &body["sender"]["login"]), (&json!(7), &json!("ada")));
    }

    #[test]
    fn about_a_tenth_is_posted_again_and_some_are_forged() {
        let mut rng = Rng::seeded(1);
        let plans: Vec<Plan> = (0..10_000).map(|_| Plan::draw(&mut rng)).collect();
        let share = |of: fn(&Plan) -> bool| plans.iter().filter(|plan| of(plan)).count();
        let again = share(|plan| plan.again) + share(|plan| plan.later);
        assert!((800..1_200).contains(&again), "{again}");
        assert!((100..300).contains(&share(|plan| plan.forged)));
    }

    #[test]
    fn a_user_has_one_lane() {
        assert_eq!(lane_of("ada"), lane_of("ada"));
        assert!(lane_of("bob") < LANES);
    }
}
