use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use relaykit_pipeline_traits::{Attempts, Buffer, Fill, FlushReason, Monotonic, Timestamp};
use tokio::sync::oneshot;

use crate::builder::Config;
use crate::error::{QueueError, RejectReason};
use crate::format::Records;
use crate::order::{Held, Keys, Line, Staying};
use crate::store::{Due, Opened};

/// Where a queue is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Takes no more; workers finish what they have.
    Closing,
    Closed,
}

/// Everything in memory, behind one lock. No user code runs under it, but codecs and merge functions of pushes.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says whether one thing is under way, independent of the others"
)]
pub(crate) struct State<T> {
    pub(crate) phase: Phase,
    pub(crate) paused: bool,
    pub(crate) open: OpenBatch<T>,
    /// Counts sealed batches.
    pub(crate) sealed: u64,
    /// Sealed batches in their order, not yet handed to the writer.
    pub(crate) outbox: VecDeque<Sealed<T>>,
    /// Sealed batches that are not stored yet.
    pub(crate) unsaved: BTreeSet<u64>,
    pub(crate) unsaved_items: usize,
    pub(crate) unsaved_bytes: usize,
    /// Sealed batches that could not be stored, to be tried again.
    pub(crate) refused: VecDeque<Sealed<T>>,
    /// Why nothing could be stored when it was last tried.
    pub(crate) trouble: Option<RejectReason>,
    /// Why a batch did not get to the disk the last time that one did not.
    pub(crate) failure: Option<(RejectReason, QueueError)>,
    pub(crate) flushes: Vec<(u64, oneshot::Sender<Result<(), QueueError>>)>,
    /// Stored batches that may be lent, oldest first.
    pub(crate) ready: VecDeque<Stored<T>>,
    /// Bytes of the items kept in `ready` beside the file.
    pub(crate) cached_bytes: usize,
    /// All stored batches up to this one are or were in `ready`, those that wait aside.
    pub(crate) cursor: i64,
    /// There may be stored batches after the cursor.
    pub(crate) more: bool,
    pub(crate) loading: bool,
    /// When the first waiting batch may be lent.
    pub(crate) next_due: Option<Timestamp>,
    pub(crate) loading_due: bool,
    /// The file could not be read or noted in: not before this moment again.
    pub(crate) rest_until: Option<Monotonic>,
    /// Batches in `ready` or with a worker.
    pub(crate) taken: HashSet<i64>,
    pub(crate) in_flight_items: usize,
    /// Items whose handler a close did not wait for.
    pub(crate) interrupted_items: usize,
    /// Attempts of waiting batches: what the file does not keep of them, which is the calls that spent none.
    pub(crate) waiting: HashMap<i64, Tries>,
    /// What the file holds.
    pub(crate) stored: Levels,
    pub(crate) oldest: Option<Oldest>,
    pub(crate) dead_items: u64,
    pub(crate) counts: Counts,
    /// Batches that may have been in flight when the process died.
    pub(crate) suspects: HashSet<i64>,
    /// Who waits for whom, if the items of a key keep their order.
    pub(crate) line: Option<Line>,
    /// The oldest batch on disk is being deleted to make room.
    pub(crate) dropping: bool,
    /// The disk was full, and nothing was written since.
    pub(crate) starved: bool,
    /// The keeper will look at the open batch when, or before, it has lingered.
    pub(crate) watched: bool,
}

/// How many waiting batches' free rounds are remembered.
const MAX_WAITING: usize = 10_000;

/// The batch that was stored first, of those that are not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) id: i64,
    pub(crate) added_at: Timestamp,
    /// It is a guess until the keeper has asked the file.
    pub(crate) known: bool,
}

/// What the file holds that is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Levels {
    pub(crate) batches: u64,
    pub(crate) items: u64,
    pub(crate) bytes: u64,
}

impl Levels {
    pub(crate) fn add(&mut self, items: u32, bytes: usize) {
        self.batches += 1;
        self.items += u64::from(items);
        self.bytes += bytes as u64;
    }

    pub(crate) fn remove(&mut self, items: u32, bytes: usize) {
        self.batches = self.batches.saturating_sub(1);
        self.items = self.items.saturating_sub(u64::from(items));
        self.bytes = self.bytes.saturating_sub(bytes as u64);
    }
}

/// What happened since the queue was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) pushed: u64,
    pub(crate) flushed: u64,
    pub(crate) processed: u64,
    pub(crate) dead: u64,
    pub(crate) dropped: u64,
    pub(crate) calls: u64,
}

/// The batch that pushes go to.
pub(crate) struct OpenBatch<T> {
    pub(crate) items: Items<T>,
    pub(crate) fill: Fill,
    pub(crate) opened_at: Monotonic,
    pub(crate) waiters: Vec<Waiter<T>>,
}

/// What an open batch holds: items one after the other, encoded as they come, or whatever a buffer makes of them.
pub(crate) enum Items<T> {
    Plain { items: Vec<T>, records: Records },
    Custom(Box<dyn Buffer<T>>),
}

/// Whom to tell when an item is on disk.
pub(crate) struct Waiter<T> {
    /// Its item's position, if it can be told from the others.
    pub(crate) at: Option<usize>,
    pub(crate) tell: Tell<T>,
}

/// Tells whoever waits for the disk.
pub(crate) type Tell<T> = oneshot::Sender<Result<(), NotStored<T>>>;

/// Why an item did not get to the disk, and the item if it was not kept for another try.
pub(crate) struct NotStored<T> {
    pub(crate) item: Option<T>,
    pub(crate) reason: RejectReason,
}

/// A batch on its way to the disk.
pub(crate) struct Sealed<T> {
    pub(crate) number: u64,
    pub(crate) items: Vec<T>,
    pub(crate) records: Records,
    pub(crate) waiters: Vec<Waiter<T>>,
    pub(crate) reason: FlushReason,
    pub(crate) added_at: Timestamp,
    pub(crate) due: Option<Due>,
}

/// Attempts of a batch's items: the same for all, or each its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tries {
    All(Attempts),
    Each(Vec<Attempts>),
}

impl Default for Tries {
    fn default() -> Self {
        Self::All(Attempts::default())
    }
}

impl Tries {
    /// Returns the attempts of the item at the position.
    pub(crate) fn of(&self, at: usize) -> Attempts {
        match self {
            Self::All(attempts) => *attempts,
            Self::Each(each) => each.get(at).copied().unwrap_or_default(),
        }
    }

    pub(crate) fn collect(each: Vec<Attempts>) -> Self {
        match each.first() {
            Some(first) if each.iter().all(|one| one == first) => Self::All(*first),
            _ => Self::Each(each),
        }
    }

    /// Returns what the most tried item has spent.
    pub(crate) fn spent(&self) -> u32 {
        match self {
            Self::All(attempts) => attempts.spent(),
            Self::Each(each) => each.iter().map(Attempts::spent).max().unwrap_or(0),
        }
    }
}

/// A stored batch, with its items if they are still at hand.
pub(crate) struct Stored<T> {
    pub(crate) id: i64,
    pub(crate) added_at: Timestamp,
    pub(crate) tries: Tries,
    /// How often the process died while it had the batch, as far as that was counted.
    pub(crate) deaths: u32,
    pub(crate) first_failed_at: Option<Timestamp>,
    pub(crate) delay: Option<std::time::Duration>,
    /// When it may be lent, by the file. Some of it may be lent before, if the items of a key keep their order.
    pub(crate) due: Option<Timestamp>,
    /// What of it is not to be lent now.
    pub(crate) held: Held,
    pub(crate) count: u32,
    /// Its size in the file.
    pub(crate) bytes: usize,
    pub(crate) content: Content<T>,
}

pub(crate) enum Content<T> {
    Items(Vec<T>),
    /// As it was read from the file.
    Data(Vec<u8>),
}

impl<T> Stored<T> {
    /// Batches that go by the same count can be lent together; not those that may crash the process.
    fn goes_with(&self, other: &Self) -> bool {
        self.deaths == 0
            && other.deaths == 0
            && matches!((&self.tries, &other.tries), (Tries::All(a), Tries::All(b)) if a.spent() == b.spent())
    }
}

impl<T> State<T> {
    pub(crate) fn new(open: OpenBatch<T>, opened: Opened, line: Option<Line>) -> Self {
        Self {
            phase: Phase::Open,
            paused: false,
            open,
            sealed: 0,
            outbox: VecDeque::new(),
            unsaved: BTreeSet::new(),
            unsaved_items: 0,
            unsaved_bytes: 0,
            refused: VecDeque::new(),
            trouble: None,
            failure: None,
            flushes: Vec::new(),
            ready: VecDeque::new(),
            cached_bytes: 0,
            cursor: 0,
            more: opened.stored.batches > 0,
            loading: false,
            next_due: opened.next_due,
            loading_due: false,
            rest_until: None,
            taken: HashSet::new(),
            in_flight_items: 0,
            interrupted_items: 0,
            waiting: HashMap::new(),
            stored: opened.stored,
            oldest: opened.oldest,
            dead_items: opened.dead_items,
            counts: Counts::default(),
            suspects: opened.suspects,
            line,
            dropping: false,
            starved: false,
            watched: false,
        }
    }

    /// Items accepted and not done, wherever they are.
    pub(crate) fn held_items(&self) -> u64 {
        self.stored.items + self.buffered_items() as u64
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.stored.bytes + self.buffered_bytes() as u64
    }

    /// Items accepted and not on disk.
    pub(crate) fn buffered_items(&self) -> usize {
        self.unsaved_items + self.open.fill.items
    }

    pub(crate) fn buffered_bytes(&self) -> usize {
        self.unsaved_bytes + self.open.fill.bytes
    }

    /// Whether it holds more than it may.
    pub(crate) fn is_over(&self, config: &Config<T>) -> bool {
        self.held_items() > config.max_items || self.held_bytes() > config.max_bytes
    }

    /// Puts a stored batch where workers find it, if everything before it is there, too.
    pub(crate) fn offer(&mut self, stored: Stored<T>, keys: Keys, max_batches: usize, max_bytes: usize) {
        let fits = self.ready.len() < max_batches && self.cached_bytes + stored.bytes <= max_bytes;
        let room = self.line.as_ref().is_none_or(Line::has_room);
        // One is always taken, or a batch larger than the bound would only ever be read.
        if self.more || !room || !(fits || self.ready.is_empty()) {
            self.more = true;
            return;
        }
        self.cursor = stored.id;
        if let Some(line) = &mut self.line {
            line.add(stored.id, keys, None);
        }
        self.put(stored);
    }

    /// Notes a stored batch that waits.
    pub(crate) fn offer_waiting(&mut self, id: i64, keys: Keys, due: Timestamp) {
        if let Some(line) = &mut self.line {
            if self.more || !line.has_room() {
                self.more = true;
                return;
            }
            line.add(id, keys, Some(due));
            self.cursor = id;
        }
        self.wait_until(due);
    }

    /// Whether more of the file may be looked at.
    pub(crate) fn line_has_room(&self) -> bool {
        self.line.as_ref().is_none_or(Line::has_room)
    }

    /// Nothing of a batch is left to be done.
    pub(crate) fn forget(&mut self, id: i64, now: Timestamp) {
        if let Some(line) = &mut self.line {
            line.forget(id, now);
        }
    }

    /// A batch stays in the file, where it waits if `due` says so. What of it may be lent at once is read again.
    pub(crate) fn put_away(&mut self, id: i64, now: Timestamp) {
        if let Some(line) = &mut self.line {
            line.put_away(id, now);
        }
    }

    /// Notes which items of a batch stay.
    pub(crate) fn keep(
        &mut self,
        id: i64,
        staying: Option<&[Staying]>,
        due: Option<Timestamp>,
        now: Timestamp,
    ) {
        if let Some(line) = &mut self.line {
            line.keep(id, staying, due, now);
        }
    }

    /// Takes a batch that was deleted off the list.
    pub(crate) fn unready(&mut self, id: i64) {
        if let Some(at) = self.ready.iter().position(|stored| stored.id == id)
            && let Some(stored) = self.ready.remove(at)
        {
            self.cached_bytes -= stored.bytes;
        }
    }

    /// Whether a batch in the file is to be read on account of its keys.
    pub(crate) fn wants(&self) -> bool {
        self.line.as_ref().is_some_and(Line::wants)
    }

    /// Batches that are in use: in `ready` or with a worker, but not those that are only held.
    pub(crate) fn in_use(&self) -> HashSet<i64> {
        let mut taken = self.taken.clone();
        if let Some(line) = &self.line {
            taken.retain(|id| !line.is_away(*id));
        }
        taken
    }

    /// Books a new batch in the file, and when it is the oldest.
    pub(crate) fn book(&mut self, id: i64, added_at: Timestamp, items: u32, bytes: usize) {
        self.stored.add(items, bytes);
        self.oldest.get_or_insert(Oldest { id, added_at, known: true });
    }

    /// Books that a batch left the file.
    pub(crate) fn unbook(&mut self, id: i64, items: u32, bytes: usize) {
        self.stored.remove(items, bytes);
        if self.stored.batches == 0 {
            self.oldest = None;
        } else if self.oldest.is_some_and(|oldest| oldest.id == id) {
            // The keeper asks the file. Until then, the next in line is a good guess.
            let guess = self.ready.front().map(|next| (next.id, next.added_at));
            let (id, added_at) =
                guess.or(self.oldest.map(|oldest| (oldest.id, oldest.added_at))).unwrap_or_default();
            self.oldest = Some(Oldest { id, added_at, known: false });
        }
    }

    pub(crate) fn put(&mut self, stored: Stored<T>) {
        self.cached_bytes += stored.bytes;
        self.taken.insert(stored.id);
        self.ready.push_back(stored);
    }

    pub(crate) fn put_first(&mut self, stored: Stored<T>) {
        self.cached_bytes += stored.bytes;
        self.taken.insert(stored.id);
        self.ready.push_front(stored);
    }

    /// Remembers what the file does not keep of a waiting batch.
    pub(crate) fn remember(&mut self, id: i64, tries: Tries) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(id, tries);
        }
    }

    /// Takes the oldest batches: several if they were tried as often as each other, else one.
    ///
    /// Those of which nothing may be lent, because older batches have all their keys, go back to the file.
    pub(crate) fn take(&mut self, most: usize, now: Timestamp) -> Vec<Stored<T>> {
        let (mut group, mut beside): (Vec<Stored<T>>, Vec<(i64, Held)>) = (Vec::new(), Vec::new());
        while group.len() < most {
            let Some(next) = self.ready.front() else { break };
            let held = self
                .line
                .as_ref()
                .map_or_else(|| Some(Held::default()), |line| line.held(next.id, &beside, now));
            if held.is_some() && group.first().is_some_and(|first| !first.goes_with(next)) {
                break;
            }
            let Some(mut next) = self.ready.pop_front() else { break };
            self.cached_bytes -= next.bytes;
            let Some(held) = held else {
                self.hold(&next, now);
                continue;
            };
            next.held = held;
            self.in_flight_items += next.count as usize;
            beside.push((next.id, next.held.clone()));
            group.push(next);
        }
        if self.line.is_some() {
            // What becomes one goes to the first: an older item must not end up behind one that waits for it.
            group.sort_by_key(|stored| stored.id);
        }
        group
    }

    /// Lets a batch be found when older ones of its keys are done. It stays among the taken ones, or it would be found before.
    fn hold(&mut self, stored: &Stored<T>, now: Timestamp) {
        self.put_away(stored.id, now);
        if let Some(due) = stored.due.filter(|due| *due > now) {
            self.taken.remove(&stored.id);
            self.wait_until(due);
        }
    }

    /// Takes what waits longest off the list, to be deleted.
    pub(crate) fn take_victim(&mut self) -> Option<Stored<T>> {
        let victim = self.ready.pop_front()?;
        self.cached_bytes -= victim.bytes;
        self.unbook(victim.id, victim.count, victim.bytes);
        Some(victim)
    }

    pub(crate) fn wait_until(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }

    /// Tells the flushes that waited for what is stored now.
    pub(crate) fn end_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let first = self.unsaved.first().copied().unwrap_or(u64::MAX);
        for (_, done) in self.flushes.extract_if(.., |(number, _)| *number < first) {
            // Who flushed may be gone.
            let _ = done.send(Ok(()));
        }
    }
}
