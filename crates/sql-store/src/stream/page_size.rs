use super::row::Page;

/// How many bytes of payload a page is to hold at most: 16 MiB.
const PAGE_BYTES: usize = 16 * 1024 * 1024;

/// How many rows of each shard are asked for, so that a page of rows like those before stays within [`PAGE_BYTES`].
///
/// Rows that are suddenly larger are only known once they were read: one page may exceed it, by as much as they grew.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSize {
    /// The mean payload of a row, in bytes. It grows at once and shrinks by an eighth for each page, so that a few small rows between
    /// large ones change little.
    row_bytes: usize,
}

impl PageSize {
    pub(super) const fn new() -> Self {
        Self { row_bytes: 1024 }
    }

    /// Returns the limit for each of so many shards: `rows` at most, and 1 at least.
    pub(super) fn limit(self, rows: u32, shards: usize) -> u32 {
        let fit = PAGE_BYTES / self.row_bytes.max(1) / shards.max(1);
        rows.min(u32::try_from(fit).unwrap_or(u32::MAX)).max(1)
    }

    /// Learns from a page.
    pub(super) fn read(&mut self, page: &Page) {
        let bytes: usize = page.rows.iter().map(|stored| stored.message.payload().len()).sum();
        if let Some(mean) = bytes.checked_div(page.rows.len()) {
            self.row_bytes = mean.max(self.row_bytes - self.row_bytes / 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::row::{RowId, Seq, Stored, Suspicion};
    use super::*;
    use crate::Shard;
    use relaykit_pipeline_traits::{Message, MessageId, Rng, Timestamp};

    const KIB: usize = 1024;

    fn page(rows: usize, bytes: usize) -> Page {
        let at = Timestamp::from_millis(1);
        let builder = Message::builder(MessageId::new(at, &mut Rng::seeded(1)), "kind", at);
        let stored = Stored {
            row: RowId { shard: Shard::new(1), seq: Seq(1) },
            message: builder.payload(vec![0; bytes]).build().unwrap(),
            attempts: 0,
            age: Duration::ZERO,
            failing_for: None,
            waited: false,
            suspicion: Suspicion::Clear,
        };
        Page { rows: vec![stored; rows], ..Page::default() }
    }

    #[test]
    fn small_rows_are_limited_by_their_number_alone() {
        let mut size = PageSize::new();
        assert_eq!(size.limit(16, 64), 16);
        size.read(&page(10, KIB));
        assert_eq!(size.limit(16, 64), 16);
    }

    #[test]
    fn after_a_page_of_large_rows_a_page_holds_16_mib() {
        let mut size = PageSize::new();
        size.read(&page(4, 256 * KIB));
        assert_eq!(size.limit(500, 1), 64);
        assert_eq!(size.limit(16, 64), 1);
        assert_eq!(size.limit(16, 1_000), 1, "one row of each shard is read in any case");
    }

    #[test]
    fn when_rows_get_small_again_pages_grow_back_in_time() {
        let mut size = PageSize::new();
        size.read(&page(4, 256 * KIB));
        let large = size.limit(500, 1);
        size.read(&Page::default());
        assert_eq!(size.limit(500, 1), large, "an empty page says nothing");
        size.read(&page(4, 100));
        assert!((large..large * 5 / 4).contains(&size.limit(500, 1)));
        for _ in 0..50 {
            size.read(&page(4, 100));
        }
        assert_eq!(size.limit(500, 1), 500);
    }
}
