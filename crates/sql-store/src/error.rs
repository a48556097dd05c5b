use std::error::Error;
use std::time::Duration;

use relaykit_pipeline_traits::{Classify, ErrorClass};

/// The error of a database driver.
pub type DriverError = Box<dyn Error + Send + Sync>;

/// Writes an error and its causes, the nearest first, as one text for logs.
///
/// A cause that the text before it ends with already is not repeated.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Why a store could not do what it was asked to.
///
/// Messages name the operation and never a value of a row. The driver's own error is the `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database cannot be reached, shuts down, or does not take writes now. Trying again can help.
    #[error("could not {op}: the database is not available")]
    Unavailable {
        /// What was asked for, as a phrase that follows "could not".
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// All connections of the pool were in use. Nothing was done.
    #[error("could not {op}: no connection was free within {limit:?}")]
    PoolTimeout {
        /// What was asked for.
        op: &'static str,
        /// How long it waited.
        limit: Duration,
    },
    /// No answer came in time. It may have taken effect.
    #[error("could not {op}: no answer within {limit:?}")]
    Timeout {
        /// What was asked for.
        op: &'static str,
        /// How long it waited.
        limit: Duration,
    },
    /// Other transactions were in the way, however often it was tried. Nothing was done.
    #[error("could not {op}: other transactions were in the way {tries} times")]
    Conflict {
        /// What was asked for.
        op: &'static str,
        /// How often it was tried.
        tries: u32,
        /// The driver's last error.
        source: DriverError,
    },
    /// The connection broke during the commit: it took effect as a whole, or not at all.
    #[error("could not learn whether the database committed: {op}")]
    CommitUnknown {
        /// What was asked for.
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// The database has no room left.
    #[error("could not {op}: the database is full")]
    Full {
        /// What was asked for.
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// The role may not do this, or cannot log in.
    #[error("could not {op}: the database denies it to this role")]
    Denied {
        /// What was asked for.
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// The tables are not as this version needs them.
    #[error("could not {op}: the tables are not as this version needs them")]
    Schema {
        /// What was asked for.
        op: &'static str,
        /// What is wrong.
        source: SchemaError,
    },
    /// A row holds what this version cannot read.
    #[error("could not {op}: a row cannot be read")]
    Unreadable {
        /// What was asked for.
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// The database refused, for a reason that trying again does not cure.
    #[error("could not {op}: the database refused")]
    Rejected {
        /// What was asked for.
        op: &'static str,
        /// The driver's error.
        source: DriverError,
    },
}

impl StoreError {
    /// Returns what was asked for, as a phrase that follows "could not".
    #[must_use]
    pub const fn op(&self) -> &'static str {
        match self {
            Self::Unavailable { op, .. }
            | Self::PoolTimeout { op, .. }
            | Self::Timeout { op, .. }
            | Self::Conflict { op, .. }
            | Self::CommitUnknown { op, .. }
            | Self::Full { op, .. }
            | Self::Denied { op, .. }
            | Self::Schema { op, .. }
            | Self::Unreadable { op, .. }
            | Self::Rejected { op, .. } => op,
        }
    }

    /// Returns whether it may have taken effect all the same.
    #[must_use]
    pub const fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::CommitUnknown { .. })
    }
}

impl Classify for StoreError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Unavailable { .. }
            | Self::PoolTimeout { .. }
            | Self::Timeout { .. }
            | Self::Conflict { .. }
            | Self::CommitUnknown { .. }
            | Self::Full { .. } => ErrorClass::Transient,
            Self::Denied { .. } | Self::Schema { .. } | Self::Unreadable { .. } | Self::Rejected { .. } => {
                ErrorClass::Permanent
            }
        }
    }
}

/// How tables differ from what this version needs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// A newer version of the crate has migrated the tables. An older one may not touch their form.
    #[error("the tables are of version {found}, which is newer than {known}, the newest that is known here")]
    Newer {
        /// The version of the tables.
        found: u32,
        /// The newest version that this crate knows.
        known: u32,
    },
    /// Migrations are missing.
    #[error("the tables are of version {found}, but version {wanted} is needed: migrate them first")]
    Older {
        /// The version of the tables; 0 if there are none.
        found: u32,
        /// The version that this crate needs.
        wanted: u32,
    },
    /// A table, column, function or schema is missing.
    #[error("a table, column, function or schema is missing: migrate, or verify the tables")]
    Missing {
        /// The driver's error.
        source: DriverError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_operation_and_leaves_the_cause_to_the_source() {
        let error = StoreError::Rejected { op: "renew leases", source: "secret payload".into() };
        assert_eq!(error.to_string(), "could not renew leases: the database refused");
        assert_eq!(error.source().unwrap().to_string(), "secret payload");
        assert_eq!(error.op(), "renew leases");
    }

    #[test]
    fn a_chain_has_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the pool is closed: {source}")]
        struct Closed {
            source: std::io::Error,
        }
        let source = Closed { source: std::io::Error::other("reset by peer") };
        let error = StoreError::Unavailable { op: "settle", source: source.into() };
        assert_eq!(
            error_chain(&error),
            "could not settle: the database is not available: the pool is closed: reset by peer"
        );
    }

    #[test]
    fn what_may_pass_is_transient_and_what_needs_a_person_is_permanent() {
        let late = StoreError::Timeout { op: "settle", limit: Duration::from_secs(10) };
        assert!(late.is_transient() && late.is_in_doubt());
        let schema = StoreError::Schema { op: "settle", source: SchemaError::Older { found: 1, wanted: 2 } };
        assert!(!schema.is_transient() && !schema.is_in_doubt());
    }
}
