use std::time::Duration;

use relaykit_sql_store::sqlite::rusqlite::Connection;

use super::common::{Event, Scratch, Tally};
use super::setting::{Durability, Setting};
use super::stopwatch::Stopwatch;

/// Runs the bare loop: each batch is encoded and inserted as one row, by a transaction of its own; as many as are taken at
/// once are read back, decoded, and deleted by another. One thread does all of it, with nobody to wait for.
///
/// # Errors
///
/// SQLite fails, or something else is read than was written.
pub(super) fn run(setting: &Setting, events: u32) -> anyhow::Result<(Duration, u64)> {
    let scratch = Scratch::new()?;
    let connection = open(setting.durability, &scratch)?;
    let events = u64::from(events);
    let mut tally = Tally::default();
    let mut numbers = 0..events;
    let stopwatch = Stopwatch::start();
    while tally.events < events {
        for _ in 0..setting.take {
            let mut batch = Vec::new();
            for number in numbers.by_ref().take(setting.flush as usize) {
                serde_json::to_writer(&mut batch, &Event::new(number))?;
                batch.push(b'\n');
            }
            if !batch.is_empty() {
                connection.prepare_cached("INSERT INTO batches (data) VALUES (?1)")?.execute((batch,))?;
            }
        }
        let mut last = 0;
        {
            let mut select =
                connection.prepare_cached("SELECT id, data FROM batches ORDER BY id LIMIT ?1")?;
            let mut rows = select.query((setting.take,))?;
            while let Some(row) = rows.next()? {
                last = row.get::<_, i64>(0)?;
                let batch = row.get_ref(1)?.as_blob()?;
                for event in serde_json::Deserializer::from_slice(batch).into_iter() {
                    tally.add(&event?);
                }
            }
        }
        connection.prepare_cached("DELETE FROM batches WHERE id <= ?1")?.execute((last,))?;
    }
    let time = stopwatch.elapsed();
    tally.check(events)?;
    Ok((time, scratch.bytes()?))
}

fn open(durability: Durability, scratch: &Scratch) -> anyhow::Result<Connection> {
    let synchronous = if durability == Durability::Full { "FULL" } else { "NORMAL" };
    let connection = match durability {
        Durability::Memory => Connection::open_in_memory()?,
        Durability::Process | Durability::Full => Connection::open(scratch.file("queue.db"))?,
    };
    connection.execute_batch(&format!(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous};
         CREATE TABLE batches (id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB NOT NULL)"
    ))?;
    Ok(connection)
}
