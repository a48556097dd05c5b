//! Roles with the least rights that they need, as the docs of `relaykit_outbox::postgres` list them.

/// What a writer needs.
pub(crate) const WRITER: [&str; 2] =
    ["grant insert, select on {messages} to {role}", "grant usage on sequence {messages_seq} to {role}"];

/// What a relay needs.
pub(crate) const RELAY: [&str; 3] = [
    "grant select, insert, update, delete on {messages}, {dead}, {members} to {role}",
    "grant select, update on {shards} to {role}",
    "grant select on sequence {messages_seq} to {role}",
];

/// What a migrator needs.
pub(crate) const MIGRATOR: [&str; 1] = ["grant create on schema {@schema} to {role}"];
