use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock, Timestamp};

use super::ledger::{self, Ledger};
use super::place::{Ground, Kind, Place};
use super::plan::{Plan, Role, Trouble};
use super::recovery::{self, recoveries};
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::history::{Event, Left};
use crate::oracle::Promises;
use crate::queue::child::Order;
use crate::queue::life::{Life, Start};

/// How long all that was committed may take to be handled in the end, leases of the dead included.
const DRAIN: Duration = Duration::from_secs(30);

/// A subject, with those who feed it and those who handle what it has in processes of their own.
pub(crate) struct Scene<S> {
    folder: tempfile::TempDir,
    pub(crate) ground: Ground,
    pub(crate) subject: S,
    place: Place,
    path: PathBuf,
    ledger: Ledger,
    start: Start,
    trouble: Trouble,
    lives: usize,
    pub(crate) rng: Rng,
    pub(crate) actors: Vec<Actor>,
}

/// What is special about a scene.
#[derive(Debug, Default)]
pub(crate) struct Setting {
    /// By which URL the cast connects to the server.
    pub(crate) through: Option<String>,
    pub(crate) trouble: Trouble,
}

/// A process, and what it is for.
pub(crate) struct Actor {
    life: Life,
    /// Under which numbers it tells.
    numbers: Range<usize>,
    role: Role,
}

impl Actor {
    /// Whether it handles messages.
    pub(crate) fn works(&self) -> bool {
        matches!(self.role, Role::Work { .. })
    }

    pub(crate) fn numbers(&self) -> Range<usize> {
        self.numbers.clone()
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.life.id()
    }

    /// Asks it to end.
    pub(crate) async fn stop(&mut self) {
        self.life.order(Order::Stop).await;
    }

    /// Waits for a moment until it dies by itself, else kills it. Returns under which numbers it told, and whether it died.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub(crate) async fn dies(self) -> anyhow::Result<(Range<usize>, bool)> {
        let (_, died) = self.life.end_or_kill().await?;
        Ok((self.numbers, died))
    }
}

impl<S: Subject> Scene<S> {
    /// Starts the cast.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub(crate) async fn begin(bench: &Arc<Bench>, kind: Kind, seed: u64) -> anyhow::Result<Self> {
        Self::begin_in(bench, kind, seed, Setting::default()).await
    }

    /// Starts the cast in a setting of its own.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub(crate) async fn begin_in(
        bench: &Arc<Bench>,
        kind: Kind,
        seed: u64,
        Setting { through, trouble }: Setting,
    ) -> anyhow::Result<Self> {
        let folder = bench.fast_folder()?;
        let ground = Ground::make(kind, folder.path()).await?;
        let subject = S::make(&ground).await?;
        let path = folder.path().join("ledger");
        let mut scene = Self {
            place: match (ground.place()?, through) {
                (Place::Postgres { schema, .. }, Some(url)) => Place::Postgres { url, schema },
                (place, _) => place,
            },
            ledger: Ledger::open(&path, 0)?,
            start: Start::plain()?,
            trouble,
            // The first is the parent.
            lives: 1,
            rng: Rng::seeded(seed),
            actors: Vec::new(),
            folder,
            ground,
            subject,
            path,
        };
        for role in S::CAST {
            scene.enter(*role)?;
        }
        Ok(scene)
    }

    fn enter(&mut self, role: Role) -> anyhow::Result<()> {
        let life = self.spawn(role)?;
        self.actors.push(life);
        Ok(())
    }

    fn spawn(&mut self, role: Role) -> anyhow::Result<Actor> {
        self.spawn_as(role, &self.start.clone())
    }

    /// Starts a process in another way than the cast. The caller notes how it ends.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn spawn_as(&mut self, role: Role, start: &Start) -> anyhow::Result<Actor> {
        let number = self.lives;
        self.lives += role.lives();
        let (place, ledger, seed) = (self.place.clone(), self.path.clone(), self.rng.next_u64() >> 1);
        let plan = Plan { place, ledger, life: number, seed, role, trouble: self.trouble };
        let life = Life::begin_as(start, S::CHILD, &serde_json::to_string(&plan)?)?;
        Ok(Actor { life, numbers: number..self.lives, role })
    }

    /// Picks a process.
    pub(crate) fn pick(&mut self, chosen: impl Fn(&Actor) -> bool) -> Option<usize> {
        let all: Vec<_> = (0..self.actors.len()).filter(|at| chosen(&self.actors[*at])).collect();
        let at = self.rng.below(all.len().max(1) as u64);
        all.get(usize::try_from(at).unwrap_or(0)).copied()
    }

    /// Tells the ledger what was done to a process.
    pub(crate) fn note(&self, numbers: Range<usize>, event: &Event) {
        for life in numbers {
            self.ledger.say_of(life, std::slice::from_ref(event));
        }
    }

    /// Kills a process, and starts another in its place.
    ///
    /// # Errors
    ///
    /// If that fails.
    pub(crate) async fn kill(&mut self, at: usize) -> anyhow::Result<()> {
        let Actor { life, numbers, role } = self.actors.swap_remove(at);
        life.kill().await?;
        self.note(numbers, &Event::Killed);
        self.enter(role)
    }

    /// Waits for a while.
    pub(crate) async fn wait(&mut self, at_most: Duration) {
        let micros = self.rng.below(u64::try_from(at_most.as_micros()).unwrap_or(1).max(1));
        SystemClock::new().sleep(Duration::from_micros(micros)).await;
    }

    /// Asks a process to stop, and a second time if it is told when, and starts another in its place.
    ///
    /// # Errors
    ///
    /// If it does not end well.
    pub(crate) async fn stop(&mut self, at: usize, second: Option<Duration>) -> anyhow::Result<()> {
        let Actor { mut life, numbers, role } = self.actors.swap_remove(at);
        life.order(Order::Stop).await;
        if let Some(after) = second {
            SystemClock::new().sleep(after).await;
            life.order(Order::Leave).await;
            // If it had not ended already, it left what it had.
            self.note(numbers, &Event::Killed);
        }
        life.end().await?;
        self.enter(role)
    }

    /// Asks all to stop, who feeds first.
    ///
    /// # Errors
    ///
    /// If one does not end well.
    pub(crate) async fn stop_all(&mut self) -> anyhow::Result<()> {
        let (feeding, working): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.actors).into_iter().partition(|actor| !actor.works());
        for mut actor in feeding.into_iter().chain(working) {
            actor.life.order(Order::Stop).await;
            actor.life.end().await?;
        }
        Ok(())
    }

    /// All who told the ledger.
    pub(crate) fn everybody(&self) -> HashSet<usize> {
        (1..self.lives).collect()
    }

    /// Kills some, waits until others have what they held, ends all, handles what is left, and gathers the history.
    ///
    /// # Errors
    ///
    /// If a process does not end well, or the database does not answer.
    pub(crate) async fn end(mut self, trials: u64) -> anyhow::Result<Round> {
        self.last_fault().await?;
        // Who feeds goes first: what is done last is handled, too.
        self.stop_all().await?;
        self.finish(trials).await
    }

    /// Handles what is left, and gathers the history.
    ///
    /// # Errors
    ///
    /// If a process does not end well, or the database does not answer.
    pub(crate) async fn finish(mut self, trials: u64) -> anyhow::Result<Round> {
        let mut drains = self.spawn(Role::Drain)?;
        let clock = SystemClock::new();
        let until = clock.monotonic() + DRAIN;
        let mut left = self.subject.depth().await?;
        while left.pending > 0 && clock.monotonic() < until {
            clock.sleep(Duration::from_millis(20)).await;
            left = self.subject.depth().await?;
        }
        drains.life.order(Order::Stop).await;
        drains.life.end().await?;
        let idle_sessions = self.ground.idle_sessions().await;
        let mut history = ledger::read(&self.path)?;
        ledger::settle(&mut history, &self.subject.committed(&self.ground).await?);
        history.extend(self.subject.testimony(&self.ground).await?);
        // Handlers give messages up only where that is their trouble.
        let unasked = if self.trouble == Trouble::Handlers { 0 } else { left.dead };
        history.push(Event::Ended {
            left: Left { stored: left.pending + unasked, idle_sessions, ..Left::default() },
        });
        let Self { folder, ground, .. } = self;
        ensure!(history.iter().any(|event| matches!(event, Event::Lent { .. })), "nothing was ever handled");
        // What is left is looked at by whoever wonders why.
        if left.pending == 0 {
            ground.clean().await;
        }
        let promises = Promises { ordered: true, unsettled: S::UNSETTLED, successors_wait: true };
        Ok(Round { trials, promises, history, folder })
    }

    /// Kills some of those who handle, while others go on, and waits until these have what the dead held.
    async fn last_fault(&mut self) -> anyhow::Result<()> {
        // A call that lasts long is not among the last of its process; which ones they were would be unknown.
        if self.trouble == Trouble::Handlers {
            return Ok(());
        }
        let mut dead = HashSet::new();
        for _ in 0..=self.rng.below(2) {
            let Some(at) = self.pick(Actor::works) else { break };
            let Actor { life, numbers, .. } = self.actors.swap_remove(at);
            life.kill().await?;
            self.note(numbers.clone(), &Event::Killed);
            dead.extend(numbers);
        }
        // What waits in a file waits by the wall clock: where that was far ahead for a moment, until it is there again.
        if self.trouble == Trouble::Clocks && matches!(self.ground, Ground::Sqlite { .. }) {
            return Ok(());
        }
        self.recovers(SystemClock::new().now(), &dead, &dead, recovery::bound()).await
    }

    /// Waits until every shard that one of these held is handled again, and notes how long that took since the fault.
    ///
    /// # Errors
    ///
    /// If the ledger cannot be read.
    pub(crate) async fn recovers(
        &self,
        fault: Timestamp,
        held: &HashSet<usize>,
        dead: &HashSet<usize>,
        bound: Duration,
    ) -> anyhow::Result<()> {
        let clock = SystemClock::new();
        let patience = clock.monotonic() + DRAIN;
        let slowest = loop {
            let recoveries = recoveries(&ledger::entries(&self.path)?, fault, held, dead);
            let slowest = recoveries.into_values().max_by_key(|took| took.unwrap_or(Duration::MAX));
            match slowest {
                None => break Duration::ZERO,
                Some(Some(took)) => break took,
                Some(None) if clock.monotonic() > patience => break DRAIN,
                Some(None) => clock.sleep(Duration::from_millis(100)).await,
            }
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.ledger.say(&[Event::Recovered { micros: micros(slowest), bound: micros(bound) }]);
        Ok(())
    }
}
