use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, FromRequest as _, Request, State};
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use relaykit_inbox::sqlite::SqliteInboxStore;
use relaykit_inbox::{
    DEFAULT_MAX_PAYLOAD_BYTES, HmacSha256, Inbox, ReceiveError, Received, Scope, Verify as _,
};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use relaykit_retry::within;
use serde_json::json;
use tokio::sync::Semaphore;

use super::webhook::{DELIVERY, EVENT, SIGNATURE, Webhook};
use crate::args;

/// How many requests are answered at once; more are asked to come again.
const REQUESTS: usize = 256;

/// How long a body may take to come in.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Takes webhooks at `POST /webhooks` into an inbox.
pub(super) struct Endpoint {
    inbox: Inbox<SqliteInboxStore>,
    scope: Scope,
    signature: HmacSha256,
    places: Semaphore,
    faults: Faults,
    counts: Arc<Counts>,
    clock: SystemClock,
}

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) stored: AtomicU64,
    pub(super) known: AtomicU64,
    pub(super) unauthorized: AtomicU64,
}

impl Counts {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Endpoint {
    /// Makes the endpoint of an inbox, which must verify messages by this signature.
    pub(super) fn new(
        inbox: Inbox<SqliteInboxStore>,
        scope: Scope,
        signature: HmacSha256,
        faults: Faults,
        counts: Arc<Counts>,
    ) -> Self {
        let (places, clock) = (Semaphore::new(REQUESTS), SystemClock::new());
        Self { inbox, scope, signature, places, faults, counts, clock }
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/webhooks", post(answer))
            .layer(DefaultBodyLimit::max(DEFAULT_MAX_PAYLOAD_BYTES))
            .with_state(Arc::new(self))
    }

    /// Receives what a request brings. When it says that this is done, it is committed.
    async fn take(&self, request: Request) -> Result<Received, Refusal> {
        let _place = self.places.try_acquire().map_err(|_| Refusal::busy("too many requests at once"))?;
        if self.faults.before() {
            return Err(Refusal::busy("a fault before anything was stored"));
        }
        let webhook = self.read(request).await?;
        let now = self.clock.now();
        let message = match webhook.message(&self.scope, now) {
            Ok(message) => message,
            Err(reason) => {
                // Whoever cannot sign learns nothing about what we would take.
                if let Ok(message) = webhook.unread(&self.scope, now) {
                    self.signature.verify(&message).map_err(|reason| self.unauthorized(reason))?;
                }
                return Err(Refusal::BadRequest(reason.to_string()));
            }
        };
        let received = self.inbox.receive(&self.scope, &message).await.map_err(|error| match error {
            ReceiveError::Refused { reason } => self.unauthorized(reason),
            ReceiveError::IdConflict(conflict) => Refusal::Conflict(conflict.to_string()),
            ReceiveError::TooLarge(error) => Refusal::TooLarge(error.to_string()),
            // What exactly, is in the log, and none of the sender's business.
            _ => Refusal::busy("it could not be stored"),
        })?;
        Counts::count(match received {
            Received::Stored => &self.counts.stored,
            Received::AlreadyKnown => &self.counts.known,
        });
        if self.faults.after() {
            return Err(Refusal::busy("a fault after it was stored"));
        }
        Ok(received)
    }

    async fn read(&self, request: Request) -> Result<Webhook, Refusal> {
        let headers = request.headers().clone();
        let body = async {
            Bytes::from_request(request, &()).await.map_err(|rejection| Refusal::of_body(&rejection))
        };
        let body = within(&self.clock, BODY_WITHIN, body, || Refusal::TooSlow).await?;
        let text = |name: &str| text(&headers, name);
        Ok(Webhook {
            delivery: text(DELIVERY),
            event: text(EVENT),
            signature: text(SIGNATURE),
            body: body.into(),
        })
    }

    fn unauthorized(&self, reason: String) -> Refusal {
        Counts::count(&self.counts.unauthorized);
        Refusal::Unauthorized(reason)
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

async fn answer(State(endpoint): State<Arc<Endpoint>>, request: Request) -> Response {
    match endpoint.take(request).await {
        Ok(received) => {
            let status = match received {
                Received::Stored => "stored",
                Received::AlreadyKnown => "already_known",
            };
            respond(StatusCode::ACCEPTED, &json!({ "status": status }))
        }
        Err(refusal) => refusal.into_response(),
    }
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Why a request was not answered with 202.
#[derive(Debug)]
enum Refusal {
    BadRequest(String),
    Unauthorized(String),
    TooSlow,
    Conflict(String),
    TooLarge(String),
    /// The same request may be taken later.
    Busy(&'static str),
}

impl Refusal {
    const fn busy(reason: &'static str) -> Self {
        Self::Busy(reason)
    }

    fn of_body(rejection: &BytesRejection) -> Self {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::TooLarge(format!("the body has more than {DEFAULT_MAX_PAYLOAD_BYTES} bytes"));
        }
        Self::BadRequest(rejection.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error, reason) = match self {
            Self::BadRequest(reason) => (StatusCode::BAD_REQUEST, "bad_request", reason),
            Self::Unauthorized(reason) => (StatusCode::UNAUTHORIZED, "unauthorized", reason),
            Self::TooSlow => {
                let reason = format!("the body did not come within {BODY_WITHIN:?}");
                (StatusCode::REQUEST_TIMEOUT, "too_slow", reason)
            }
            Self::Conflict(reason) => (StatusCode::CONFLICT, "conflict", reason),
            Self::TooLarge(reason) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", reason),
            Self::Busy(reason) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason.to_owned()),
        };
        let mut response = respond(status, &json!({ "error": error, "reason": reason }));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        response
    }
}

/// What goes wrong at the endpoint itself.
pub(super) struct Faults {
    rng: Mutex<Rng>,
    /// Chance of failing before anything is stored, and of failing after it, when the sender cannot know.
    chances: (f64, f64),
}

impl Faults {
    pub(super) fn new(faults: args::Faults, seed: u64) -> Self {
        let chances = match faults {
            args::Faults::None => (0.0, 0.0),
            args::Faults::Some => (0.03, 0.02),
            args::Faults::Storm => (0.15, 0.10),
        };
        Self { rng: Mutex::new(Rng::seeded(seed)), chances }
    }

    fn before(&self) -> bool {
        self.happens(self.chances.0)
    }

    fn after(&self) -> bool {
        self.happens(self.chances.1)
    }

    fn happens(&self, chance: f64) -> bool {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).chance(chance)
    }
}
