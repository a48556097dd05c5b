#[cfg(any(feature = "msgpack", feature = "postcard"))]
use relaykit_pipeline_traits::{Codec, CodecError};

/// A [`Codec`] for any serde type, as `MessagePack` with field names: smaller than JSON, and as open to new optional fields.
/// Feature `msgpack`.
#[cfg(feature = "msgpack")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MessagePack;

#[cfg(feature = "msgpack")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for MessagePack {
    fn tag(&self) -> &'static str {
        "msgpack"
    }

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = out.len();
        rmp_serde::encode::write_named(out, item).map_err(|source| {
            out.truncate(before);
            CodecError::Encode { tag: "msgpack", source: source.into() }
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| CodecError::Decode {
            tag: "msgpack",
            len: bytes.len(),
            source,
        };
        let mut rest = bytes;
        let item = rmp_serde::from_read(&mut rest).map_err(|error| failed(error.into()))?;
        if rest.is_empty() { Ok(item) } else { Err(failed("bytes follow the item".into())) }
    }
}

/// A [`Codec`] for any serde type, as Postcard: the smallest and quickest. Feature `postcard`.
///
/// The bytes say nothing about their type: stored items can be read only while the type stays exactly as it is.
#[cfg(feature = "postcard")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Postcard;

#[cfg(feature = "postcard")]
impl<T: serde::Serialize + serde::de::DeserializeOwned> Codec<T> for Postcard {
    fn tag(&self) -> &'static str {
        "postcard"
    }

    fn encode(&self, item: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let bytes = postcard::to_stdvec(item)
            .map_err(|source| CodecError::Encode { tag: "postcard", source: source.into() })?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| CodecError::Decode {
            tag: "postcard",
            len: bytes.len(),
            source,
        };
        let (item, rest) = postcard::take_from_bytes(bytes).map_err(|error| failed(error.into()))?;
        if rest.is_empty() { Ok(item) } else { Err(failed("bytes follow the item".into())) }
    }
}
