use std::fmt;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome, Classify, Message};

use super::row::RowId;
use crate::Lease;
use crate::judge::discard;

/// Messages that are lent to a [`StreamHandler`], at most one of each key.
#[derive(Debug, Clone, Copy)]
pub struct Lent<'a> {
    /// The messages.
    pub messages: &'a [Message],
    /// Where each is, and the lease under which it is lent.
    pub rows: &'a [(RowId, Lease)],
}

/// Whoever is lent the messages of a stream.
pub trait StreamHandler: Send + Sync + 'static {
    /// Why a message was not handled.
    type Error: Classify + fmt::Display + Send;

    /// Handles messages. Its verdicts are in their order.
    fn handle(
        &self,
        lent: &Lent<'_>,
        context: &BatchContext,
    ) -> impl Future<Output = BatchOutcome<(), Self::Error>> + Send;

    /// Returns whether the store has it already that a message is done, when this handler says so. Then it is not written again.
    fn ends_itself(&self) -> bool {
        false
    }
}

/// Makes any batch handler of messages a [`StreamHandler`].
#[derive(Debug, Clone, Copy)]
pub struct Sender<H>(pub H);

impl<H> StreamHandler for Sender<H>
where
    H: BatchHandler<Message> + 'static,
    H::Error: fmt::Display,
{
    type Error = H::Error;

    async fn handle(&self, lent: &Lent<'_>, context: &BatchContext) -> BatchOutcome<(), H::Error> {
        discard(self.0.handle(lent.messages, context).await)
    }
}
