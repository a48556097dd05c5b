use relaykit_pipeline_traits::{Message, MessageId, OrderingKey, Timestamp};
use relaykit_sql_store::StoreError;

use crate::retention::{Maintained, Upkeep};
use crate::store::Seq;

/// Where sent messages are kept for a while: [`PgArchive`](crate::postgres::PgArchive) or
/// [`SqliteArchive`](crate::sqlite::SqliteArchive).
///
/// It holds sent messages only. Pending ones and dead letters are in other tables, which nothing here writes to.
pub trait Archive: Send + Sync + 'static {
    /// Lists sent messages in the order in which they were sent, at most `limit`, which is from 1 to
    /// [`MAX_LISTED`](crate::MAX_LISTED).
    ///
    /// For the next page, [`after`](ArchiveFilter::after) the last one. What is being sent meanwhile may come in behind a page
    /// that was read already, for as long as a settlement takes.
    fn list(
        &self,
        filter: &ArchiveFilter,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Archived>, StoreError>> + Send;

    /// Makes room for the days to come, and drops the days that are past. What must be deleted row by row is so in one transaction of at
    /// most [`chunk`](Upkeep::chunk) rows; [`more`](Maintained::more) says whether to ask again. Any number of instances may do so at
    /// once. [`Retention`](crate::Retention) calls this.
    fn maintain(&self, upkeep: &Upkeep) -> impl Future<Output = Result<Maintained, StoreError>> + Send;
}

/// A message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Archived {
    /// The place it had.
    pub seq: Seq,
    /// Its id.
    pub id: MessageId,
    /// The message. `None` if its row cannot be read any more.
    pub message: Option<Message>,
    /// Attempts that failed before.
    pub attempts: u32,
    /// When it was added.
    pub added_at: Timestamp,
    /// When it was settled as sent, by the store's clock.
    pub sent_at: Timestamp,
}

/// Which sent messages are meant: those that match everything that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct ArchiveFilter {
    pub(crate) ids: Option<Vec<MessageId>>,
    pub(crate) kind: Option<String>,
    pub(crate) key: Option<OrderingKey>,
    pub(crate) from: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) after: Option<(Timestamp, Seq)>,
}

impl ArchiveFilter {
    /// Means all of them.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only these messages.
    pub fn ids(mut self, ids: impl IntoIterator<Item = MessageId>) -> Self {
        self.ids = Some(ids.into_iter().collect());
        self
    }

    /// Only messages of this kind.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Only messages of this key.
    pub fn key(mut self, key: OrderingKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Only those sent at this moment or later.
    pub const fn from(mut self, at: Timestamp) -> Self {
        self.from = Some(at);
        self
    }

    /// Only those sent before this moment.
    pub const fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    /// Only those behind this one: the last of the page before.
    pub const fn after(mut self, last: &Archived) -> Self {
        self.after = Some((last.sent_at, last.seq));
        self
    }

    /// Returns the first moment that can match.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.from.max(self.after.map(|(at, _)| at))
    }
}
