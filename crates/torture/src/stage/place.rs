use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Context as _;
use relaykit_outbox::postgres::{PgOutboxStore, PgSchema};
use relaykit_outbox::sqlite::{Database, SqliteOutboxStore, rusqlite};
use relaykit_outbox::{Depth, OutboxStore as _};
use relaykit_pipeline_traits::SystemClock;
use relaykit_sql_store::postgres::{Guarded, TEST_POSTGRES, TestPostgres, sqlx};
use relaykit_sql_store::{Names, Shards, Sql};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use crate::history::Id;

/// Which database an outbox is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    /// Whether there is such a database here.
    pub(crate) fn is_there(self) -> bool {
        self == Self::Sqlite || std::env::var_os(TEST_POSTGRES).is_some()
    }
}

/// Where an outbox is, for a child process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Sqlite { file: PathBuf },
    Postgres { url: String, schema: String },
}

/// So many parts of the keys are shared out among the relays.
const SHARDS: u16 = 8;

/// How the outbox's tables are called.
const PREFIX: &str = "t";

pub(crate) fn shards() -> Shards {
    Shards::new(SHARDS).expect("within bounds")
}

impl Place {
    /// How its tables are called.
    pub(crate) fn names(&self) -> Names {
        let names = Names::new(PREFIX).expect("an identifier");
        match self {
            Self::Sqlite { .. } => names,
            Self::Postgres { schema, .. } => names.in_schema(schema).expect("an identifier"),
        }
    }
}

/// How one connects to a server; all sessions of a round have the schema's name.
///
/// # Errors
///
/// If the URL is none.
pub(crate) fn options(url: &str, schema: &str) -> anyhow::Result<PgConnectOptions> {
    Ok(url.parse::<PgConnectOptions>()?.application_name(schema))
}

/// A store in a file.
///
/// # Errors
///
/// If the file cannot be opened.
pub(crate) fn sqlite_store(file: &PathBuf, names: &Names) -> anyhow::Result<SqliteOutboxStore> {
    let database = Database::builder(file, SystemClock::new()).open()?;
    Ok(SqliteOutboxStore::new(database, names, shards()))
}

/// The parent's view of an outbox, and of the table that producers write in the same transactions.
pub(crate) enum Site {
    Sqlite { file: PathBuf, store: SqliteOutboxStore },
    Postgres { db: TestPostgres, store: PgOutboxStore },
}

impl Site {
    /// Makes an outbox.
    ///
    /// # Errors
    ///
    /// If its tables cannot be made.
    pub(crate) async fn make(kind: Kind, folder: &std::path::Path) -> anyhow::Result<Self> {
        match kind {
            Kind::Sqlite => {
                let file = folder.join("app.db");
                let names = Place::Sqlite { file: file.clone() }.names();
                let store = sqlite_store(&file, &names)?;
                store.migrate().await?;
                let connection = rusqlite::Connection::open(&file)?;
                connection.execute_batch("create table business (id integer primary key)")?;
                Ok(Self::Sqlite { file, store })
            }
            Kind::Postgres => {
                let db = TestPostgres::new().await.context("there is no server")?;
                let pool = Guarded::connect(db.options(), SystemClock::new()).max_connections(2).build()?;
                PgSchema::new(db.names(PREFIX)).shards(shards()).migrate(&pool).await?;
                db.execute("create table {@schema}.business (id bigint primary key)").await;
                let store = PgOutboxStore::new(pool, &db.names(PREFIX));
                Ok(Self::Postgres { db, store })
            }
        }
    }

    /// Says to a child where it is.
    ///
    /// # Errors
    ///
    /// If there is no server.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        Ok(match self {
            Self::Sqlite { file, .. } => Place::Sqlite { file: file.clone() },
            Self::Postgres { db, .. } => {
                let names = db.names(PREFIX);
                let schema = names.schema().map(|schema| schema.as_str().to_owned()).unwrap_or_default();
                Place::Postgres { url: std::env::var(TEST_POSTGRES)?, schema }
            }
        })
    }

    /// Counts what waits.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    pub(crate) async fn depth(&self) -> anyhow::Result<Depth> {
        Ok(match self {
            Self::Sqlite { store, .. } => store.depth().await?,
            Self::Postgres { store, .. } => store.depth().await?,
        })
    }

    /// Reads what was committed, by the table that was written beside the outbox.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    pub(crate) async fn committed(&self) -> anyhow::Result<HashSet<Id>> {
        let ids: Vec<i64> = match self {
            Self::Sqlite { file, .. } => {
                let connection = rusqlite::Connection::open(file)?;
                let mut select = connection.prepare("select id from business")?;
                select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
            }
            Self::Postgres { db, .. } => {
                let sql = Sql::new(&db.names(PREFIX), &["select id from {@schema}.business"]);
                sqlx::query_scalar(sql).fetch_all(&mut db.connection().await).await?
            }
        };
        Ok(ids.into_iter().map(i64::cast_unsigned).collect())
    }

    /// Counts sessions in a transaction that does nothing.
    pub(crate) async fn idle_sessions(&self) -> u64 {
        match self {
            Self::Sqlite { .. } => 0,
            Self::Postgres { db, .. } => {
                let idle = "select count(*) from pg_stat_activity
                    where application_name = current_setting('application_name') and state like 'idle in transaction%'";
                db.number(idle).await.cast_unsigned()
            }
        }
    }

    /// Removes what is not in the round's folder.
    pub(crate) async fn clean(self) {
        if let Self::Postgres { db, .. } = self {
            db.clean().await;
        }
    }
}
