use anyhow::ensure;
use relaykit_sql_store::Sql;
use relaykit_sql_store::postgres::sqlx;
use relaykit_sql_store::postgres::{Guarded, TestPostgres};

/// An application that writes rows on a pool that others use, too, each in a transaction of its own. A row is gone if the connection
/// was lent in a transaction that somebody had left open.
pub(crate) struct Bystander {
    db: TestPostgres,
    pool: Guarded,
    note: Sql,
}

impl Bystander {
    /// Makes its table.
    pub(crate) async fn new(db: &TestPostgres, pool: &Guarded) -> Self {
        db.execute("create table {@schema}.noted (number bigint not null)").await;
        let note = Sql::new(&db.names("t"), &["insert into {@schema}.noted values (1)"]);
        Self { db: db.clone(), pool: pool.clone(), note }
    }

    /// Writes a row.
    ///
    /// # Errors
    ///
    /// If the database does not take it.
    pub(crate) async fn note(&self) -> anyhow::Result<()> {
        let note = self.note.clone();
        let noted = self.pool.run("write a row", move |connection| {
            let note = note.clone();
            Box::pin(async move { sqlx::query(note).execute(connection).await.map(drop) })
        });
        Ok(noted.await?)
    }

    /// Looks whether so many rows are there.
    ///
    /// # Errors
    ///
    /// If they are not.
    pub(crate) async fn has(&self, rows: u64) -> anyhow::Result<()> {
        let noted = self.db.number("select count(*) from {@schema}.noted").await.cast_unsigned();
        ensure!(noted == rows, "{rows} rows were acknowledged, and {noted} are there");
        Ok(())
    }
}
