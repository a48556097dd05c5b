use relaykit_pipeline_traits::Timestamp;
use relaykit_pipeline_traits::uuid::Uuid;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

// Postgres sends and takes these types as described in its own sources: `uuid_send` (16 bytes), `jsonb_send` (a
// version, then text) and `timestamptz_send` (µs since 2000 as a big-endian i64), all unchanged since 9.4. sqlx's
// own codecs for them are behind features that lock its SQLite driver.

/// A `uuid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgUuid(pub Uuid);

/// A `jsonb`, as its text. Whether it is JSON, Postgres checks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PgJson(pub String);

/// A `timestamptz`.
///
/// Infinity reads as the end of the range that [`Timestamp`] has; writing a moment that Postgres cannot hold
/// is an error before anything is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTimestamp(pub Timestamp);

/// The version that begins each `jsonb` on the wire.
const JSONB_VERSION: u8 = 1;

/// 2000-01-01T00:00:00Z, from which Postgres counts, in µs since 1970.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The first and the last moment that a `timestamptz` holds: 4714-11-24 BC and the end of 294276, in µs since
/// 2000 (`MIN_TIMESTAMP`, `END_TIMESTAMP` of Postgres' `datatype/timestamp.h`).
const RANGE: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// A moment that Postgres cannot hold.
#[derive(Debug, thiserror::Error)]
#[error("timestamp of {micros} µs since 1970 is outside of what Postgres holds")]
struct OutOfRange {
    micros: i64,
}

/// A value that came in another form than this codec reads.
#[derive(Debug, thiserror::Error)]
#[error("{what} came in a form that is not understood")]
struct BadForm {
    what: &'static str,
}

impl Type<Postgres> for PgUuid {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(2950))
    }
}

impl PgHasArrayType for PgUuid {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(2951))
    }
}

impl Encode<'_, Postgres> for PgUuid {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for PgUuid {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(Uuid::from_slice(value.as_bytes()?)?)),
            PgValueFormat::Text => Ok(Self(Uuid::parse_str(value.as_str()?)?)),
        }
    }
}

impl Type<Postgres> for PgJson {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(3802))
    }
}

impl PgHasArrayType for PgJson {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(3807))
    }
}

impl Encode<'_, Postgres> for PgJson {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.push(JSONB_VERSION);
        buf.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for PgJson {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let text = match value.format() {
            PgValueFormat::Binary => match value.as_bytes()?.split_first() {
                Some((&JSONB_VERSION, text)) => std::str::from_utf8(text)?,
                _ => return Err(BadForm { what: "jsonb" }.into()),
            },
            PgValueFormat::Text => value.as_str()?,
        };
        Ok(Self(text.to_owned()))
    }
}

impl Type<Postgres> for PgTimestamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(1184))
    }
}

impl PgHasArrayType for PgTimestamp {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(sqlx::postgres::types::Oid(1185))
    }
}

impl Encode<'_, Postgres> for PgTimestamp {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&to_wire(self.0)?.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for PgTimestamp {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        // As text, the form depends on the session's settings; it comes so only without parameters.
        if value.format() == PgValueFormat::Text {
            return Err(BadForm { what: "timestamptz" }.into());
        }
        Ok(Self(from_wire(i64::from_be_bytes(value.as_bytes()?.try_into()?))))
    }
}

fn to_wire(at: Timestamp) -> Result<i64, OutOfRange> {
    let wire = at.as_micros().checked_sub(EPOCH_MICROS).filter(|wire| RANGE.contains(wire));
    wire.ok_or(OutOfRange { micros: at.as_micros() })
}

fn from_wire(wire: i64) -> Timestamp {
    match wire {
        i64::MIN => Timestamp::from_micros(i64::MIN),
        wire => Timestamp::from_micros(wire.saturating_add(EPOCH_MICROS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_make_the_round_trip_within_what_postgres_holds() {
        for micros in [0, -1, 1_763_683_200_000_001, EPOCH_MICROS, -210_866_803_200_000_000 + EPOCH_MICROS] {
            let at = Timestamp::from_micros(micros);
            assert_eq!(from_wire(to_wire(at).unwrap()), at);
        }
        // The last moment of a `Timestamp` is still one of Postgres; the first is not.
        assert!(to_wire(Timestamp::from_micros(i64::MAX)).is_ok());
        assert!(to_wire(Timestamp::from_micros(i64::MIN)).is_err());
    }

    #[test]
    fn infinity_reads_as_the_end_of_the_range() {
        assert_eq!(from_wire(i64::MAX), Timestamp::from_micros(i64::MAX));
        assert_eq!(from_wire(i64::MIN), Timestamp::from_micros(i64::MIN));
    }
}
