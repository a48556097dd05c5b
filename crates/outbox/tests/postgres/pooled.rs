//! The same promises through `PgBouncer` in transaction mode.

use relaykit_outbox::outbox_conformance;

use crate::harness::Postgres;

outbox_conformance!(Postgres::behind_pooler());
