use std::fmt;

use jiff::civil::{Date, Time};
use serde_json::Value;

/// The type that a project knows a data field by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldType {
    /// Any text.
    String,
    /// A text in one of the date formats of the API.
    Date,
    /// A whole number.
    Long,
    /// A number.
    Double,
    /// True or false.
    Boolean,
    /// A place on Earth.
    GeoLocation,
    /// A type that this crate does not know.
    Unknown,
}

impl FieldType {
    /// Reads the name of a type as the API writes it; `Boolean` counts as `boolean`.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        match name {
            "string" => Self::String,
            "date" => Self::Date,
            "long" => Self::Long,
            "double" => Self::Double,
            "boolean" | "Boolean" => Self::Boolean,
            "geo_location" => Self::GeoLocation,
            _ => Self::Unknown,
        }
    }

    /// Returns the name as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Date => "date",
            Self::Long => "long",
            Self::Double => "double",
            Self::Boolean => "boolean",
            Self::GeoLocation => "geo_location",
            Self::Unknown => "unknown",
        }
    }

    /// Returns whether this crate knows the type.
    pub const fn is_known(self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Returns whether a field of this type and name takes the value.
    ///
    /// | type | takes |
    /// |---|---|
    /// | string | any text |
    /// | date | `yyyy-MM-dd`, `yyyy-MM-dd HH:mm:ss`, `yyyy-MM-dd HH:mm:ss +hh:mm`, `yyyy-MM-ddTHH:mm:ss.SSSZ`, `yyyy-MM-ddTHH:mm:ss.SSS+hh:mm`, if there is such a day and time |
    /// | long | a number without fraction that fits 64 bits with sign |
    /// | double | any number: JSON does not tell 3 from 3.0 |
    /// | boolean | true and false |
    /// | geo location | an object with the numbers `lat` and `lon`, in a field whose name ends with `_geo_location` |
    /// | unknown | nothing |
    #[must_use]
    pub fn accepts(self, field: &str, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Date => value.as_str().is_some_and(is_date),
            Self::Long => value.is_i64(),
            Self::Double => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::GeoLocation => {
                field.ends_with("_geo_location") && value["lat"].is_number() && value["lon"].is_number()
            }
            Self::Unknown => false,
        }
    }
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The date formats of the API: a digit stands for any digit, `+` for either sign, the rest for itself.
const DATE_FORMATS: [&str; 5] = [
    "0000-00-00",
    "0000-00-00 00:00:00",
    "0000-00-00 00:00:00 +00:00",
    "0000-00-00T00:00:00.000Z",
    "0000-00-00T00:00:00.000+00:00",
];

fn is_date(text: &str) -> bool {
    if !DATE_FORMATS.iter().any(|format| has_shape(text, format)) {
        return false;
    }
    // In every format the numbers come in the same order, so position does not matter, only which one it is.
    let numbers: Vec<i16> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect();
    let part = |index: usize| numbers.get(index).map_or(Ok(0), |&number| i8::try_from(number));
    let has_millis = text.contains('.');
    let offset = if has_millis { 7 } else { 6 };
    let (Some(&year), Ok(month), Ok(day)) = (numbers.first(), part(1), part(2)) else {
        return false;
    };
    let (Ok(hour), Ok(minute), Ok(second), Ok(offset_hour), Ok(offset_minute)) =
        (part(3), part(4), part(5), part(offset), part(offset + 1))
    else {
        return false;
    };
    Date::new(year, month, day).is_ok()
        && Time::new(hour, minute, second, 0).is_ok()
        && Time::new(offset_hour, offset_minute, 0, 0).is_ok()
}

fn has_shape(text: &str, format: &str) -> bool {
    text.len() == format.len()
        && text.bytes().zip(format.bytes()).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'+' => matches!(byte, b'+' | b'-'),
            other => byte == other,
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_name_reads_back_and_the_capital_b_is_forgiven() {
        for name in ["string", "date", "long", "double", "boolean", "geo_location"] {
            let kind = FieldType::parse(name);
            assert_eq!(kind.as_str(), name);
            assert!(kind.is_known());
        }
        assert_eq!(FieldType::parse("Boolean"), FieldType::Boolean);
        for name in ["", "keyword", "unknown", "STRING"] {
            assert!(!FieldType::parse(name).is_known(), "{name}");
        }
    }

    #[test]
    fn dates_have_five_formats() {
        let takes = |text: &str| FieldType::Date.accepts("d", &json!(text));
        for good in [
            "2024-02-29",
            "2023-12-31 23:59:59",
            "2023-12-31 00:00:00 +02:00",
            "2023-12-31 00:00:00 -11:30",
            "2023-12-31T12:00:00.123Z",
            "2023-12-31T12:00:00.123+01:00",
        ] {
            assert!(takes(good), "{good}");
        }
        for bad in [
            "",
            "GGG",
            "2023-02-29",
            "2023-13-01",
            "2023-1-1",
            "2023-12-31 24:00:00",
            "2023-12-31 23:59:60",
            "2023-12-31  00:00:00",
            "2023-12-31 00:00:00+02:00",
            "2023-12-31 00:00:00 +24:00",
            "2023-12-31T12:00:00Z",
            "2023-12-31T12:00:00.1Z",
            "2023-12-31T12:00:00.123+01:60",
            "2023-12-31T12:00:00.1230Z",
            "٢٠٢٣-12-31",
        ] {
            assert!(!takes(bad), "{bad}");
        }
        assert!(!FieldType::Date.accepts("d", &json!(20_231_231)));
    }

    #[test]
    fn numbers_that_came_through_json_keep_their_kind() {
        let takes = |kind: FieldType, value: Value| kind.accepts("n", &value);
        assert!(takes(FieldType::Long, json!(3)));
        assert!(takes(FieldType::Long, json!(i64::MIN)));
        assert!(!takes(FieldType::Long, json!(3.5)));
        assert!(!takes(FieldType::Long, json!(u64::MAX)));
        assert!(!takes(FieldType::Long, json!("3")));
        assert!(takes(FieldType::Double, json!(3.5)));
        assert!(takes(FieldType::Double, json!(3)));
        assert!(!takes(FieldType::Double, json!(true)));
    }

    #[test]
    fn a_place_has_two_numbers_and_a_name_of_its_own() {
        let place = json!({"lat": 52.5, "lon": 13});
        assert!(FieldType::GeoLocation.accepts("home_geo_location", &place));
        assert!(!FieldType::GeoLocation.accepts("home", &place));
        assert!(!FieldType::GeoLocation.accepts("home_geo_location", &json!({"lat": 52.5})));
        assert!(!FieldType::GeoLocation.accepts("home_geo_location", &json!("52.5,13")));
    }

    #[test]
    fn texts_booleans_and_the_unknown() {
        assert!(FieldType::String.accepts("s", &json!("")));
        assert!(!FieldType::String.accepts("s", &json!(1)));
        assert!(FieldType::Boolean.accepts("b", &json!(false)));
        assert!(!FieldType::Boolean.accepts("b", &json!("true")));
        for value in [json!(null), json!("x"), json!(1)] {
            assert!(!FieldType::Unknown.accepts("u", &value));
        }
    }
}
