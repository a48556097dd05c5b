use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{FlushReason, Monotonic};

use crate::load::load;
use crate::shared::Shared;
use crate::state::Phase;
use crate::store;

/// How long what the disk refused waits for another try.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the keeper looks around although nothing is due, so that no lost wake-up lasts.
const ROUND: Duration = Duration::from_secs(5);

/// Does what time alone brings about, until the queue closes: stores batches that have lingered, wakes workers for those
/// whose wait is over, and tries again what the disk refused.
pub(crate) async fn keep<T: Send + Sync + 'static>(shared: Arc<Shared<T>>) {
    let clock = Arc::clone(&shared.config.clock);
    let mut again_at = Monotonic::NEVER;
    let mut round_at = Monotonic::default();
    loop {
        let now = clock.monotonic();
        if now >= again_at {
            again_at = Monotonic::NEVER;
            shared.take_later().into_iter().for_each(|act| act());
            Shared::take_up_refused(&mut shared.state());
        }
        let next = {
            let mut state = shared.state();
            if state.phase != Phase::Open {
                return;
            }
            let mut next = Monotonic::NEVER;
            state.watched = state.open.fill.pushes > 0;
            if state.open.fill.pushes > 0 {
                let ends = state.open.opened_at + shared.config.flush.linger;
                if now >= ends {
                    shared.seal(&mut state, FlushReason::Linger);
                    state.watched = false;
                } else {
                    next = ends;
                }
            }
            if let Some(due) = state.next_due.filter(|_| !state.loading_due) {
                next = next.min(shared.monotonic_at(due).max(now));
            }
            if let Some(until) = state.rest_until {
                next = next.max(until);
                if now >= until {
                    state.rest_until = None;
                }
            }
            if again_at == Monotonic::NEVER && (!state.refused.is_empty() || shared.has_later()) {
                again_at = now + AGAIN;
            }
            next.min(again_at)
        };
        shared.pump();
        load(&shared);
        if now >= round_at || (shared.ballast.is_spent() && now + ROUND >= round_at + AGAIN) {
            round_at = now + ROUND;
            tend(&shared);
        }
        look_around(&shared);
        // A moment that is here now was dealt with above, and whoever ends that tells.
        let round = if shared.ballast.is_spent() { AGAIN } else { ROUND };
        let next = if next <= now { now + round } else { next.min(now + round) };
        tokio::select! {
            () = shared.keep.notified() => {}
            () = clock.sleep_until(next) => {}
        }
    }
}

/// Sets the gauges, and asks for the oldest batch's age if that is not known.
fn look_around<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) {
    shared.show();
    if shared.state().oldest.is_none_or(|oldest| oldest.known) {
        return;
    }
    let asking = Arc::clone(shared);
    shared.tell(move |tx| {
        let found = store::oldest(tx)?;
        let mut state = asking.state();
        // A batch that is being removed in this very commit is found out about the next time.
        if state.stored.batches > 0 && found.is_some() {
            state.oldest = found;
        }
        Ok(())
    });
}

/// Puts the ballast back once there is room.
fn tend<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) {
    let fed = {
        let state = shared.state();
        // While the disk is full, every byte is for what removes.
        !state.starved && state.refused.is_empty()
    };
    if fed && shared.ballast.is_missing() && !shared.has_later() {
        let arming = Arc::clone(shared);
        // Writing it blocks for a moment.
        tokio::task::spawn_blocking(move || arming.ballast.arm());
    }
}
