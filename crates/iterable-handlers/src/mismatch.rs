use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::FieldType;
use crate::wire::PostResponse;

/// Which data fields have another type than the project knows them by, as a reply of the code
/// `RequestFieldsTypesMismatched` tells.
///
/// Read it to learn the project's types, and check later messages with [`FieldType::accepts`].
///
/// ```
/// use relaykit_iterable_handlers::{FieldType, MismatchedFields};
///
/// let body = br#"{"code": "RequestFieldsTypesMismatched", "params": {"validationErrors": {
///     "signupDate": {"incomingTypes": ["string"], "expectedType": "date", "offendingValue": "GGG"}}}}"#;
/// let fields = MismatchedFields::from_response_body(body)?;
/// assert_eq!(fields.get("signupDate").unwrap().expected(), FieldType::Date);
/// # Ok::<(), relaykit_iterable_handlers::InvalidMismatch>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MismatchedFields {
    #[serde(deserialize_with = "null_is_empty")]
    validation_errors: BTreeMap<String, MismatchedField>,
}

/// One field of the wrong type. Members that a reply lacks, or has in another shape, are empty.
#[derive(Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct MismatchedField {
    /// What the value sent could be.
    #[serde(deserialize_with = "texts")]
    pub incoming_types: Vec<String>,
    /// What the project knows the field as. [`expected`](Self::expected) reads it.
    #[serde(deserialize_with = "text")]
    pub expected_type: String,
    /// Whose field it is, such as `user`.
    #[serde(deserialize_with = "text")]
    pub category: String,
    /// The value sent, of whatever type. It is somebody's data: `Debug` does not show it.
    pub offending_value: Value,
    /// The kind of mismatch, such as `UnexpectedType`.
    #[serde(rename = "_type", deserialize_with = "text")]
    pub kind: String,
}

impl MismatchedField {
    /// Returns the type that the project knows the field by.
    pub fn expected(&self) -> FieldType {
        FieldType::parse(&self.expected_type)
    }
}

impl std::fmt::Debug for MismatchedField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MismatchedField")
            .field("incoming_types", &self.incoming_types)
            .field("expected_type", &self.expected_type)
            .field("category", &self.category)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A reply that does not tell of mismatched fields, or in a shape this crate cannot read.
#[derive(Debug, thiserror::Error)]
#[error("could not read mismatched fields from a reply of {bytes} bytes")]
#[non_exhaustive]
pub struct InvalidMismatch {
    /// The size of what was to be read; 0 where that was read already.
    pub bytes: usize,
    source: serde_json::Error,
}

impl MismatchedFields {
    /// Reads the whole body of a reply. Without `params` there are no fields; the other members do not matter.
    ///
    /// # Errors
    ///
    /// If the body is no JSON object, or `params` of another shape.
    pub fn from_response_body(body: &[u8]) -> Result<Self, InvalidMismatch> {
        #[derive(Deserialize)]
        struct Body {
            params: Option<MismatchedFields>,
        }
        match serde_json::from_slice::<Option<Body>>(body) {
            Ok(body) => Ok(body.and_then(|body| body.params).unwrap_or_default()),
            Err(source) => Err(InvalidMismatch { bytes: body.len(), source }),
        }
    }

    /// Reads a reply that was decoded already.
    ///
    /// # Errors
    ///
    /// If `params` is of another shape.
    pub fn from_response(response: &PostResponse) -> Result<Self, InvalidMismatch> {
        match &response.params {
            Some(params) => Self::from_value(params),
            None => Ok(Self::default()),
        }
    }

    /// Reads the member `params` of a reply.
    ///
    /// # Errors
    ///
    /// If it is of another shape.
    pub fn from_params(params: &Map<String, Value>) -> Result<Self, InvalidMismatch> {
        match params.get("validationErrors") {
            Some(errors) => null_is_empty(errors)
                .map(|validation_errors| Self { validation_errors })
                .map_err(|source| InvalidMismatch { bytes: 0, source }),
            None => Ok(Self::default()),
        }
    }

    /// Reads the text of the member `params` of a reply.
    ///
    /// # Errors
    ///
    /// If it is no JSON object, or of another shape.
    pub fn from_bytes(params: &[u8]) -> Result<Self, InvalidMismatch> {
        match serde_json::from_slice::<Option<Self>>(params) {
            Ok(fields) => Ok(fields.unwrap_or_default()),
            Err(source) => Err(InvalidMismatch { bytes: params.len(), source }),
        }
    }

    fn from_value(params: &Value) -> Result<Self, InvalidMismatch> {
        Option::<Self>::deserialize(params)
            .map(Option::unwrap_or_default)
            .map_err(|source| InvalidMismatch { bytes: 0, source })
    }

    /// Returns one field by its name. Names may carry a prefix, as in `my_project_etl:::signup_at`.
    pub fn get(&self, name: &str) -> Option<&MismatchedField> {
        self.validation_errors.get(name)
    }

    /// Returns the fields and their names, in order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MismatchedField)> {
        self.validation_errors.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// Returns how many fields there are.
    pub fn len(&self) -> usize {
        self.validation_errors.len()
    }

    /// Returns whether no field is told of.
    pub fn is_empty(&self) -> bool {
        self.validation_errors.is_empty()
    }
}

fn null_is_empty<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, MismatchedField>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        _ => String::new(),
    })
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let Value::Array(items) = Value::deserialize(deserializer)? else {
        return Ok(Vec::new());
    };
    let text = |item| match item {
        Value::String(text) => Some(text),
        _ => None,
    };
    Ok(items.into_iter().filter_map(text).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const RECORDED: &[u8] = br#"{"msg":"Project 10216: The request does not have the same data types as the data previously submitted. Field 'signupDate' already exists for type 'user' and has a data type of 'date' but possible types 'string, keyword' in the request.","code":"RequestFieldsTypesMismatched","params":{"validationErrors":{"signupDate":{"incomingTypes":["string","keyword"],"expectedType":"date","_type":"UnexpectedType","offendingValue":"GGG","category":"user"}}}}"#;

    fn signup_date() -> MismatchedField {
        MismatchedField {
            incoming_types: vec!["string".to_owned(), "keyword".to_owned()],
            expected_type: "date".to_owned(),
            category: "user".to_owned(),
            offending_value: json!("GGG"),
            kind: "UnexpectedType".to_owned(),
        }
    }

    #[test]
    fn a_recorded_reply_reads_the_same_through_all_four_doors() {
        let value: Value = serde_json::from_slice(RECORDED).unwrap();
        let response: PostResponse = serde_json::from_slice(RECORDED).unwrap();
        let params = value["params"].as_object().unwrap();
        let doors = [
            MismatchedFields::from_response_body(RECORDED),
            MismatchedFields::from_response(&response),
            MismatchedFields::from_params(params),
            MismatchedFields::from_bytes(&serde_json::to_vec(params).unwrap()),
        ];
        for fields in doors {
            let fields = fields.unwrap();
            assert_eq!(fields.len(), 1);
            assert_eq!(fields.get("signupDate"), Some(&signup_date()));
        }
    }

    #[test]
    fn an_offending_value_that_is_no_text_and_a_code_that_is_a_number_lose_nothing() {
        let body = json!({"code": 17, "params": {"validationErrors": {
            "my_project_etl:::age": {"expectedType": "long", "offendingValue": {"a": [1]}, "incomingTypes": "string"},
            "b": {"expectedType": 3, "offendingValue": 2.5, "novelty": true},
        }}});
        let body = serde_json::to_vec(&body).unwrap();
        let fields = MismatchedFields::from_response_body(&body).unwrap();
        let age = fields.get("my_project_etl:::age").unwrap();
        assert_eq!(age.offending_value, json!({"a": [1]}));
        assert_eq!(age.expected(), FieldType::Long);
        assert!(age.incoming_types.is_empty());
        let b = fields.get("b").unwrap();
        assert_eq!((b.offending_value.clone(), b.expected()), (json!(2.5), FieldType::Unknown));
    }

    #[test]
    fn nothing_said_is_no_field() {
        for body in [
            "null",
            "{}",
            r#"{"params":null}"#,
            r#"{"params":{}}"#,
            r#"{"params":{"validationErrors":null}}"#,
        ] {
            let fields = MismatchedFields::from_response_body(body.as_bytes()).unwrap();
            assert!(fields.is_empty(), "{body}");
        }
        assert!(MismatchedFields::from_response(&PostResponse::default()).unwrap().is_empty());
        assert!(MismatchedFields::from_bytes(b"null").unwrap().is_empty());
        assert!(MismatchedFields::from_params(&Map::new()).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for body in ["", "<html>", "[1", r#"{"params":7}"#, r#"{"params":{"validationErrors":[1]}}"#] {
            let error = MismatchedFields::from_response_body(body.as_bytes()).unwrap_err();
            assert_eq!(error.bytes, body.len(), "{body}");
        }
        assert!(MismatchedFields::from_bytes(b"").is_err());
        let odd = json!({"validationErrors": 7});
        assert!(MismatchedFields::from_params(odd.as_object().unwrap()).is_err());
    }

    #[test]
    fn debug_does_not_show_the_value() {
        let shown = format!("{:?}", signup_date());
        assert!(!shown.contains("GGG"), "{shown}");
    }
}
