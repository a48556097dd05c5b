/// A seedable source of randomness for jitter and tests. Not for secrets.
///
/// The same seed gives the same numbers on every platform.
///
/// ```
/// use relaykit_pipeline_traits::Rng;
///
/// let (mut a, mut b) = (Rng::seeded(7), Rng::seeded(7));
/// assert_eq!(a.next_u64(), b.next_u64());
/// assert!(a.below(10) < 10);
/// ```
#[derive(Debug, Clone)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// Makes a source that repeats itself from `seed`.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Makes a source with a seed of its own, different in every process.
    #[must_use]
    pub fn from_entropy() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is where chance comes from")]
        Self(fastrand::Rng::new())
    }

    /// Returns 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Returns a number from 0 up to, not including, `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.0.u64(..end) }
    }

    /// Returns a number from 0 up to, not including, 1.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// Returns `true` with the given probability; never for 0 or less, always for 1 or more.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.f64() < probability
    }

    /// Fills `bytes` with random bits.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.0.fill(bytes);
    }

    /// Makes a new source from this one, so that two users do not disturb each other's sequence.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let mut rng = Rng::seeded(seed);
            (rng.next_u64(), rng.below(1000), rng.unit(), rng.fork().next_u64())
        };
        assert_eq!(draw(42), draw(42));
        assert_ne!(draw(42).0, draw(43).0);
    }

    #[test]
    fn bounds_hold_at_their_ends() {
        let mut rng = Rng::seeded(1);
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.below(1), 0);
        for _ in 0..1000 {
            assert!((0.0..1.0).contains(&rng.unit()));
            assert!(!rng.chance(0.0));
            assert!(rng.chance(1.0));
        }
    }
}
