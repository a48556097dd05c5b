use std::sync::{Arc, PoisonError};
use std::time::Duration;

use relaykit_inbox::{Inbox, MemoryInbox, Worker, WorkerEvent};
use relaykit_outbox::{MemoryOutbox, Relay, RelayEvent};
use relaykit_pipeline_traits::{Clock as _, InvalidSetting};
use relaykit_retry::{Backoff, Policy};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::broker::Broker;
use super::clock::NodeClock;
use super::far_inbox::FarInbox;
use super::far_outbox::FarOutbox;
use super::handlers::handlers;
use super::line::Line;
use super::producer::Wakes;
use super::receiver::Receiver;
use super::sender::SimSender;
use super::trace::{Life, What};
use super::world::World;

/// What all nodes work on.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) world: Arc<World>,
    pub(super) outbox: MemoryOutbox,
    pub(super) inbox: MemoryInbox,
    pub(super) broker: Arc<Broker>,
    pub(super) wakes: Wakes,
}

/// Relays, a worker and a receiver, which live and die together.
struct Process {
    life: Life,
    stops: Vec<oneshot::Sender<()>>,
    tasks: Vec<JoinHandle<usize>>,
    receiver: JoinHandle<()>,
}

/// A machine, on which one process runs after the other.
pub(super) struct Node {
    place: Place,
    number: usize,
    clock: NodeClock,
}

impl Node {
    pub(super) fn new(place: Place, number: usize) -> Self {
        let world = &place.world;
        let drift = world.menu.nodes_faults.drift;
        let fast = i32::try_from(world.lock().rng.below(2 * drift + 1)).unwrap_or(0)
            - i32::try_from(drift).unwrap_or(0);
        let clock = NodeClock::new(world.time.clone(), fast);
        Self { place, number, clock }
    }

    /// Runs processes, and does to them what is on the menu, until the trouble is over; then one, until it is told to stop.
    ///
    /// # Errors
    ///
    /// A setting is out of bounds.
    pub(super) async fn live(self, stop: oneshot::Receiver<()>) -> Result<(), InvalidSetting> {
        let world = Arc::clone(&self.place.world);
        let faults = world.menu.nodes_faults;
        let mut process = self.start()?;
        while world.is_troubled() {
            world.time.sleep(world.wait(faults.every * 2)).await;
            if world.goes_wrong(faults.step) {
                let micros = i64::try_from(world.below(7_200_000_000)).unwrap_or(0) - 3_600_000_000;
                world.happened(process.life, What::Stepped { micros });
                self.clock.step(micros);
            }
            if world.goes_wrong(faults.freeze) {
                let wait = world.wait(world.menu.lease * 3);
                world.happened(process.life, What::Froze { wait });
                self.clock.freeze(wait);
                // It may die while it stands still, or run on for a while.
                world.time.sleep(world.wait(wait * 2)).await;
            }
            if world.goes_wrong(faults.crash) {
                process.crash(&world);
                world.time.sleep(world.wait(faults.every)).await;
                process = self.start()?;
            } else if world.goes_wrong(faults.restart) {
                process.stop(&world).await;
                world.time.sleep(world.wait(Duration::from_secs(5))).await;
                process = self.start()?;
            }
        }
        // An error says that nobody will ever tell.
        drop(stop.await);
        let life = process.life;
        let left = process.stop(&world).await;
        if left > 0 {
            world.complain(format!("{life} left {left} shards or batches behind when it was stopped"));
        }
        Ok(())
    }

    /// Starts a process.
    fn start(&self) -> Result<Process, InvalidSetting> {
        let Self { place: Place { world, outbox, inbox, broker, wakes }, number, clock } = self;
        let life = world.born(*number);
        let far = Line { world: Arc::clone(world), clock: clock.clone(), life: Some(life) };
        let menu = world.menu;
        let (mut stops, mut tasks) = (Vec::new(), Vec::new());
        for at in 0..menu.relays {
            let sender = SimSender { broker: Arc::clone(broker), line: far.clone() };
            let told = Arc::clone(world);
            let relay = Relay::builder(FarOutbox { inner: outbox.clone(), line: far.clone() }, sender)
                .batch_size(menu.batch_size)
                .concurrency(menu.concurrency)
                .send_timeout(menu.send_timeout)
                .settle_timeout(menu.settle_timeout)
                .lease(menu.lease)
                .retry(policy(world))
                .clock(clock.clone())
                .rng(world.fork())
                .on_event(move |event| {
                    if let RelayEvent::LeaseLost { messages, .. } = event {
                        told.happened(life, What::Overtaken { messages: *messages });
                    }
                })
                .build()?;
            if at == 0 {
                wakes.lock().unwrap_or_else(PoisonError::into_inner)[*number] = relay.wake();
            }
            let (stop, mut stopped) = oneshot::channel::<()>();
            stops.push(stop);
            let (pace, clock) = (pace(world), clock.clone());
            tasks.push(tokio::spawn(async move {
                let Some(pace) = pace else {
                    let summary = relay.run(async { drop(stopped.await) }).await;
                    return summary.kept_shards + summary.unfinished;
                };
                while passes_again(&clock, pace, &mut stopped).await {
                    drop(relay.run_once().await);
                }
                relay.release().await
            }));
        }
        let store = FarInbox { inner: inbox.clone(), line: far.clone() };
        let handlers = handlers(&far, policy(world))?;
        let receiver = Inbox::new(store.clone(), handlers.routes().clone());
        let told = Arc::clone(world);
        let worker = Worker::builder(store, handlers)
            .settle_timeout(menu.settle_timeout)
            .lease(menu.lease)
            .clock(clock.clone())
            .rng(world.fork())
            .on_event(move |_, event| {
                if let WorkerEvent::LeaseLost { messages, .. } = event {
                    told.happened(life, What::Overtaken { messages: *messages });
                }
            })
            .build()?;
        let inbox = receiver.wake(worker.wake());
        let receiver = Receiver { broker: Arc::clone(broker), inbox, line: far, node: *number };
        let (stop, mut stopped) = oneshot::channel::<()>();
        stops.push(stop);
        let (pace, clock) = (pace(world), clock.clone());
        tasks.push(tokio::spawn(async move {
            let Some(pace) = pace else {
                let summary = worker.run(async { drop(stopped.await) }).await;
                let unfinished = summary.handlers.iter().map(|(_, summary)| summary.unfinished);
                return summary.kept_shards + unfinished.sum::<usize>();
            };
            while passes_again(&clock, pace, &mut stopped).await {
                drop(worker.run_once().await);
            }
            worker.release().await
        }));
        Ok(Process { life, stops, tasks, receiver: tokio::spawn(receiver.run()) })
    }
}

/// Draws how far apart the looks of a process are that does not run on.
fn pace(world: &World) -> Option<Duration> {
    let wait = world.wait(world.menu.lease);
    world.chance(world.menu.cron).then_some(wait)
}

/// Waits until it is time for another pass. Returns `false` if it is stopped before.
async fn passes_again(clock: &NodeClock, pace: Duration, stopped: &mut oneshot::Receiver<()>) -> bool {
    tokio::select! {
        biased;
        _ = stopped => false,
        () = clock.sleep(pace) => true,
    }
}

fn policy(world: &World) -> Policy {
    let backoff = Backoff::exponential(world.menu.backoff).max_attempts(world.menu.attempts);
    backoff.build().expect("the menu is within bounds")
}

impl Process {
    /// Ends it at once, wherever it is.
    fn crash(self, world: &World) {
        world.happened(self.life, What::Killed);
        self.receiver.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }

    /// Stops it, and waits. Returns how many shards and batches it left behind.
    async fn stop(self, world: &World) -> usize {
        self.receiver.abort();
        drop(self.stops);
        let mut left = 0;
        for task in self.tasks {
            match task.await {
                Ok(kept) => left += kept,
                Err(error) => world.complain(format!("{} ended by itself: {error}", self.life)),
            }
        }
        // What it could not settle in time is somebody else's now.
        world.happened(self.life, if left > 0 { What::Killed } else { What::Stopped });
        left
    }
}
