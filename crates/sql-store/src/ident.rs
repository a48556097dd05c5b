use std::fmt;
use std::str::FromStr;

/// The longest identifier in bytes: with a suffix of ours it stays below Postgres' 63, beyond which names are
/// cut off silently and may collide.
pub const MAX_IDENT_BYTES: usize = 48;

/// The longest table prefix in bytes, which leaves 30 for what follows it.
pub const MAX_PREFIX_BYTES: usize = 32;

/// The name of a schema, or what table names begin with: `[a-z_][a-z0-9_]{0,47}`.
///
/// It is written in double quotes (`Display`), so that it is no keyword, and holds no character that could
/// leave them.
///
/// ```
/// use relaykit_sql_store::Ident;
///
/// assert_eq!(Ident::new("user")?.to_string(), r#""user""#);
/// assert!(Ident::new(r#"a"; drop table x"#).is_err());
/// # Ok::<(), relaykit_sql_store::InvalidIdent>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ident(String);

impl Ident {
    /// Takes a name.
    ///
    /// # Errors
    ///
    /// It is empty, longer than [`MAX_IDENT_BYTES`], or has another character than `a`–`z`, `_` and, after the
    /// first, `0`–`9`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidIdent> {
        let name = name.into();
        match check(&name) {
            Some(bound) => Err(InvalidIdent { name, bound }),
            None => Ok(Self(name)),
        }
    }

    /// Returns the name without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Option<&'static str> {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    if name.is_empty() {
        Some("at least 1 character long")
    } else if name.len() > MAX_IDENT_BYTES {
        Some("at most 48 bytes long")
    } else if !is_letter(name.as_bytes()[0]) {
        Some("a name that begins with a-z or _")
    } else if !name.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit()) {
        Some("a name of a-z, 0-9 and _ only")
    } else {
        None
    }
}

impl fmt::Display for Ident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl FromStr for Ident {
    type Err = InvalidIdent;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

/// A text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("identifier is {name:?}, but must be {bound}")]
#[non_exhaustive]
pub struct InvalidIdent {
    /// The text that was given.
    pub name: String,
    /// The bound it breaks, as a phrase that follows "must be".
    pub bound: &'static str,
}

/// How a store's tables are called: `<prefix>_<table>`, in a schema on Postgres.
///
/// ```
/// use relaykit_sql_store::Names;
///
/// let names = Names::new("outbox")?.in_schema("billing")?;
/// assert_eq!(names.table("messages"), r#""billing"."outbox_messages""#);
/// # Ok::<(), relaykit_sql_store::InvalidIdent>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Names {
    schema: Option<Ident>,
    prefix: Ident,
}

impl Names {
    /// Makes names with this prefix; on Postgres, in the schema `public`.
    ///
    /// # Errors
    ///
    /// The prefix is no identifier, or longer than [`MAX_PREFIX_BYTES`].
    pub fn new(prefix: impl Into<String>) -> Result<Self, InvalidIdent> {
        let prefix = Ident::new(prefix)?;
        if prefix.as_str().len() > MAX_PREFIX_BYTES {
            return Err(InvalidIdent { name: prefix.0, bound: "at most 32 bytes long as a table prefix" });
        }
        Ok(Self { schema: None, prefix })
    }

    /// Sets the schema. Default: `public` on Postgres, none on SQLite, which has no schemas.
    ///
    /// # Errors
    ///
    /// It is no identifier.
    pub fn in_schema(mut self, schema: impl Into<String>) -> Result<Self, InvalidIdent> {
        self.schema = Some(Ident::new(schema)?);
        Ok(self)
    }

    /// Returns the schema, if one was set.
    #[must_use]
    pub fn schema(&self) -> Option<&Ident> {
        self.schema.as_ref()
    }

    /// Returns the prefix.
    #[must_use]
    pub fn prefix(&self) -> &Ident {
        &self.prefix
    }

    /// Returns the table's name, quoted, and with its schema if one was set.
    #[must_use]
    pub fn table(&self, table: &str) -> String {
        match &self.schema {
            Some(schema) => format!("{schema}.{}", self.local(table)),
            None => self.local(table),
        }
    }

    /// Returns the name of an index or a constraint, quoted, without a schema: it lives in its table's.
    #[must_use]
    pub fn local(&self, name: &str) -> String {
        Ident(self.bare(name)).to_string()
    }

    /// Returns the name without schema and quotes, as the catalog has it.
    #[must_use]
    pub fn bare(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix.0)
    }

    /// Returns the same names without a schema: `SQLite` has none.
    #[must_use]
    pub fn on_sqlite(&self) -> Self {
        Self { schema: None, prefix: self.prefix.clone() }
    }

    /// Returns the same names with the schema set: the one that was set, or else Postgres' `public`.
    #[must_use]
    pub fn on_postgres(&self) -> Self {
        let schema = self.schema.clone().unwrap_or_else(|| Ident("public".to_owned()));
        Self { schema: Some(schema), prefix: self.prefix.clone() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_refused_name_is_named_with_its_bound() {
        let error = Ident::new("Orders").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"identifier is "Orders", but must be a name that begins with a-z or _"#
        );
        assert!(Ident::new("").is_err() && Ident::new("a-b").is_err() && Ident::new("1a").is_err());
        assert!(Ident::new("a".repeat(48)).is_ok() && Ident::new("a".repeat(49)).is_err());
        assert!(Names::new("a".repeat(32)).is_ok() && Names::new("a".repeat(33)).is_err());
    }

    #[test]
    fn names_are_qualified_once_a_schema_is_known() {
        let names = Names::new("outbox").unwrap();
        assert_eq!(names.table("shards"), r#""outbox_shards""#);
        assert_eq!(names.on_postgres().table("shards"), r#""public"."outbox_shards""#);
        assert_eq!(names.local("due"), r#""outbox_due""#);
        assert_eq!(names.in_schema("x").unwrap().on_postgres().table("a"), r#""x"."outbox_a""#);
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_cannot_leave_its_quotes(name in any::<String>()) {
            if let Ok(ident) = Ident::new(name.clone()) {
                prop_assert_eq!(ident.to_string(), format!("\"{}\"", name));
                prop_assert!(!name.contains(['"', '\\', '\0', '\'', ' ', ';']));
            }
        }

        #[test]
        fn every_name_of_the_allowed_form_is_accepted(name in "[a-z_][a-z0-9_]{0,47}") {
            prop_assert!(Ident::new(name).is_ok());
        }
    }
}
