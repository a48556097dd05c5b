use std::sync::Arc;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Message, Verdict};

use crate::history::{Event, Said};
use crate::item::Item;
use crate::queue::child::Mood;
use crate::stage::call::Call;
use crate::stage::ledger::Ledger;
use crate::stage::temper::{Misdeed, Temper};

/// Takes most messages, by writing them into the ledger.
pub(super) struct Sink {
    pub(super) ledger: Arc<Ledger>,
    pub(super) temper: Temper,
}

impl BatchHandler<Message> for Sink {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, batch: &[Message], _cx: &BatchContext) -> BatchOutcome<(), Mood> {
        self.temper.dawdle().await;
        let misdeed = self.temper.misdeed();
        if let Some(misdeed) = misdeed {
            self.ledger.say(&[misdeed.told()]);
        }
        match misdeed {
            Some(Misdeed::Refuses) => return BatchOutcome::Refused(Mood),
            Some(Misdeed::WantsItAgain) => return BatchOutcome::RetryBatch { after: None, error: Mood },
            Some(Misdeed::PanicsAtOnce) => panic!("a sender that panics"),
            _ => {}
        }
        let (mut events, mut verdicts) = (Vec::new(), Vec::new());
        for message in batch {
            let item: Option<Item> = serde_json::from_slice(message.payload()).ok().filter(Item::is_whole);
            let Some(Item { id, key, .. }) = item else {
                events.push(Event::Wrong { id: 0 });
                verdicts.push(Verdict::Done(()));
                continue;
            };
            self.temper.takes(key);
            let said = self.temper.says();
            events.push(Event::Lent { id, key, said });
            verdicts.push(match said {
                Said::Again => Verdict::Retry { after: None, error: Mood },
                Said::Dead => Verdict::Dead(Mood),
                Said::Done => Verdict::Done(()),
            });
        }
        let call = Call::told(&self.ledger, events);
        match misdeed {
            Some(Misdeed::Panics) => panic!("a sender that panics"),
            Some(Misdeed::Hangs) => std::future::pending().await,
            // Nobody can tell from these what became of which message.
            Some(Misdeed::AnswersTooFew) => {
                return BatchOutcome::Each(verdicts.into_iter().skip(1).collect());
            }
            Some(Misdeed::BlamesAll) => return BatchOutcome::Split(Mood),
            Some(Misdeed::Blocks) => Temper::block(),
            _ => {}
        }
        self.temper.dawdle().await;
        call.answers();
        BatchOutcome::Each(verdicts)
    }
}
