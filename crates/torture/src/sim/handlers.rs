use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::{
    HandlerError, HandlerKey, Handlers, MemoryTransaction, MemoryTransactional, Registration,
};
use relaykit_pipeline_traits::{
    BatchContext, BatchOutcome, Clock as _, Handler, InvalidSetting, Message, RetryPolicy, Verdict,
};

use super::far_inbox::FarInbox;
use super::line::Line;
use super::mood::{self, Manner, Mood};
use super::trace::StreamNo;
use super::world::{Hand, World};
use crate::history::Said;

/// The handlers: one that keeps order, one that does not, and one that counts in the transaction of the inbox.
pub(super) const NAMES: [&str; 3] = ["ordered", "free", "ledger"];

/// Their streams.
pub(super) const STREAMS: [StreamNo; 3] = [1, 2, LEDGER];

/// That of the one that counts.
pub(super) const LEDGER: StreamNo = 3;

/// The kind of all messages.
pub(super) const KIND: &str = "thing";

/// Longer than any call may take.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Returns the stream of a handler.
pub(super) fn stream(handler: &HandlerKey) -> StreamNo {
    NAMES.iter().position(|name| *name == handler.as_str()).map_or(STREAMS[0], |at| STREAMS[at])
}

/// Returns whether a handler keeps the order.
pub(super) fn is_ordered(stream: StreamNo) -> bool {
    stream != STREAMS[1]
}

/// Returns the name under which is counted how often a message had its effect.
pub(super) fn counter(message: &Message) -> String {
    message.id().to_string()
}

/// Returns what an answer says of its one message.
pub(super) fn said(outcome: &BatchOutcome<(), HandlerError>) -> Option<Said> {
    match outcome {
        BatchOutcome::Each(each) => each.first().and_then(mood::said),
        _ => None,
    }
}

/// Makes them.
///
/// # Errors
///
/// A setting is out of bounds.
pub(super) fn handlers(
    line: &Line,
    retry: impl RetryPolicy + Clone + 'static,
) -> Result<Handlers<FarInbox>, InvalidSetting> {
    let menu = line.world.menu;
    let mut handlers = Handlers::new();
    for (name, stream) in NAMES.into_iter().zip(STREAMS) {
        let key = HandlerKey::new(name)?;
        let registration = if stream == LEDGER {
            Registration::transactional(key, ledger(Arc::clone(&line.world)))
        } else {
            Registration::new(key, SimHandler { line: line.clone(), stream })
        };
        // Its batch takes a little longer.
        let timeout = menu.send_timeout.mul_f64(0.9);
        let concurrency = menu.batch_size * menu.concurrency;
        let registration =
            registration.on(KIND).concurrency(concurrency).timeout(timeout).retry(retry.clone());
        handlers.register(if is_ordered(stream) { registration.ordered() } else { registration })?;
    }
    Ok(handlers)
}

/// Counts, in the transaction.
fn ledger(world: Arc<World>) -> MemoryTransactional {
    let handle =
        move |transaction: &mut MemoryTransaction, message: &Message, _: &BatchContext| match Manner::draw(
            &world,
        ) {
            Manner::Fails | Manner::Unknown => Verdict::Retry { after: None, error: Mood::TRANSIENT },
            Manner::Panics => resume_unwind(Box::new("the ledger")),
            Manner::Partly => {
                let verdict = mood::verdict(&world);
                if verdict.is_done() {
                    count(transaction, message);
                }
                verdict
            }
            _ => {
                count(transaction, message);
                Verdict::Done(())
            }
        };
    MemoryTransactional::new(handle)
}

fn count(transaction: &mut MemoryTransaction, message: &Message) {
    let name = counter(message);
    let before = transaction.get(&name).and_then(|value| value.first().copied()).unwrap_or_default();
    transaction.put(name, [before + 1]);
}

/// A handler that has its effect somewhere else.
struct SimHandler {
    line: Line,
    stream: StreamNo,
}

impl Handler<Message> for SimHandler {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, message: &Message, _: &BatchContext) -> Verdict<(), Mood> {
        let world = &self.line.world;
        let hand = Hand::begin(world, self.line.life.unwrap_or_default(), self.stream, message);
        let manner = Manner::draw(world);
        let slow = world.menu.calls.slow;
        self.line.pass(slow).await;
        let verdict = match manner {
            Manner::Fails | Manner::Splits | Manner::Unknown => {
                if manner == Manner::Unknown {
                    hand.takes(Said::Again);
                }
                Verdict::Retry { after: None, error: Mood::TRANSIENT }
            }
            Manner::Throttles => {
                let after = world.wait(Duration::from_secs(10));
                Verdict::Retry { after: Some(after), error: Mood::throttled(after) }
            }
            Manner::Refuses => Verdict::Untried,
            Manner::Hangs => {
                if world.chance(0.5) {
                    hand.takes(Said::Again);
                }
                self.line.clock.sleep(FOREVER).await;
                Verdict::Untried
            }
            Manner::Panics => {
                drop(hand);
                resume_unwind(Box::new("the handler"))
            }
            Manner::Partly => {
                let verdict = mood::verdict(world);
                if verdict.is_done() {
                    hand.takes(Said::Done);
                }
                verdict
            }
            Manner::Well | Manner::Wrong => {
                hand.takes(Said::Done);
                Verdict::Done(())
            }
        };
        self.line.pass(slow).await;
        hand.says(mood::said(&verdict));
        verdict
    }
}
