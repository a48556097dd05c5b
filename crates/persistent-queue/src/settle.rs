use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Codec, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError};
use relaykit_sql_store::torture::crash_point;
use tokio::sync::OwnedSemaphorePermit;

use crate::builder::QueueFault;
use crate::dead::DeadReason;
use crate::fate::Fate;
use crate::format::Records;
use crate::metrics;
use crate::order::{Held, Keys, Staying};
use crate::run::{Decided, Ended, Outcome};
use crate::shared::{MAX_READY, Shared};
use crate::state::{Content, Stored, Tries};
use crate::store::{self, Due, Kept, NewDead, NewRow};
use crate::worker::decode;

/// A batch as it was taken, without its items.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) id: i64,
    pub(crate) added_at: Timestamp,
    pub(crate) tries: Tries,
    pub(crate) deaths: u32,
    pub(crate) first_failed_at: Option<Timestamp>,
    pub(crate) delay: Option<Duration>,
    pub(crate) due: Option<Timestamp>,
    pub(crate) held: Held,
    pub(crate) count: u32,
    pub(crate) bytes: usize,
}

/// What is to be written about some batches after a run.
#[derive(Default)]
struct Plan {
    remove: Vec<i64>,
    kept: Vec<Kept>,
    /// Attempts of what is kept, and how many bytes it has then.
    remember: Vec<(i64, Tries, usize)>,
    /// Which items of what is kept stay; `None`: all of them, and all wait.
    staying: Vec<Option<Vec<Staying>>>,
    dead: Vec<NewDead>,
    done: u64,
    due: Option<Timestamp>,
}

/// Writes down what became of some batches, in one transaction, without waiting for it.
pub(crate) fn settle<T: Send + Sync + 'static>(
    shared: &Arc<Shared<T>>,
    origins: &[Origin],
    merged: bool,
    suspects: &[i64],
    ended: Ended<T>,
    place: OwnedSemaphorePermit,
) {
    let Ended { outcome, pushed, calls, .. } = ended;
    let mut interrupted = 0;
    let plan = match outcome {
        Outcome::AllDone => Plan {
            remove: origins.iter().map(|origin| origin.id).collect(),
            done: origins.iter().map(|origin| u64::from(origin.count)).sum(),
            ..Plan::default()
        },
        Outcome::Untouched => return release(shared, origins, calls),
        Outcome::Each(decided) => {
            interrupted = decided.iter().filter(|one| one.fate.is_none()).count();
            let planner =
                Planner { codec: &*shared.config.codec, level: shared.config.compression, now: shared.now() };
            planner.plan(origins, merged, decided)
        }
    };
    if plan.remove.is_empty() && plan.kept.is_empty() {
        return release(shared, origins, calls);
    }
    let unblocks = {
        let mut state = shared.state();
        state.interrupted_items += interrupted;
        // From here on later items of their keys may be lent: what is written about them is written after this.
        let now = shared.now();
        for id in &plan.remove {
            state.forget(*id, now);
        }
        for (kept, staying) in plan.kept.iter().zip(&plan.staying) {
            state.keep(kept.id, staying.as_deref(), kept.due.map(|due| due.at), now);
        }
        state.wants()
    };
    if unblocks {
        shared.work.notify_one();
    }
    let (tag, level) = (shared.config.codec.tag(), shared.config.compression);
    let pushed = pushed.iter().map(|records| (records.count(), records.seal(tag, level), 0)).collect();
    shared.writer.submit(Box::new(Settle {
        shared: Arc::clone(shared),
        origins: origins.to_vec(),
        suspects: suspects.to_vec(),
        plan,
        pushed,
        pushed_at: shared.now(),
        calls,
        place,
    }));
}

/// Lets go of batches that stay in the file as they are.
fn release<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>, origins: &[Origin], calls: u64) {
    let mut state = shared.state();
    state.counts.calls += calls;
    for origin in origins {
        state.taken.remove(&origin.id);
        state.in_flight_items -= origin.count as usize;
        state.interrupted_items += origin.count as usize;
    }
}

struct Planner<'a, T> {
    codec: &'a dyn Codec<T>,
    level: Option<i32>,
    now: Timestamp,
}

impl<T> Planner<'_, T> {
    fn plan(&self, origins: &[Origin], merged: bool, decided: Vec<Decided<T>>) -> Plan {
        let mut plan = Plan::default();
        let nothing_leaves = decided.iter().all(|one| !one.leaves());
        if merged && !nothing_leaves {
            // Items of several batches have become one. What stays goes to the first batch, all at once.
            self.plan_one(&origins[0], decided, true, &mut plan);
            plan.remove.extend(origins[1..].iter().map(|origin| origin.id));
        } else if merged {
            let stays = decided.iter().find(|one| one.fate.is_some());
            if let Some((attempts, fate)) = stays.and_then(|one| Some((one.attempts, one.fate.as_ref()?))) {
                for origin in origins {
                    self.keep(origin, &[(attempts, Some(fate), None)], None, &mut plan);
                    plan.all_wait();
                }
            }
        } else {
            let mut decided = decided.into_iter();
            for origin in origins {
                let own: Vec<_> = decided.by_ref().take(origin.count as usize).collect();
                self.plan_one(origin, own, false, &mut plan);
            }
        }
        plan
    }

    fn plan_one(&self, origin: &Origin, decided: Vec<Decided<T>>, merged: bool, plan: &mut Plan) {
        let whole = !merged && decided.iter().all(|one| !one.leaves());
        if whole && decided.iter().all(|one| one.fate.is_none()) {
            // The run was interrupted before it came to these.
            return;
        }
        let (mut rest, mut stays, mut lost) = (Records::default(), Vec::new(), false);
        let mut dead: Vec<(DeadReason, String, u32, Records)> = Vec::new();
        let mut done = 0;
        for one in decided {
            match one.fate {
                Some(Fate::Done) => done += 1,
                Some(Fate::Dead { reason, error }) => {
                    let same = dead.iter().position(|(r, e, ..)| *r == reason && *e == error);
                    let at = same.unwrap_or_else(|| {
                        dead.push((reason, error, 0, Records::default()));
                        dead.len() - 1
                    });
                    dead[at].2 = dead[at].2.max(one.attempts.spent());
                    lost |= dead[at].3.push(&one.item, self.codec).is_err();
                }
                stay => {
                    if !whole {
                        lost |= rest.push(&one.item, self.codec).is_err();
                    }
                    stays.push((one.attempts, stay, one.key));
                }
            }
        }
        if lost {
            // What was decoded, or merged, cannot be encoded. Nothing may be lost by that: the batch stays as it is.
            let wait = Fate::Again { wait: Duration::from_secs(1), fresh: false, error: String::new() };
            self.keep(origin, &[(origin.tries.of(0), Some(&wait), None)], None, plan);
            return plan.all_wait();
        }
        plan.done += done;
        plan.dead.extend(dead.into_iter().map(|(reason, error, attempts, records)| NewDead {
            reason,
            error,
            attempts,
            items: records.count(),
            added_at: origin.added_at,
            first_failed_at: origin.first_failed_at.or(Some(self.now)),
            died_at: self.now,
            data: records.seal(self.codec.tag(), self.level),
        }));
        if stays.is_empty() {
            plan.remove.push(origin.id);
            return;
        }
        let rest = (!whole).then(|| (rest.count(), rest.seal(self.codec.tag(), self.level)));
        let stays: Vec<_> =
            stays.iter().map(|(attempts, fate, key)| (*attempts, fate.as_ref(), *key)).collect();
        self.keep(origin, &stays, rest, plan);
    }

    /// Plans that a batch stays, with these attempts of its items, or with one for all.
    fn keep(
        &self,
        origin: &Origin,
        stays: &[(Attempts, Option<&Fate>, Option<u64>)],
        rest: Option<(u32, Vec<u8>)>,
        plan: &mut Plan,
    ) {
        let (mut wait, mut all_fresh) = (None, true);
        let (mut each, mut staying) = (Vec::with_capacity(stays.len()), Vec::new());
        for (attempts, fate, key) in stays {
            let (this, fresh) = match fate {
                Some(Fate::Held) => {
                    each.push(*attempts);
                    staying.push((*key, false));
                    continue;
                }
                Some(Fate::Again { wait, fresh, .. }) => (*wait, *fresh),
                _ => (Duration::ZERO, false),
            };
            wait = wait.max(Some(this));
            all_fresh &= fresh;
            each.push(if fresh { Attempts::default() } else { *attempts });
            staying.push((*key, true));
        }
        let tries = Tries::collect(each);
        let first_failed_at = match wait {
            // Nothing failed.
            None => origin.first_failed_at,
            Some(_) => origin.first_failed_at.or(Some(self.now)).filter(|_| !all_fresh),
        };
        // What waited before this call, and was held, still does.
        let at = wait.map(|wait| self.now + wait).max(origin.due.filter(|due| *due > self.now));
        let due = at.map(|at| Due { at, delay: at.since(self.now) });
        if let Some(due) = due {
            plan.due = Some(plan.due.map_or(due.at, |first| first.min(due.at)));
        }
        let bytes = rest.as_ref().map_or(origin.bytes, |(_, data)| data.len());
        plan.kept.push(Kept {
            id: origin.id,
            due,
            attempts: tries.spent(),
            tries: match &tries {
                Tries::All(_) => None,
                Tries::Each(each) => Some(each.iter().map(Attempts::spent).collect()),
            },
            first_failed_at,
            rest,
        });
        plan.remember.push((origin.id, tries, bytes));
        plan.staying.push(Some(staying));
    }
}

impl Plan {
    /// What was kept last stays as it was, all of it, and waits.
    fn all_wait(&mut self) {
        if let Some(last) = self.staying.last_mut() {
            *last = None;
        }
    }
}

impl<T> Decided<T> {
    pub(crate) const fn leaves(&self) -> bool {
        matches!(self.fate, Some(Fate::Done | Fate::Dead { .. }))
    }
}

struct Settle<T> {
    shared: Arc<Shared<T>>,
    origins: Vec<Origin>,
    suspects: Vec<i64>,
    plan: Plan,
    /// Items, bytes, and the id that the batch is given.
    pushed: Vec<(u32, Vec<u8>, i64)>,
    pushed_at: Timestamp,
    calls: u64,
    /// Held until all this is on disk, so that not too much is on its way.
    place: OwnedSemaphorePermit,
}

impl<T: Send + Sync + 'static> Request for Settle<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        for id in &self.plan.remove {
            store::remove(transaction, *id)?;
        }
        for kept in &self.plan.kept {
            store::keep(transaction, kept)?;
        }
        for dead in &self.plan.dead {
            store::insert_dead(transaction, dead)?;
        }
        for (items, data, id) in &mut self.pushed {
            let row = NewRow { added_at: self.pushed_at, due: None, items: *items, data };
            *id = store::insert(transaction, &row)?;
        }
        for id in &self.suspects {
            store::unclaim(transaction, *id)?;
        }
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let shared = Arc::clone(&self.shared);
        match result {
            Ok(()) => {
                crash_point("settle.on_disk");
                self.settled(&shared);
            }
            Err(SqliteError::Closed) => {}
            Err(error) => {
                shared.fault(&QueueFault::Storage { error: error.to_string() });
                if matches!(error, SqliteError::Full) {
                    shared.state().starved = true;
                    if shared.ballast.drop_it() {
                        // There is room now for what removes.
                        return shared.writer.submit(self);
                    }
                }
                // What was handled must not be lent again while this process lives: it is written down later.
                let retry = Arc::clone(&shared);
                shared.later(move || retry.writer.submit(self));
            }
        }
    }

    fn bytes(&self) -> usize {
        let rest = self.plan.kept.iter().filter_map(|kept| kept.rest.as_ref()).map(|(_, data)| data.len());
        let pushed = self.pushed.iter().map(|(_, data, _)| data.len());
        let dead = self.plan.dead.iter().map(|dead| dead.data.len());
        rest.chain(pushed).chain(dead).sum()
    }

    fn took_effect(&mut self, connection: &Connection) -> SqlResult<Option<bool>> {
        match (self.plan.remove.first(), self.pushed.first()) {
            (Some(id), _) => store::is_there(connection, *id).map(|there| Some(!there)),
            (None, Some((_, _, id))) => store::is_there(connection, *id).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl<T: Send + Sync + 'static> Settle<T> {
    fn settled(self, shared: &Arc<Shared<T>>) {
        let Self { origins, suspects, plan, pushed, pushed_at, calls, place, .. } = self;
        let mut dead_items: Vec<(DeadReason, u64, String)> = Vec::new();
        for dead in plan.dead {
            match dead_items.iter_mut().find(|(reason, ..)| *reason == dead.reason) {
                Some((_, items, _)) => *items += u64::from(dead.items),
                None => dead_items.push((dead.reason, u64::from(dead.items), dead.error)),
            }
        }
        let died: u64 = dead_items.iter().map(|(_, items, _)| items).sum();
        let pushed_items: u64 = pushed.iter().map(|(items, ..)| u64::from(*items)).sum();
        let ordered = shared.config.key.is_some();
        let pushed: Vec<_> = pushed
            .into_iter()
            .map(|(count, data, id)| {
                let keys = match ordered.then(|| decode(shared, &data)) {
                    Some(Ok(items)) => shared.keys(&items),
                    _ => Keys::unknown(),
                };
                (count, data, id, keys)
            })
            .collect();
        let now = shared.now();
        {
            let mut state = shared.state();
            state.starved = false;
            state.counts.processed += plan.done;
            state.counts.calls += calls;
            state.counts.dead += died;
            state.dead_items += died;
            for origin in &origins {
                state.in_flight_items -= origin.count as usize;
                state.taken.remove(&origin.id);
            }
            for id in &suspects {
                state.suspects.remove(id);
            }
            for origin in &origins {
                if plan.remove.contains(&origin.id) {
                    state.unbook(origin.id, origin.count, origin.bytes);
                }
            }
            for (kept, (id, tries, bytes)) in plan.kept.iter().zip(plan.remember) {
                let origin = origins.iter().find(|origin| origin.id == id);
                if let (Some(origin), Some((items, _))) = (origin, &kept.rest) {
                    state.stored.items =
                        (state.stored.items + u64::from(*items)).saturating_sub(u64::from(origin.count));
                    state.stored.bytes =
                        (state.stored.bytes + bytes as u64).saturating_sub(origin.bytes as u64);
                }
                state.remember(id, tries);
                state.put_away(id, now);
            }
            if let Some(due) = plan.due {
                state.wait_until(due);
            }
            state.counts.pushed += pushed_items;
            state.counts.flushed += pushed_items;
            for (count, data, id, keys) in pushed {
                state.book(id, pushed_at, count, data.len());
                let stored = Stored {
                    id,
                    added_at: pushed_at,
                    tries: Tries::default(),
                    deaths: 0,
                    first_failed_at: None,
                    delay: None,
                    due: None,
                    held: Held::default(),
                    count,
                    bytes: data.len(),
                    content: Content::Data(data),
                };
                state.offer(stored, keys, MAX_READY, shared.config.memory_bytes);
            }
        }
        drop(place);
        if plan.due.is_some() {
            shared.keep.notify_one();
        }
        shared.work.notify_one();
        shared.room.notify_waiters();
        shared.record(|recorder, queue| {
            recorder.add(&metrics::PROCESSED, &[queue], plan.done);
            for (reason, items, _) in &dead_items {
                recorder.add(&metrics::DEAD, &[queue, reason.as_str()], *items);
            }
        });
        for (reason, items, error) in dead_items {
            shared.fault(&QueueFault::Dead { items, reason, error });
        }
    }
}

/// A batch that cannot be read, and why.
pub(crate) struct Burial {
    pub(crate) id: i64,
    pub(crate) error: String,
}

/// Moves a batch that cannot be decoded to the dead letters, as it is. It is not in flight any more.
pub(crate) fn bury<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>, origin: &Origin, burial: Burial) {
    let known = Some((origin.count, origin.bytes));
    submit_burial(shared, burial, known, |tx, burial, now| {
        store::bury(tx, burial.id, DeadReason::Undecodable, &burial.error, now)
            .map(|items| u32::try_from(items).unwrap_or(u32::MAX))
    });
}

/// Sets a batch aside whose page is damaged: its bytes are lost, the reason is kept.
pub(crate) fn bury_unread<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>, burial: Burial) {
    submit_burial(shared, burial, None, |tx, burial, now| {
        store::bury_unread(tx, burial.id, &burial.error, now)
    });
}

type Write = fn(&Connection, &Burial, Timestamp) -> SqlResult<u32>;

fn submit_burial<T: Send + Sync + 'static>(
    shared: &Arc<Shared<T>>,
    burial: Burial,
    known: Option<(u32, usize)>,
    write: Write,
) {
    let now = shared.now();
    shared.writer.submit(Box::new(Bury { shared: Arc::clone(shared), burial, known, items: 0, write, now }));
}

struct Bury<T> {
    shared: Arc<Shared<T>>,
    burial: Burial,
    /// Its items and bytes, if it could be read.
    known: Option<(u32, usize)>,
    items: u32,
    write: Write,
    now: Timestamp,
}

impl<T: Send + Sync + 'static> Request for Bury<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        self.items = (self.write)(transaction, &self.burial, self.now)?;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, burial, known, items, .. } = *self;
        match result {
            Ok(()) => {
                let (count, bytes) = known.unwrap_or((items, 0));
                let (items, reason) = (u64::from(count), DeadReason::Undecodable);
                {
                    let mut state = shared.state();
                    state.taken.remove(&burial.id);
                    state.suspects.remove(&burial.id);
                    state.forget(burial.id, shared.now());
                    state.unbook(burial.id, count, bytes);
                    state.dead_items += items;
                    state.counts.dead += items;
                }
                shared.room.notify_waiters();
                shared.work.notify_one();
                shared
                    .record(|recorder, queue| recorder.add(&metrics::DEAD, &[queue, reason.as_str()], items));
                shared.fault(&QueueFault::Dead { items, reason, error: burial.error });
            }
            // It stays taken, so that it is not read again and again, until the next start.
            Err(failed) => shared.fault(&QueueFault::Storage { error: failed.to_string() }),
        }
    }
}
