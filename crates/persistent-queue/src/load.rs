use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Attempts, Failure, RetryDecision, RetryPolicy, Rng, Timestamp};
use relaykit_sql_store::sqlite::rusqlite::{Connection, Result as SqlResult};
use relaykit_sql_store::sqlite::{Request, SqliteError};

use crate::builder::QueueFault;
use crate::settle::{Burial, bury_unread};
use crate::shared::{MAX_READY, Shared};
use crate::state::{Content, Stored, Tries};
use crate::store::{self, Page};

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
    read: bool,
}

enum What {
    /// Those after this one, in the order of their ids.
    After(i64),
    /// Those that have waited long enough, besides those that are taken.
    Due { now: Timestamp, taken: HashSet<i64> },
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
        let after = (state.more && !state.loading && low).then_some(What::After(state.cursor));
        state.loading |= after.is_some();
        let now = shared.now();
        let due = (!state.loading_due && state.next_due.is_some_and(|due| due <= now))
            .then(|| What::Due { now, taken: state.taken.clone() });
        if due.is_some() {
            state.loading_due = true;
            // Whatever begins to wait from here on is noted afresh. What is read may not know of it yet.
            state.next_due = None;
        }
        [after, due]
    };
    for what in wanted.into_iter().flatten() {
        let load =
            Load { shared: Arc::clone(shared), what, page: Page::default(), next_due: None, read: false };
        shared.writer.submit(Box::new(load));
    }
}

impl<T: Send + Sync + 'static> Request for Load<T> {
    fn run(&mut self, transaction: &Connection) -> SqlResult<()> {
        let bytes = PAGE_BYTES.min(self.shared.config.memory_bytes.max(1));
        match &self.what {
            What::After(id) => {
                self.page = store::page(transaction, *id, PAGE_BATCHES.min(MAX_READY), bytes)?;
            }
            What::Due { now, taken } => {
                (self.page, self.next_due) = store::due(transaction, *now, taken, PAGE_BATCHES, bytes)?;
            }
        }
        self.read = true;
        Ok(())
    }

    fn answer(self: Box<Self>, result: Result<(), SqliteError>) {
        let Self { shared, what, page, next_due, read } = *self;
        // After SQLite has met a damaged page, it refuses to commit. What was read is read all the same.
        let result = if read && !page.damaged.is_empty() { Ok(()) } else { result };
        if let Err(error) = &result
            && !matches!(error, SqliteError::Closed)
        {
            shared.fault(&QueueFault::Storage { error: error.to_string() });
        }
        let damaged = {
            let mut state = shared.state();
            let after = matches!(what, What::After(_));
            if after {
                state.loading = false;
            } else {
                state.loading_due = false;
            }
            if result.is_err() {
                state.rest_until = Some(shared.config.clock.monotonic() + REST);
            } else if after {
                state.more = page.more;
                state.cursor = state.cursor.max(page.last.unwrap_or(0));
            } else if let Some(due) = next_due {
                state.wait_until(due);
            }
            if let (What::Due { now, .. }, Err(_)) = (&what, &result) {
                state.wait_until(*now);
            }
            let mut rows = Vec::with_capacity(page.rows.len());
            for row in page.rows {
                if !state.taken.contains(&row.id) {
                    let remembered = state.waiting.remove(&row.id);
                    rows.push(taken_up(row, remembered));
                }
            }
            if after {
                for stored in rows {
                    state.put(stored);
                }
            } else {
                // They are older than all that was not lent yet.
                for stored in rows.into_iter().rev() {
                    state.put_first(stored);
                }
            }
            state.taken.extend(page.damaged.iter().map(|(id, _)| *id));
            page.damaged
        };
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

fn taken_up<T>(row: store::Row, remembered: Option<Tries>) -> Stored<T> {
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
        count: row.items,
        bytes: row.data.len(),
        content: Content::Data(row.data),
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
