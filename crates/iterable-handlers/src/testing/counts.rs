/// What a bulk reply says in `successCount` and `failCount`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Counts {
    /// What happened.
    #[default]
    Honest,
    /// Zero and zero.
    Zero,
    /// One success more than there was, so that the sum is not what was sent.
    OffByOne,
}

impl Counts {
    /// Returns the two counts as the reply states them.
    pub(crate) const fn state(self, succeeded: u64, failed: u64) -> (u64, u64) {
        match self {
            Self::Honest => (succeeded, failed),
            Self::Zero => (0, 0),
            Self::OffByOne => (succeeded.saturating_add(1), failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_honest_counts_add_up() {
        assert_eq!(Counts::Honest.state(3, 2), (3, 2));
        assert_eq!(Counts::Zero.state(3, 2), (0, 0));
        assert_eq!(Counts::OffByOne.state(3, 2), (4, 2));
    }
}
