use std::collections::HashMap;
use std::time::Duration;

use relaykit_pipeline_traits::{Message, MessageId, OrderingKey};
use relaykit_sql_store::postgres::row::micros;
use relaykit_sql_store::postgres::{PgTimestamp, PgUuid, driver_error};
use relaykit_sql_store::{Names, Sql, StoreError};
use sqlx::{PgConnection, Row};

use super::queries;
use super::statement::AddStatement;
use crate::added::{AddError, Added};
use relaykit_sql_store::message::{read_headers, write_headers};
use relaykit_sql_store::{Limits, TooLarge};

const OP: &str = "add messages";

/// How often an add is tried while other transactions add and send messages of the same ids.
const MAX_TRIES: u32 = 5;

/// Adds messages to an outbox in Postgres, in the caller's own transaction. Cheap to clone.
///
/// ```no_run
/// # use relaykit_outbox::{AddError, Limits, postgres::PgOutbox};
/// # use relaykit_pipeline_traits::Message;
/// # use sqlx::Connection;
/// # async fn order(conn: &mut sqlx::PgConnection, message: &Message) -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = PgOutbox::new(&relaykit_sql_store::Names::new("outbox")?, Limits::default());
///
/// let mut tx = conn.begin().await?;
/// sqlx::query("insert into orders default values").execute(&mut *tx).await?;
/// outbox.add(&mut tx, message).await?;
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PgOutbox {
    limits: Limits,
    add: Sql,
    add_json: Sql,
    persistent: bool,
}

impl PgOutbox {
    /// Makes an outbox on the tables of these names.
    #[must_use]
    pub fn new(names: &Names, limits: Limits) -> Self {
        let names = names.on_postgres();
        let sql = |text| Sql::new(&names, &[text]);
        Self { limits, add: sql(queries::CALL_ADD_ALL), add_json: sql(queries::ADD_JSON), persistent: true }
    }

    /// Says that a pooler in transaction mode stands before the server. Default: no.
    ///
    /// Statements are prepared anew each time then, which costs a round trip.
    #[must_use]
    pub const fn behind_pooler(mut self, pooler: bool) -> Self {
        self.persistent = !pooler;
        self
    }

    /// Adds a message, in the transaction that is open on this connection. It is sent if, and after, that commits.
    ///
    /// The same message is known as long as it is not sent. After that it is new again, archive or not.
    ///
    /// # Errors
    ///
    /// It is too large, or another one has its id; then nothing was written, and the transaction can go on. After an
    /// error of the store, roll it back.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, roll the transaction back.
    pub async fn add(&self, tx: &mut PgConnection, message: &Message) -> Result<Added, AddError> {
        self.add_one(tx, message, None).await
    }

    /// Adds a message that is not sent before `delay` has passed, counted by the server from now on.
    ///
    /// It holds the later messages of its key as long, and as one that waits for a retry does. Delays beyond a century count as
    /// one.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    ///
    /// # Cancel safety
    ///
    /// As [`add`](Self::add).
    pub async fn add_after(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        delay: Duration,
    ) -> Result<Added, AddError> {
        self.add_one(tx, message, Some(delay)).await
    }

    /// Adds messages in their order, at most [`MAX_ADDED`](crate::MAX_ADDED), and answers each. It is one round trip unless
    /// one of the ids is there already.
    ///
    /// A message that is in the list twice is added once.
    ///
    /// # Errors
    ///
    /// One is too large, or another message has the id of one; then nothing was written, and the transaction can go on.
    /// There is one exception: if another transaction, not yet ended when this began, adds another message of the
    /// same id meanwhile, those before it in the list may be written. So roll back after
    /// [`AddError::IdConflict`] unless ids are never shared. After an error of the store, roll back.
    ///
    /// # Cancel safety
    ///
    /// As [`add`](Self::add).
    pub async fn add_all(&self, tx: &mut PgConnection, messages: &[Message]) -> Result<Vec<Added>, AddError> {
        self.limits.check_all(messages)?;
        let (distinct, mut answers) = without_repeats(messages)?;
        let added = self.insert(tx, &distinct, None).await?;
        for (answer, message) in answers.iter_mut().zip(messages) {
            if *answer == Added::Added && !added.contains(&message.id()) {
                *answer = Added::AlreadyAdded;
            }
        }
        Ok(answers)
    }

    /// Writes a statement that adds messages, for drivers other than sqlx: run it in your transaction, with its one
    /// parameter as `text`.
    ///
    /// It returns a row for each message that it adds, with the id as text. A message whose id is there already is
    /// passed over *silently, also if its content is another*: where that matters, compare the ids that come back.
    ///
    /// # Errors
    ///
    /// A message is too large, or there are too many.
    pub fn statement(&self, messages: &[Message]) -> Result<AddStatement, TooLarge> {
        self.limits.check_all(messages)?;
        Ok(AddStatement::new(self.add_json.as_str(), messages))
    }

    async fn add_one(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        delay: Option<Duration>,
    ) -> Result<Added, AddError> {
        self.limits.check(message)?;
        let added = self.insert(tx, &[message], delay).await?;
        Ok(if added.is_empty() { Added::AlreadyAdded } else { Added::Added })
    }

    /// Adds messages of distinct ids, and returns the ids of those that were not there.
    async fn insert(
        &self,
        tx: &mut PgConnection,
        messages: &[&Message],
        delay: Option<Duration>,
    ) -> Result<Ids, AddError> {
        let mut left = messages.to_vec();
        let mut added = Ids::new();
        for _ in 0..MAX_TRIES {
            let found = self.try_insert(tx, &left, delay).await.map_err(|error| driver_error(OP, error))?;
            let mut there = Ids::new();
            for (number, found) in found {
                let message = left[number];
                match found {
                    Found::Added => added.insert(message.id()),
                    Found::Same { headers } if is_same(message, &headers) => there.insert(message.id()),
                    Found::Same { .. } | Found::Other => {
                        return Err(AddError::IdConflict { id: message.id() });
                    }
                };
            }
            left.retain(|message| !added.contains(&message.id()) && !there.contains(&message.id()));
            if left.is_empty() {
                return Ok(added);
            }
        }
        let source = "other transactions add and remove messages of the same ids".into();
        Err(StoreError::Conflict { op: OP, tries: MAX_TRIES, source }.into())
    }

    async fn try_insert(
        &self,
        tx: &mut PgConnection,
        messages: &[&Message],
        delay: Option<Duration>,
    ) -> Result<Vec<(usize, Found)>, sqlx::Error> {
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(&self.add)
            .persistent(self.persistent)
            .bind(all(messages, |message| PgUuid(message.id().as_uuid())))
            .bind(all(messages, Message::kind))
            .bind(all(messages, |message| message.ordering_key().map(OrderingKey::as_str)))
            .bind(all(messages, |message| &message.payload()[..]))
            .bind(all(messages, |message| write_headers(message.headers())))
            .bind(all(messages, |message| PgTimestamp(message.occurred_at())))
            .bind(delay.map(micros))
            .fetch_all(tx)
            .await?;
        rows.iter()
            .map(|row| {
                let number = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
                let found = match (row.try_get(1)?, row.try_get(2)?) {
                    (true, _) => Found::Added,
                    (false, true) => Found::Same { headers: row.try_get(3)? },
                    (false, false) => Found::Other,
                };
                // They are counted from 1.
                Ok((number.saturating_sub(1), found))
            })
            .collect()
    }
}

/// Collects a part of each message.
fn all<'m, T>(messages: &[&'m Message], part: impl Fn(&'m Message) -> T) -> Vec<T> {
    messages.iter().map(|message| part(message)).collect()
}

type Ids = std::collections::HashSet<MessageId>;

/// What the statement says about a message.
enum Found {
    Added,
    /// One of its id was there, with the same kind, key and payload.
    Same {
        headers: String,
    },
    /// One of its id was there, with others.
    Other,
}

fn is_same(message: &Message, headers: &str) -> bool {
    read_headers(headers).is_ok_and(|headers| headers == *message.headers())
}

/// Finds the messages that are in a list for the first time, and answers those that are not.
fn without_repeats(messages: &[Message]) -> Result<(Vec<&Message>, Vec<Added>), AddError> {
    let mut first: HashMap<MessageId, &Message> = HashMap::with_capacity(messages.len());
    let mut distinct = Vec::with_capacity(messages.len());
    let mut answers = Vec::with_capacity(messages.len());
    for message in messages {
        match first.insert(message.id(), message) {
            None => {
                distinct.push(message);
                answers.push(Added::Added);
            }
            Some(same) if has_same_content(same, message) => answers.push(Added::AlreadyAdded),
            Some(_) => return Err(AddError::IdConflict { id: message.id() }),
        }
    }
    Ok((distinct, answers))
}

/// Compares what counts; the times do not.
fn has_same_content(one: &Message, other: &Message) -> bool {
    one.kind() == other.kind()
        && one.ordering_key() == other.ordering_key()
        && one.payload() == other.payload()
        && one.headers() == other.headers()
}
