//! SQLite: one file, one process, one connection, one thread that owns it.

mod error;
mod file;
mod location;
mod open;
mod version;
mod writer;

pub use error::SqliteError;
pub use location::Location;
pub use open::{Durability, Options, open};
pub use version::{FLOOR, check_version};
pub use writer::{Request, Writer, WriterOptions};

// A graph holds one rusqlite only, since one copy of SQLite may be linked; so its types may stand in signatures.
pub use rusqlite;
