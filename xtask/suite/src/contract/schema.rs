use std::collections::BTreeSet;

use anyhow::Context;
use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

/// Where references point to.
const DEFINITIONS: &str = "#/definitions/";

/// Compiles a schema of a Swagger document, with the definitions that it needs.
///
/// Swagger's schemas are JSON Schema of draft 4 with words of their own (`example`, `readOnly`, `discriminator`,
/// `x-…`), which validation ignores.
pub(crate) fn compile(swagger: &Value, schema: &Value) -> anyhow::Result<Validator> {
    let mut definitions = Map::new();
    let mut wanted = references(schema);
    while let Some(name) = wanted.pop_first() {
        if definitions.contains_key(&safe(&name)) {
            continue;
        }
        let mut definition =
            swagger["definitions"].get(&name).with_context(|| format!("no definition of {name}"))?.clone();
        wanted.extend(references(&definition));
        tighten(&mut definition);
        rename(&mut definition);
        definitions.insert(safe(&name), definition);
    }
    let mut schema = schema.clone();
    tighten(&mut schema);
    rename(&mut schema);
    // `$ref` would hide its siblings, so the schema stands one level below the definitions.
    let root = json!({"allOf": [schema], "definitions": definitions});
    jsonschema::options()
        .with_draft(Draft::Draft4)
        .offline()
        .build(&root)
        .map_err(|error| anyhow::anyhow!("{error}"))
}

/// Returns the names of the definitions that a schema refers to.
fn references(schema: &Value) -> BTreeSet<String> {
    match schema {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| match value {
                Value::String(target) if name == "$ref" => {
                    target.strip_prefix(DEFINITIONS).map(str::to_owned).into_iter().collect()
                }
                value => references(value),
            })
            .collect(),
        Value::Array(elements) => elements.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// Returns a definition's name without what a URI cannot carry: some names are whole sentences.
fn safe(name: &str) -> String {
    name.chars()
        .map(|char| match char {
            'a'..='z' | 'A'..='Z' | '0'..='9' => char.to_string(),
            char => format!("_{:x}_", u32::from(char)),
        })
        .collect()
}

/// Makes all references safe.
fn rename(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members.iter_mut() {
                match value {
                    Value::String(target) if name == "$ref" => {
                        if let Some(definition) = target.strip_prefix(DEFINITIONS) {
                            *target = format!("{DEFINITIONS}{}", safe(definition));
                        }
                    }
                    value => rename(value),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(rename),
        _ => {}
    }
}

/// Closes every object that names its members, and gives `int32` its bounds.
fn tighten(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    if members.contains_key("properties") && !members.contains_key("additionalProperties") {
        members.insert("additionalProperties".to_owned(), json!(false));
    }
    if members.get("format").is_some_and(|format| format == "int32") {
        members.insert("minimum".to_owned(), json!(i32::MIN));
        members.insert("maximum".to_owned(), json!(i32::MAX));
    }
    // The names of members are not keywords: only what stands behind them is a schema.
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(tighten);
    }
    for keyword in ["items", "additionalProperties", "not"] {
        if let Some(inner) = members.get_mut(keyword) {
            tighten(inner);
        }
    }
    for keyword in ["allOf", "anyOf", "oneOf"] {
        if let Some(Value::Array(inner)) = members.get_mut(keyword) {
            inner.iter_mut().for_each(tighten);
        }
    }
}
