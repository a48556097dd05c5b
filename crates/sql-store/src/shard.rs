use std::fmt;

use relaykit_pipeline_traits::InvalidSetting;
use sha2::{Digest, Sha256};

/// A part of a store's messages: all of one ordering key are in the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u16);

impl Shard {
    /// Takes a shard's number, counted from 0.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// Returns the shard's number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Into how many shards a store divides its messages: 1 to 1024, 64 by default. Fixed when the tables are made.
///
/// More than relays there will ever be, since a shard is the least that one can take; and few enough that
/// reading all of them is cheap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shards(u16);

impl Shards {
    /// The most shards there may be.
    pub const MAX: u16 = 1024;

    /// Takes a count.
    ///
    /// # Errors
    ///
    /// It is 0 or more than [`MAX`](Self::MAX).
    pub fn new(count: u16) -> Result<Self, InvalidSetting> {
        if count == 0 || count > Self::MAX {
            return Err(InvalidSetting::new("shards", count, "from 1 to 1024"));
        }
        Ok(Self(count))
    }

    /// Returns the count.
    #[must_use]
    pub const fn count(self) -> u16 {
        self.0
    }

    /// Returns all shards, in order.
    pub fn all(self) -> impl ExactSizeIterator<Item = Shard> + Clone {
        (0..self.0).map(Shard)
    }

    /// Returns the shard of a key: the first four bytes of its SHA-256, as a number with the first byte
    /// highest, modulo the count.
    ///
    /// SQL on Postgres computes the same ([`SHARD_OF`](crate::SHARD_OF)), so that producers in any language agree.
    /// SHA-256 because it is defined to the bit for ever and built in since Postgres 11: `hashtextextended`
    /// may change between major versions, and `md5` is switched off where FIPS rules.
    ///
    /// ```
    /// use relaykit_sql_store::Shards;
    ///
    /// assert_eq!(Shards::default().of(b"order-42").number(), 23);
    /// ```
    #[must_use]
    pub fn of(self, key: &[u8]) -> Shard {
        // A remainder is below its divisor, which is a u16.
        Shard(u16::try_from(Self::head(key) % u32::from(self.0)).unwrap_or_default())
    }

    /// Returns the number of which the shard of a key is the remainder, for those who do not know how many shards there are.
    #[must_use]
    pub fn head(key: &[u8]) -> u32 {
        let digest = Sha256::digest(key);
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }
}

impl Default for Shards {
    fn default() -> Self {
        Self(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_out_of_bounds_are_refused_by_name() {
        assert_eq!(Shards::new(0).unwrap_err().to_string(), "shards is 0, but must be from 1 to 1024");
        assert!(Shards::new(1025).is_err());
        assert_eq!(Shards::new(1024).unwrap().count(), 1024);
    }

    /// The digest is a published test vector of SHA-256 (FIPS 180-4, "abc": ba7816bf…).
    #[test]
    fn the_shard_comes_from_the_head_of_the_digest() {
        assert_eq!(u64::from(Shards::default().of(b"abc").number()), 0xba78_16bf % 64);
        assert_eq!(u64::from(Shards::new(1000).unwrap().of(b"abc").number()), 0xba78_16bf % 1000);
        assert_eq!(Shards::new(1).unwrap().of(b"anything").number(), 0);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0_u32; 64];
        for number in 0..64_000 {
            counts[usize::from(Shards::default().of(format!("key-{number}").as_bytes()).number())] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
