use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Counts what was handled.
#[derive(Debug, Clone)]
pub(crate) struct Count(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wanted: u64,
    count: AtomicU64,
    complete: Notify,
}

impl Count {
    pub(crate) fn new(wanted: u64) -> Self {
        Self(Arc::new(Inner { wanted, count: AtomicU64::new(0), complete: Notify::new() }))
    }

    pub(crate) fn add(&self, count: u64) {
        if self.0.count.fetch_add(count, Ordering::Relaxed) + count >= self.0.wanted {
            self.0.complete.notify_one();
        }
    }

    /// Waits for the last one.
    pub(crate) async fn complete(&self) {
        while self.get() < self.0.wanted {
            self.0.complete.notified().await;
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Checks that it is what was wanted.
    ///
    /// # Errors
    ///
    /// It is less, or more.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (count, wanted) = (self.get(), self.0.wanted);
        anyhow::ensure!(count == wanted, "{count} were handled, not {wanted}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_complete_with_the_last_one_and_wrong_with_one_more() {
        let count = Count::new(3);
        count.add(2);
        assert!(count.check().is_err());
        count.add(1);
        count.complete().await;
        count.check().unwrap();
        count.add(1);
        assert!(count.check().is_err());
    }
}
