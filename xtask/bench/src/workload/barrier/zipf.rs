use relaykit_pipeline_traits::Rng;

/// Draws numbers below a bound: all as likely, or the n-th with a chance that is proportional to 1/n.
#[derive(Debug)]
pub(super) enum Draw {
    Uniform(u64),
    /// The sums of the weights up to each number.
    Zipf(Vec<f64>),
}

impl Draw {
    pub(super) fn uniform(end: u64) -> Self {
        Self::Uniform(end)
    }

    pub(super) fn zipf(end: u32) -> Self {
        let sums = (1..=end).scan(0.0, |sum, number| {
            *sum += 1.0 / f64::from(number);
            Some(*sum)
        });
        Self::Zipf(sums.collect())
    }

    pub(super) fn next(&self, rng: &mut Rng) -> u64 {
        match self {
            Self::Uniform(end) => rng.below(*end),
            Self::Zipf(sums) => {
                let point = rng.unit() * sums.last().copied().unwrap_or_default();
                sums.partition_point(|sum| *sum <= point).min(sums.len() - 1) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_ten_thousand_has_a_tenth_of_a_zipf_draw() {
        let draw = Draw::zipf(10_000);
        let mut rng = Rng::seeded(7);
        let mut counts = vec![0_u32; 10_000];
        for _ in 0..100_000 {
            counts[usize::try_from(draw.next(&mut rng)).unwrap()] += 1;
        }
        // 1 / (1 + 1/2 + … + 1/10,000) = 0.1022; half of it for the second.
        assert!((9_700..10_700).contains(&counts[0]), "{}", counts[0]);
        assert!((4_800..5_450).contains(&counts[1]), "{}", counts[1]);
    }

    #[test]
    fn a_uniform_draw_favours_nobody() {
        let draw = Draw::uniform(4);
        let mut rng = Rng::seeded(7);
        let mut counts = [0_u32; 4];
        for _ in 0..40_000 {
            counts[usize::try_from(draw.next(&mut rng)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (9_600..10_400).contains(count)), "{counts:?}");
    }
}
