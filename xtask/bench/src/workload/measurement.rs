use serde::Serialize;
use serde_json::{Map, Value};

/// What a probe answers: one number, and what one should know of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measurement {
    pub(crate) case: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    details: Map<String, Value>,
}

impl Measurement {
    /// Makes a measurement of which nothing else is to be known.
    pub(crate) fn new(case: &str, value: f64, unit: &'static str) -> Self {
        Self { case: case.to_owned(), value, unit, details: Map::new() }
    }

    /// Adds something one should know.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn details_stand_beside_the_value() {
        let measurement = Measurement::new("send/1", 2.5, "items/s").with("items", 7);
        let object = serde_json::to_value(measurement).unwrap();
        assert_eq!(object, json!({"case": "send/1", "value": 2.5, "unit": "items/s", "items": 7}));
    }
}
