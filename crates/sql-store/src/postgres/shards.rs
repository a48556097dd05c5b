use sqlx::PgConnection;

use super::pool::Guarded;
use crate::{Names, Shards, Sql, StoreError};

/// The tables were made with another number of shards, which cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the tables have {found} shards, but {wanted} are asked for")]
#[non_exhaustive]
pub struct WrongShards {
    /// How many the tables have.
    pub found: i64,
    /// How many were asked for.
    pub wanted: u16,
}

/// Checks that the tables of these names have as many shards as are asked for.
///
/// # Errors
///
/// They have not ([`WrongShards`], as the source of [`StoreError::Rejected`]); or any variant of [`StoreError`].
///
/// # Cancel safety
///
/// Cancel safe: it changes nothing.
pub async fn check_shards(pool: &Guarded, names: &Names, shards: Shards) -> Result<(), StoreError> {
    const OP: &str = "check the number of shards";
    let count = pool.statement(Sql::new(&names.on_postgres(), &["select count(*) from {shards}"]));
    let found: i64 = pool
        .run(OP, move |conn: &mut PgConnection| {
            let count = count.clone();
            Box::pin(async move { count.scalar().fetch_one(conn).await })
        })
        .await?;
    let wanted = shards.count();
    if found != i64::from(wanted) {
        return Err(StoreError::Rejected { op: OP, source: Box::new(WrongShards { found, wanted }) });
    }
    Ok(())
}
