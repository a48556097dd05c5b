use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::testing::project::Project;
use crate::testing::tally::Tally;

/// The fields that a request created, and those that were left out because it may not.
#[derive(Debug, Default)]
pub(super) struct Fields {
    created: BTreeSet<String>,
    filtered: BTreeSet<String>,
}

impl Fields {
    pub(super) fn tell(self, tally: &mut Tally) {
        tally.created = self.created;
        tally.filtered = self.filtered;
    }
}

/// Returns an element's `dataFields` without those that are new and may not be created.
pub(super) fn keep(
    project: &mut Project,
    event: Option<&str>,
    element: &Value,
    create: Option<bool>,
    fields: &mut Fields,
) -> Option<Map<String, Value>> {
    let mut data = element.get("dataFields").and_then(Value::as_object)?.clone();
    data.retain(|name, value| {
        if project.knows_field(event, name) {
            return true;
        }
        if create == Some(false) {
            fields.filtered.insert(name.clone());
            return false;
        }
        project.add_field(event, name, type_of(value));
        fields.created.insert(name.clone());
        true
    });
    Some(data)
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "double",
        Value::Number(_) => "long",
        Value::Array(_) | Value::Object(_) => "object",
        Value::String(_) | Value::Null => "string",
    }
}
