use relaykit_pipeline_traits::Message;
use relaykit_sql_store::postgres::{Statement, driver_error};
use relaykit_sql_store::{Limits, Names};
use sqlx::PgConnection;

use super::receive::{OP, Receiving, busy};
use crate::name::Scope;
use crate::received::{IdConflict, ReceiveError, Received};
use crate::routes::Routes;

/// Receives messages into an inbox in Postgres, in the caller's own transaction. Cheap to clone, but for the routes.
///
/// Nobody is woken: a worker finds the messages when it looks next, or once its wake is nudged after the commit.
///
/// ```no_run
/// # use relaykit_inbox::{HandlerKey, Limits, Received, Route, Routes, Scope, postgres::PgInbox};
/// # use relaykit_pipeline_traits::Message;
/// # use sqlx::Connection;
/// # async fn webhook(conn: &mut sqlx::PgConnection, message: &Message) -> Result<(), Box<dyn std::error::Error>> {
/// let mut routes = Routes::new();
/// routes.add("push", Route { handler: HandlerKey::new("crm")?, ordered: true })?;
/// let inbox = PgInbox::new(&relaykit_sql_store::Names::new("inbox")?, routes, Limits::default());
///
/// let mut tx = conn.begin().await?;
/// let received = inbox.receive(&mut tx, &Scope::new("github")?, message).await?;
/// if received == Received::Stored {
///     sqlx::query("update counters set webhooks = webhooks + 1").execute(&mut *tx).await?;
/// }
/// tx.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PgInbox {
    routes: Routes,
    limits: Limits,
    receiving: Receiving,
    names: Names,
}

impl PgInbox {
    /// Makes an inbox on the tables of these names, which leads messages to these routes.
    #[must_use]
    pub fn new(names: &Names, routes: Routes, limits: Limits) -> Self {
        Self { routes, limits, receiving: receiving(names, true), names: names.clone() }
    }

    /// Says that a pooler in transaction mode stands before the server. Default: no.
    ///
    /// Statements are prepared anew each time then, which costs a round trip.
    #[must_use]
    pub fn behind_pooler(mut self, pooler: bool) -> Self {
        self.receiving = receiving(&self.names, !pooler);
        self
    }

    /// Receives a message, in the transaction that is open on this connection: it is stored unless its id is known, and handled if,
    /// and after, that commits. It is one round trip.
    ///
    /// If another transaction receives the same id at this moment, this waits for its end.
    ///
    /// # Errors
    ///
    /// It is too large, or another message has its id; then nothing was written, and the transaction can go on. After
    /// an error of the store, roll it back.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: if the future is dropped, roll the transaction back.
    pub async fn receive(
        &self,
        tx: &mut PgConnection,
        scope: &Scope,
        message: &Message,
    ) -> Result<Received, ReceiveError> {
        let answers = self.receive_all(tx, scope, std::slice::from_ref(message)).await?;
        answers.into_iter().collect::<Result<Vec<_>, _>>()?.pop().ok_or_else(|| busy().into())
    }

    /// Receives messages in their order, at most [`MAX_ADDED`](crate::MAX_ADDED), and answers each. It is one round trip.
    ///
    /// One that conflicts is left out, and keeps no other from being stored.
    ///
    /// # Errors
    ///
    /// One is too large, or there are too many; then nothing was written, and the transaction can go on. After an error
    /// of the store, roll it back.
    ///
    /// # Cancel safety
    ///
    /// As [`receive`](Self::receive).
    pub async fn receive_all(
        &self,
        tx: &mut PgConnection,
        scope: &Scope,
        messages: &[Message],
    ) -> Result<Vec<Result<Received, IdConflict>>, ReceiveError> {
        self.limits.check_all(messages)?;
        let answers = self.receiving.receive(tx, scope, messages, &self.routes).await;
        answers.map_err(|error| driver_error(OP, error))?.ok_or_else(|| busy().into())
    }
}

fn receiving(names: &Names, persistent: bool) -> Receiving {
    Receiving::new(names, |sql| Statement::new(sql, persistent))
}
