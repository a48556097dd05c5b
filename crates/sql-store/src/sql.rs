use std::sync::Arc;

use crate::Names;

/// An SQL statement made from a fixed text and validated names, so that no value can be part of it.
///
/// In the text, `{messages}` is the table of that name, `{=messages_due}` the bare name of an index or a
/// constraint in quotes, `{@schema}` the schema, and `{#shards}` a number that was given. Values are bound as parameters, as always.
///
/// ```
/// use relaykit_sql_store::{Names, Sql};
///
/// let names = Names::new("outbox")?.in_schema("app")?;
/// let sql = Sql::new(&names, &["select count(*) from {messages}"]);
/// assert_eq!(sql.as_str(), r#"select count(*) from "app"."outbox_messages""#);
/// # Ok::<(), relaykit_sql_store::InvalidIdent>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sql(Arc<str>);

impl Sql {
    /// Writes the parts one after another, with the names filled in.
    ///
    /// # Panics
    ///
    /// A placeholder asks for a number: see [`with_numbers`](Self::with_numbers).
    #[must_use]
    pub fn new(names: &Names, parts: &[&'static str]) -> Self {
        Self::with_numbers(names, &[], parts)
    }

    /// Writes the parts like [`new`](Self::new), with numbers for what cannot be a parameter, as in DDL.
    ///
    /// # Panics
    ///
    /// A placeholder asks for a number that is not given. The text is fixed, so the first run shows it.
    #[must_use]
    pub fn with_numbers(names: &Names, numbers: &[(&'static str, i64)], parts: &[&'static str]) -> Self {
        Self::filled(&Filling { names, numbers, versions: VERSIONS }, parts)
    }

    /// Writes the parts with `{schema}` for the table of this name.
    pub(crate) fn with_versions(
        names: &Names,
        numbers: &[(&'static str, i64)],
        versions: &'static str,
        parts: &[&'static str],
    ) -> Self {
        Self::filled(&Filling { names, numbers, versions }, parts)
    }

    fn filled(filling: &Filling<'_>, parts: &[&'static str]) -> Self {
        let mut sql = String::new();
        for part in parts {
            filling.fill(&mut sql, part);
        }
        Self(sql.into())
    }

    /// Writes parts that name no table.
    #[cfg(feature = "postgres")]
    pub(crate) fn of_numbers(numbers: &[(&'static str, i64)], parts: &[&'static str]) -> Self {
        Self::with_numbers(&Names::new("none").expect("it is an identifier"), numbers, parts)
    }

    /// Returns the statement.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the statement, shared.
    #[cfg(feature = "postgres")]
    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl FromIterator<Sql> for Sql {
    /// Writes statements one after another.
    fn from_iter<I: IntoIterator<Item = Self>>(statements: I) -> Self {
        let mut sql = String::new();
        for statement in statements {
            sql.push_str(statement.as_str());
        }
        Self(sql.into())
    }
}

/// The table that holds the version of the others, unless they are a part with one of its own.
pub(crate) const VERSIONS: &str = "schema";

/// What placeholders stand for.
struct Filling<'a> {
    names: &'a Names,
    numbers: &'a [(&'static str, i64)],
    versions: &'static str,
}

impl Filling<'_> {
    fn fill(&self, sql: &mut String, mut text: &'static str) {
        while let Some((before, rest)) = text.split_once('{') {
            sql.push_str(before);
            if let Some((placeholder, after)) = rest.split_once('}').filter(|(text, _)| is_placeholder(text))
            {
                sql.push_str(&self.written(placeholder));
                text = after;
            } else {
                // Any other brace is the text's own, such as that of an empty JSON object.
                sql.push('{');
                text = rest;
            }
        }
        sql.push_str(text);
    }

    fn written(&self, placeholder: &str) -> String {
        if placeholder == "@schema" {
            return self.names.schema().map(ToString::to_string).unwrap_or_default();
        }
        if let Some(local) = placeholder.strip_prefix('=') {
            return self.names.local(local);
        }
        if let Some(number) = placeholder.strip_prefix('#') {
            let given = self.numbers.iter().find(|(name, _)| *name == number);
            let (_, value) = given.unwrap_or_else(|| panic!("the number {number} was not given"));
            return value.to_string();
        }
        self.names.table(if placeholder == VERSIONS { self.versions } else { placeholder })
    }
}

fn is_placeholder(text: &str) -> bool {
    let name = text.strip_prefix(['=', '#', '@']).unwrap_or(text);
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("t").unwrap().in_schema("s").unwrap()
    }

    #[test]
    fn tables_indexes_and_numbers_are_filled_in() {
        let parts = ["create index {=due} on {messages} (x) ", "where x < {#limit}"];
        let sql = Sql::with_numbers(&names(), &[("limit", 7)], &parts);
        assert_eq!(sql.as_str(), r#"create index "t_due" on "s"."t_messages" (x) where x < 7"#);
    }

    #[test]
    fn other_braces_stay_as_they_are() {
        let sql = Sql::new(&names(), &["select '{}'::jsonb, '{\"a\": 1}', '{', array '{1,2}'"]);
        assert_eq!(sql.as_str(), "select '{}'::jsonb, '{\"a\": 1}', '{', array '{1,2}'");
    }

    #[test]
    #[should_panic(expected = "the number shards was not given")]
    fn a_number_that_is_not_given_shows_at_the_first_run() {
        let _ = Sql::new(&names(), &["{#shards}"]);
    }
}
