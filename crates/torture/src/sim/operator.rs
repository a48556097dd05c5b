use std::time::Duration;

use relaykit_inbox::{HandlerKey, InboxStore as _};
use relaykit_outbox::{DeadFilter, OutboxStore as _};
use relaykit_pipeline_traits::{Clock as _, MessageId, OrderingKey};
use relaykit_sql_store::MAX_LISTED;

use super::handlers;
use super::node::Place;
use super::trace::{StreamNo, What};
use super::world::OUTBOX;

/// Replays dead letters, and skips, parks and resumes keys, while there is trouble; then resumes whatever was parked.
///
/// # Errors
///
/// A store refuses.
pub(super) async fn operate(place: Place) -> anyhow::Result<()> {
    let Place { world, outbox, inbox, .. } = &place;
    while world.is_troubled() {
        world.time.sleep(world.wait(Duration::from_secs(60))).await;
        if !world.goes_wrong(world.menu.operated) {
            continue;
        }
        let limit = 1 + u32::try_from(world.below(5))?;
        let number = world.lock().rng.below(world.menu.keys);
        let key = OrderingKey::new(format!("key-{number}"))?;
        match world.below(5) {
            0 => {
                let ids = outbox.replay(&DeadFilter::all(), limit).await?;
                for id in ids {
                    meddled(&place, OUTBOX, id, false);
                }
            }
            1 => {
                let at = world.below(handlers::NAMES.len());
                let handler = HandlerKey::new(handlers::NAMES[at])?;
                let ids = inbox.replay(Some(&handler), &DeadFilter::all(), limit).await?;
                for id in ids {
                    meddled(&place, handlers::STREAMS[at], id, false);
                }
            }
            2 => {
                if let Some(id) = outbox.skip(&key).await? {
                    meddled(&place, OUTBOX, id, true);
                }
            }
            3 => drop(outbox.park(&key).await?),
            _ => drop(outbox.resume(&key).await?),
        }
    }
    // What was replayed meanwhile may lie before what is parked, and is what a key resumes with: several times, then.
    for _ in 0..RESUMED {
        if outbox.depth().await?.pending == 0 {
            break;
        }
        let blocked = outbox.blocked(MAX_LISTED).await?;
        let parked = blocked.into_iter().filter(|blocked| blocked.due_in.is_none());
        for key in parked.filter_map(|blocked| blocked.key) {
            outbox.resume(&key).await?;
        }
        world.time.sleep(PAUSE).await;
    }
    Ok(())
}

/// How often keys are resumed in the end, at most, and how far apart.
const RESUMED: usize = 60;
const PAUSE: Duration = Duration::from_secs(30);

/// Takes note that a dead letter is none any more, or that a message is one now.
fn meddled(place: &Place, stream: StreamNo, id: MessageId, dead: bool) {
    let now = place.world.now();
    let mut guard = place.world.lock();
    let state = &mut *guard;
    let known = state.known.get(&id);
    let number = known.and_then(|known| if stream == OUTBOX { known.sent } else { known.received });
    if let Some(id) = number {
        state.streams[stream].meddled(id, dead);
        state.trace.push(now, None, What::Meddled { stream, id, dead });
    }
}
