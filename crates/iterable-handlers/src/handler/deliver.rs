use std::future::Future;

use relaykit_pipeline_traits::{BatchContext, BatchOutcome, Verdict};
use serde_json::value::RawValue;
use tracing::debug;

use super::fault::{Circumstances, judge};
use super::plan::{Rules, plan};
use super::tally::{Next, Tally};
use super::{Delivered, DeliveryError};
use crate::ApiError;
use crate::message::{Prepared, Request};
use crate::reconcile::{Counting, Reply, Unit, reconcile};

pub(super) type Outcome = BatchOutcome<Delivered, DeliveryError>;

/// A call of the API that takes elements in bulk.
pub(super) trait Call<R: Request>: Sync {
    /// Sends one request.
    fn call(
        &self,
        flags: &R::Flags,
        elements: &[&RawValue],
    ) -> impl Future<Output = Result<Answer, ApiError>> + Send;

    /// Returns how the call counts what it took.
    fn counting(flags: &R::Flags) -> Counting;

    /// Returns the list that the call is about.
    fn list_id(_flags: &R::Flags) -> Option<i64> {
        None
    }
}

/// What the API says of a request it took.
pub(super) struct Answer {
    pub(super) reply: Reply,
    pub(super) delivered: Delivered,
}

/// Sends the messages in as many requests as the rules ask for, one after the other.
pub(super) async fn deliver<R: Request, C: Call<R>>(
    call: &C,
    batch: &[Prepared<R>],
    cx: &BatchContext,
    rules: Rules,
) -> Outcome {
    let requests = plan(batch, &rules);
    let mut tally = Tally::new(batch.len());
    for members in &requests {
        let outcome = request(call, batch, members, cx).await;
        if members.len() == batch.len() {
            return outcome;
        }
        match tally.record(members, outcome, rules.independent) {
            Next::GoOn => {}
            Next::Stop => break,
            Next::Refused(error) => return BatchOutcome::Refused(error),
        }
    }
    BatchOutcome::Each(tally.into_verdicts())
}

async fn request<R: Request, C: Call<R>>(
    call: &C,
    batch: &[Prepared<R>],
    members: &[usize],
    cx: &BatchContext,
) -> Outcome {
    let messages: Vec<&Prepared<R>> = members.iter().map(|&at| &batch[at]).collect();
    let flags = messages[0].flags();
    let elements: Vec<&RawValue> =
        messages.iter().flat_map(|message| message.elements()).map(|element| &*element.json).collect();
    match call.call(flags, &elements).await {
        Ok(answer) => {
            let outcome = settle(&messages, C::counting(flags), &answer);
            debug!(
                messages = messages.len(),
                elements = elements.len(),
                done = outcome.iter().filter(|verdict| verdict.is_done()).count(),
                "iterable answered"
            );
            BatchOutcome::Each(outcome)
        }
        Err(error) => {
            debug!(messages = messages.len(), elements = elements.len(), %error, "call to iterable failed");
            let circumstances = Circumstances {
                messages: members.len(),
                whole_batch: members.len() == batch.len(),
                attempt: cx.attempt(),
                list_id: C::list_id(flags),
            };
            judge(error, &circumstances)
        }
    }
}

fn settle<R: Request>(
    messages: &[&Prepared<R>],
    counting: Counting,
    answer: &Answer,
) -> Vec<Verdict<Delivered, DeliveryError>> {
    let units: Vec<Vec<Unit<'_>>> = messages
        .iter()
        .map(|message| {
            let unit = |element| {
                let element: &crate::message::Element = element;
                Unit { keys: &element.keys, event_name: element.event_name.as_deref() }
            };
            message.elements().iter().map(unit).collect()
        })
        .collect();
    reconcile(&units, counting, &answer.reply)
        .into_iter()
        .map(|verdict| with_output(verdict, &answer.delivered))
        .collect()
}

fn with_output(
    verdict: Verdict<(), DeliveryError>,
    delivered: &Delivered,
) -> Verdict<Delivered, DeliveryError> {
    match verdict {
        Verdict::Done(()) => Verdict::Done(delivered.clone()),
        Verdict::Retry { after, error } => Verdict::Retry { after, error },
        Verdict::Dead(error) => Verdict::Dead(error),
        Verdict::Isolate(error) => Verdict::Isolate(error),
        // `Verdict` is non-exhaustive; whatever it gains, not done is not tried.
        _ => Verdict::Untried,
    }
}
