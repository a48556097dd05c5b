//! The SQL, and the rows it reads and writes.

mod batch;
mod check;
mod clean;
mod dead;
mod due;
mod list;
mod oldest;
mod opened;
mod page;
mod row;
mod schema;

pub(crate) use batch::{Kept, NewRow, claim, insert, is_there, keep, remove, unclaim};
pub(crate) use check::check;
pub(crate) use clean::{let_go_of_log, set_clean, was_closed};
pub(crate) use dead::{NewDead, bury, bury_unread, dead_letters, insert_dead, purge, replay};
pub(crate) use due::{Due, due};
pub(crate) use list::{first_items, list};
pub(crate) use oldest::{Dropped, drop_oldest, oldest};
pub(crate) use opened::{Opened, take_over};
pub(crate) use page::{Page, Which, page, these};
pub(crate) use row::Row;
pub(crate) use schema::{Foreign, create, owner};

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
