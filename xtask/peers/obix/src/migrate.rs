use std::path::Path;

use sqlx::PgPool;
use sqlx::migrate::Migrator;

/// Runs the SQL files of a folder, in the order of their names.
///
/// # Errors
///
/// A file cannot be read, or the server refuses it.
pub(crate) async fn migrate(pool: &PgPool, folder: &str) -> anyhow::Result<()> {
    let migrator = Migrator::new(Path::new(folder)).await?;
    Ok(migrator.run(pool).await?)
}
