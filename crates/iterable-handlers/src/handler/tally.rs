use relaykit_pipeline_traits::{BatchOutcome, Classify, ErrorClass, Verdict};

use super::deliver::Outcome;
use super::{Delivered, DeliveryError};

/// The verdicts of a batch that went out in several requests, as far as they are in.
pub(super) struct Tally {
    verdicts: Vec<Verdict<Delivered, DeliveryError>>,
    requests: usize,
}

/// What to do after a request.
#[derive(Debug)]
pub(super) enum Next {
    GoOn,
    /// Send no more: what was not sent is untried.
    Stop,
    /// Nothing was sent with success, and nothing will be.
    Refused(DeliveryError),
}

impl Tally {
    pub(super) fn new(messages: usize) -> Self {
        Self { verdicts: (0..messages).map(|_| Verdict::Untried).collect(), requests: 0 }
    }

    /// Notes what became of the members of a request.
    pub(super) fn record(&mut self, members: &[usize], outcome: Outcome, independent: bool) -> Next {
        self.requests += 1;
        match outcome {
            BatchOutcome::Each(verdicts) => {
                for (&at, verdict) in members.iter().zip(verdicts) {
                    self.verdicts[at] = verdict;
                }
                Next::GoOn
            }
            BatchOutcome::RetryBatch { after, error } => {
                for &at in members {
                    self.verdicts[at] = Verdict::Retry { after, error: error.clone() };
                }
                if independent && is_about_this_request(&error) { Next::GoOn } else { Next::Stop }
            }
            BatchOutcome::Split(error) => {
                for &at in members {
                    self.verdicts[at] = Verdict::Isolate(error.clone());
                }
                if independent { Next::GoOn } else { Next::Stop }
            }
            BatchOutcome::Refused(error) if self.requests == 1 => Next::Refused(error),
            // The messages of earlier requests have their verdicts. The rest is lent again, and refused then.
            _ => Next::Stop,
        }
    }

    pub(super) fn into_verdicts(self) -> Vec<Verdict<Delivered, DeliveryError>> {
        self.verdicts
    }
}

/// Whether the API answered this request and would answer the next one: neither too busy nor out of reach.
fn is_about_this_request(error: &DeliveryError) -> bool {
    let answered = match error.api_error() {
        Some(error) => error.status().is_some(),
        None => true,
    };
    answered && error.class() != ErrorClass::Throttled
}
