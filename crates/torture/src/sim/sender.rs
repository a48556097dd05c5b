use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Clock as _, Message, Verdict};

use super::broker::Broker;
use super::line::Line;
use super::mood::{Manner, Mood, again, said, verdict};
use super::world::{Hand, OUTBOX, Side};
use crate::history::Said;

/// Sends to the broker, at the other end of a line.
#[derive(Debug)]
pub(super) struct SimSender {
    pub(super) broker: Arc<Broker>,
    pub(super) line: Line,
}

/// Longer than any call may take.
const FOREVER: Duration = Duration::from_secs(3_600);

impl SimSender {
    /// The broker has it.
    fn publish(&self, message: &Message, hand: &Hand, said: Said) {
        let key = self.line.world.lock().known.get(&message.id()).and_then(|known| known.key.or(known.sent));
        hand.takes(said);
        self.broker.publish(message, key.unwrap_or(0));
    }
}

fn say(hands: Vec<Hand>, said: Option<Said>) {
    for hand in hands {
        hand.says(said);
    }
}

impl BatchHandler<Message> for SimSender {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, batch: &[Message], _: &BatchContext) -> BatchOutcome<(), Mood> {
        let world = &self.line.world;
        let life = self.line.life.unwrap_or_default();
        let hands: Vec<_> = batch.iter().map(|message| Hand::begin(world, life, OUTBOX, message)).collect();
        let manner = Manner::draw(world);
        let slow = world.menu.calls.slow;
        self.line.pass(slow).await;
        if world.is_down(Side::Broker) {
            say(hands, Some(Said::Again));
            return again(Mood::TRANSIENT);
        }
        // A call that goes wrong may have come to any of its messages.
        let some = if manner == Manner::Well { batch.len() } else { world.below(batch.len() + 1) };
        let before = |hands: &[Hand], count: usize, what: Said| {
            for (message, hand) in batch.iter().zip(hands).take(count) {
                self.publish(message, hand, what);
            }
        };
        match manner {
            Manner::Well => before(&hands, some, Said::Done),
            Manner::Partly => {}
            Manner::Fails => {
                say(hands, Some(Said::Again));
                return again(Mood::TRANSIENT);
            }
            Manner::Throttles => {
                say(hands, Some(Said::Again));
                return again(Mood::throttled(world.wait(Duration::from_secs(10))));
            }
            Manner::Refuses => {
                say(hands, None);
                return BatchOutcome::Refused(Mood::TRANSIENT);
            }
            Manner::Splits => {
                let dead = world.chance(world.menu.calls.dead);
                say(hands, Some(if dead && batch.len() == 1 { Said::Dead } else { Said::Again }));
                return BatchOutcome::Split(if dead { Mood::PERMANENT } else { Mood::TRANSIENT });
            }
            Manner::Unknown => {
                before(&hands, some, Said::Again);
                self.line.pass(slow).await;
                say(hands, Some(Said::Again));
                return again(Mood::TRANSIENT);
            }
            Manner::Wrong => {
                before(&hands, some, Said::Again);
                self.line.pass(slow).await;
                say(hands, Some(Said::Again));
                return BatchOutcome::all_done(batch.len() + 1);
            }
            Manner::Hangs => {
                before(&hands, some, Said::Again);
                self.line.clock.sleep(FOREVER).await;
            }
            Manner::Panics => {
                before(&hands, some, Said::Again);
                drop(hands);
                // As a panic, without its report on the terminal.
                resume_unwind(Box::new("the sender"));
            }
        }
        let each: Vec<Verdict<(), Mood>> = match manner {
            Manner::Partly => batch
                .iter()
                .zip(&hands)
                .map(|(message, hand)| {
                    let verdict = verdict(world);
                    // What is done has had its effect, and what failed may have.
                    let takes = match &verdict {
                        Verdict::Done(()) => true,
                        Verdict::Retry { .. } => world.chance(0.3),
                        _ => false,
                    };
                    if let Some(said) = said(&verdict).filter(|_| takes) {
                        self.publish(message, hand, said);
                    }
                    verdict
                })
                .collect(),
            _ => batch.iter().map(|_| Verdict::Done(())).collect(),
        };
        self.line.pass(slow).await;
        for (hand, verdict) in hands.into_iter().zip(&each) {
            hand.says(said(verdict));
        }
        BatchOutcome::Each(each)
    }
}
