use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Counts the statements that this process sends: sqlx tells of each.
#[derive(Debug)]
pub(super) struct Statements;

impl Statements {
    /// Counts from now on.
    ///
    /// # Errors
    ///
    /// Somebody listens to this process already.
    pub(super) fn watch() -> anyhow::Result<()> {
        tracing::subscriber::set_global_default(Self).context("could not count statements")
    }

    /// Returns how many there were; 0 if nobody counts.
    pub(super) fn count() -> u64 {
        COUNT.load(Ordering::Relaxed)
    }
}

impl Subscriber for Statements {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, _event: &Event<'_>) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}
