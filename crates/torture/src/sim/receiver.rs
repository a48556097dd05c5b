use std::sync::Arc;
use std::time::Duration;

use relaykit_inbox::{Inbox, Scope};
use relaykit_pipeline_traits::{Clock as _, Message};

use super::broker::{Broker, PARTITIONS};
use super::far_inbox::FarInbox;
use super::line::Line;
use super::trace::What;

/// Reads the partitions that are a node's, and receives what is there.
pub(super) struct Receiver {
    pub(super) broker: Arc<Broker>,
    pub(super) inbox: Inbox<FarInbox>,
    pub(super) line: Line,
    pub(super) node: usize,
}

/// How long it waits before it looks again, at most.
const POLL: Duration = Duration::from_secs(2);

impl Receiver {
    /// Receives, for ever.
    pub(super) async fn run(self) {
        let scope = Scope::new("broker").expect("it is short");
        loop {
            let mut found = false;
            for partition in 0..PARTITIONS {
                found |= self.read(&scope, partition).await;
            }
            if !found {
                self.line.clock.sleep(self.line.world.wait(POLL)).await;
            }
        }
    }

    /// Receives some messages of a partition. Returns whether there may be more.
    async fn read(&self, scope: &Scope, at: usize) -> bool {
        let world = &self.line.world;
        let faults = world.menu.calls;
        let count = 1 + world.below(4);
        let fetched = {
            let partitions = self.broker.lock();
            let partition = &partitions[at];
            let own = partition.reader == self.node;
            own.then(|| {
                (partition.read, partition.messages[partition.read..].iter().take(count).cloned().collect())
            })
        };
        let Some((offset, messages)) =
            fetched.filter(|(_, messages): &(usize, Vec<Message>)| !messages.is_empty())
        else {
            return false;
        };
        self.line.pass(faults.slow).await;
        let received = self.inbox.receive_all(scope, &messages).await;
        world.note(self.line.life, What::Received { partition: at, offset, stored: received.is_ok() });
        if received.is_err() {
            self.line.clock.sleep(world.wait(POLL)).await;
            return true;
        }
        if world.goes_wrong(faults.redelivered) {
            // As if nothing had been said: they come again.
            return true;
        }
        let mut partitions = self.broker.lock();
        let read = &mut partitions[at].read;
        *read = (offset + messages.len()).max(*read);
        if world.goes_wrong(faults.redelivered) {
            *read -= world.below(3).min(*read);
        }
        true
    }
}
