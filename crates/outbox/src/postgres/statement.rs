use std::fmt;

use relaykit_pipeline_traits::{Message, OrderingKey};
use serde::Serialize;

use relaykit_sql_store::message::{hex, write_headers};

/// A statement that adds messages, for any driver: made by [`PgOutbox::statement`](super::PgOutbox::statement).
///
/// ```
/// # use relaykit_outbox::{Limits, postgres::PgOutbox};
/// # use relaykit_pipeline_traits::{Message, MessageId, Rng, Timestamp};
/// # let now = Timestamp::from_millis(1_763_683_200_000);
/// # let message = Message::builder(MessageId::new(now, &mut Rng::seeded(1)), "order.paid", now).build()?;
/// let outbox = PgOutbox::new(&relaykit_sql_store::Names::new("outbox")?, Limits::default());
/// let add = outbox.statement(&[message])?;
/// // tokio-postgres: transaction.query(&add.sql, &[&add.parameter]).await?
/// // diesel:         sql_query(&add.sql).bind::<Text, _>(&add.parameter)
/// // SeaORM:         Statement::from_sql_and_values(DbBackend::Postgres, &add.sql, [add.parameter.into()])
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddStatement {
    /// The statement, the same for any messages; `$1` is its parameter.
    pub sql: String,
    /// The parameter, of type `text`.
    pub parameter: String,
}

impl AddStatement {
    pub(super) fn new(sql: &str, messages: &[Message]) -> Self {
        let rows: Vec<_> = messages.iter().enumerate().map(|(n, message)| Row::new(n, message)).collect();
        let parameter = serde_json::to_string(&rows).expect("texts and numbers are JSON");
        Self { sql: sql.to_owned(), parameter }
    }
}

impl fmt::Debug for AddStatement {
    /// Leaves out the parameter, which holds payloads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddStatement")
            .field("sql", &self.sql)
            .field("parameter_bytes", &self.parameter.len())
            .finish()
    }
}

#[derive(Serialize)]
struct Row<'m> {
    n: usize,
    id: String,
    kind: &'m str,
    key: Option<&'m str>,
    payload: String,
    headers: String,
    // Two numbers, since SQL multiplies intervals in floating point, and hours are exact there.
    hours: i64,
    micros: i64,
}

const MICROS_PER_HOUR: i64 = 3_600_000_000;

impl<'m> Row<'m> {
    fn new(n: usize, message: &'m Message) -> Self {
        let micros = message.occurred_at().as_micros();
        Self {
            n,
            id: message.id().to_string(),
            kind: message.kind(),
            key: message.ordering_key().map(OrderingKey::as_str),
            payload: hex(message.payload()),
            headers: write_headers(message.headers()),
            hours: micros.div_euclid(MICROS_PER_HOUR),
            micros: micros.rem_euclid(MICROS_PER_HOUR),
        }
    }
}
