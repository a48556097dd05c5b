use crate::sql::VERSIONS;
use crate::{Names, Sql};

/// A step from one version of a store's tables to the next. It is never changed once released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The version it leads to; the first is 1, and they count up by one.
    pub version: u32,
    /// What it does, in a few words.
    pub name: &'static str,
    /// The SQL, in parts that are written one after another; see [`Sql`] for its placeholders.
    pub parts: &'static [&'static str],
}

/// A table as a version needs it. What else is there does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableForm {
    /// The table, without prefix.
    pub name: &'static str,
    /// Its columns, with their types as the database names them.
    pub columns: &'static [(&'static str, &'static str)],
    /// Its indexes, without prefix.
    pub indexes: &'static [&'static str],
}

/// A store's tables: their names, how to make them, and how they must look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    names: Names,
    migrations: &'static [Migration],
    tables: &'static [TableForm],
    numbers: Vec<(&'static str, i64)>,
    versions: &'static str,
}

impl Schema {
    /// Describes tables.
    ///
    /// # Panics
    ///
    /// The migrations do not count up from 1. They are fixed, so the first run shows it.
    #[must_use]
    pub fn new(names: Names, migrations: &'static [Migration], tables: &'static [TableForm]) -> Self {
        let counts_up = migrations.iter().zip(1..).all(|(migration, number)| migration.version == number);
        assert!(counts_up, "the versions of migrations count up from 1");
        Self { names, migrations, tables, numbers: Vec::new(), versions: VERSIONS }
    }

    /// Makes these tables a part that is there or not beside others of the same names: its version is kept in a table of its own,
    /// called by this name, without prefix. Default: `schema`.
    #[must_use]
    pub const fn versions_in(mut self, table: &'static str) -> Self {
        self.versions = table;
        self
    }

    /// Gives a number that the migrations ask for, such as that of the shards.
    #[must_use]
    pub fn with_number(mut self, name: &'static str, number: i64) -> Self {
        self.numbers.push((name, number));
        self
    }

    /// Gives the same tables other names.
    #[cfg(any(feature = "postgres", all(feature = "sqlite", feature = "leases")))]
    pub(crate) fn renamed(&self, names: Names) -> Self {
        Self { names, ..self.clone() }
    }

    /// Returns the names of the tables.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Returns the table that holds the version, without prefix.
    #[cfg(all(feature = "sqlite", feature = "leases"))]
    pub(crate) fn versions(&self) -> &'static str {
        self.versions
    }

    /// Returns how the tables must look.
    #[must_use]
    pub fn tables(&self) -> &'static [TableForm] {
        self.tables
    }

    /// Returns the version to which the migrations lead.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.migrations.last().map_or(0, |migration| migration.version)
    }

    /// Returns the migrations after version `since`, oldest first.
    pub fn pending(&self, since: u32) -> impl Iterator<Item = &'static Migration> {
        self.migrations.iter().filter(move |migration| migration.version > since)
    }

    /// Writes a statement with the names and numbers filled in.
    #[must_use]
    pub fn sql(&self, parts: &[&'static str]) -> Sql {
        Sql::with_versions(&self.names, &self.numbers, self.versions, parts)
    }
}

/// What a migration did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 if there were no tables.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// How a table in the database differs from what this version needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Difference {
    /// A table is missing.
    #[error("table {table} is missing")]
    Table {
        /// The table, with schema and prefix.
        table: String,
    },
    /// A column is missing.
    #[error("column {column} of table {table} is missing")]
    Column {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A column has another type.
    #[error("column {column} of table {table} is of type {found}, but must be of type {wanted}")]
    Type {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The type it has.
        found: String,
        /// The type it must have.
        wanted: String,
    },
    /// An index is missing, or not usable.
    #[error("index {index} of table {table} is missing or invalid")]
    Index {
        /// The table.
        table: String,
        /// The index.
        index: String,
    },
}

/// What the catalog knows of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTable {
    /// Whether it exists.
    pub exists: bool,
    /// Its columns and their types.
    pub columns: Vec<(String, String)>,
    /// Its usable indexes, by their full names.
    pub indexes: Vec<String>,
}

/// Compares a table with the form it must have.
#[must_use]
pub fn compare(names: &Names, form: &TableForm, found: &FoundTable) -> Vec<Difference> {
    let table = || names.table(form.name);
    if !found.exists {
        return vec![Difference::Table { table: table() }];
    }
    let columns = form.columns.iter().filter_map(|(column, wanted)| {
        match found.columns.iter().find(|(name, _)| name == column) {
            None => Some(Difference::Column { table: table(), column: (*column).to_owned() }),
            Some((_, kind)) if kind == wanted => None,
            Some((_, kind)) => Some(Difference::Type {
                table: table(),
                column: (*column).to_owned(),
                found: kind.clone(),
                wanted: (*wanted).to_owned(),
            }),
        }
    });
    let missing =
        form.indexes.iter().map(|index| names.bare(index)).filter(|index| !found.indexes.contains(index));
    columns.chain(missing.map(|index| Difference::Index { table: table(), index })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: TableForm = TableForm {
        name: "messages",
        columns: &[("id", "uuid"), ("shard", "integer")],
        indexes: &["messages_due"],
    };

    fn names() -> Names {
        Names::new("t").unwrap()
    }

    fn found() -> FoundTable {
        let columns = [("id", "uuid"), ("shard", "integer"), ("extra", "text")];
        FoundTable {
            exists: true,
            columns: columns.map(|(name, kind)| (name.to_owned(), kind.to_owned())).into(),
            indexes: vec!["t_messages_due".into(), "t_messages_pkey".into()],
        }
    }

    #[test]
    fn a_table_with_more_than_needed_is_fine() {
        assert_eq!(compare(&names(), &FORM, &found()), []);
    }

    #[test]
    fn each_difference_is_named() {
        let mut other = found();
        other.columns[0].1 = "text".into();
        other.columns.remove(1);
        other.indexes.clear();
        let text: Vec<_> = compare(&names(), &FORM, &other).iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                r#"column id of table "t_messages" is of type text, but must be of type uuid"#,
                r#"column shard of table "t_messages" is missing"#,
                r#"index t_messages_due of table "t_messages" is missing or invalid"#,
            ]
        );
        let nothing = compare(&names(), &FORM, &FoundTable::default());
        assert_eq!(nothing[0].to_string(), r#"table "t_messages" is missing"#);
    }

    #[test]
    fn a_part_keeps_its_version_in_a_table_of_its_own() {
        let part = Schema::new(names(), &[], &[]).versions_in("archive_version");
        assert_eq!(part.sql(&["{schema} {messages}"]).as_str(), r#""t_archive_version" "t_messages""#);
        assert_eq!(Schema::new(names(), &[], &[]).sql(&["{schema}"]).as_str(), r#""t_schema""#);
    }

    #[test]
    #[should_panic(expected = "count up from 1")]
    fn migrations_that_skip_a_version_show_at_the_first_run() {
        static SKIPPING: [Migration; 1] = [Migration { version: 2, name: "late", parts: &[] }];
        let _ = Schema::new(names(), &SKIPPING, &[]);
    }
}
