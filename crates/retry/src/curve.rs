use std::time::Duration;

/// How the wait grows from attempt to attempt, before cap and jitter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Curve {
    Fixed { delay: Duration },
    Linear { first: Duration, step: Duration },
    Exponential { first: Duration, factor: f64 },
}

impl Curve {
    /// Returns the wait after attempt 1.
    pub(crate) const fn first(self) -> Duration {
        match self {
            Self::Fixed { delay } => delay,
            Self::Linear { first, .. } | Self::Exponential { first, .. } => first,
        }
    }

    /// Returns the wait after the attempt, saturating. Attempt 0 counts as 1.
    pub(crate) fn delay_after(self, attempt: u32) -> Duration {
        let steps = attempt.saturating_sub(1);
        match self {
            Self::Fixed { delay } => delay,
            Self::Linear { first, step } => first.saturating_add(step.saturating_mul(steps)),
            // As given, not by way of a float.
            Self::Exponential { first, .. } if steps == 0 => first,
            Self::Exponential { first, factor } => scale(first, power(factor, steps)),
        }
    }
}

/// Returns the nanoseconds, at most 584 years of them.
pub(crate) fn nanos(delay: Duration) -> u64 {
    delay.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(delay.subsec_nanos()))
}

/// Multiplies, rounded to the nanosecond and saturating. `factor` is not negative.
pub(crate) fn scale(delay: Duration, factor: f64) -> Duration {
    /// Below it, a number of nanoseconds fits into a `u64` and is exact as a float.
    const EXACT: u64 = 1 << 53;

    let nanos = nanos(delay);
    if nanos < EXACT {
        #[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
        let product = nanos as f64 * factor;
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        if product < EXACT as f64 {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^53")]
            return Duration::from_nanos((product + 0.5) as u64);
        }
    }
    if delay.is_zero() {
        return delay; // zero times infinity would be no number
    }
    Duration::try_from_secs_f64(delay.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// Raises a factor of at least 1; infinity where it does not fit.
///
/// By squaring, with multiplications only: unlike `powi`, whose precision is left open, this gives the same
/// number on every platform.
pub(crate) fn power(factor: f64, mut exponent: u32) -> f64 {
    let (mut result, mut square) = (1.0, factor);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= square;
        }
        exponent >>= 1;
        square *= square;
        if exponent > 0 && square == f64::INFINITY {
            return square; // the highest bit will multiply by this or more
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seconds(curve: Curve, attempts: u32) -> Vec<f64> {
        (1..=attempts).map(|attempt| curve.delay_after(attempt).as_secs_f64()).collect()
    }

    #[test]
    fn a_fixed_wait_stays() {
        let curve = Curve::Fixed { delay: SECOND };
        assert_eq!(seconds(curve, 4), [1.0, 1.0, 1.0, 1.0]);
        assert_eq!(curve.delay_after(u32::MAX), SECOND);
    }

    #[test]
    fn a_linear_wait_grows_by_its_step() {
        let curve = Curve::Linear { first: SECOND, step: SECOND / 2 };
        assert_eq!(seconds(curve, 4), [1.0, 1.5, 2.0, 2.5]);
    }

    #[test]
    fn a_factor_of_one_and_a_half_gives_1_1_5_2_25() {
        let curve = Curve::Exponential { first: SECOND, factor: 1.5 };
        assert_eq!(seconds(curve, 6), [1.0, 1.5, 2.25, 3.375, 5.0625, 7.59375]);
    }

    #[test]
    fn a_factor_of_two_doubles() {
        let curve = Curve::Exponential { first: Duration::from_millis(100), factor: 2.0 };
        assert_eq!(seconds(curve, 6), [0.1, 0.2, 0.4, 0.8, 1.6, 3.2]);
    }

    #[test]
    fn a_factor_close_to_one_still_grows() {
        let curve = Curve::Exponential { first: SECOND, factor: 1.1 };
        assert_eq!(curve.delay_after(3), Duration::from_millis(1210));
        assert_eq!(curve.delay_after(9), Duration::from_nanos(2_143_588_810));
    }

    #[test]
    fn a_wait_too_long_to_write_down_is_the_longest_there_is() {
        for factor in [1.5, 2.0, 1e308] {
            let curve = Curve::Exponential { first: Duration::from_nanos(1), factor };
            assert_eq!(curve.delay_after(u32::MAX), Duration::MAX, "factor {factor}");
        }
        let linear = Curve::Linear { first: Duration::MAX, step: Duration::MAX };
        assert_eq!(linear.delay_after(u32::MAX), Duration::MAX);
        assert_eq!(scale(Duration::ZERO, f64::INFINITY), Duration::ZERO);
    }

    #[test]
    fn a_product_is_rounded_to_the_nearest_nanosecond() {
        let nanos = |nanos, factor| scale(Duration::from_nanos(nanos), factor).as_nanos();
        assert_eq!([nanos(3, 1.4), nanos(3, 1.5), nanos(1, 1.9), nanos(1, 0.4)], [4, 5, 2, 0]);
        // Where a float has no room for single nanoseconds, seconds still fit.
        assert_eq!(scale(Duration::from_secs(1 << 40), 1.5), Duration::from_secs(3 << 39));
        assert_eq!(scale(Duration::from_secs(1 << 60), 2.0), Duration::from_secs(1 << 61));
    }

    #[test]
    fn attempt_zero_counts_as_the_first() {
        for curve in [
            Curve::Fixed { delay: SECOND },
            Curve::Linear { first: SECOND, step: SECOND },
            Curve::Exponential { first: SECOND, factor: 2.0 },
        ] {
            assert_eq!(curve.delay_after(0), SECOND);
        }
    }
}
