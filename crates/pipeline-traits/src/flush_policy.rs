use std::time::Duration;

use crate::InvalidSetting;

/// What a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fill {
    /// Items that would come out.
    pub items: usize,
    /// Their bytes, as the user weighs them.
    pub bytes: usize,
    /// Items pushed, merged ones too.
    pub pushes: usize,
}

impl Fill {
    /// Adds one item that was not merged.
    pub const fn add(&mut self, bytes: usize) {
        self.items = self.items.saturating_add(1);
        self.pushes = self.pushes.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// Decides when a buffer is flushed: by count, bytes, pushes, or age.
///
/// Items and bytes are hard limits: no batch exceeds them. The linger counts from the first item.
///
/// ```
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Fill, FlushPolicy, FlushReason};
///
/// let policy = FlushPolicy { max_items: 100, linger: Duration::from_secs(5), ..FlushPolicy::default() };
/// let fill = Fill { items: 3, bytes: 90, pushes: 3 };
/// assert_eq!(policy.due(fill, Duration::from_secs(4)), None);
/// assert_eq!(policy.due(fill, Duration::from_secs(5)), Some(FlushReason::Linger));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushPolicy {
    /// The most items of a batch. Default: 100.
    pub max_items: usize,
    /// The most bytes of a batch, as the user weighs items. Default: no limit.
    pub max_bytes: Option<usize>,
    /// The most pushes that a batch gathers, counting merged ones. Default: no limit.
    pub max_pushes: Option<usize>,
    /// How long a batch waits for more after its first item. Zero: it does not wait. Default: 5 s.
    pub linger: Duration,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        Self { max_items: 100, max_bytes: None, max_pushes: None, linger: Duration::from_secs(5) }
    }
}

/// Why a buffer is flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FlushReason {
    /// It holds as many items as a batch may have.
    Items,
    /// It holds as many bytes as a batch may have, or the next item would exceed them.
    Bytes,
    /// It took as many pushes as a batch may.
    Pushes,
    /// Its first item waited long enough.
    Linger,
    /// Somebody asked.
    Asked,
    /// The buffer that it is in is full, and nothing else would make room.
    Room,
    /// The engine stops.
    Stop,
}

impl FlushReason {
    /// Returns the reason's name for metrics and logs, such as `linger`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Bytes => "bytes",
            Self::Pushes => "pushes",
            Self::Linger => "linger",
            Self::Asked => "asked",
            Self::Room => "room",
            Self::Stop => "stop",
        }
    }
}

impl FlushPolicy {
    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// Refuses a limit of zero, which no item would ever meet.
    pub fn check(&self) -> Result<(), InvalidSetting> {
        let limits = [
            ("max_items", Some(self.max_items)),
            ("max_bytes", self.max_bytes),
            ("max_pushes", self.max_pushes),
        ];
        for (field, limit) in limits {
            if limit == Some(0) {
                return Err(InvalidSetting::new(field, 0, "at least 1"));
            }
        }
        Ok(())
    }

    /// Returns whether another item of `bytes` fits into the batch.
    #[must_use]
    pub fn has_room(&self, fill: Fill, bytes: usize) -> bool {
        fill.items < self.max_items
            && self.max_bytes.is_none_or(|max| fill.bytes.saturating_add(bytes) <= max)
            && self.max_pushes.is_none_or(|max| fill.pushes < max)
    }

    /// Returns why the buffer is full, if it is.
    #[must_use]
    pub fn full(&self, fill: Fill) -> Option<FlushReason> {
        if fill.items >= self.max_items {
            Some(FlushReason::Items)
        } else if self.max_bytes.is_some_and(|max| fill.bytes >= max) {
            Some(FlushReason::Bytes)
        } else if self.max_pushes.is_some_and(|max| fill.pushes >= max) {
            Some(FlushReason::Pushes)
        } else {
            None
        }
    }

    /// Returns why a buffer whose first item is `age` old is to be flushed now, if it is. An empty one never is.
    #[must_use]
    pub fn due(&self, fill: Fill, age: Duration) -> Option<FlushReason> {
        if fill.pushes == 0 {
            return None;
        }
        self.full(fill).or_else(|| (age >= self.linger).then_some(FlushReason::Linger))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: FlushPolicy = FlushPolicy {
        max_items: 3,
        max_bytes: Some(100),
        max_pushes: Some(5),
        linger: Duration::from_millis(10),
    };

    fn fill(items: usize, bytes: usize, pushes: usize) -> Fill {
        Fill { items, bytes, pushes }
    }

    #[test]
    fn each_limit_is_met_exactly() {
        let young = Duration::from_millis(9);
        assert_eq!(POLICY.due(fill(2, 99, 4), young), None);
        assert_eq!(POLICY.due(fill(3, 99, 4), young), Some(FlushReason::Items));
        assert_eq!(POLICY.due(fill(2, 100, 4), young), Some(FlushReason::Bytes));
        assert_eq!(POLICY.due(fill(2, 99, 5), young), Some(FlushReason::Pushes));
        assert_eq!(POLICY.due(fill(1, 1, 1), Duration::from_millis(10)), Some(FlushReason::Linger));
    }

    #[test]
    fn an_empty_buffer_is_never_flushed() {
        assert_eq!(POLICY.due(Fill::default(), Duration::MAX), None);
    }

    #[test]
    fn items_and_bytes_are_hard_limits() {
        assert!(POLICY.has_room(fill(2, 60, 2), 40));
        assert!(!POLICY.has_room(fill(2, 60, 2), 41));
        assert!(!POLICY.has_room(fill(3, 0, 3), 0));
        assert!(!POLICY.has_room(fill(2, usize::MAX, 2), 1));
        assert!(!POLICY.has_room(fill(1, 0, 5), 0));
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        let policy = FlushPolicy { max_bytes: Some(0), ..POLICY };
        assert_eq!(policy.check().unwrap_err(), InvalidSetting::new("max_bytes", 0, "at least 1"));
        assert_eq!(FlushPolicy { max_items: 0, ..POLICY }.check().unwrap_err().field, "max_items");
        assert!(POLICY.check().is_ok());
    }
}
