use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use relaykit_pipeline_traits::Rng;
use relaykit_sql_store::judge::panic_text;
use relaykit_sql_store::sqlite::rusqlite::Connection;
use relaykit_sql_store::torture::{crash_point, planted};
use tokio::sync::{Semaphore, watch};

use crate::format;
use crate::handler::QueueHandler;
use crate::load::{REST, load};
use crate::run::{Lent, Place, Run};
use crate::settle::{Burial, Origin, bury, settle};
use crate::shared::Shared;
use crate::state::{Content, Phase, Stored, Tries};
use crate::store;

/// Takes stored batches and brings each to its end, until the queue closes.
pub(crate) async fn work<T, H>(
    shared: Arc<Shared<T>>,
    handler: Arc<H>,
    unsettled: Arc<Semaphore>,
    mut rng: Rng,
) where
    T: Send + Sync + 'static,
    H: QueueHandler<T>,
{
    let mut interrupt = shared.interrupt.subscribe();
    loop {
        // Never closed.
        let Ok(place) = Arc::clone(&unsettled).acquire_owned().await else { return };
        let Some(group) = take(&shared).await else { return };
        let (origins, lists) = unpack(&shared, group);
        if origins.is_empty() {
            continue;
        }
        // Held until the batch is through, if it may have crashed the process.
        let accused = if origins.iter().any(|origin| origin.deaths > 0) {
            Some(shared.accused.acquire().await)
        } else {
            None
        };
        let Some(suspects) = note(&shared, &origins).await else {
            give_back(&shared, origins, lists);
            if rest(&shared, &mut interrupt).await {
                continue;
            }
            return;
        };
        let (lent, merged) = gather(&shared, &origins, lists);
        if planted("removes_before_handling") {
            let ids: Vec<_> = origins.iter().map(|origin| origin.id).collect();
            shared.tell(move |tx| ids.iter().try_for_each(|id| store::remove(tx, *id)));
        }
        let run = Run::new(&shared, &*handler, &origins);
        let ended = run.through(lent, &mut rng, &mut interrupt).await;
        crash_point("handler.answered");
        let interrupted = ended.interrupted;
        settle(&shared, &origins, merged, &suspects, ended, place);
        drop(accused);
        if interrupted {
            return;
        }
    }
}

/// Waits for batches; `None` once the queue closes.
async fn take<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) -> Option<Vec<Stored<T>>> {
    loop {
        let notified = shared.work.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        let (group, more) = {
            let mut state = shared.state();
            if state.phase != Phase::Open {
                return None;
            }
            let group =
                if state.paused { Vec::new() } else { state.take(shared.config.batches, shared.now()) };
            (group, !state.ready.is_empty())
        };
        load(shared);
        if !group.is_empty() {
            if more {
                // One batch, one wake-up; another worker may be asleep.
                shared.work.notify_one();
            }
            return Some(group);
        }
        notified.await;
    }
}

/// Decodes what was read from the file. What cannot be decoded is set aside.
fn unpack<T: Send + Sync + 'static>(
    shared: &Arc<Shared<T>>,
    group: Vec<Stored<T>>,
) -> (Vec<Origin>, Vec<Vec<T>>) {
    let (mut origins, mut lists) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
    for stored in group {
        let items = match stored.content {
            Content::Items(items) => Ok(items),
            Content::Data(data) => decode(shared, &data),
        };
        let origin = Origin {
            id: stored.id,
            added_at: stored.added_at,
            tries: stored.tries,
            deaths: stored.deaths,
            first_failed_at: stored.first_failed_at,
            delay: stored.delay,
            due: stored.due,
            held: stored.held,
            count: stored.count,
            bytes: stored.bytes,
        };
        match items {
            Ok(items) => {
                origins.push(origin);
                lists.push(items);
            }
            Err(error) => {
                shared.state().in_flight_items -= origin.count as usize;
                if planted("drops_what_it_cannot_decode") {
                    shared.tell(move |tx| store::remove(tx, origin.id));
                    continue;
                }
                bury(shared, &origin, Burial { id: origin.id, error });
            }
        }
    }
    (origins, lists)
}

/// Decodes a batch. A codec that panics has not decoded it either.
pub(crate) fn decode<T: Send + Sync + 'static>(shared: &Shared<T>, data: &[u8]) -> Result<Vec<T>, String> {
    match catch_unwind(AssertUnwindSafe(|| format::open(data, &shared.config.codec))) {
        Ok(decoded) => decoded.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("the codec panicked: {}", panic_text(panic.as_ref()))),
    }
}

/// Notes in the file which of the batches may crash the process, if it died before. Returns them, or `None` if that could
/// not be noted.
async fn note<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>, origins: &[Origin]) -> Option<Vec<i64>> {
    let now = shared.now();
    let suspects: Vec<i64> = {
        let state = shared.state();
        let early = |origin: &Origin| origin.due.is_some_and(|due| due > now);
        // After a crash, what is lent out of its turn would not be looked for.
        let noted = |origin: &&Origin| early(origin) || state.suspects.contains(&origin.id);
        origins.iter().filter(noted).map(|origin| origin.id).collect()
    };
    if suspects.is_empty() {
        return Some(suspects);
    }
    let claimed = suspects.clone();
    let noted =
        shared.ask(move |tx: &Connection| claimed.iter().try_for_each(|id| store::claim(tx, *id))).await;
    crash_point("claim.noted");
    noted.is_ok().then_some(suspects)
}

/// Waits until the file may be written to again. Returns whether the queue is still open then.
async fn rest<T: Send + Sync + 'static>(
    shared: &Arc<Shared<T>>,
    interrupt: &mut watch::Receiver<bool>,
) -> bool {
    tokio::select! {
        () = shared.config.clock.sleep(REST) => {}
        _ = interrupt.wait_for(|interrupted| *interrupted) => {}
    }
    shared.state().phase == Phase::Open
}

/// Puts batches back to the front, since the disk could not be written.
fn give_back<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>, origins: Vec<Origin>, lists: Vec<Vec<T>>) {
    let mut state = shared.state();
    for (origin, items) in origins.into_iter().zip(lists).rev() {
        state.in_flight_items -= origin.count as usize;
        state.put_first(Stored {
            id: origin.id,
            added_at: origin.added_at,
            tries: origin.tries,
            deaths: origin.deaths,
            first_failed_at: origin.first_failed_at,
            delay: origin.delay,
            due: origin.due,
            held: origin.held,
            count: origin.count,
            bytes: origin.bytes,
            content: Content::Items(items),
        });
    }
}

/// Puts the items of several batches together, through the user's buffer if there is one. Also returns whether items of
/// several batches may have become one.
fn gather<T: Send + Sync + 'static>(
    shared: &Shared<T>,
    origins: &[Origin],
    mut lists: Vec<Vec<T>>,
) -> (Lent<T>, bool) {
    let key = shared.config.key.as_ref();
    // What is held must not become one with what is lent.
    let mergeable = lists.len() > 1 && origins.iter().all(|origin| origin.held.is_nothing());
    if let (Some(new), true) = (&shared.config.new_buffer, mergeable) {
        let mut buffer = new();
        for item in lists.into_iter().flatten() {
            buffer.push(item);
        }
        // Batches are taken together only if they were tried as often as each other.
        let attempts = origins.first().map(|origin| origin.tries.of(0)).unwrap_or_default();
        let items = buffer.drain();
        let places = key.map(|key| items.iter().map(|item| Place { key: key(item), held: false }).collect());
        return (Lent { items, tries: Tries::All(attempts), places }, true);
    }
    let places = key.map(|key| {
        let lists = origins.iter().zip(&lists);
        let places = lists.flat_map(|(origin, list)| {
            list.iter().map(|item| {
                let key = key(item);
                Place { key, held: origin.held.holds(key) }
            })
        });
        places.collect()
    });
    if let [origin] = origins {
        return (Lent { items: lists.pop().unwrap_or_default(), tries: origin.tries.clone(), places }, false);
    }
    let mut items = Vec::with_capacity(lists.iter().map(Vec::len).sum());
    for list in lists {
        items.extend(list);
    }
    let tries = origins.first().map(|origin| origin.tries.clone()).unwrap_or_default();
    (Lent { items, tries, places }, false)
}
