use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use relaykit_iterable_handlers::testing::{StandIn, StandInBuilder};

use crate::Contract;

/// A stand-in that holds every request to the API's description.
///
/// What breaks it is collected as it arrives, and fails the test in [`finish`](Self::finish) or, at the latest, when
/// this is dropped: no test can forget to look.
#[derive(Debug)]
pub struct Api {
    stand_in: Option<StandIn>,
    violations: Violations,
}

/// What broke the description, one line each; the first hundred.
#[derive(Debug, Clone, Default)]
struct Violations(Arc<Mutex<Vec<String>>>);

/// How many violations are kept.
const MAX_VIOLATIONS: usize = 100;

impl Violations {
    fn add(&self, found: Vec<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_VIOLATIONS.saturating_sub(all.len());
        all.extend(found.into_iter().take(room));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Api {
    /// Starts the stand-in; `None` if the description is not at hand.
    ///
    /// # Panics
    ///
    /// If the stand-in does not start, if the description is there and cannot be read, or if it is not there and the
    /// environment variable `CI` is set.
    pub async fn start(builder: StandInBuilder) -> Option<Self> {
        let contract = Contract::shared()?;
        let violations = Violations::default();
        let found = violations.clone();
        let stand_in = builder
            .on_request(move |request| found.add(contract.check(request)))
            .start()
            .await
            .expect("the stand-in starts on a free port");
        Some(Self { stand_in: Some(stand_in), violations })
    }

    /// Returns what broke the description so far, and forgets it. For tests that mean to break it.
    pub fn take_violations(&self) -> Vec<String> {
        self.violations.take()
    }

    /// Stops the stand-in and checks what it was sent.
    ///
    /// # Panics
    ///
    /// If a request broke the description.
    pub async fn finish(mut self) {
        if let Some(stand_in) = self.stand_in.take() {
            stand_in.stop().await;
        }
    }

    fn verdict(&self) -> Result<(), String> {
        let found = self.violations.take();
        if found.is_empty() {
            return Ok(());
        }
        Err(format!("{} requests break the API's description:\n{}", found.len(), found.join("\n")))
    }
}

impl Deref for Api {
    type Target = StandIn;

    fn deref(&self) -> &StandIn {
        self.stand_in.as_ref().expect("only `finish` takes the stand-in, and it takes the whole")
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Err(why) = self.verdict() {
            // A second panic would hide the first.
            if std::thread::panicking() {
                #[expect(clippy::print_stderr, reason = "this is where a test's failure goes")]
                {
                    eprintln!("{why}");
                }
            } else {
                panic!("{why}");
            }
        }
    }
}
