use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_persistent_queue::{Queue, Rejected, WhenFull};
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use super::child::{Handler, Kept, Mode, Plan, UNSETTLED, Work, builder};
use super::reopen::reopen;
use crate::bench::{Bench, Round};
use crate::drops;
use crate::history::{Event, Id};
use crate::item::Item;
use crate::oracle::Promises;
use crate::report::Report;

/// Every public asynchronous method of a queue.
const METHODS: [Method; 11] = [
    Method::Push,
    Method::PushWithoutRoom,
    Method::PushDurable,
    Method::PushAll,
    Method::PushAfter,
    Method::Flush,
    Method::List,
    Method::Peek,
    Method::Replay,
    Method::Purge,
    Method::Close,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Push,
    PushWithoutRoom,
    PushDurable,
    PushAll,
    PushAfter,
    Flush,
    List,
    Peek,
    Replay,
    Purge,
    Close,
}

/// More polls than any of them needs.
const POLLS: u64 = 12;

/// How long what comes after a dropped future may take.
const SOON: Duration = Duration::from_secs(10);

/// Drops each future after each of its polls, and looks whether the queue is as good as before.
pub(crate) async fn dropped(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("cancel");
    bench.play(&mut report, bench.rounds(16, 2_000), round).await;
    report
}

async fn round(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let folder = bench.fast_folder()?;
    let (mut rng, mut history, mut trials) = (Rng::seeded(seed), Vec::new(), 0);
    let file = folder.path().join("queue.db");
    let mut next = 1;
    for method in METHODS {
        for polls in 0..POLLS {
            trials += 1;
            let (events, ended) = drop_at(&file, method, polls, &mut next, &mut rng).await?;
            history.extend(events);
            if ended {
                break;
            }
        }
    }
    let reopened = reopen(&file, Kept::Full, SOON).await;
    if let Some(error) = reopened.refused {
        anyhow::bail!("{error:?}");
    }
    history.extend(reopened.events);
    let promises = Promises { ordered: false, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials, promises, history, folder })
}

/// Polls a method's future so often and drops it, then pushes, flushes and closes. Returns what happened, and whether the
/// future had ended by itself.
async fn drop_at(
    file: &std::path::Path,
    method: Method,
    polls: u64,
    next: &mut Id,
    rng: &mut Rng,
) -> anyhow::Result<(Vec<Event>, bool)> {
    let events = Arc::new(Mutex::new(vec![Event::Opening]));
    let told = Arc::clone(&events);
    let tell =
        move |new: &[Event]| told.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
    let handler = Arc::new(Handler::telling(rng.next_u64(), tell.clone()));
    let plan = Plan {
        file: file.to_owned(),
        seed: rng.next_u64(),
        first_id: *next,
        mode: Mode::Line,
        durability: Kept::Full,
        ballast: 0,
        work: Work::Drain,
    };
    let room = if method == Method::PushWithoutRoom { 12 } else { 3_000 };
    let queue = builder(&plan, handler).bounds(room, 1 << 30, WhenFull::Block).open()?;
    if rng.chance(0.5) || method == Method::PushWithoutRoom {
        queue.pause();
    }
    let mut new = |count: u64| {
        let items: Vec<_> = (*next..*next + count).map(|id| Item::new(id, 0)).collect();
        *next += count;
        tell(&items.iter().map(|item| Event::Offered { id: item.id, key: 0 }).collect::<Vec<_>>());
        items
    };
    let before = if method == Method::PushWithoutRoom { 12 } else { 3 };
    for item in new(before) {
        // Without room this one may be refused, but it must not hang.
        let _ = queue.try_push(item);
    }
    let items = new(3);
    let ended = drops::poll(future(&queue, method, items, tell.clone()), polls, rng).await;
    queue.resume();
    let after = new(2);
    let rest = async {
        for item in after {
            let id = item.id;
            match queue.push_durable(item).await {
                Ok(()) => tell(&[Event::Acknowledged { id }]),
                Err(Rejected { item: Some(_), .. }) => tell(&[Event::Refused { id }]),
                Err(_) => {}
            }
        }
        let _ = queue.flush().await;
        queue.close(Duration::from_secs(1)).await
    };
    let report = tokio::select! {
        report = rest => report,
        () = SystemClock::new().sleep(SOON) => anyhow::bail!("{method:?} dropped at poll {polls}: the queue hangs"),
    };
    anyhow::ensure!(report.file_closed, "{method:?} dropped at poll {polls}: the file is still open");
    tell(&report.unsaved.iter().map(|item| Event::Refused { id: item.id }).collect::<Vec<_>>());
    // A close that is dropped had 5 ms. What is still booked as in flight then was handled and not written down.
    let unsettled = report.interrupted_items > 0 || queue.stats().in_flight_items > 0;
    drop(queue);
    tell(&[Event::Stopped { unsettled: method == Method::Close && unsettled }]);
    let events = events.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((events, ended))
}

type Future<'a> = Pin<Box<dyn std::future::Future<Output = ()> + Send + 'a>>;

fn future<'a>(
    queue: &'a Queue<Item>,
    method: Method,
    mut items: Vec<Item>,
    tell: impl Fn(&[Event]) + Send + 'a,
) -> Future<'a> {
    let first = items.remove(0);
    let id = first.id;
    Box::pin(async move {
        match method {
            Method::Push | Method::PushWithoutRoom => drop(queue.push(first).await),
            Method::PushAll => drop(queue.push_all(items).await),
            Method::PushDurable | Method::PushAfter => {
                let pushed = match method {
                    Method::PushDurable => queue.push_durable(first).await,
                    _ => queue.push_after(first, Duration::from_millis(2)).await,
                };
                if pushed.is_ok() {
                    tell(&[Event::Acknowledged { id }]);
                }
            }
            Method::Flush => drop(queue.flush().await),
            Method::List => drop(queue.list(0, 10).await),
            Method::Peek => drop(queue.peek(10).await),
            Method::Replay => {
                let dead = queue.dead_letters(0, 10).await.unwrap_or_default();
                let ids: Vec<_> = dead.iter().map(|letter| letter.id).collect();
                drop(queue.replay(&ids).await);
            }
            Method::Purge => drop(queue.purge(&[1_000_000]).await),
            Method::Close => drop(queue.close(Duration::from_millis(5)).await),
        }
    })
}
