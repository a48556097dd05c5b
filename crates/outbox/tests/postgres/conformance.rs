use relaykit_outbox::outbox_conformance;

use crate::harness::Postgres;

outbox_conformance!(Postgres::new());
