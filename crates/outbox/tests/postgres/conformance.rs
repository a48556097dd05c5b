use relaykit_outbox::outbox_conformance;

use crate::common::Outbox;

outbox_conformance!(Outbox::for_relays());
