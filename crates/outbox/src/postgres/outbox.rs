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
    add_one: Sql,
    add_new: Sql,
    known: Sql,
    add_json: Sql,
    persistent: bool,
}

impl PgOutbox {
    /// Makes an outbox on the tables of these names.
    #[must_use]
    pub fn new(names: &Names, limits: Limits) -> Self {
        let names = names.on_postgres();
        let sql = |text| Sql::new(&names, &[text]);
        Self {
            limits,
            add_one: sql(queries::ADD_ONE),
            add_new: sql(queries::CALL_ADD_NEW),
            known: sql(queries::CALL_KNOWN),
            add_json: sql(queries::ADD_JSON),
            persistent: true,
        }
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
    /// A message that is in the list twice is added once. The list is written in a subtransaction: a transaction that adds
    /// hundreds of lists is better off with fewer and longer ones.
    ///
    /// # Errors
    ///
    /// One is too large, or another message has the id of one; then nothing was written, and the transaction can go on.
    /// After an error of the store, roll it back.
    ///
    /// # Cancel safety
    ///
    /// As [`add`](Self::add).
    pub async fn add_all(&self, tx: &mut PgConnection, messages: &[Message]) -> Result<Vec<Added>, AddError> {
        self.limits.check_all(messages)?;
        let (distinct, mut answers) = without_repeats(messages)?;
        let there = self.insert(tx, distinct, None).await?;
        for (answer, message) in answers.iter_mut().zip(messages) {
            if there.contains(&message.id()) {
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
        let there = self.insert(tx, vec![message], delay).await?;
        Ok(if there.is_empty() { Added::Added } else { Added::AlreadyAdded })
    }

    /// Adds messages of distinct ids, and returns the ids of those that were there. `delay` is for one alone.
    async fn insert(
        &self,
        tx: &mut PgConnection,
        mut messages: Vec<&Message>,
        delay: Option<Duration>,
    ) -> Result<Ids, AddError> {
        let mut there = Ids::new();
        for _ in 0..MAX_TRIES {
            let added = match messages[..] {
                [] => Ok(true),
                [message] => self.add_one_new(tx, message, delay).await,
                _ => self.add_new(tx, &messages).await,
            };
            if added.map_err(failed)? {
                return Ok(there);
            }
            // Those that are not there now either were sent since, or are out of sight.
            for (number, found) in self.known(tx, &messages).await.map_err(failed)? {
                let Some(message) = messages.get(number) else { continue };
                match found {
                    Found::Same { headers } if is_same(message, &headers) => there.insert(message.id()),
                    Found::Same { .. } | Found::Other => {
                        return Err(AddError::IdConflict { id: message.id() });
                    }
                };
            }
            messages.retain(|message| !there.contains(&message.id()));
        }
        if messages.is_empty() {
            return Ok(there);
        }
        let source = "other transactions add and remove messages of the same ids".into();
        Err(StoreError::Conflict { op: OP, tries: MAX_TRIES, source }.into())
    }

    /// Adds a message unless one of its id is there, and returns whether it did.
    async fn add_one_new(
        &self,
        tx: &mut PgConnection,
        message: &Message,
        delay: Option<Duration>,
    ) -> Result<bool, sqlx::Error> {
        let id = message.id().as_uuid();
        let key = message.ordering_key().map(OrderingKey::as_str);
        let hashed = key.map_or_else(|| id.to_string(), str::to_owned);
        let query = sqlx::query(&self.add_one).persistent(self.persistent);
        let query = query.bind(hashed.into_bytes()).bind(PgUuid(id)).bind(message.kind()).bind(key);
        let query = query.bind(&message.payload()[..]).bind(write_headers(message.headers()));
        let query = query.bind(PgTimestamp(message.occurred_at())).bind(delay.map(micros));
        Ok(query.execute(tx).await?.rows_affected() > 0)
    }

    /// Adds all messages, or none if one of their ids is there, and returns whether it did.
    async fn add_new(&self, tx: &mut PgConnection, messages: &[&Message]) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(&self.add_new)
            .persistent(self.persistent)
            .bind(all(messages, |message| PgUuid(message.id().as_uuid())))
            .bind(all(messages, Message::kind))
            .bind(all(messages, |message| message.ordering_key().map(OrderingKey::as_str)))
            .bind(all(messages, |message| &message.payload()[..]))
            .bind(all(messages, |message| write_headers(message.headers())))
            .bind(all(messages, |message| PgTimestamp(message.occurred_at())))
            .fetch_one(tx)
            .await
    }

    /// Finds the messages whose ids are there, by their numbers.
    async fn known(
        &self,
        tx: &mut PgConnection,
        messages: &[&Message],
    ) -> Result<Vec<(usize, Found)>, sqlx::Error> {
        let rows = sqlx::query(&self.known)
            .persistent(self.persistent)
            .bind(all(messages, |message| PgUuid(message.id().as_uuid())))
            .bind(all(messages, Message::kind))
            .bind(all(messages, |message| message.ordering_key().map(OrderingKey::as_str)))
            .bind(all(messages, |message| &message.payload()[..]))
            .fetch_all(tx)
            .await?;
        rows.iter()
            .map(|row| {
                let number = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
                let found =
                    if row.try_get(1)? { Found::Same { headers: row.try_get(2)? } } else { Found::Other };
                // They are counted from 1.
                Ok((number.saturating_sub(1), found))
            })
            .collect()
    }
}

fn failed(error: sqlx::Error) -> StoreError {
    driver_error(OP, error)
}

/// Collects a part of each message.
fn all<'m, T>(messages: &[&'m Message], part: impl Fn(&'m Message) -> T) -> Vec<T> {
    messages.iter().map(|message| part(message)).collect()
}

type Ids = std::collections::HashSet<MessageId>;

/// What is there under a message's id.
enum Found {
    /// A message of the same kind, key and payload.
    Same { headers: String },
    /// Another one.
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
