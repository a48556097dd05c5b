use std::time::Duration;

use relaykit_pipeline_traits::InvalidSetting;

use crate::curve::Curve;
use crate::{Jitter, Policy};

const DEFAULT_FACTOR: f64 = 2.0;
const DEFAULT_MAX_ATTEMPTS: u32 = 5;
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(60);
const DEFAULT_MAX_HINT: Duration = Duration::from_secs(3600);

/// Describes a retry policy; [`build`](Self::build) checks it.
///
/// ```
/// use std::time::Duration;
/// use relaykit_retry::{Backoff, Jitter};
///
/// let policy = Backoff::exponential(Duration::from_millis(200))
///     .factor(1.5)
///     .jitter(Jitter::Equal)
///     .max_attempts(8)
///     .max_delay(Duration::from_secs(30))
///     .max_elapsed(Duration::from_secs(300))
///     .build()?;
/// # let _ = policy;
/// # Ok::<(), relaykit_pipeline_traits::InvalidSetting>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use = "a description does nothing until `build` makes a policy of it"]
pub struct Backoff {
    curve: Curve,
    factor: Option<f64>,
    jitter: Jitter,
    max_attempts: Option<u32>,
    max_elapsed: Option<Duration>,
    max_delay: Option<Duration>,
    max_hint: Duration,
    cooldown: Option<Duration>,
}

impl Backoff {
    /// Waits `delay` after every attempt. Zero tries again at once.
    pub const fn fixed(delay: Duration) -> Self {
        Self::new(Curve::Fixed { delay })
    }

    /// Waits `first` after the first attempt and `step` longer after each further one.
    pub const fn linear(first: Duration, step: Duration) -> Self {
        Self::new(Curve::Linear { first, step })
    }

    /// Waits `first` after the first attempt and [`factor`](Self::factor) times as long after each further one.
    ///
    /// [`build`](Self::build) asks for more than zero: nothing grows from nothing.
    pub const fn exponential(first: Duration) -> Self {
        Self::new(Curve::Exponential { first, factor: DEFAULT_FACTOR })
    }

    /// Describes the default numbers of the crate `backoff` 0.4: 500 ms, times 1.5, ± 50 %, at most 60 s, for
    /// 15 min, with any number of attempts.
    ///
    /// One thing differs: there, the 60 s are varied as well, up to 90 s; here they are a bound.
    pub const fn like_backoff_crate() -> Self {
        Self::exponential(Duration::from_millis(500))
            .factor(1.5)
            .jitter(Jitter::Proportional(0.5))
            .max_delay(Duration::from_secs(60))
            .max_elapsed(Duration::from_secs(15 * 60))
            .unlimited_attempts()
    }

    const fn new(curve: Curve) -> Self {
        Self {
            curve,
            factor: None,
            jitter: Jitter::Full,
            max_attempts: Some(DEFAULT_MAX_ATTEMPTS),
            max_elapsed: None,
            max_delay: None,
            max_hint: DEFAULT_MAX_HINT,
            cooldown: None,
        }
    }

    /// Sets what each exponential wait is multiplied with to make the next. Default: 2.
    ///
    /// A real number of at least 1: 1.5 makes 1 s, 1.5 s, 2.25 s. [`build`](Self::build) refuses a factor for
    /// fixed and linear waits.
    pub const fn factor(mut self, factor: f64) -> Self {
        self.factor = Some(factor);
        self
    }

    /// Sets the random part of each wait. Default: [`Jitter::Full`].
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Sets how many attempts are made at most, the first included. Default: 5; at least 1.
    pub const fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// Lets any number of attempts be made. Then [`max_elapsed`](Self::max_elapsed) is the only bound.
    pub const fn unlimited_attempts(mut self) -> Self {
        self.max_attempts = None;
        self
    }

    /// Sets how long after the start of the first attempt another may begin. Default: any time.
    ///
    /// A wait that would end later is not begun: the policy gives up instead. An attempt under way is not
    /// cut short; [`within`](crate::within) does that.
    pub const fn max_elapsed(mut self, elapsed: Duration) -> Self {
        self.max_elapsed = Some(elapsed);
        self
    }

    /// Sets the longest wait, jitter included. Default: 60 s, or the first delay if that is longer.
    ///
    /// A hint of the other side may be longer; see [`max_hint`](Self::max_hint).
    pub const fn max_delay(mut self, delay: Duration) -> Self {
        self.max_delay = Some(delay);
        self
    }

    /// Sets the longest hint of the other side that is honoured, such as a `Retry-After`. Default: 1 h.
    ///
    /// The wait is at least the hint; a longer hint counts as this long. Zero ignores hints.
    pub const fn max_hint(mut self, hint: Duration) -> Self {
        self.max_hint = hint;
        self
    }

    /// Sets how long an engine that keeps the item leaves it alone after giving up, before it begins again with
    /// attempt 1. Default: none, it does not begin again.
    pub const fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = Some(cooldown);
        self
    }

    /// Makes the policy.
    ///
    /// # Errors
    ///
    /// [`InvalidSetting`] names the first setting that is out of bounds or does not go with the others.
    pub fn build(self) -> Result<Policy, InvalidSetting> {
        let first = self.curve.first();
        let curve = self.checked_curve()?;
        self.jitter.check(first)?;
        if self.max_attempts == Some(0) {
            let bound = "at least 1, since the first call counts";
            return Err(InvalidSetting::new("max_attempts", 0, bound));
        }
        if self.max_elapsed == Some(Duration::ZERO) {
            let bound = "more than 0 s; max_attempts(1) never tries again";
            return Err(InvalidSetting::new("max_elapsed", "0 s", bound));
        }
        if let Some(delay) = self.max_delay.filter(|delay| *delay < first) {
            let bound = format!("at least the first delay, {first:?}");
            return Err(InvalidSetting::new("max_delay", format!("{delay:?}"), bound));
        }
        self.check_cooldown()?;
        Ok(Policy {
            curve,
            jitter: self.jitter,
            max_attempts: self.max_attempts,
            max_elapsed: self.max_elapsed,
            max_delay: self.max_delay.unwrap_or(DEFAULT_MAX_DELAY.max(first)),
            max_hint: self.max_hint,
            cooldown: self.cooldown,
        })
    }

    fn checked_curve(&self) -> Result<Curve, InvalidSetting> {
        match (self.curve, self.factor) {
            (Curve::Exponential { first, .. }, _) if first.is_zero() => {
                Err(InvalidSetting::new("first", "0 s", "more than 0 s"))
            }
            (Curve::Exponential { first, factor }, given) => {
                let factor = given.unwrap_or(factor);
                if factor.is_finite() && factor >= 1.0 {
                    Ok(Curve::Exponential { first, factor })
                } else {
                    let bound = "a finite number of at least 1";
                    Err(InvalidSetting::new("factor", factor, bound))
                }
            }
            (_, Some(factor)) => {
                Err(InvalidSetting::new("factor", factor, "left alone: only exponential waits have one"))
            }
            (curve, None) => Ok(curve),
        }
    }

    fn check_cooldown(&self) -> Result<(), InvalidSetting> {
        match self.cooldown {
            Some(Duration::ZERO) => Err(InvalidSetting::new("cooldown", "0 s", "more than 0 s")),
            Some(cooldown) if self.max_attempts.is_none() && self.max_elapsed.is_none() => {
                Err(InvalidSetting::new(
                    "cooldown",
                    format!("{cooldown:?}"),
                    "left alone where neither max_attempts nor max_elapsed ends the attempts",
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn assert_refused(backoff: Backoff, message: &str) {
        assert_eq!(backoff.build().unwrap_err().to_string(), message);
    }

    #[test]
    fn the_defaults_are_as_documented() {
        let policy = Backoff::exponential(SECOND).build().unwrap();
        let expected = Policy {
            curve: Curve::Exponential { first: SECOND, factor: 2.0 },
            jitter: Jitter::Full,
            max_attempts: Some(5),
            max_elapsed: None,
            max_delay: 60 * SECOND,
            max_hint: 3600 * SECOND,
            cooldown: None,
        };
        assert_eq!(policy, expected);
    }

    #[test]
    fn the_default_cap_makes_room_for_a_longer_first_delay() {
        let policy = Backoff::fixed(300 * SECOND).build().unwrap();
        assert_eq!(policy.max_delay, 300 * SECOND);
    }

    #[test]
    fn a_factor_below_one_or_not_finite_is_refused() {
        let with = |factor| Backoff::exponential(SECOND).factor(factor);
        assert_refused(with(0.5), "factor is 0.5, but must be a finite number of at least 1");
        assert_refused(with(-2.0), "factor is -2, but must be a finite number of at least 1");
        assert_refused(with(f64::NAN), "factor is NaN, but must be a finite number of at least 1");
        assert_refused(with(f64::INFINITY), "factor is inf, but must be a finite number of at least 1");
        assert!(with(1.0).build().is_ok());
        assert!(with(1e308).build().is_ok());
    }

    #[test]
    fn a_factor_without_exponential_waits_is_refused() {
        let message = "factor is 3, but must be left alone: only exponential waits have one";
        assert_refused(Backoff::fixed(SECOND).factor(3.0), message);
        assert_refused(Backoff::linear(SECOND, SECOND).factor(3.0), message);
    }

    #[test]
    fn exponential_waits_from_zero_are_refused() {
        assert_refused(Backoff::exponential(Duration::ZERO), "first is 0 s, but must be more than 0 s");
        assert!(Backoff::fixed(Duration::ZERO).build().is_ok());
    }

    #[test]
    fn no_attempt_at_all_is_refused() {
        assert_refused(
            Backoff::fixed(SECOND).max_attempts(0),
            "max_attempts is 0, but must be at least 1, since the first call counts",
        );
    }

    #[test]
    fn no_time_at_all_is_refused() {
        assert_refused(
            Backoff::fixed(SECOND).max_elapsed(Duration::ZERO),
            "max_elapsed is 0 s, but must be more than 0 s; max_attempts(1) never tries again",
        );
    }

    #[test]
    fn a_cap_below_the_first_delay_is_refused() {
        assert_refused(
            Backoff::fixed(2 * SECOND).max_delay(SECOND),
            "max_delay is 1s, but must be at least the first delay, 2s",
        );
        assert!(Backoff::fixed(SECOND).max_delay(SECOND).build().is_ok());
    }

    #[test]
    fn a_jitter_out_of_bounds_is_refused() {
        assert_refused(
            Backoff::fixed(SECOND).jitter(Jitter::Proportional(1.5)),
            "jitter is Proportional(1.5), but must be a share from 0 to 1",
        );
    }

    #[test]
    fn a_cooldown_that_never_comes_is_refused() {
        assert_refused(
            Backoff::fixed(SECOND).unlimited_attempts().cooldown(SECOND),
            "cooldown is 1s, but must be left alone where neither max_attempts nor max_elapsed ends the attempts",
        );
        assert_refused(
            Backoff::fixed(SECOND).cooldown(Duration::ZERO),
            "cooldown is 0 s, but must be more than 0 s",
        );
        let bounded = Backoff::fixed(SECOND).unlimited_attempts().max_elapsed(SECOND);
        assert!(bounded.cooldown(SECOND).build().is_ok());
    }

    #[test]
    fn the_preset_has_the_numbers_of_the_backoff_crate() {
        let policy = Backoff::like_backoff_crate().build().unwrap();
        let expected = Policy {
            curve: Curve::Exponential { first: Duration::from_millis(500), factor: 1.5 },
            jitter: Jitter::Proportional(0.5),
            max_attempts: None,
            max_elapsed: Some(900 * SECOND),
            max_delay: 60 * SECOND,
            max_hint: 3600 * SECOND,
            cooldown: None,
        };
        assert_eq!(policy, expected);
    }
}
