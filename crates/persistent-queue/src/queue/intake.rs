use relaykit_pipeline_traits::FlushReason;

use super::Queue;
use crate::builder::WhenFull;
use crate::error::{RejectReason, Rejected};
use crate::format;
use crate::metrics;
use crate::state::{Items, Phase, State, Tell, Waiter};

impl<T: Send + Sync + 'static> Queue<T> {
    /// Whether a push waits until the reason is gone.
    pub(crate) fn waits_for(&self, reason: &RejectReason) -> bool {
        match reason {
            RejectReason::Busy => true,
            RejectReason::Full => self.shared().config.when_full == WhenFull::Block,
            _ => false,
        }
    }

    /// Whether an item of so many bytes may come in.
    pub(super) fn admit(&self, state: &State<T>, bytes: usize) -> Result<(), RejectReason> {
        let config = &self.shared().config;
        if state.phase != Phase::Open {
            return Err(RejectReason::Closed);
        }
        if let Some(max) = config.flush.max_bytes
            && bytes > max
        {
            return Err(RejectReason::TooLarge { bytes, max });
        }
        if self.shared().ballast.is_spent() {
            return Err(RejectReason::StorageFull);
        }
        // What is refused now would only wait behind what cannot be stored.
        if let Some(trouble) = state.trouble.as_ref().filter(|_| !state.refused.is_empty()) {
            return Err(trouble.clone());
        }
        if state.held_items() >= config.max_items || state.held_bytes() + bytes as u64 > config.max_bytes {
            let room = config.when_full == WhenFull::DropOldest && state.stored.batches > 0;
            if !room {
                return Err(RejectReason::Full);
            }
        }
        let buffered = state.buffered_items();
        if buffered >= config.buffer_items
            || (buffered > 0 && state.buffered_bytes() + bytes > config.buffer_bytes)
        {
            return Err(RejectReason::Busy);
        }
        Ok(())
    }

    /// Puts an item into the open batch, and sends the batch off if it is full.
    pub(super) fn put(&self, item: T, tell: Option<Tell<T>>) -> Result<(), Rejected<T>> {
        let shared = self.shared();
        let (mut first, mut over, mut pump) = (false, false, false);
        let durable = tell.is_some();
        let result = {
            let mut state = shared.state();
            let result = self.put_in(&mut state, item, tell);
            if result.is_ok() {
                state.counts.pushed += 1;
                let config = &shared.config;
                first = state.open.fill.pushes == 1 && !state.watched;
                over = config.when_full == WhenFull::DropOldest && !state.dropping && state.is_over(config);
                state.dropping |= over;
                // Whoever waits for the disk does not linger: their batch goes at once, or as soon as the one before it is
                // there, with all that have come by then.
                let eager = config.flush.linger.is_zero().then_some(FlushReason::Linger);
                let asked = (durable && state.unsaved.is_empty()).then_some(FlushReason::Asked);
                if let Some(reason) = config.flush.full(state.open.fill).or(eager).or(asked) {
                    shared.seal(&mut state, reason);
                    first = false;
                }
            }
            pump |= !state.outbox.is_empty();
            result
        };
        if pump {
            shared.pump();
        }
        if first {
            shared.keep.notify_one();
        }
        if over {
            self.drop_oldest();
        }
        if result.is_ok() {
            shared.record(|recorder, queue| recorder.add(&metrics::PUSHED, &[queue], 1));
        }
        result
    }

    fn put_in(&self, state: &mut State<T>, item: T, tell: Option<Tell<T>>) -> Result<(), Rejected<T>> {
        let shared = self.shared();
        let config = &shared.config;
        if state.phase != Phase::Open {
            return Err(Rejected { item, reason: RejectReason::Closed });
        }
        let unencodable = |error: relaykit_pipeline_traits::CodecError| RejectReason::Unencodable {
            reason: error.to_string(),
        };
        let (bytes, at) = match &mut state.open.items {
            Items::Plain { items, records } => match records.push(&item, &*config.codec) {
                Ok(bytes) => (bytes, Some(items.len())),
                Err(error) => return Err(Rejected { item, reason: unencodable(error) }),
            },
            Items::Custom(_) => {
                let mut scratch = format::Records::default();
                match scratch.push(&item, &*config.codec) {
                    Ok(bytes) => (bytes, None),
                    Err(error) => return Err(Rejected { item, reason: unencodable(error) }),
                }
            }
        };
        let admitted = self.admit(state, bytes);
        let fits = config.flush.has_room(state.open.fill, bytes);
        if (admitted.is_err() || !fits)
            && let Items::Plain { records, .. } = &mut state.open.items
        {
            records.pop(bytes);
        }
        if let Err(reason) = admitted {
            return Err(Rejected { item, reason });
        }
        if !fits {
            shared.seal(state, FlushReason::Bytes);
            return self.put_in(state, item, tell);
        }
        if state.open.fill.pushes == 0 {
            state.open.opened_at = config.clock.monotonic();
        }
        state.open.waiters.extend(tell.map(|tell| Waiter { at, tell }));
        match &mut state.open.items {
            Items::Plain { items, .. } => {
                items.push(item);
                state.open.fill.add(bytes);
            }
            Items::Custom(buffer) => {
                buffer.push(item);
                state.open.fill.items = buffer.len();
                state.open.fill.pushes = buffer.pushes();
                // Merged bytes are not known before they are encoded; the sum is the most they can be, for merges that do
                // not grow.
                state.open.fill.bytes += bytes;
            }
        }
        Ok(())
    }
}
