use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_inbox::postgres::{PgInboxStore, PgTransactional, TransactionalHandler};
use relaykit_inbox::sqlite::{self, SqliteInboxStore, SqliteTransactional, rusqlite};
use relaykit_inbox::{Handlers, InboxStore, Registration};
use relaykit_pipeline_traits::{BatchContext, Handler, Message, Rng, Verdict};
use relaykit_retry::Backoff;
use relaykit_sql_store::postgres::sqlx::{self, PgConnection};
use relaykit_sql_store::{Names, Sql};

use super::stream::{KIND, calls, effects};
use crate::history::{Event, Id, Said};
use crate::item::Item;
use crate::queue::child::Mood;
use crate::stage::call::Call;
use crate::stage::ledger::Ledger;
use crate::stage::plan::Plan;
use crate::stage::temper::{Misdeed, Temper};

/// How many messages of the plain handler are on their way at the most.
pub(super) const CONCURRENCY: usize = 16;

/// Of the transactional one. Each takes a connection.
const TRANSACTIONS: usize = 2;

/// Connections of a worker: one for each transaction, and two.
pub(super) const CONNECTIONS: u32 = 4;

/// Registers both handlers.
pub(super) fn handlers<S: InboxStore>(
    ledger: &Arc<Ledger>,
    answered: &Arc<Answered>,
    temper: Temper,
    effect: S::Transactional,
    limit: Duration,
) -> anyhow::Result<Handlers<S>> {
    let soon = Duration::from_millis(5);
    let retry = Backoff::fixed(soon).unlimited_attempts().max_hint(soon).build()?;
    let plain = Calls { ledger: Arc::clone(ledger), answered: Arc::clone(answered), temper };
    let calls: Registration<S> = Registration::new(calls(), plain).concurrency(CONCURRENCY);
    let effects = Registration::transactional(effects(), effect).concurrency(TRANSACTIONS);
    let mut handlers = Handlers::new();
    for registration in [calls, effects] {
        let registration = registration.on(KIND).ordered().timeout(limit);
        handlers.register(registration.retry(retry))?;
    }
    Ok(handlers)
}

fn item(message: &Message) -> Option<Item> {
    serde_json::from_slice(message.payload()).ok().filter(Item::is_whole)
}

/// Tells the ledger.
struct Calls {
    ledger: Arc<Ledger>,
    temper: Temper,
    answered: Arc<Answered>,
}

/// What the plain handler has answered to be done or dead. The engine may not have taken that, since another of the batch took too long.
#[derive(Debug, Default)]
pub(super) struct Answered(Mutex<HashSet<Id>>);

impl Answered {
    fn decided(&self, id: Id) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    }

    /// Takes note that the engine says that it failed. Returns whether the handler had said otherwise.
    pub(super) fn failed(&self, id: Id) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

impl Handler<Message> for Calls {
    type Output = ();
    type Error = Mood;

    async fn handle(&self, message: &Message, _: &BatchContext) -> Verdict<(), Mood> {
        self.temper.dawdle().await;
        let Some(Item { id, key, .. }) = item(message) else {
            self.ledger.say(&[Event::Wrong { id: 0 }]);
            return Verdict::Done(());
        };
        self.temper.takes(key);
        let misdeed = self.temper.misdeed();
        if let Some(misdeed) = misdeed {
            self.ledger.say(&[misdeed.told()]);
        }
        match misdeed {
            Some(Misdeed::Refuses | Misdeed::WantsItAgain) => {
                return Verdict::Retry { after: None, error: Mood };
            }
            Some(Misdeed::PanicsAtOnce) => panic!("a handler that panics"),
            _ => {}
        }
        let said = self.temper.says();
        let call = Call::told(&self.ledger, vec![Event::Lent { id, key, said }]);
        match misdeed {
            Some(Misdeed::Panics) => panic!("a handler that panics"),
            Some(Misdeed::Hangs) => std::future::pending().await,
            Some(Misdeed::Blocks) => Temper::block(),
            // Nobody can tell what became of it.
            Some(Misdeed::AnswersTooFew | Misdeed::BlamesAll) => {
                return Verdict::Retry { after: None, error: Mood };
            }
            _ => {}
        }
        self.temper.dawdle().await;
        call.answers();
        if said != Said::Again {
            self.answered.decided(id);
        }
        verdict(said)
    }
}

fn verdict(said: Said) -> Verdict<(), Mood> {
    match said {
        Said::Again => Verdict::Retry { after: None, error: Mood },
        Said::Dead => Verdict::Dead(Mood),
        Said::Done => Verdict::Done(()),
    }
}

/// Writes a row for each message, in the transaction in which it ends; and fails now and then, after that.
pub(super) struct Effects {
    insert: Sql,
    temper: Temper,
}

impl Effects {
    pub(super) fn new(names: &Names, rng: Rng, plan: &Plan) -> Self {
        // Nothing keeps a second row out, so that it is seen.
        let insert = Sql::new(names, &["insert into {effects} (id) values ($1)"]);
        Self { insert, temper: Temper::new(rng, plan) }
    }

    /// Answers, or does not, when it has written.
    fn ends(&self, written: bool) -> Verdict<(), Mood> {
        match self.temper.misdeed() {
            Some(Misdeed::Panics) => panic!("a handler that panics"),
            Some(Misdeed::Blocks) => Temper::block(),
            _ => {}
        }
        // Whoever has lost its session fails. None is given up, so that each has one effect.
        let said = if written { self.temper.says() } else { Said::Again };
        verdict(if said == Said::Dead { Said::Again } else { said })
    }
}

impl TransactionalHandler for Effects {
    type Error = Mood;

    async fn handle(&self, tx: &mut PgConnection, message: &Message, _: &BatchContext) -> Verdict<(), Mood> {
        let id = item(message).map_or(0, |item| item.id);
        self.temper.dawdle().await;
        let written = sqlx::query(self.insert.clone()).bind(id.cast_signed()).execute(tx).await;
        if self.temper.misdeed() == Some(Misdeed::Hangs) {
            std::future::pending::<()>().await;
        }
        self.temper.dawdle().await;
        self.ends(written.is_ok())
    }
}

impl sqlite::TransactionalHandler for Effects {
    type Error = Mood;

    fn handle(&self, tx: &rusqlite::Connection, message: &Message, _: &BatchContext) -> Verdict<(), Mood> {
        let id = item(message).map_or(0, |item| item.id);
        let written = tx.execute(self.insert.as_str(), [id.cast_signed()]);
        self.ends(written.is_ok())
    }
}

/// What a store makes of it.
pub(super) trait Effective: InboxStore {
    fn effective(effects: Effects) -> Self::Transactional;
}

impl Effective for PgInboxStore {
    fn effective(effects: Effects) -> PgTransactional {
        effects.into()
    }
}

impl Effective for SqliteInboxStore {
    fn effective(effects: Effects) -> SqliteTransactional {
        effects.into()
    }
}
