use relaykit_pipeline_traits::Message;
use relaykit_sql_store::{Shard, Shards};
use sha2::{Digest as _, Sha256};

/// Returns the shard of a message: that of its key or, if it has none, of its id.
pub(crate) fn shard_of(shards: Shards, message: &Message) -> Shard {
    by_key(message, |key| shards.of(key))
}

/// Returns the number of which the shard of a message is the remainder.
#[cfg(feature = "postgres")]
pub(crate) fn head_of(message: &Message) -> u32 {
    by_key(message, Shards::head)
}

fn by_key<T>(message: &Message, of: impl FnOnce(&[u8]) -> T) -> T {
    match message.ordering_key() {
        Some(key) => of(key.as_str().as_bytes()),
        None => of(message.id().to_string().as_bytes()),
    }
}

/// Returns what tells a message from another of the same id, also after its payload was erased: kind and payload. What else
/// comes with a message may differ from one delivery to the next.
pub(crate) fn digest_of(message: &Message) -> [u8; 32] {
    let mut hash = Sha256::new();
    let kind = message.kind().as_bytes();
    hash.update(u64::try_from(kind.len()).unwrap_or(u64::MAX).to_be_bytes());
    hash.update(kind);
    hash.update(message.payload());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{MessageId, Timestamp, uuid::Uuid};

    use super::*;

    fn message(kind: &str, payload: &str) -> Message {
        let id = MessageId::from_uuid(Uuid::from_u128(7));
        Message::builder(id, kind, Timestamp::from_millis(1)).payload(payload.to_owned()).build().unwrap()
    }

    #[test]
    fn a_digest_tells_kind_from_payload() {
        let digest = |kind, payload| digest_of(&message(kind, payload));
        assert_eq!(digest("ab", "c"), digest("ab", "c"));
        assert_ne!(digest("ab", "c"), digest("a", "bc"));
        assert_ne!(digest("ab", "c"), digest("ab", "d"));
        assert_ne!(digest("ab", "c"), digest("ax", "c"));
    }
}
