use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use relaykit_pipeline_traits::Clock;
use serde_json::{Value, json};

use super::answer::Answer;
use super::faults::{Fault, Faults, Hit};
use super::limits::{Limits, Windows};
use super::project::{AppliedEvent, Call, Project, UnknownUsers, apply};
use super::recorded::{Recorded, Ring};
use super::reply::Reply;
use super::route::{self, Route};
use super::script::Script;
use super::shape;

/// A function that is shown each request.
pub(crate) type OnRequest = Arc<dyn Fn(&Recorded) + Send + Sync>;

/// A function that is shown each event that takes effect.
pub(crate) type OnEvent = Arc<dyn Fn(&AppliedEvent) + Send + Sync>;

/// What a stand-in was built with.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) faults: Faults,
    pub(crate) limits: Limits,
    pub(crate) key: Option<String>,
    pub(crate) latency: Duration,
    pub(crate) keep_requests: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) max_state: usize,
    pub(crate) keep_events: Option<usize>,
    pub(crate) unknown_users: UnknownUsers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) on_request: Vec<OnRequest>,
    pub(crate) on_event: Vec<OnEvent>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("seed", &self.seed)
            .field("faults", &self.faults)
            .field("limits", &self.limits)
            .field("key", &self.key.as_ref().map(|_| "***"))
            .field("latency", &self.latency)
            .field("keep_requests", &self.keep_requests)
            .field("max_body_bytes", &self.max_body_bytes)
            .field("max_state", &self.max_state)
            .field("unknown_users", &self.unknown_users)
            .field("clock", &self.clock)
            .finish_non_exhaustive()
    }
}

/// Decides the reply to each request; knows nothing of sockets.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) settings: Settings,
    project: Mutex<Project>,
    script: Mutex<Script>,
    ring: Mutex<Ring>,
    windows: Mutex<Windows>,
    hits: Mutex<BTreeMap<Fault, u64>>,
    received: AtomicU64,
    throttled: AtomicU64,
}

/// Locks, also after a callback's panic: what a lock guards here is whole between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Exchange {
    pub(crate) fn new(settings: Settings, script: Script) -> Self {
        Self {
            project: Mutex::new(Project::new(
                settings.unknown_users,
                settings.max_state,
                settings.keep_events,
            )),
            script: Mutex::new(script),
            ring: Mutex::new(Ring::new(settings.keep_requests)),
            windows: Mutex::default(),
            hits: Mutex::default(),
            received: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            settings,
        }
    }

    pub(crate) fn project(&self) -> MutexGuard<'_, Project> {
        lock(&self.project)
    }

    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.script)
    }

    pub(crate) fn requests(&self) -> Vec<Recorded> {
        lock(&self.ring).to_vec()
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::SeqCst)
    }

    pub(crate) fn throttled(&self) -> u64 {
        self.throttled.load(Ordering::SeqCst)
    }

    pub(crate) fn hits(&self) -> BTreeMap<Fault, u64> {
        lock(&self.hits).clone()
    }

    /// Records a request and decides its reply. `too_large` says that the body was more than the bound, and is
    /// not there.
    pub(crate) fn reply(&self, mut request: Recorded, too_large: bool) -> Reply {
        {
            let mut ring = lock(&self.ring);
            request.number = self.received.fetch_add(1, Ordering::SeqCst) + 1;
            ring.push(request.clone());
        }
        for watch in &self.settings.on_request {
            watch(&request);
        }
        let mut reply = self.decide(&request, too_large);
        reply.delay = reply.delay.saturating_add(self.settings.latency);
        reply
    }

    fn decide(&self, request: &Recorded, too_large: bool) -> Reply {
        if too_large {
            let max = self.settings.max_body_bytes;
            return Reply::whole(Answer::too_large(&format!("the body is larger than {max} bytes")));
        }
        if !self.admits(request) {
            return Reply::whole(Answer::envelope(
                StatusCode::UNAUTHORIZED,
                "BadApiKey",
                "Invalid API key",
                &json!({}),
            ));
        }
        let scripted = self.script().next(&request.path);
        if let Some(reply) = scripted {
            if reply.applied {
                self.apply(request);
            }
            return reply;
        }
        if let Some(refusal) = self.limit(request) {
            return Reply::whole(refusal);
        }
        let hit = self
            .settings
            .faults
            .hit(self.settings.seed, request.number)
            .filter(|hit| concerns(*hit, request));
        let Some(hit) = hit else {
            return Reply::whole(self.apply(request));
        };
        *lock(&self.hits).entry(hit.fault()).or_default() += 1;
        self.disturb(hit, request)
    }

    /// Returns whether the request has the key that is asked for.
    fn admits(&self, request: &Recorded) -> bool {
        self.settings.key.as_deref().is_none_or(|key| request.header("api-key") == Some(key))
    }

    fn limit(&self, request: &Recorded) -> Option<Answer> {
        let limits = &self.settings.limits;
        let matched = route::find(&request.method, &request.path)?;
        let now = self.settings.clock.monotonic();
        let rest = lock(&self.windows).take(limits, matched.pattern, now).err()?;
        self.throttled.fetch_add(1, Ordering::SeqCst);
        let refusal = Answer::throttled(&request.path);
        if limits.is_silent() {
            return Some(refusal);
        }
        let seconds = rest.as_millis().div_ceil(1000);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        Some(refusal.header("retry-after", HeaderValue::from(seconds)))
    }

    fn disturb(&self, hit: Hit, request: &Recorded) -> Reply {
        match hit {
            Hit::ServerError { applied } => {
                if applied {
                    self.apply(request);
                }
                Reply::whole(unwell(StatusCode::INTERNAL_SERVER_ERROR))
            }
            Hit::Unavailable => Reply::whole(unwell(StatusCode::SERVICE_UNAVAILABLE)),
            Hit::Throttled => Reply::whole(
                Answer::throttled(&request.path).header("retry-after", HeaderValue::from_static("1")),
            ),
            Hit::LostRequest => Reply::drop_connection(),
            Hit::LostReply => {
                self.apply(request);
                Reply::drop_connection().applied(true)
            }
            Hit::CutReply => Reply::cut(self.apply(request)),
            Hit::TooLarge { above } => {
                Reply::whole(Answer::too_large(&format!("more than {above} elements are too many today")))
            }
            Hit::Slow(delay) => Reply::whole(self.apply(request)).delay(delay),
        }
    }

    fn apply(&self, request: &Recorded) -> Answer {
        let now = self.settings.clock.now();
        let mut applied = Vec::new();
        let answer = apply(&mut self.project(), Call { request, now }, &mut applied);
        for event in &applied {
            for watch in &self.settings.on_event {
                watch(event);
            }
        }
        answer
    }
}

/// Returns whether a fault can happen to a request: "too many elements" only to one of many.
fn concerns(hit: Hit, request: &Recorded) -> bool {
    let Hit::TooLarge { above } = hit else {
        return true;
    };
    route::find(&request.method, &request.path).is_some_and(|matched| {
        let body = request.json();
        count(&matched.route, &body) > above
    })
}

fn count(route: &Route, body: &Value) -> usize {
    shape::array(route).map_or(1, |_| shape::elements(route, body).len())
}

fn unwell(status: StatusCode) -> Answer {
    Answer::envelope(status, "GenericError", "the stand-in feels unwell", &Value::Null)
}
