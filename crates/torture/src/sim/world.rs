use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, ManualClock, Message, MessageId, Monotonic, Rng};

use super::facts::{Facts, LifeFacts};
use super::menu::Menu;
use super::trace::{Call, Life, StreamNo, Trace, What};
use crate::history::{Id, Said};

/// The outbox, among the streams.
pub(super) const OUTBOX: StreamNo = 0;

/// What all in a round share: the time, the chance, and what happened.
#[derive(Debug)]
pub(super) struct World {
    pub(super) menu: Menu,
    pub(super) time: ManualClock,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    /// The outbox, and each handler of the inbox.
    pub(super) streams: Vec<Facts>,
    pub(super) lives: Vec<LifeFacts>,
    calls: Call,
    /// What was added, and its number in the outbox and in the inbox.
    pub(super) known: BTreeMap<MessageId, Known>,
    /// Until when the broker, the outbox's and the inbox's database are down.
    pub(super) down_until: [Monotonic; 3],
    /// What is wrong with the inbox, beside its streams.
    pub(super) words: Vec<String>,
}

/// A message that somebody added.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) message: Message,
    pub(super) key: Option<u64>,
    pub(super) sent: Option<Id>,
    pub(super) received: Option<Id>,
}

/// What can be down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Broker,
    Outbox,
    Inbox,
}

impl World {
    pub(super) fn new(seed: u64, time: ManualClock, streams: &[&str]) -> Arc<Self> {
        let mut rng = Rng::seeded(seed);
        let menu = Menu::draw(&mut rng);
        let state = State {
            rng,
            trace: Trace::default(),
            streams: streams.iter().map(|name| Facts::new(*name, menu.attempts, *name == "ledger")).collect(),
            lives: Vec::new(),
            calls: 0,
            known: BTreeMap::new(),
            down_until: [Monotonic::default(); 3],
            words: Vec::new(),
        };
        Arc::new(Self { menu, time, state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.time.monotonic().since_origin()
    }

    /// Whether things go wrong now.
    pub(super) fn is_troubled(&self) -> bool {
        self.now() < self.menu.trouble
    }

    /// Draws whether something goes wrong; nothing does once the trouble is over.
    pub(super) fn goes_wrong(&self, rate: f64) -> bool {
        rate > 0.0 && self.is_troubled() && self.chance(rate)
    }

    pub(super) fn chance(&self, rate: f64) -> bool {
        self.lock().rng.chance(rate)
    }

    pub(super) fn below(&self, end: usize) -> usize {
        usize::try_from(self.lock().rng.below(end as u64)).unwrap_or(0)
    }

    pub(super) fn unit(&self) -> f64 {
        self.lock().rng.unit()
    }

    pub(super) fn fork(&self) -> Rng {
        self.lock().rng.fork()
    }

    /// Draws a wait up to this.
    pub(super) fn wait(&self, at_most: Duration) -> Duration {
        at_most.mul_f64(self.unit())
    }

    pub(super) fn is_down(&self, side: Side) -> bool {
        self.lock().down_until[side as usize] > self.time.monotonic()
    }

    /// Takes note of what happened.
    pub(super) fn note(&self, life: Option<Life>, what: What) {
        let now = self.now();
        self.lock().trace.push(now, life, what);
    }

    /// Begins a process.
    pub(super) fn born(&self, node: usize) -> Life {
        let now = self.now();
        let mut state = self.lock();
        state.lives.push(LifeFacts::default());
        let life = state.lives.len() - 1;
        state.trace.push(now, Some(life), What::Started { node });
        life
    }

    /// Takes note of what happened to a process.
    pub(super) fn happened(&self, life: Life, what: What) {
        let now = self.now();
        let mut state = self.lock();
        let facts = &mut state.lives[life];
        match &what {
            What::Killed => facts.killed = true,
            What::Froze { wait } => facts.frozen = Some((now, now + *wait)),
            What::Overtaken { .. } => facts.overtaken = Some(now),
            _ => {}
        }
        for stream in &mut state.streams {
            stream.life(life, &what);
        }
        state.trace.push(now, Some(life), what);
    }

    /// Says that something is wrong that no message is to blame for.
    pub(super) fn complain(&self, words: String) {
        self.lock().words.push(words);
    }
}

/// A message in the hands of a call. Dropped before anything was said of it, it was given up.
#[derive(Debug)]
pub(super) struct Hand {
    world: Arc<World>,
    life: Life,
    stream: StreamNo,
    call: Call,
    over: bool,
}

/// What takes note of a call's effect, wherever that happens.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    world: Arc<World>,
    life: Life,
    stream: StreamNo,
    call: Call,
}

impl Mark {
    /// The effect happens now; this is what will be said of it.
    pub(super) fn takes(&self, said: Said) {
        let now = self.world.now();
        let mut guard = self.world.lock();
        let state = &mut *guard;
        let (stream, call) = (self.stream, self.call);
        state.trace.push(now, Some(self.life), What::Took { stream, call, said });
        state.streams[stream].took(call, said, &state.lives, now);
    }
}

impl Hand {
    /// Gives a message to a call.
    pub(super) fn begin(world: &Arc<World>, life: Life, stream: StreamNo, message: &Message) -> Self {
        let now = world.now();
        let mut guard = world.lock();
        let state = &mut *guard;
        state.calls += 1;
        let call = state.calls;
        let known = state.known.get(&message.id()).filter(|known| known.message == *message);
        let id = known.and_then(|known| if stream == OUTBOX { known.sent } else { known.received });
        // One that nobody added, or with other bytes, has no number.
        let id = id.unwrap_or(0);
        state.trace.push(now, Some(life), What::Began { stream, call, id });
        state.streams[stream].began(call, id, life, &state.lives, now);
        drop(guard);
        Self { world: Arc::clone(world), life, stream, call, over: false }
    }

    /// Returns what takes note of its effect.
    pub(super) fn mark(&self) -> Mark {
        let Self { life, stream, call, .. } = *self;
        Mark { world: Arc::clone(&self.world), life, stream, call }
    }

    /// It has its effect now; this is what will be said of it.
    pub(super) fn takes(&self, said: Said) {
        self.mark().takes(said);
    }

    /// This is said of it; nothing, if it was not tried.
    pub(super) fn says(mut self, said: Option<Said>) {
        self.over = true;
        let now = self.world.now();
        let mut state = self.world.lock();
        let (stream, call) = (self.stream, self.call);
        state.trace.push(now, Some(self.life), What::Said { stream, call, said });
        state.streams[stream].said(call, said);
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let now = self.world.now();
        let mut state = self.world.lock();
        let (stream, call) = (self.stream, self.call);
        state.trace.push(now, Some(self.life), What::GivenUp { stream, call });
        state.streams[stream].given_up(call);
    }
}
