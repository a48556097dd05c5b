use anyhow::Context;
use jsonschema::Validator;
use serde_json::Value;

use super::schema;

/// A call of the description.
#[derive(Debug)]
pub(crate) struct Operation {
    method: String,
    path: String,
    query: Vec<Parameter>,
    in_path: Vec<Parameter>,
    body: Option<Body>,
    reply: Option<Validator>,
}

#[derive(Debug)]
struct Body {
    required: bool,
    validator: Validator,
}

#[derive(Debug)]
struct Parameter {
    name: String,
    kind: Kind,
    required: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Flag,
}

/// How many errors of one body are told.
const MAX_ERRORS: usize = 10;

impl Operation {
    pub(crate) fn new(swagger: &Value, method: &str, path: &str, operation: &Value) -> anyhow::Result<Self> {
        let mut made = Self {
            method: method.to_uppercase(),
            path: path.to_owned(),
            query: Vec::new(),
            in_path: Vec::new(),
            body: None,
            reply: reply(swagger, operation)?,
        };
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let required = parameter["required"].as_bool().unwrap_or(false);
            match parameter["in"].as_str().context("a parameter without a place")? {
                "body" => {
                    made.body =
                        Some(Body { required, validator: schema::compile(swagger, &parameter["schema"])? });
                }
                "query" => made.query.push(Parameter::new(parameter, required)?),
                "path" => made.in_path.push(Parameter::new(parameter, required)?),
                other => anyhow::bail!("a parameter in {other}"),
            }
        }
        Ok(made)
    }

    pub(crate) fn method(&self) -> &str {
        &self.method
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) const fn takes_body(&self) -> bool {
        self.body.is_some()
    }

    pub(crate) const fn parameters(&self) -> usize {
        self.in_path.len()
    }

    pub(crate) fn matches(&self, method: &str, path: &str) -> bool {
        self.method == method && self.values(path).is_some()
    }

    /// Returns the names and values of the path's parameters, if the path is one of this call.
    fn values<'a>(&'a self, path: &'a str) -> Option<Vec<(&'a str, &'a str)>> {
        if self.path.split('/').count() != path.split('/').count() {
            return None;
        }
        let mut values = Vec::new();
        for (pattern, segment) in self.path.split('/').zip(path.split('/')) {
            match pattern.strip_prefix('{').and_then(|pattern| pattern.strip_suffix('}')) {
                Some(name) if !segment.is_empty() => values.push((name, segment)),
                None if pattern == segment => {}
                _ => return None,
            }
        }
        Some(values)
    }

    pub(crate) fn violations(&self, path: &str, query: &[(String, String)], body: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        for (name, value) in self.values(path).unwrap_or_default() {
            if let Some(parameter) = self.in_path.iter().find(|parameter| parameter.name == name) {
                found.extend(parameter.violation(value));
            }
        }
        for (name, value) in query {
            match self.query.iter().find(|parameter| parameter.name == *name) {
                Some(parameter) => found.extend(parameter.violation(value)),
                None => found.push(format!("the query has an unknown {name}")),
            }
        }
        for parameter in self.query.iter().filter(|parameter| parameter.required) {
            if !query.iter().any(|(name, _)| *name == parameter.name) {
                found.push(format!("the query lacks {}", parameter.name));
            }
        }
        match &self.body {
            Some(expected) => found.extend(expected.violations(body)),
            None if body.is_empty() => {}
            None => found.push("there is a body, and should be none".to_owned()),
        }
        for violation in &mut found {
            *violation = format!("{} {path}: {violation}", self.method);
        }
        found
    }

    pub(crate) fn reply_violations(&self, body: &Value) -> Vec<String> {
        let Some(validator) = &self.reply else {
            return Vec::new();
        };
        let mut body = body.clone();
        // Replies say `"params": null` where the description wants an object or nothing.
        if let Value::Object(members) = &mut body {
            members.retain(|_, value| !value.is_null());
        }
        told(validator, &body)
    }
}

/// Compiles the schema of the reply with status 200, where it describes JSON.
fn reply(swagger: &Value, operation: &Value) -> anyhow::Result<Option<Validator>> {
    let schema = &operation["responses"]["200"]["schema"];
    // A bare string or a file is a text, whatever its type in JSON would be.
    let text = matches!(schema["type"].as_str(), Some("string" | "file"));
    if schema.is_null() || text {
        return Ok(None);
    }
    schema::compile(swagger, schema).map(Some)
}

impl Body {
    fn violations(&self, body: &[u8]) -> Vec<String> {
        if body.is_empty() {
            let missing = self.required.then(|| "the body is missing".to_owned());
            return missing.into_iter().collect();
        }
        match serde_json::from_slice(body) {
            Ok(body) => told(&self.validator, &body),
            Err(error) => vec![format!("the body is not JSON: {error}")],
        }
    }
}

fn told(validator: &Validator, body: &Value) -> Vec<String> {
    validator
        .iter_errors(body)
        .take(MAX_ERRORS)
        .map(|error| format!("at {:?}: {error}", error.instance_path().to_string()))
        .collect()
}

impl Parameter {
    fn new(parameter: &Value, required: bool) -> anyhow::Result<Self> {
        let name = parameter["name"].as_str().context("a parameter without a name")?;
        // Arrays are sent as a parameter for each element.
        let kind = match parameter["type"].as_str() {
            Some("array") => parameter["items"]["type"].as_str(),
            kind => kind,
        };
        Ok(Self {
            name: name.to_owned(),
            kind: match kind {
                Some("integer") => Kind::Integer,
                Some("boolean") => Kind::Flag,
                // The description gives some ids the type `object`, which no query can carry.
                Some("string" | "object") => Kind::Text,
                other => anyhow::bail!("{name} is of type {other:?}"),
            },
            required,
        })
    }

    fn violation(&self, value: &str) -> Option<String> {
        let fits = match self.kind {
            Kind::Text => true,
            Kind::Integer => value.parse::<i64>().is_ok(),
            Kind::Flag => matches!(value, "true" | "false"),
        };
        (!fits).then(|| format!("{} is {value:?}, not {:?}", self.name, self.kind))
    }
}
