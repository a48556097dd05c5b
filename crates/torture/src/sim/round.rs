use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use relaykit_inbox::{HandlerKey, InboxStore as _, MemoryInbox};
use relaykit_outbox::{DeadFilter, MemoryOutbox, OutboxStore as _};
use relaykit_pipeline_traits::{Clock as _, ManualClock};
use relaykit_sql_store::judge::panic_text;
use relaykit_sql_store::{Instance, LeaseStore, MAX_LISTED, Shards, Wake};
use tokio::sync::oneshot;

use super::broker::Broker;
use super::clock::NodeClock;
use super::far_outbox::FarOutbox;
use super::handlers;
use super::line::{LATEST, Line};
use super::menu::Menu;
use super::node::{Node, Place};
use super::operator::operate;
use super::producer::produce;
use super::trace::What;
use super::world::{OUTBOX, World};
use crate::history::{Event, Id};
use crate::oracle::Judgement;

/// How a round went.
pub(super) struct Played {
    /// A number that differs if anything that happened does.
    pub(super) hash: u64,
    /// How much happened.
    pub(super) events: usize,
    pub(super) items: u64,
    /// How long it took, in the time that all share.
    pub(super) lasted: Duration,
    /// Of all streams.
    pub(super) judgements: Vec<Judgement>,
    pub(super) words: Vec<String>,
    /// What happened, for people; of a round that failed.
    pub(super) text: String,
    /// What happened to the streams; of a round that failed.
    pub(super) history: Vec<Event>,
}

impl Played {
    pub(super) fn is_clean(&self) -> bool {
        self.words.is_empty() && self.judgements.iter().all(Judgement::is_clean)
    }
}

/// How long all may take once nothing goes wrong any more.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);

/// How often it is looked whether all is done.
const LOOK: Duration = Duration::from_secs(5);

/// Plays a round, from its seed alone.
///
/// # Errors
///
/// It came to a point from which nothing goes on, or panicked.
pub(super) fn play(seed: u64) -> anyhow::Result<Played> {
    let time = ManualClock::new();
    let moved = time.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .on_thread_park(move || {
            // Nothing can go on now: the time does. A thread that nobody would wake says so.
            assert!(moved.advance_to_next_sleeper().is_some(), "nothing goes on any more");
        })
        .build()?;
    let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(round(seed, time))));
    played.unwrap_or_else(|panic| Err(anyhow::anyhow!("panicked: {}", panic_text(&*panic))))
}

async fn round(seed: u64, time: ManualClock) -> anyhow::Result<Played> {
    let mut names = vec!["outbox"];
    names.extend(handlers::NAMES);
    let world = World::new(seed, time.clone(), &names);
    let menu = world.menu;
    let database = NodeClock::new(time.clone(), 0);
    let shards = Shards::new(menu.shards)?;
    let wakes = Arc::new(Mutex::new((0..menu.nodes).map(|_| Wake::new()).collect()));
    let place = Place {
        outbox: MemoryOutbox::new(shards, database.clone()),
        inbox: MemoryInbox::new(shards, database.clone()),
        broker: Broker::new(),
        world: Arc::clone(&world),
        wakes: Arc::clone(&wakes),
    };
    let (mut stops, mut nodes) = (Vec::new(), Vec::new());
    for number in 0..usize::try_from(menu.nodes)? {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        nodes.push(tokio::spawn(Node::new(place.clone(), number).live(stopped)));
    }
    let producers: Vec<_> = (0..menu.producers)
        .map(|_| {
            let line = Line { world: Arc::clone(&world), clock: database.clone(), life: None };
            let outbox = FarOutbox { inner: place.outbox.clone(), line };
            tokio::spawn(produce(outbox, menu.messages, Arc::clone(&wakes)))
        })
        .collect();
    let operator = tokio::spawn(operate(place.clone()));
    trouble(&place, &database).await;
    for producer in producers {
        producer.await.context("a producer")?;
    }
    // What is done late is done, and what the dead held runs out.
    time.sleep((menu.lease * 3).max(LATEST)).await;
    let until = time.monotonic() + PATIENCE;
    while !is_done(&place).await? && time.monotonic() < until {
        time.sleep(LOOK).await;
    }
    let lasted = world.now();
    operator.await.context("the operator")??;
    drop(stops);
    for node in nodes {
        node.await.context("a node")??;
    }
    is_free("outbox", &place, place.outbox.leases()).await?;
    is_free("inbox", &place, place.inbox.leases()).await?;
    end(&place, lasted).await
}

/// Lets databases and the broker go down, moves the databases' wall clock, and lets others read the broker, for a while.
async fn trouble(place: &Place, database: &NodeClock) {
    let world = &place.world;
    let Menu { calls, stores, nodes, .. } = world.menu;
    while world.is_troubled() {
        world.time.sleep(world.wait(Duration::from_secs(40))).await;
        let rates = [("broker", calls.outage), ("outbox", stores.outage), ("inbox", stores.outage)];
        for (side, (what, rate)) in rates.into_iter().enumerate() {
            if world.goes_wrong(rate) {
                let left = world.menu.trouble.saturating_sub(world.now());
                let wait = world.wait(Duration::from_secs(180)).min(left);
                world.note(None, What::Down { what, wait });
                world.lock().down_until[side] = world.time.monotonic() + wait;
            }
        }
        if world.goes_wrong(stores.step) {
            let micros = i64::try_from(world.below(600_000_000)).unwrap_or(0) - 300_000_000;
            world.note(None, What::Stepped { micros });
            database.step(micros);
        }
        if world.goes_wrong(calls.rebalance) {
            let reader = world.below(usize::try_from(nodes).unwrap_or(1));
            let partition = world.below(super::broker::PARTITIONS);
            place.broker.lock()[partition].reader = reader;
        }
    }
}

/// Returns whether everything was sent, received and handled.
async fn is_done(place: &Place) -> anyhow::Result<bool> {
    if place.outbox.depth().await?.pending > 0 || place.broker.unread() > 0 {
        return Ok(false);
    }
    for name in handlers::NAMES {
        if place.inbox.depth(&HandlerKey::new(name)?).await?.pending > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Checks that nobody holds anything any more.
async fn is_free(name: &str, place: &Place, leases: impl LeaseStore) -> anyhow::Result<()> {
    let world = &place.world;
    let stranger = Instance::new(world.time.now(), &mut world.fork());
    let view = leases.heartbeat(stranger, Duration::from_secs(1)).await?;
    if view.free.len() != usize::from(view.shards) || !view.expired.is_empty() || view.membership.members != 1
    {
        world.complain(format!("the {name} is still leased: {view:?}"));
    }
    Ok(())
}

/// Judges it all.
async fn end(place: &Place, lasted: Duration) -> anyhow::Result<Played> {
    let world = &place.world;
    let mut dead: Vec<Vec<Id>> = vec![Vec::new(); 1 + handlers::NAMES.len()];
    let mut pending = vec![place.outbox.depth().await?.pending];
    let letters = place.outbox.dead_letters(&DeadFilter::all(), MAX_LISTED).await?;
    for (name, stream) in handlers::NAMES.into_iter().zip(handlers::STREAMS) {
        let key = HandlerKey::new(name)?;
        pending.push(place.inbox.depth(&key).await?.pending);
        let letters = place.inbox.dead_letters(Some(&key), &DeadFilter::all(), MAX_LISTED).await?;
        let state = world.lock();
        let numbers = letters.iter().filter_map(|letter| state.known.get(&letter.id)?.received);
        dead[stream].extend(numbers);
    }
    let mut guard = world.lock();
    let state = &mut *guard;
    dead[OUTBOX].extend(letters.iter().filter_map(|letter| state.known.get(&letter.id)?.sent));
    for known in state.known.values() {
        let name = handlers::counter(&known.message);
        let counted = place.inbox.value(&name).and_then(|value| value.first().copied()).unwrap_or_default();
        let expected = known.received.is_some_and(|id| !dead[handlers::LEDGER].contains(&id));
        if counted != u8::from(expected) {
            state.words.push(format!("{:?} was counted {counted} times", known.received));
        }
        let sent = known.sent.is_some_and(|id| !dead[OUTBOX].contains(&id));
        if sent && known.received.is_none() {
            state.words.push(format!("{:?} was sent, and never received", known.sent));
        }
    }
    let mut words = std::mem::take(&mut state.words);
    let mut judgements = Vec::new();
    let mut items = 0;
    for (stream, facts) in state.streams.iter_mut().enumerate() {
        items += facts.items();
        let (judgement, wrong) = facts.judge(&state.lives, pending[stream], &dead[stream]);
        judgements.push(judgement);
        words.extend(wrong);
    }
    let mut played = Played {
        hash: state.trace.hash(),
        events: state.trace.len(),
        items,
        lasted,
        judgements,
        words,
        text: String::new(),
        history: Vec::new(),
    };
    if !played.is_clean() {
        played.text = state.trace.text();
        played.history = state.streams.iter().flat_map(|facts| facts.history().iter().cloned()).collect();
    }
    Ok(played)
}
