use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Failure, RetryDecision, RetryPolicy, Rng, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError};

use crate::builder::QueueFault;
use crate::order::{Held, Keys};
use crate::settle::{Burial, bury_unread};
use crate::shared::{MAX_READY, Shared};
use crate::state::{Content, State, Stored, Tries};
use crate::store::{self, Page, Row, Which};
use crate::worker::decode;

/// The most batches that are read at once, and the most bytes of them.
const PAGE_BATCHES: usize = 1_024;
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How long the file is left alone after it could not be read.
pub(crate) const REST: Duration = Duration::from_secs(1);

/// Reads stored batches from the file.
struct Load<T> {
    shared: Arc<Shared<T>>,
    what: What,
    page: Page,
    next_due: Option<Timestamp>,
    /// Batches that were asked for, and not looked at yet.
    left: Vec<i64>,
    read: bool,
}

enum What {
    /// Those after this one, in the order of their ids.
    After(i64),
    /// Those up to the last one that have waited long enough, besides those that are taken.
    Due { now: Timestamp, last: i64, taken: HashSet<i64> },
    /// These, of which something may be lent since older ones of their keys are done.
    These(Vec<i64>),
}

/// Begins to read what may be lent and is not in memory, unless that is under way.
pub(crate) fn load<T: Send + Sync + 'static>(shared: &Arc<Shared<T>>) {
    let wanted = {
        let mut state = shared.state();
        let rests = state.rest_until.is_some_and(|until| shared.config.clock.monotonic() < until);
        if state.paused || rests {
            return;
        }
        // Read ahead, so that workers need not wait, but not beyond what memory may hold.
        let low =
            state.ready.len() <= PAGE_BATCHES / 4 && state.cached_bytes <= shared.config.memory_bytes / 2;
        let after = (state.more && !state.loading && low && state.line_has_room())
            .then_some(What::After(state.cursor));
        state.loading |= after.is_some();
        let now = shared.now();
        let due = (!state.loading_due && state.next_due.is_some_and(|due| due <= now)).then(|| {
            // Those after the cursor are found in their turn: older ones may hold their keys.
            let last = if state.line.is_some() { state.cursor } else { i64::MAX };
            What::Due { now, last, taken: state.taken.clone() }
        });
        if due.is_some() {
            state.loading_due = true;
            // Whatever begins to wait from here on is noted afresh. What is read may not know of it yet.
            state.next_due = None;
        }
        let wanted = state.line.as_mut().map(|line| line.take_wanted(PAGE_BATCHES)).unwrap_or_default();
        let these = (!wanted.is_empty()).then_some(What::These(wanted));
        [after, due, these]
    };
    for what in wanted.into_iter().flatten() {
        let load = Load {
            shared: Arc::clone(shared),
            what,
            page: Page::default(),
            next_due: None,
            left: Vec::new(),
            read: false,
        };
        shared.writer.submit(Box::new(load));
    }
}

impl<T: Send + Sync + 'static> Request for Load<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        let bytes = PAGE_BYTES.min(self.shared.config.memory_bytes.max(1));
        match &self.what {
            What::After(id) => {
                let which = if self.shared.config.key.is_some() { Which::All } else { Which::AtOnce };
                self.page = store::page(transaction, which, *id, PAGE_BATCHES.min(MAX_READY), bytes)?;
            }
            What::Due { now, last, taken } => {
                (self.page, self.next_due) =
                    store::due(transaction, *now, *last, taken, PAGE_BATCHES, bytes)?;
            }
            What::These(ids) => (self.page, self.left) = store::these(transaction, ids, bytes)?,
        }
        self.read = true;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, what, page, next_due, left, read } = *self;
        // After SQLite has met a damaged page, it refuses to commit. What was read is read all the same.
        let result = if read && !page.damaged.is_empty() { Ok(()) } else { result };
        if let Err(error) = &result
            && !matches!(error, SqliteError::Closed)
        {
            shared.fault(&QueueFault::Storage { error: error.to_string() });
        }
        let Page { rows, damaged, last, more } = page;
        let in_turn = matches!(what, What::After(_));
        let rows: Vec<_> = rows.into_iter().map(|row| open(&shared, row, in_turn)).collect();
        {
            let mut state = shared.state();
            if result.is_err() {
                state.rest_until = Some(shared.config.clock.monotonic() + REST);
            }
            match what {
                What::After(_) => {
                    state.loading = false;
                    if result.is_ok() {
                        put_in_turn(&mut state, rows, last, more, shared.now());
                    }
                }
                What::Due { now, .. } => {
                    state.loading_due = false;
                    if let Some(due) = if result.is_ok() { next_due } else { Some(now) } {
                        state.wait_until(due);
                    }
                    put_before(&mut state, rows);
                }
                What::These(ids) => {
                    let again = if result.is_ok() { left } else { ids };
                    put_before(&mut state, rows);
                    if let Some(line) = &mut state.line {
                        line.want(again);
                    }
                }
            }
            state.taken.extend(damaged.iter().map(|(id, _)| *id));
        }
        for (id, error) in damaged {
            bury_unread(&shared, Burial { id, error });
        }
        // The keeper sets its timer anew.
        shared.keep.notify_one();
        if result.is_ok() {
            shared.work.notify_one();
        }
    }
}

/// Puts batches behind all others, as far as their keys have room.
fn put_in_turn<T>(
    state: &mut State<T>,
    rows: Vec<(Row, Opened<T>)>,
    last: Option<i64>,
    more: bool,
    now: Timestamp,
) {
    for (row, opened) in rows {
        if !state.line_has_room() {
            state.more = true;
            return;
        }
        state.cursor = state.cursor.max(row.id);
        if state.taken.contains(&row.id) {
            continue;
        }
        let waits = row.due.filter(|due| *due > now);
        if let Some(line) = &mut state.line {
            line.add(row.id, opened.keys, waits);
        }
        if let Some(due) = waits {
            state.wait_until(due);
            continue;
        }
        let remembered = state.waiting.remove(&row.id);
        state.put(taken_up(row, remembered, opened.items));
    }
    state.more = more;
    state.cursor = state.cursor.max(last.unwrap_or(0));
}

/// Puts batches before those that were not lent yet: they are older.
fn put_before<T>(state: &mut State<T>, rows: Vec<(Row, Opened<T>)>) {
    for (row, opened) in rows.into_iter().rev() {
        let free = match &state.line {
            Some(line) => line.is_away(row.id),
            None => !state.taken.contains(&row.id),
        };
        if !free {
            continue;
        }
        if let Some(line) = &mut state.line {
            line.bring(row.id);
        }
        let remembered = state.waiting.remove(&row.id);
        state.put_first(taken_up(row, remembered, opened.items));
    }
}

/// What a stored batch holds, as far as that had to be found out.
struct Opened<T> {
    keys: Keys,
    items: Option<Vec<T>>,
}

/// Decodes a batch that is seen first, if the items of a key keep their order.
fn open<T: Send + Sync + 'static>(shared: &Shared<T>, row: Row, first: bool) -> (Row, Opened<T>) {
    if !first || shared.config.key.is_none() {
        return (row, Opened { keys: Keys::default(), items: None });
    }
    let opened = match decode(shared, &row.data) {
        Ok(items) => Opened { keys: shared.keys(&items), items: Some(items) },
        // Whoever takes it sets it aside.
        Err(_) => Opened { keys: Keys::unknown(), items: None },
    };
    (row, opened)
}

fn taken_up<T>(row: Row, remembered: Option<Tries>, items: Option<Vec<T>>) -> Stored<T> {
    let tries = remembered.unwrap_or_else(|| match &row.tries {
        Some(each) => Tries::Each(each.iter().copied().map(restored).collect()),
        None => Tries::All(restored(row.attempts)),
    });
    Stored {
        id: row.id,
        added_at: row.added_at,
        tries,
        deaths: row.deaths,
        first_failed_at: row.first_failed_at,
        delay: (!row.delay.is_zero()).then_some(row.delay),
        due: row.due,
        held: Held::default(),
        count: row.items,
        bytes: row.data.len(),
        content: items.map_or(Content::Data(row.data), Content::Items),
    }
}

/// Counts attempts as they were counted before the file was closed.
fn restored(spent: u32) -> Attempts {
    /// More attempts than this are all the same to any policy.
    const MOST: u32 = 100_000;

    #[derive(Debug)]
    struct AtOnce;

    impl RetryPolicy for AtOnce {
        fn decide(&self, _failure: &Failure, _rng: &mut Rng) -> RetryDecision {
            RetryDecision::RetryAfter(Duration::ZERO)
        }
    }

    let mut attempts = Attempts::default();
    let spent = spent.min(MOST);
    for _ in 1..spent {
        attempts.settled();
    }
    if spent > 0 {
        // The last one as a failure, since that is what it was: waits go on where they were.
        let _ = attempts.failed(Failure::of_attempt(0), &AtOnce, &mut Rng::seeded(0));
    }
    attempts
}
