//! Integration tests of the relaykit family.
