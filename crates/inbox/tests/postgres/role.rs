//! The least rights that roles need, as the docs of `relaykit_inbox::postgres` list them.

/// What a receiver needs.
pub(crate) const RECEIVER: [&str; 4] = [
    "grant insert, select on {messages} to {role}",
    "grant insert on {deliveries} to {role}",
    "grant usage on sequence {messages_seq} to {role}",
    "grant usage on sequence {deliveries_seq} to {role}",
];

/// What a worker needs.
pub(crate) const WORKER: [&str; 3] = [
    "grant select, insert, update, delete on {messages}, {deliveries}, {dead}, {members} to {role}",
    "grant select, update on {shards} to {role}",
    "grant usage, select on sequence {deliveries_seq} to {role}",
];

/// What a migrator needs.
pub(crate) const MIGRATOR: [&str; 1] = ["grant create on schema {@schema} to {role}"];
