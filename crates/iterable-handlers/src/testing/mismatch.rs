use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// Finds the `dataFields` whose type is not the expected one and returns what the reply's `params` say of them;
/// `None` if all fit.
pub(crate) fn params(
    expected: &BTreeMap<String, String>,
    category: &str,
    elements: &[Value],
) -> Option<Value> {
    let mut errors = Map::new();
    for element in elements {
        let Some(Value::Object(fields)) = element.get("dataFields") else {
            continue;
        };
        for (name, value) in fields {
            let Some(expected) = expected.get(name) else {
                continue;
            };
            let incoming = types_of(value);
            if incoming.is_empty() || incoming.contains(&expected.as_str()) {
                continue;
            }
            errors.entry(name.clone()).or_insert_with(|| {
                json!({
                    "incomingTypes": incoming,
                    "expectedType": expected,
                    "category": category,
                    "offendingValue": value,
                    "_type": "UnexpectedType",
                })
            });
        }
    }
    (!errors.is_empty()).then(|| json!({"validationErrors": errors}))
}

/// Returns the type names that a value may have; none for `null`, which fits all.
fn types_of(value: &Value) -> Vec<&'static str> {
    match value {
        Value::Null => vec![],
        Value::Bool(_) => vec!["boolean"],
        Value::Number(number) if number.is_f64() => vec!["double"],
        // A whole number fits a field of fractions.
        Value::Number(_) => vec!["long", "double"],
        Value::String(text) if looks_like_a_date(text) => vec!["date", "string", "keyword"],
        Value::String(_) => vec!["string", "keyword"],
        Value::Array(_) => vec!["array"],
        Value::Object(_) => vec!["object", "geo_location"],
    }
}

/// Returns whether text begins as `2025-11-01`.
fn looks_like_a_date(text: &str) -> bool {
    let Some(day) = text.as_bytes().get(..10) else {
        return false;
    };
    day.iter().enumerate().all(|(index, byte)| match index {
        4 | 7 => *byte == b'-',
        _ => byte.is_ascii_digit(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(expected: &str, value: &Value) -> Option<Value> {
        let expected = BTreeMap::from([("field".to_owned(), expected.to_owned())]);
        params(&expected, "user", &[json!({"dataFields": {"field": value}})])
    }

    #[test]
    fn a_value_of_another_type_is_named() {
        let params = found("date", &json!("GGG")).unwrap();
        let error = &params["validationErrors"]["field"];
        assert_eq!(error["incomingTypes"], json!(["string", "keyword"]));
        assert_eq!(error["expectedType"], "date");
        assert_eq!(error["offendingValue"], "GGG");
    }

    #[test]
    fn values_that_fit_pass() {
        for (expected, value) in [
            ("date", json!("2025-11-01 00:00:00 +00:00")),
            ("string", json!("x")),
            ("long", json!(1)),
            ("double", json!(1)),
            ("boolean", json!(true)),
            ("long", json!(null)),
        ] {
            assert_eq!(found(expected, &value), None, "{expected} {value}");
        }
        assert!(found("long", &json!(1.5)).is_some());
    }
}
