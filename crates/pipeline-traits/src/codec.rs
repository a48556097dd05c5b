use std::error::Error;

/// Turns items into bytes that are stored or sent, and back.
///
/// The tag is stored beside the bytes, so that a reader knows what wrote them. Decoding never panics,
/// whatever the bytes.
pub trait Codec<T>: Send + Sync {
    /// Names the format: 1 to 16 lower-case letters, digits or dashes. It never changes its meaning.
    fn tag(&self) -> &'static str;

    /// Appends the item's bytes to `out`. On an error `out` is as it was.
    ///
    /// # Errors
    ///
    /// Refuses what the format cannot express.
    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Reads an item from all of `bytes`.
    ///
    /// # Errors
    ///
    /// Refuses bytes that the format, or the type, does not allow.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// Why an item could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The format cannot express the item.
    #[error("could not encode an item as {tag}")]
    Encode {
        /// The codec's tag.
        tag: &'static str,
        /// What the format's library says.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The bytes are no such item.
    #[error("could not decode {len} bytes as {tag}")]
    Decode {
        /// The codec's tag.
        tag: &'static str,
        /// How many bytes there were.
        len: usize,
        /// What the format's library says.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A [`Codec`] for items that are bytes already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn tag(&self) -> &'static str {
        "raw"
    }

    fn encode(&self, item: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(item);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

/// A [`Codec`] for any serde type, as JSON: readable, and open to new optional fields. Feature `json`.
///
/// ```
/// use relaykit_pipeline_traits::{Codec, Json};
///
/// let mut bytes = Vec::new();
/// Json.encode(&vec![1, 2], &mut bytes)?;
/// assert_eq!(bytes, b"[1,2]");
/// assert_eq!(Codec::<Vec<u32>>::decode(&Json, &bytes)?, [1, 2]);
/// # Ok::<(), relaykit_pipeline_traits::CodecError>(())
/// ```
#[cfg(feature = "json")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json;

#[cfg(feature = "json")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Json {
    fn tag(&self) -> &'static str {
        "json"
    }

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = out.len();
        serde_json::to_writer(&mut *out, item).map_err(|source| {
            out.truncate(before);
            CodecError::Encode { tag: "json", source: source.into() }
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        serde_json::from_slice(bytes).map_err(|source| CodecError::Decode {
            tag: "json",
            len: bytes.len(),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_bytes_come_back_as_they_were() {
        let mut out = b"before".to_vec();
        Raw.encode(&vec![0, 255], &mut out).unwrap();
        assert_eq!(out, b"before\x00\xff");
        assert_eq!(Raw.decode(&[0, 255]).unwrap(), [0, 255]);
    }

    #[cfg(feature = "json")]
    #[test]
    fn a_failed_encoding_leaves_the_bytes_as_they_were() {
        use std::collections::HashMap;

        let mut out = b"before".to_vec();
        let item = HashMap::from([((1, 2), "a map with a key that JSON cannot express".to_owned())]);
        assert!(matches!(Json.encode(&item, &mut out), Err(CodecError::Encode { .. })));
        assert_eq!(out, b"before");
    }

    #[cfg(feature = "json")]
    #[test]
    fn trailing_bytes_are_an_error() {
        assert!(matches!(Codec::<u32>::decode(&Json, b"1 2"), Err(CodecError::Decode { len: 3, .. })));
    }
}
