use relaykit_pipeline_traits::Message;
use relaykit_sql_store::{Shard, Shards};

/// Returns the shard of a message: that of its key or, if it has none, of its id.
pub(crate) fn shard_of(shards: Shards, message: &Message) -> Shard {
    match message.ordering_key() {
        Some(key) => shards.of(key.as_str().as_bytes()),
        None => shards.of(message.id().to_string().as_bytes()),
    }
}

/// Returns whether two messages of one id say the same. When they occurred does not matter.
pub(crate) fn same(one: &Message, other: &Message) -> bool {
    one.kind() == other.kind()
        && one.ordering_key() == other.ordering_key()
        && one.payload() == other.payload()
        && one.headers() == other.headers()
}
