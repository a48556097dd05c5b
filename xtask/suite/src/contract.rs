mod operation;
mod schema;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use relaykit_iterable_handlers::testing::Recorded;
use serde_json::Value;

use crate::shared_file;
use operation::Operation;

/// Iterable's API description, made into checks.
///
/// Stricter than the description itself: a member that a schema does not name is a violation, wherever the schema
/// names any.
#[derive(Debug)]
pub struct Contract {
    operations: Vec<Operation>,
}

impl Contract {
    /// Returns the description that lies beside the workspace; `None`, with a printed `skip:` line, if there is none.
    ///
    /// # Panics
    ///
    /// If the description is there and cannot be read, or if it is not there and the environment variable `CI` is set.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Contract> = OnceLock::new();
        let path = shared_file("data/iterable-api-swagger.json")?;
        Some(SHARED.get_or_init(|| Self::read(&path).expect("the API's description is whole")))
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        Self::new(&serde_json::from_slice(&text)?)
    }

    /// Makes the checks of a Swagger 2.0 document.
    ///
    /// # Errors
    ///
    /// If it is of another version, or a schema in it is none.
    pub fn new(swagger: &Value) -> anyhow::Result<Self> {
        ensure!(swagger["swagger"] == "2.0", "version {} is not 2.0", swagger["swagger"]);
        let paths = swagger["paths"].as_object().context("no paths")?;
        let mut operations = Vec::new();
        for (path, methods) in paths {
            let methods = methods.as_object().with_context(|| format!("{path} has no methods"))?;
            for (method, operation) in methods {
                let made = Operation::new(swagger, method, path, operation);
                operations.push(made.with_context(|| format!("{method} {path}"))?);
            }
        }
        // Where two patterns match a path, the one with fewer parameters is meant.
        operations.sort_by_key(Operation::parameters);
        Ok(Self { operations })
    }

    /// Returns the method, in upper case, and path pattern of every call that takes a body.
    pub fn calls_with_body(&self) -> impl Iterator<Item = (&str, &str)> {
        self.operations
            .iter()
            .filter(|operation| operation.takes_body())
            .map(|operation| (operation.method(), operation.path()))
    }

    /// Says what breaks the description in a request: method, path, query, body and headers.
    pub fn check(&self, request: &Recorded) -> Vec<String> {
        let method = request.method.as_str();
        let mut found = self.violations(method, &request.path, &request.query_pairs(), &request.body);
        let json = request.header("content-type").is_some_and(|value| value.starts_with("application/json"));
        if !request.body.is_empty() && !json {
            found.push(format!("{method} {}: the content type is not JSON", request.path));
        }
        if request.header("api-key").is_none() {
            found.push(format!("{method} {}: there is no Api-Key", request.path));
        }
        found
    }

    /// Says what breaks the description in a request's method, path, query and body.
    pub fn violations(
        &self,
        method: &str,
        path: &str,
        query: &[(String, String)],
        body: &[u8],
    ) -> Vec<String> {
        match self.find(method, path) {
            Some(operation) => operation.violations(path, query, body),
            None => vec![format!("{method} {path}: the description has no such call")],
        }
    }

    /// Says what breaks the description in the body of a reply with status 200.
    pub fn reply_violations(&self, method: &str, path: &str, body: &Value) -> Vec<String> {
        match self.find(method, path) {
            Some(operation) => operation.reply_violations(body),
            None => vec![format!("{method} {path}: the description has no such call")],
        }
    }

    fn find(&self, method: &str, path: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.matches(method, path))
    }
}
