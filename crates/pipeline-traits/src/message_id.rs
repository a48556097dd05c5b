use std::fmt;
use std::str::FromStr;

use uuid::{Builder, Uuid};

use crate::{Rng, Timestamp};

/// A message's id: a UUID, version 7 when made here. It is also the idempotency key.
///
/// Ids made later sort after ids made earlier, to the millisecond, as far as clocks agree; they are not an
/// ordering guarantee. A version 7 id shows when it was made
/// ([RFC 9562 §5.7](https://www.rfc-editor.org/rfc/rfc9562#section-5.7)); give an id of your own where that matters.
///
/// ```
/// use relaykit_pipeline_traits::{MessageId, Rng, Timestamp};
///
/// let id = MessageId::new(Timestamp::from_millis(1_763_683_200_000), &mut Rng::seeded(1));
/// assert_eq!(id.to_string().parse::<MessageId>().unwrap(), id);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

impl MessageId {
    /// Makes a version 7 id from the moment and 74 random bits. Moments before 1970 count as 1970.
    #[must_use]
    pub fn new(at: Timestamp, rng: &mut Rng) -> Self {
        let mut random = [0; 10];
        rng.fill(&mut random);
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        Self(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// Takes an id that came from elsewhere, of whatever version.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// Returns the id as a UUID.
    #[must_use]
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }

    /// Returns the id's 16 bytes, most significant first.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.0)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text).map(Self).map_err(|source| InvalidMessageId { source })
    }
}

/// A text that is no message id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message id must be a UUID")]
pub struct InvalidMessageId {
    source: uuid::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_and_sort_by_their_moment() {
        let mut rng = Rng::seeded(3);
        let ids: Vec<_> =
            (0..100).map(|ms| MessageId::new(Timestamp::from_millis(1_000_000 + ms), &mut rng)).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.as_uuid().get_version_num() == 7));
    }

    #[test]
    fn a_moment_before_1970_makes_an_id_all_the_same() {
        let id = MessageId::new(Timestamp::from_micros(i64::MIN), &mut Rng::seeded(3));
        assert_eq!(&id.as_bytes()[..6], &[0; 6]);
        assert!("not-a-uuid".parse::<MessageId>().is_err());
    }
}
