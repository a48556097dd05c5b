use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Message, Monotonic, OrderingKey};

use super::open::OpenTransactions;
use super::row::{Page, ReadFrom, RowId, Seq, Stored, Suspicion, Unreadable};
use super::scan::Scan;
use crate::torture::planted;
use crate::{Lease, Shard};

/// A row in memory.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) row: RowId,
    pub(crate) key: Option<OrderingKey>,
    /// The message, or why it cannot be read.
    pub(crate) content: Result<Message, String>,
    pub(crate) attempts: Attempts,
    /// How old it was when it was read, and when that was.
    pub(crate) age: Duration,
    pub(crate) failing_for: Option<Duration>,
    pub(crate) read_at: Monotonic,
    /// Whether it has waited, so that later rows of its key may have been held.
    pub(crate) waited: bool,
    /// What was noted before it was sent last, as it was read.
    pub(crate) suspicion: Suspicion,
}

/// What happened to a row that was taken.
#[derive(Debug)]
pub(crate) enum End {
    /// It has left the store.
    Gone,
    /// It waits in the store, and holds its key, until then.
    Waits(Monotonic),
    /// It has left the store, or waits there, and what lies behind it may have been hidden without anybody knowing: it had left before it
    /// was written what became of it, or somebody else made it wait after it was read. Its key is read again.
    ReadAgain,
    /// It is as it was; or an earlier call has ended it, and its answer was lost.
    Back(Box<Loaded>),
    /// Nobody here knows; its shard is, or will be, somebody else's.
    Lost,
}

/// Messages of one key come one after another: a lane. One without a key has a lane of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Key(Shard, OrderingKey),
    Alone(RowId),
}

#[derive(Debug, Default)]
struct Lane {
    rows: BTreeMap<Seq, Loaded>,
    /// The row that was taken and has not ended.
    taken: Option<Seq>,
    /// Whether that row had waited.
    had_waited: bool,
    /// The first row for which there was no room.
    left_out: Option<Seq>,
    /// Whether it is in line.
    ready: bool,
}

/// What the relay has in memory, and in which order it goes. Decides, and does nothing.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// Whether messages of one key come one after another.
    ordered: bool,
    shards: BTreeMap<Shard, Held>,
    by_name: HashMap<Name, Lane>,
    /// The lanes whose first row can go, in line.
    ready: VecDeque<Name>,
    /// Those whose first row is a suspect, which goes alone.
    suspects: VecDeque<Name>,
    loaded: usize,
    room: usize,
    eras: u64,
    /// The keys of which rows behind this place were left behind, and are to be read again before any later one.
    left_behind: HashMap<Name, Seq>,
    /// The keys of which a row waits that was here, and that row; so many at most. Nothing behind it is taken until it is read again: the
    /// store may have it as gone before, if a settlement takes effect late that was given up, or if it is skipped.
    waiting: HashMap<Name, Seq>,
    /// Until when these wait.
    waits: BTreeMap<(Monotonic, Shard, Seq), Name>,
    /// What ended while a page was on its way, which may show it as it was before.
    meanwhile: Option<Meanwhile>,
    /// Who may still add before what was read.
    open: OpenTransactions,
}

/// What to look for once the page on its way is here, since that may not show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Look {
    #[default]
    Nothing,
    New,
    All,
}

#[derive(Debug, Default)]
struct Held {
    token: i64,
    scan: Scan,
    /// From where to read again, as soon as that may be.
    again: Option<Seq>,
    /// Counts up whenever a shard is read anew, so that no page from before is taken for one of now.
    era: u64,
    /// How many of its rows were taken and have not ended.
    taken: usize,
    /// Whether nothing is read or taken for now.
    stands_still: bool,
    /// Whether nobody knows what became of some rows, so that it must be read anew.
    broken: bool,
}

#[derive(Debug, Default)]
struct Meanwhile {
    /// Of which shards it is, their eras, and from where.
    asked: Vec<(Shard, u64, Seq)>,
    ended: HashSet<RowId>,
    waiting: HashSet<Name>,
    left_behind: HashSet<Name>,
    look: Look,
}

/// How many waiting rows are remembered at most. Of others the store tells when their waits end; if one is gone by then, what lies
/// behind it is late, and may be overtaken.
const WAITS: usize = 10_000;

/// How many rows of one key are in memory at most.
const LANE_ROOM: usize = 256;

impl Lanes {
    pub(crate) fn new(room: usize, ordered: bool) -> Self {
        Self {
            ordered,
            shards: BTreeMap::new(),
            by_name: HashMap::new(),
            ready: VecDeque::new(),
            suspects: VecDeque::new(),
            loaded: 0,
            room,
            eras: 0,
            left_behind: HashMap::new(),
            waiting: HashMap::new(),
            waits: BTreeMap::new(),
            meanwhile: None,
            open: OpenTransactions::default(),
        }
    }

    /// Takes over which leases are held. What was read under others is dropped.
    ///
    /// A shard that is about to be given back, or whose lease was not renewed in time, may yet be kept under the same token while
    /// work on it has not ended. Its lanes stand still until then: to read it anew would be to send what is on its way twice, and
    /// to take the end of one for the end of the other.
    pub(crate) fn hold(&mut self, leases: &[Lease]) {
        let kept: BTreeMap<Shard, i64> = leases.iter().map(|lease| (lease.shard, lease.token)).collect();
        let mut lost: HashSet<Shard> = HashSet::new();
        for (shard, held) in &mut self.shards {
            let same = kept.get(shard) == Some(&held.token);
            let other = !same && kept.contains_key(shard);
            held.stands_still = !same || held.broken;
            if other || (held.stands_still && held.taken == 0) {
                lost.insert(*shard);
            }
        }
        if !lost.is_empty() {
            self.shards.retain(|shard, _| !lost.contains(shard));
            self.by_name.retain(|name, _| !lost.contains(&name.shard()));
            self.ready.retain(|name| !lost.contains(&name.shard()));
            self.suspects.retain(|name| !lost.contains(&name.shard()));
            self.left_behind.retain(|name, _| !lost.contains(&name.shard()));
            self.waiting.retain(|name, _| !lost.contains(&name.shard()));
            self.waits.retain(|(_, shard, _), _| !lost.contains(shard));
            self.loaded = self.by_name.values().map(|lane| lane.rows.len()).sum();
        }
        for (shard, token) in kept {
            self.shards.entry(shard).or_insert_with(|| {
                self.eras += 1;
                Held { token, era: self.eras, ..Held::default() }
            });
        }
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Returns what to read next, if anything and if there is room. [`load`](Self::load) or [`unread`](Self::unread) must follow.
    pub(crate) fn next_page(&mut self) -> Option<(Vec<ReadFrom>, OpenTransactions)> {
        if self.meanwhile.is_some() || self.loaded * 2 > self.room {
            return None;
        }
        let readable = self.shards.iter().filter(|(_, held)| !held.stands_still);
        let asked: Vec<(Shard, u64, Seq)> =
            readable.filter_map(|(shard, held)| Some((*shard, held.era, held.scan.after()?))).collect();
        if asked.is_empty() {
            return None;
        }
        let from = asked.iter().map(|(shard, _, after)| ReadFrom { shard: *shard, after: *after }).collect();
        self.meanwhile = Some(Meanwhile { asked, ..Meanwhile::default() });
        let late_commits = !planted("passes_over_late_commits");
        Some((from, if late_commits { self.open.clone() } else { OpenTransactions::default() }))
    }

    /// Takes note that the page could not be read.
    pub(crate) fn unread(&mut self) {
        let look = self.meanwhile.take().map_or(Look::Nothing, |meanwhile| meanwhile.look);
        self.look(look);
    }

    /// Takes a page over that was read with this limit for each shard.
    pub(crate) fn load(&mut self, page: Page, limit: u32, now: Monotonic) {
        let Some(meanwhile) = self.meanwhile.take() else { return };
        let Page { rows, unreadable, due, snapshot, .. } = page;
        self.open.read(&snapshot);
        let back_to = snapshot.from.unwrap_or(Seq(i64::MAX));
        for held in self.shards.values_mut() {
            // Also those that were not asked for: what has come in sight before their places is to be read before anything new.
            if held.scan.is_beyond(back_to) {
                held.scan.rewind(Seq(back_to.0.saturating_add(1)));
            }
        }
        let mut by_shard: BTreeMap<Shard, BTreeMap<Seq, Loaded>> = BTreeMap::new();
        let readable = rows.into_iter().map(|stored| Loaded::read(stored, now));
        for mut loaded in readable.chain(unreadable.into_iter().map(|bad| Loaded::unreadable(bad, now))) {
            loaded.key = loaded.key.filter(|_| self.ordered);
            by_shard.entry(loaded.row.shard).or_default().insert(loaded.row.seq, loaded);
        }
        let mut new: Vec<(Name, Loaded)> = Vec::new();
        for (shard, era, asked) in &meanwhile.asked {
            let from = (*asked).min(back_to);
            let rows = by_shard.remove(shard).unwrap_or_default();
            let Some(held) = self.shards.get_mut(shard).filter(|held| held.era == *era) else {
                continue;
            };
            let last = rows.keys().next_back().copied();
            held.scan.read(from, last, rows.len() >= limit as usize);
            self.left_behind.retain(|name, place| {
                name.shard() != *shard || *place < from || meanwhile.left_behind.contains(name)
            });
            for loaded in rows.into_values() {
                let name = Name::of(loaded.row, loaded.key.as_ref());
                if self.left_behind.contains_key(&name) || self.is_beyond(&name, from) {
                    continue;
                }
                if meanwhile.ended.contains(&loaded.row) || meanwhile.waiting.contains(&name) {
                    continue;
                }
                match self.waiting.get(&name).copied() {
                    Some(waits) if waits <= from => {
                        // The store would hide it behind the one that waits; so that has gone, and what it held comes first.
                        self.waiting.remove(&name);
                        self.leave_behind(&name, Seq(waits.0.saturating_sub(1)));
                        continue;
                    }
                    Some(waits) if waits <= loaded.row.seq => drop(self.waiting.remove(&name)),
                    _ => {}
                }
                new.push((name, loaded));
            }
        }
        self.put_all(new);
        for row in due {
            if !self.has(row)
                && !meanwhile.ended.contains(&row)
                && let Some(held) = self.shards.get_mut(&row.shard)
            {
                held.go_back(row.seq);
            }
        }
        self.look(meanwhile.look);
    }

    /// Puts rows into their lanes, the first places first, whatever their shards. What was added together lies together in the store,
    /// so what is then settled together does, too; and no shard gets ahead of the others where there is no room for all.
    fn put_all(&mut self, mut rows: Vec<(Name, Loaded)>) {
        rows.sort_unstable_by_key(|(_, loaded)| loaded.row.seq);
        let mut full: HashSet<Shard> = HashSet::new();
        for (name, loaded) in rows {
            let RowId { shard, seq } = loaded.row;
            if full.contains(&shard) || self.put(name, loaded) {
                continue;
            }
            // No room: from here on, its shard is read again.
            full.insert(shard);
            if let Some(held) = self.shards.get_mut(&shard) {
                held.scan.rewind(seq);
            }
        }
    }

    /// Returns whether a row that has waited is on its way, or came back without an answer, and lies before the page. The store may
    /// have it as gone by now, and so show later rows of its key; but those that it held on the pages before are to be read first.
    fn is_beyond(&self, name: &Name, from: Seq) -> bool {
        let Some(lane) = self.by_name.get(name) else { return false };
        let taken = lane.taken.filter(|_| lane.had_waited);
        let back = || lane.rows.iter().find(|(_, loaded)| loaded.waited).map(|(seq, _)| *seq);
        taken.or_else(back).is_some_and(|waited| waited <= from)
    }

    /// Puts a row into its lane. Returns `false` if there is no room at all.
    fn put(&mut self, name: Name, loaded: Loaded) -> bool {
        if self.loaded >= self.room {
            return false;
        }
        let seq = loaded.row.seq;
        let lane = self.by_name.entry(name.clone()).or_default();
        if lane.taken == Some(seq) || lane.rows.contains_key(&seq) {
            return true;
        }
        if lane.left_out.is_some_and(|first| first < seq) {
            return true;
        }
        lane.rows.insert(seq, loaded);
        if lane.rows.len() > LANE_ROOM {
            lane.left_out = lane.rows.pop_last().map(|(seq, _)| seq);
            return true;
        }
        self.loaded += 1;
        if !lane.ready && lane.taken.is_none() {
            lane.ready = true;
            self.ready.push_back(name);
        }
        true
    }

    fn has(&self, row: RowId) -> bool {
        // Rows that are due are few.
        self.by_name
            .iter()
            .filter(|(name, _)| name.shard() == row.shard)
            .any(|(_, lane)| lane.taken == Some(row.seq) || lane.rows.contains_key(&row.seq))
    }

    /// Returns whether no row waits in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.loaded == 0
    }

    /// Returns whether some rows can go together.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Returns whether a row waits to go alone.
    pub(crate) fn has_suspects(&self) -> bool {
        let held = |name: &Name| self.shards.get(&name.shard());
        self.suspects.iter().any(|name| held(name).is_some_and(|held| !held.stands_still))
    }

    /// Takes a suspect, if `enter` says yes to its shard.
    pub(crate) fn take_suspect(&mut self, mut enter: impl FnMut(Lease) -> bool) -> Option<Loaded> {
        for _ in 0..self.suspects.len() {
            let name = self.suspects.pop_front()?;
            let Some(lane) = self.by_name.get(&name) else { continue };
            if !lane.is_suspect() {
                // A row before it was read since.
                self.ready.push_back(name);
            } else if self.may_go(&name, &mut enter) {
                return self.start(&name);
            } else {
                self.suspects.push_back(name);
            }
        }
        None
    }

    /// Takes the first rows of up to `max` lanes, one of each, of shards for which `enter` says yes; no suspects.
    pub(crate) fn take(&mut self, max: usize, mut enter: impl FnMut(Lease) -> bool) -> Vec<Loaded> {
        let mut taken = Vec::new();
        let mut passed = 0;
        while taken.len() < max && passed < self.ready.len() {
            let Some(name) = self.ready.pop_front() else { break };
            let Some(lane) = self.by_name.get(&name) else { continue };
            if lane.is_suspect() {
                self.suspects.push_back(name);
            } else if self.may_go(&name, &mut enter) {
                taken.extend(self.start(&name));
            } else {
                self.ready.push_back(name);
                passed += 1;
            }
        }
        taken
    }

    fn may_go(&self, name: &Name, enter: &mut impl FnMut(Lease) -> bool) -> bool {
        let held = self.shards.get(&name.shard()).filter(|held| !held.stands_still);
        held.is_some_and(|held| enter(Lease { shard: name.shard(), token: held.token }))
    }

    /// Takes the first row of a lane.
    fn start(&mut self, name: &Name) -> Option<Loaded> {
        let held = self.shards.get_mut(&name.shard())?;
        let lane = self.by_name.get_mut(name)?;
        lane.ready = false;
        let (seq, loaded) = lane.rows.pop_first()?;
        lane.taken = Some(seq);
        lane.had_waited = loaded.waited;
        held.taken += 1;
        self.loaded -= 1;
        Some(loaded)
    }

    /// Takes note of what became of a row that was taken under this token.
    pub(crate) fn end(&mut self, row: RowId, key: Option<&OrderingKey>, token: i64, end: End) {
        let Some(held) = self.shards.get_mut(&row.shard).filter(|held| held.token == token) else { return };
        held.taken = held.taken.saturating_sub(1);
        if matches!(end, End::Lost) {
            // Its lane stands still, until the shard is read anew.
            held.broken = true;
            return;
        }
        let name = Name::of(row, key);
        let Some(lane) = self.by_name.get_mut(&name).filter(|lane| lane.taken == Some(row.seq)) else {
            return;
        };
        if let Some(meanwhile) = &mut self.meanwhile
            && matches!(end, End::Gone | End::Waits(_) | End::ReadAgain)
        {
            meanwhile.ended.insert(row);
        }
        match end {
            End::Lost => return,
            End::Waits(_) if planted("goes_on_behind_a_failed_one") => lane.taken = None,
            End::Gone => {
                lane.taken = None;
                let had_waited = lane.had_waited && key.is_some();
                if had_waited {
                    // While it was unsettled, the store showed nothing of its key behind it.
                    self.leave_behind(&name, row.seq);
                }
            }
            End::Back(loaded) => {
                lane.taken = None;
                lane.rows.insert(row.seq, *loaded);
                self.loaded += 1;
            }
            End::Waits(_) | End::ReadAgain => {
                // What comes behind it is read again when its wait is over.
                self.loaded -= lane.rows.len();
                self.by_name.remove(&name);
                if let Some(meanwhile) = &mut self.meanwhile {
                    meanwhile.waiting.insert(name.clone());
                }
                match end {
                    End::Waits(until) if key.is_some() && self.waits.len() < WAITS => {
                        self.waits.insert((until, row.shard, row.seq), name.clone());
                        self.waiting.insert(name, row.seq);
                    }
                    // Or now, if it has left: then nobody says that its wait is over.
                    End::ReadAgain => self.leave_behind(&name, Seq(row.seq.0.saturating_sub(1))),
                    _ => {}
                }
                return;
            }
        }
        let Some(lane) = self.by_name.get_mut(&name) else { return };
        if lane.rows.is_empty() {
            let left_out = lane.left_out;
            self.by_name.remove(&name);
            if let Some(first) = left_out {
                self.leave_behind(&name, Seq(first.0.saturating_sub(1)));
            }
        } else {
            lane.ready = true;
            self.ready.push_back(name);
        }
    }

    /// Reads rows again whose wait is over, and what lies behind them.
    pub(crate) fn waits_end(&mut self, now: Monotonic) {
        while let Some(wait) = self.waits.first_entry()
            && wait.key().0 <= now
        {
            let ((_, _, seq), name) = wait.remove_entry();
            if self.waiting.get(&name) == Some(&seq) {
                self.waiting.remove(&name);
                self.leave_behind(&name, Seq(seq.0.saturating_sub(1)));
            }
        }
    }

    /// Reads the rows of a key behind this place again, and takes no later ones until then.
    fn leave_behind(&mut self, name: &Name, place: Seq) {
        let Some(held) = self.shards.get_mut(&name.shard()) else { return };
        let first = self.left_behind.entry(name.clone()).or_insert(place);
        *first = place.min(*first);
        // From where it was left behind first: a page that begins later does not bring it back.
        held.go_back(Seq(first.0.saturating_add(1)));
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.left_behind.insert(name.clone());
        }
    }

    /// Reads every shard on, since there may be new rows.
    pub(crate) fn look_again(&mut self) {
        self.look(Look::New);
    }

    /// Reads every shard from its beginning.
    pub(crate) fn start_over(&mut self) {
        self.look(Look::All);
    }

    fn look(&mut self, look: Look) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.look = meanwhile.look.max(look);
            return;
        }
        for held in self.shards.values_mut() {
            match look {
                Look::Nothing => {}
                Look::New => held.scan.look_again(),
                Look::All => held.scan.rewind(Seq(0)),
            }
        }
    }

    /// Returns whether some rows are to be read again, and can be now.
    pub(crate) fn wants_back(&self) -> bool {
        self.meanwhile.is_none() && self.shards.values().any(|held| held.again.is_some())
    }

    /// Goes back to the rows that are to be read again.
    pub(crate) fn go_back(&mut self) {
        if self.meanwhile.is_some() {
            return;
        }
        for held in self.shards.values_mut() {
            if let Some(to) = held.again.take() {
                held.scan.rewind(to);
            }
        }
    }

    /// Returns the shards that were read to their end and of which nothing is on its way; none while any row is in memory.
    pub(crate) fn read_through(&self) -> impl Iterator<Item = Shard> {
        let through = |held: &Held| {
            !held.stands_still && held.taken == 0 && held.scan.after().is_none() && held.again.is_none()
        };
        let empty = self.loaded == 0;
        self.shards.iter().filter(move |(_, held)| empty && through(held)).map(|(shard, _)| *shard)
    }

    /// Returns whether everything was read.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.shards
            .values()
            .all(|held| held.stands_still || (held.scan.after().is_none() && held.again.is_none()))
    }
}

impl Lane {
    fn is_suspect(&self) -> bool {
        self.rows.first_key_value().is_some_and(|(_, first)| first.suspicion == Suspicion::Company)
    }
}

impl Held {
    fn go_back(&mut self, to: Seq) {
        self.again = Some(self.again.map_or(to, |again| again.min(to)));
    }
}

impl Name {
    fn of(row: RowId, key: Option<&OrderingKey>) -> Self {
        key.map_or(Self::Alone(row), |key| Self::Key(row.shard, key.clone()))
    }

    const fn shard(&self) -> Shard {
        match self {
            Self::Key(shard, _) => *shard,
            Self::Alone(row) => row.shard,
        }
    }
}

impl Loaded {
    fn read(stored: Stored, now: Monotonic) -> Self {
        let Stored { row, message, attempts, age, failing_for, waited, suspicion } = stored;
        let (key, attempts) = (message.ordering_key().cloned(), Attempts::resume(attempts));
        Self { row, key, content: Ok(message), attempts, age, failing_for, read_at: now, waited, suspicion }
    }

    fn unreadable(bad: Unreadable, now: Monotonic) -> Self {
        let Unreadable { row, key, error } = bad;
        Self {
            row,
            key,
            content: Err(error),
            attempts: Attempts::default(),
            age: Duration::ZERO,
            failing_for: None,
            read_at: now,
            waited: true,
            suspicion: Suspicion::Clear,
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
