//! The same promises through `PgBouncer` in transaction mode.

use relaykit_inbox::inbox_conformance;

use crate::harness::Postgres;

inbox_conformance!(Postgres::behind_pooler());
