use relaykit_inbox::inbox_conformance;

use crate::harness::Postgres;

inbox_conformance!(Postgres::new());
