use std::fmt;

use relaykit_inbox::sqlite::TransactionalHandler;
use relaykit_inbox::sqlite::rusqlite::Connection;
use relaykit_iterable_handlers::Stamper;
use relaykit_outbox::AddError;
use relaykit_outbox::postgres::PgOutbox;
use relaykit_outbox::sqlite::SqliteOutbox;
use relaykit_persistent_queue::{Queue, Rejected};
use relaykit_pipeline_traits::{
    BatchContext, Classify, ErrorClass, Handler, InvalidMessage, Message, OrderingKey, Verdict,
};
use relaykit_sql_store::postgres::sqlx::{Connection as _, Error as SqlxError, PgPool};
use relaykit_sql_store::{Wake, error_chain};
use serde_json::{Map, Value, json};

use crate::delivery::Event;
use crate::event_line::event_of;

/// Turns a webhook into an event and puts it on the queue's disk. Called again for a webhook, it makes an event of the same id.
pub(super) struct IntoQueue {
    queue: Queue<Event>,
    stamper: Stamper,
}

impl IntoQueue {
    pub(super) fn new(queue: Queue<Event>) -> Self {
        Self { queue, stamper: Stamper::system() }
    }
}

/// Why a handler did not do its part.
#[derive(Debug)]
pub(super) enum HandleError {
    /// It cannot be made an event, now or later.
    NoEvent(String),
    /// It can be tried again.
    Failed(String),
    /// The outbox did not take the receipt.
    Add(AddError),
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEvent(reason) | Self::Failed(reason) => f.write_str(reason),
            Self::Add(error) => f.write_str(&error_chain(error)),
        }
    }
}

impl Classify for HandleError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::NoEvent(_) => ErrorClass::Permanent,
            Self::Failed(_) => ErrorClass::Transient,
            Self::Add(error) => error.class(),
        }
    }
}

fn verdict(done: Result<(), HandleError>) -> Verdict<(), HandleError> {
    match done {
        Ok(()) => Verdict::Done(()),
        Err(error) if error.class() == ErrorClass::Permanent => Verdict::Dead(error),
        Err(error) => Verdict::Retry { after: None, error },
    }
}

impl Handler<Message> for IntoQueue {
    type Output = ();
    type Error = HandleError;

    async fn handle(&self, message: &Message, _cx: &BatchContext) -> Verdict<(), HandleError> {
        let push = async {
            let payload: Map<String, Value> = serde_json::from_slice(message.payload())
                .map_err(|error| HandleError::NoEvent(format!("not a JSON object: {error}")))?;
            let (kind, id) = (message.kind().to_owned(), message.id().to_string());
            let event = event_of(kind, payload, Some(id), None, &self.stamper)
                .map_err(|rejection| HandleError::NoEvent(rejection.reason()))?;
            self.queue.push_durable(event).await.map_err(|Rejected { reason, .. }| {
                HandleError::Failed(format!("the queue did not take it: {reason}"))
            })
        };
        verdict(push.await)
    }
}

/// Makes the receipt of a webhook. It has the webhook's id, so that it is one however often it is made.
fn receipt(message: &Message) -> Result<Message, InvalidMessage> {
    let (id, user) = (message.id(), message.ordering_key().map(OrderingKey::as_str));
    let payload = json!({ "receipt": id.to_string(), "event": id.to_string(), "user": user }).to_string();
    let builder = Message::builder(id, "webhook.received", message.occurred_at()).payload(payload);
    match user {
        Some(user) => builder.ordering_key(user).build(),
        None => builder.build(),
    }
}

fn made(message: &Message) -> Result<Message, HandleError> {
    receipt(message).map_err(|error| HandleError::NoEvent(error.to_string()))
}

/// Writes the receipt in the transaction in which the webhook ends: exactly one for each.
pub(super) struct Receipt {
    outbox: SqliteOutbox,
    relay: Wake,
}

impl Receipt {
    pub(super) const fn new(outbox: SqliteOutbox, relay: Wake) -> Self {
        Self { outbox, relay }
    }
}

impl TransactionalHandler for Receipt {
    type Error = HandleError;

    fn handle(&self, tx: &Connection, message: &Message, _cx: &BatchContext) -> Verdict<(), HandleError> {
        let added = made(message).and_then(|receipt| self.outbox.add(tx, &receipt).map_err(HandleError::Add));
        // Before the commit, so the relay may look too early; it looks again soon after.
        self.relay.nudge();
        verdict(added.map(drop))
    }
}

/// Writes the receipt into an outbox in another database: at least once, and as the same message each time.
pub(super) struct ReceiptElsewhere {
    outbox: PgOutbox,
    pool: PgPool,
    relay: Wake,
}

impl ReceiptElsewhere {
    pub(super) const fn new(outbox: PgOutbox, pool: PgPool, relay: Wake) -> Self {
        Self { outbox, pool, relay }
    }
}

impl Handler<Message> for ReceiptElsewhere {
    type Output = ();
    type Error = HandleError;

    async fn handle(&self, message: &Message, _cx: &BatchContext) -> Verdict<(), HandleError> {
        let failed = |error: SqlxError| HandleError::Failed(format!("Postgres did not take it: {error}"));
        let add = async {
            let receipt = made(message)?;
            let mut connection = self.pool.acquire().await.map_err(failed)?;
            let mut transaction = connection.begin().await.map_err(failed)?;
            self.outbox.add(&mut transaction, &receipt).await.map_err(HandleError::Add)?;
            transaction.commit().await.map_err(failed)
        };
        let added = add.await;
        self.relay.nudge();
        verdict(added)
    }
}
