use anyhow::Context;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

/// Names the server, as `cargo xtask bench` does.
const SERVER: &str = "RELAYKIT_TEST_POSTGRES";

const NAME: &str = "relaykit_bench_peer";
const CREATE: &str = "create database relaykit_bench_peer";
const DROP: &str = "drop database if exists relaykit_bench_peer with (force)";

/// A database for a peer, whose tables have names of their own.
#[derive(Debug)]
pub(crate) struct Throwaway {
    pub(crate) pool: PgPool,
    server: PgConnection,
}

impl Throwaway {
    /// Makes it, in place of one that was left over.
    ///
    /// # Errors
    ///
    /// There is no server, or it fails.
    pub(crate) async fn new(connections: u32) -> anyhow::Result<Self> {
        let url = std::env::var(SERVER)
            .with_context(|| format!("{SERVER} is not set; `cargo xtask bench` sets it"))?;
        let options: PgConnectOptions = url.parse()?;
        let mut server = PgConnection::connect_with(&options).await?;
        sqlx::query(DROP).execute(&mut server).await?;
        sqlx::query(CREATE).execute(&mut server).await?;
        let pool = PgPoolOptions::new().max_connections(connections);
        Ok(Self { pool: pool.connect_with(options.database(NAME)).await?, server })
    }

    /// Removes it.
    ///
    /// # Errors
    ///
    /// The server fails.
    pub(crate) async fn remove(mut self) -> anyhow::Result<()> {
        self.pool.close().await;
        sqlx::query(DROP).execute(&mut self.server).await?;
        Ok(self.server.close().await?)
    }
}
