use std::collections::{HashMap, HashSet};

use relaykit_pipeline_traits::{Message, MessageId, OrderingKey};
use relaykit_sql_store::message::write_headers;
use relaykit_sql_store::postgres::row::message_id;
use relaykit_sql_store::postgres::{PgTimestamp, PgUuid, Statement};
use relaykit_sql_store::{Names, Sql, StoreError};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::queries;
use crate::content::{digest_of, head_of};
use crate::name::Scope;
use crate::received::{IdConflict, Received};
use crate::routes::{Route, Routes};

pub(super) const OP: &str = "receive messages";

/// How often it is tried to store a message while its id is forgotten.
const MAX_TRIES: u32 = 5;

/// What became of each message of a list.
pub(super) type Answers = Vec<Result<Received, IdConflict>>;

/// Stores messages once.
#[derive(Debug, Clone)]
pub(super) struct Receiving {
    one: Statement,
    all: Statement,
}

impl Receiving {
    /// Makes its statements on the tables of these names.
    pub(super) fn new(names: &Names, statement: impl Fn(Sql) -> Statement) -> Self {
        let names = names.on_postgres();
        let sql = |text| statement(Sql::new(&names, &[text]));
        Self { one: sql(queries::CALL_RECEIVE_ONE), all: sql(queries::CALL_RECEIVE_ALL) }
    }

    /// Stores those whose ids are not known, and answers each; `None` if ids come and go.
    pub(super) async fn receive(
        &self,
        conn: &mut PgConnection,
        scope: &Scope,
        messages: &[Message],
        routes: &Routes,
    ) -> Result<Option<Answers>, sqlx::Error> {
        let contents: Vec<_> =
            messages.iter().map(|message| Content { message, digest: digest_of(message) }).collect();
        let mut left = first_of_each_id(&contents);
        let (mut stored, mut known) = (HashMap::new(), HashMap::new());
        for _ in 0..MAX_TRIES {
            let Found { new, there } = match left[..] {
                [] => Found::default(),
                [content] => self.store_one(conn, scope, content, routes.of(content.message.kind())).await?,
                _ => self.store_all(conn, scope, &left, routes).await?,
            };
            let is_new = |content: &&Content<'_>| new.contains(&content.message.id());
            stored.extend(left.extract_if(.., |content| is_new(&&**content)).map(id_and_digest));
            known.extend(there);
            // Those that are not there now have been forgotten since.
            left.retain(|content| !known.contains_key(&content.message.id()));
            if left.is_empty() {
                return Ok(Some(answers(scope, &contents, stored, &known)));
            }
        }
        Ok(None)
    }

    async fn store_one(
        &self,
        conn: &mut PgConnection,
        scope: &Scope,
        Content { message, digest }: &Content<'_>,
        routes: &[Route],
    ) -> Result<Found, sqlx::Error> {
        let rows = self
            .one
            .query()
            .bind(scope.as_str())
            .bind(PgUuid(message.id().as_uuid()))
            .bind(i64::from(head_of(message)))
            .bind(message.kind())
            .bind(key(message))
            .bind(&message.payload()[..])
            .bind(write_headers(message.headers()))
            .bind(PgTimestamp(message.occurred_at()))
            .bind(&digest[..])
            .bind(routes.iter().map(|route| route.handler.as_str()).collect::<Vec<_>>())
            .bind(routes.iter().map(|route| route.ordered).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        Found::read(&rows)
    }

    async fn store_all(
        &self,
        conn: &mut PgConnection,
        scope: &Scope,
        contents: &[&Content<'_>],
        routes: &Routes,
    ) -> Result<Found, sqlx::Error> {
        let kinds: HashSet<_> = contents.iter().map(|content| content.message.kind()).collect();
        let routes: Vec<_> = routes.iter().filter(|(kind, _)| kinds.contains(kind)).collect();
        let rows = self
            .all
            .query()
            .bind(scope.as_str())
            .bind(all(contents, |message| PgUuid(message.id().as_uuid())))
            .bind(all(contents, |message| i64::from(head_of(message))))
            .bind(all(contents, Message::kind))
            .bind(all(contents, key))
            .bind(all(contents, |message| &message.payload()[..]))
            .bind(all(contents, |message| write_headers(message.headers())))
            .bind(all(contents, |message| PgTimestamp(message.occurred_at())))
            .bind(contents.iter().map(|content| &content.digest[..]).collect::<Vec<_>>())
            .bind(routes.iter().map(|(kind, _)| *kind).collect::<Vec<_>>())
            .bind(routes.iter().map(|(_, route)| route.handler.as_str()).collect::<Vec<_>>())
            .bind(routes.iter().map(|(_, route)| route.ordered).collect::<Vec<_>>())
            .fetch_all(conn)
            .await?;
        Found::read(&rows)
    }
}

/// What a call found of messages: which are new, and the digests of those that are there.
#[derive(Default)]
struct Found {
    new: HashSet<MessageId>,
    there: HashMap<MessageId, Vec<u8>>,
}

impl Found {
    /// Reads ids, with the digests of those that are there.
    fn read(rows: &[PgRow]) -> Result<Self, sqlx::Error> {
        let mut found = Self::default();
        for row in rows {
            match (message_id(row, 0)?, row.try_get(1)?) {
                (id, Some(digest)) => drop(found.there.insert(id, digest)),
                (id, None) => drop(found.new.insert(id)),
            }
        }
        Ok(found)
    }
}

/// Says that it could not be told whether messages are known.
pub(super) fn busy() -> StoreError {
    let source = "ids of messages are received and forgotten at the same time".into();
    StoreError::Conflict { op: OP, tries: MAX_TRIES, source }
}

/// A message with what tells it from others of its id.
struct Content<'m> {
    message: &'m Message,
    digest: [u8; 32],
}

fn id_and_digest(content: &Content<'_>) -> (MessageId, [u8; 32]) {
    (content.message.id(), content.digest)
}

fn first_of_each_id<'c, 'm>(contents: &'c [Content<'m>]) -> Vec<&'c Content<'m>> {
    let mut seen = HashSet::with_capacity(contents.len());
    contents.iter().filter(|content| seen.insert(content.message.id())).collect()
}

/// Answers each message: the first of an id that was stored now is the one that was stored, the others are compared.
fn answers(
    scope: &Scope,
    contents: &[Content<'_>],
    mut stored: HashMap<MessageId, [u8; 32]>,
    known: &HashMap<MessageId, Vec<u8>>,
) -> Answers {
    let mut earlier = HashMap::new();
    let answer = |Content { message, digest }: &Content<'_>| {
        let id = message.id();
        if let Some(digest) = stored.remove(&id) {
            earlier.insert(id, digest);
            return Ok(Received::Stored);
        }
        let there =
            earlier.get(&id).map(|digest| &digest[..]).or_else(|| known.get(&id).map(|digest| &digest[..]));
        if there == Some(&digest[..]) {
            Ok(Received::AlreadyKnown)
        } else {
            Err(IdConflict { scope: scope.clone(), id })
        }
    };
    contents.iter().map(answer).collect()
}

/// Collects a part of each message.
fn all<'m, T>(contents: &[&Content<'m>], part: impl Fn(&'m Message) -> T) -> Vec<T> {
    contents.iter().map(|content| part(content.message)).collect()
}

fn key(message: &Message) -> Option<&str> {
    message.ordering_key().map(OrderingKey::as_str)
}
