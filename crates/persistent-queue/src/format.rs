//! What a stored batch looks like, byte by byte. The crate's `docs/format.md` says it for people.

use std::borrow::Cow;
use std::sync::Arc;

use relaykit_pipeline_traits::Codec;
use relaykit_sql_store::error_chain;

/// The format that this version writes.
pub(crate) const VERSION: u8 = 1;

/// The most bytes of a batch after decompression.
const MAX_PAYLOAD: usize = 256 * 1024 * 1024;

/// Version, compression, tag length, item count, checksum.
const FIXED: usize = 1 + 1 + 1 + 4 + 4;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Why stored bytes are no batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// It ends before it should.
    #[error("the batch has {len} bytes, which is too few")]
    TooShort {
        /// How many there are.
        len: usize,
    },
    /// It was written by a later version.
    #[error("the batch has format {found}, but this version knows up to 1")]
    Version {
        /// The format it claims.
        found: u8,
    },
    /// Its bytes are not those that were written.
    #[error("the batch's checksum is {found:#010x}, but its bytes give {computed:#010x}")]
    Checksum {
        /// The checksum that was stored.
        found: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// It was written with another codec.
    #[error("the batch was written as {found:?}, but the queue reads {expected:?}")]
    Codec {
        /// The codec's tag in the batch.
        found: String,
        /// The tag of the queue's codec.
        expected: &'static str,
    },
    /// It is compressed in a way that this build does not know.
    #[error("the batch is compressed by method {found}, which this build does not know")]
    Compression {
        /// The method.
        found: u8,
    },
    /// Its compressed bytes are damaged or too many.
    #[error("the batch could not be decompressed: {reason}")]
    Decompress {
        /// What the library says.
        reason: String,
    },
    /// Its items do not fill it, or overrun it.
    #[error("the batch says it has {count} items, but its bytes say otherwise")]
    Count {
        /// The count that was stored.
        count: u32,
    },
    /// An item cannot be decoded.
    #[error("item {index} of the batch cannot be decoded: {reason}")]
    Item {
        /// Its position, from 0.
        index: usize,
        /// What the codec says.
        reason: String,
    },
}

/// Items as they are stored, one after the other: each its length, 4 bytes little-endian, and its bytes.
#[derive(Debug, Default)]
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Where the last item ends. What follows is of one whose codec panicked.
    end: usize,
    count: u32,
}

impl Records {
    /// Appends an item. On an error nothing is appended.
    pub(crate) fn push<T>(
        &mut self,
        item: &T,
        codec: &dyn Codec<T>,
    ) -> Result<usize, relaykit_pipeline_traits::CodecError> {
        let start = self.end;
        self.bytes.truncate(start);
        self.bytes.extend_from_slice(&[0; 4]);
        if let Err(error) = codec.encode(item, &mut self.bytes) {
            self.bytes.truncate(start);
            return Err(error);
        }
        let length = self.bytes.len() - start - 4;
        // An item beyond 4 GiB is refused by its weight long before.
        let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes[start..start + 4].copy_from_slice(&prefix);
        self.end = self.bytes.len();
        self.count += 1;
        Ok(length)
    }

    /// Takes the last item out again, which took `length` bytes.
    pub(crate) fn pop(&mut self, length: usize) {
        self.end -= length + 4;
        self.bytes.truncate(self.end);
        self.count -= 1;
    }

    /// Makes room for as much as another one holds, which is a good guess.
    pub(crate) fn like(other: &Self) -> Self {
        Self { bytes: Vec::with_capacity(other.end), end: 0, count: 0 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.end
    }

    pub(crate) const fn count(&self) -> u32 {
        self.count
    }

    /// Makes the bytes to be stored.
    pub(crate) fn seal(&self, tag: &str, level: Option<i32>) -> Vec<u8> {
        let (compression, payload) = compress(&self.bytes[..self.end], level);
        let mut out = Vec::with_capacity(FIXED + tag.len() + payload.len());
        // A tag is at most 16 bytes long.
        out.extend_from_slice(&[VERSION, compression, u8::try_from(tag.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(tag.as_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&out), &payload);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(&payload);
        out
    }
}

/// Reads the items of a stored batch.
pub(crate) fn open<T>(data: &[u8], codec: &Arc<dyn Codec<T>>) -> Result<Vec<T>, FormatError> {
    let short = FormatError::TooShort { len: data.len() };
    let [version, compression, tag_length, ..] = *data else { return Err(short) };
    if version != VERSION {
        return Err(FormatError::Version { found: version });
    }
    let tag_end = 3 + usize::from(tag_length);
    let head_end = tag_end + 4;
    let Some((checksum, payload)) = data.get(head_end..).and_then(<[u8]>::split_first_chunk::<4>) else {
        return Err(short);
    };
    let found = u32::from_le_bytes(*checksum);
    let computed = crc32c::crc32c_append(crc32c::crc32c(&data[..head_end]), payload);
    if found != computed {
        return Err(FormatError::Checksum { found, computed });
    }
    let tag = String::from_utf8_lossy(&data[3..tag_end]);
    if tag != codec.tag() {
        return Err(FormatError::Codec { found: tag.into_owned(), expected: codec.tag() });
    }
    let mut count = [0; 4];
    count.copy_from_slice(&data[tag_end..head_end]);
    let count = u32::from_le_bytes(count);
    match compression {
        PLAIN => items(payload, count, codec),
        ZSTD => items(&decompress(payload)?, count, codec),
        found => Err(FormatError::Compression { found }),
    }
}

fn items<T>(mut bytes: &[u8], count: u32, codec: &Arc<dyn Codec<T>>) -> Result<Vec<T>, FormatError> {
    let wrong = FormatError::Count { count };
    // Each item takes four bytes at least, so a count that lies reserves no more than there is.
    let mut items = Vec::with_capacity((count as usize).min(bytes.len() / 4));
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some((item, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return Err(wrong);
        };
        let item = codec
            .decode(item)
            // Without payload: codecs keep that out.
            .map_err(|error| FormatError::Item { index: items.len(), reason: error_chain(&error) })?;
        items.push(item);
        bytes = rest;
    }
    if !bytes.is_empty() || u32::try_from(items.len()) != Ok(count) {
        return Err(wrong);
    }
    Ok(items)
}

#[cfg(feature = "zstd")]
fn compress(bytes: &[u8], level: Option<i32>) -> (u8, Cow<'_, [u8]>) {
    match level.map(|level| zstd::bulk::compress(bytes, level)) {
        // What does not get smaller, or cannot be compressed, stays as it is.
        Some(Ok(smaller)) if smaller.len() < bytes.len() => (ZSTD, smaller.into()),
        _ => (PLAIN, bytes.into()),
    }
}

#[cfg(not(feature = "zstd"))]
fn compress(bytes: &[u8], _level: Option<i32>) -> (u8, Cow<'_, [u8]>) {
    (PLAIN, bytes.into())
}

#[cfg(feature = "zstd")]
fn decompress(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    use std::io::Read as _;

    let failed = |error: std::io::Error| FormatError::Decompress { reason: error.to_string() };
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(failed)?;
    let mut out = Vec::new();
    decoder.take(MAX_PAYLOAD as u64 + 1).read_to_end(&mut out).map_err(failed)?;
    if out.len() > MAX_PAYLOAD {
        return Err(FormatError::Decompress { reason: format!("it is larger than {MAX_PAYLOAD} bytes") });
    }
    Ok(out)
}

#[cfg(not(feature = "zstd"))]
fn decompress(bytes: &[u8]) -> Result<Vec<u8>, FormatError> {
    let _ = (bytes, MAX_PAYLOAD);
    Err(FormatError::Compression { found: ZSTD })
}

#[cfg(test)]
mod tests;
