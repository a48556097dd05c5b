use std::path::{Path, PathBuf};

use anyhow::Context as _;
use relaykit_pipeline_traits::Clock;
use relaykit_sql_store::postgres::{Guarded, TEST_POSTGRES, TestPostgres, sqlx};
use relaykit_sql_store::sqlite::{Database, rusqlite};
use relaykit_sql_store::{Names, Shards, Sql};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use super::plan::CALL;

/// Which database something is in.
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

/// Where it is, for a child process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Place {
    Sqlite { file: PathBuf },
    Postgres { url: String, schema: String },
}

/// So many parts of the keys are shared out among the engines.
const SHARDS: u16 = 8;

/// How the tables are called.
const PREFIX: &str = "t";

pub(crate) fn shards() -> Shards {
    Shards::new(SHARDS).expect("within bounds")
}

impl Place {
    /// How its tables are called.
    pub(crate) fn names(&self) -> Names {
        let names = Names::new(PREFIX).expect("an identifier");
        match self {
            Self::Sqlite { .. } => names.on_sqlite(),
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

/// A pool of a child process.
///
/// # Errors
///
/// If the URL is none.
pub(crate) fn pool(url: &str, schema: &str, connections: u32, clock: impl Clock) -> anyhow::Result<Guarded> {
    let pool = Guarded::connect(options(url, schema)?, clock).max_connections(connections);
    Ok(pool.acquire_timeout(CALL).call_timeout(CALL).build()?)
}

/// The file of a child process.
///
/// # Errors
///
/// If the file cannot be opened.
pub(crate) fn database(file: &Path, clock: impl Clock) -> anyhow::Result<Database> {
    Ok(Database::builder(file, clock).open()?)
}

/// The parent's view of a database.
pub(crate) enum Ground {
    Sqlite { file: PathBuf },
    Postgres { db: Box<TestPostgres> },
}

impl Ground {
    /// Makes a file in the folder, or a schema.
    ///
    /// # Errors
    ///
    /// If there is no server.
    pub(crate) async fn make(kind: Kind, folder: &Path) -> anyhow::Result<Self> {
        Ok(match kind {
            Kind::Sqlite => Self::Sqlite { file: folder.join("app.db") },
            Kind::Postgres => {
                Self::Postgres { db: TestPostgres::new().await.context("there is no server")?.into() }
            }
        })
    }

    /// Says to a child where it is.
    ///
    /// # Errors
    ///
    /// If there is no server.
    pub(crate) fn place(&self) -> anyhow::Result<Place> {
        Ok(match self {
            Self::Sqlite { file } => Place::Sqlite { file: file.clone() },
            Self::Postgres { db } => {
                let names = db.names(PREFIX);
                let schema = names.schema().map(|schema| schema.as_str().to_owned()).unwrap_or_default();
                Place::Postgres { url: std::env::var(TEST_POSTGRES)?, schema }
            }
        })
    }

    pub(crate) fn names(&self) -> Names {
        match self {
            Self::Sqlite { .. } => Names::new(PREFIX).expect("an identifier").on_sqlite(),
            Self::Postgres { db } => db.names(PREFIX),
        }
    }

    /// Opens a pool for the parent.
    ///
    /// # Errors
    ///
    /// If a setting is out of bounds.
    pub(crate) fn pool(db: &TestPostgres) -> anyhow::Result<Guarded> {
        Ok(db.pool().max_connections(2).build()?)
    }

    /// Makes a table.
    ///
    /// # Errors
    ///
    /// If SQLite refuses.
    ///
    /// # Panics
    ///
    /// If Postgres refuses.
    pub(crate) async fn execute(&self, sql: &'static str) -> anyhow::Result<()> {
        match self {
            Self::Sqlite { file } => {
                let sql = Sql::new(&self.names(), &[sql]);
                rusqlite::Connection::open(file)?.execute_batch(sql.as_str())?;
            }
            Self::Postgres { db } => db.execute(sql).await,
        }
        Ok(())
    }

    /// Reads a column of numbers.
    ///
    /// # Errors
    ///
    /// If the database does not answer.
    pub(crate) async fn numbers(&self, sql: &'static str) -> anyhow::Result<Vec<i64>> {
        let sql = Sql::new(&self.names(), &[sql]);
        Ok(match self {
            Self::Sqlite { file } => {
                let connection = rusqlite::Connection::open(file)?;
                let mut select = connection.prepare(sql.as_str())?;
                select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
            }
            Self::Postgres { db } => sqlx::query_scalar(sql).fetch_all(&mut db.connection().await).await?,
        })
    }

    /// Counts sessions in a transaction that does nothing.
    pub(crate) async fn idle_sessions(&self) -> u64 {
        match self {
            Self::Sqlite { .. } => 0,
            Self::Postgres { db } => {
                let idle = "select count(*) from pg_stat_activity
                    where application_name = current_setting('application_name') and state like 'idle in transaction%'";
                db.number(idle).await.cast_unsigned()
            }
        }
    }

    /// Removes what is not in the round's folder.
    pub(crate) async fn clean(self) {
        if let Self::Postgres { db } = self {
            db.clean().await;
        }
    }
}
