use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::ensure;
use tokio::sync::Notify;

use super::super::stopwatch::Stopwatch;
use super::payload::{KEYS, number};

/// What arrived, from one sender or many at once.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wanted: u64,
    seen: Mutex<Seen>,
    complete: Notify,
}

#[derive(Debug)]
struct Seen {
    since: Stopwatch,
    /// The number after the last one of each key.
    next: Vec<u64>,
    count: u64,
    inversions: u64,
    sum: u64,
    /// When the first tenth had arrived, and when the last one began.
    tenths: [Duration; 2],
}

impl Arrivals {
    /// Expects the numbers below `wanted`, in order within each key.
    pub(crate) fn new(wanted: u32) -> Self {
        let keys = usize::try_from(KEYS).unwrap_or_default();
        let seen = Seen {
            since: Stopwatch::start(),
            next: vec![0; keys],
            count: 0,
            inversions: 0,
            sum: 0,
            tenths: [Duration::ZERO; 2],
        };
        Self(Arc::new(Inner { wanted: wanted.into(), seen: Mutex::new(seen), complete: Notify::new() }))
    }

    /// Takes time from now on.
    pub(crate) fn start(&self) {
        self.seen().since = Stopwatch::start();
    }

    /// Takes note of payloads that arrived together.
    pub(crate) fn add<'a>(&self, payloads: impl Iterator<Item = &'a [u8]>) {
        let wanted = self.0.wanted;
        let mut seen = self.seen();
        for payload in payloads {
            let number = number(payload);
            let Some(next) = usize::try_from(number % KEYS).ok().and_then(|key| seen.next.get_mut(key))
            else {
                continue;
            };
            let inverted = number < *next;
            *next = number + 1;
            seen.inversions += u64::from(inverted);
            seen.count += 1;
            seen.sum = seen.sum.wrapping_add(number);
            if seen.count == wanted / 10 {
                seen.tenths[0] = seen.since.elapsed();
            } else if seen.count == wanted - wanted / 10 {
                seen.tenths[1] = seen.since.elapsed();
            }
        }
        if seen.count >= wanted {
            self.0.complete.notify_one();
        }
    }

    /// Waits until as many arrived as are expected.
    pub(crate) async fn complete(&self) {
        self.0.complete.notified().await;
    }

    /// Returns how many arrived.
    pub(crate) fn count(&self) -> u64 {
        self.seen().count
    }

    /// Returns how many arrived after a later one of their key.
    pub(crate) fn inversions(&self) -> u64 {
        self.seen().inversions
    }

    /// Returns how many times as fast the last tenth went as the first, if all took `time`.
    pub(crate) fn flatness(&self, time: Duration) -> f64 {
        let [first, last] = self.seen().tenths;
        first.as_secs_f64() / time.saturating_sub(last).as_secs_f64().max(1e-9)
    }

    /// Checks that each number arrived once.
    ///
    /// # Errors
    ///
    /// It did not.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let (seen, wanted) = (self.seen(), self.0.wanted);
        ensure!(seen.count == wanted, "{} messages arrived of {wanted}", seen.count);
        let sum = wanted * (wanted - 1) / 2;
        ensure!(seen.sum == sum, "the numbers that arrived add up to {}, not {sum}", seen.sum);
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::payload::payload;
    use super::*;

    fn after(numbers: &[u64]) -> Arrivals {
        let arrivals = Arrivals::new(u32::try_from(numbers.len()).unwrap());
        for number in numbers {
            arrivals.add(std::iter::once(payload(*number).as_bytes()));
        }
        arrivals
    }

    #[test]
    fn an_earlier_number_of_a_key_after_a_later_one_is_an_inversion() {
        assert_eq!(after(&[1, 0, 2]).inversions(), 0, "they have keys of their own");
        assert_eq!(after(&[0, 2 * KEYS, KEYS]).inversions(), 1);
    }

    #[test]
    fn numbers_that_are_missing_or_come_twice_are_found() {
        after(&[2, 0, 1]).check().unwrap();
        assert!(after(&[0, 1, 1]).check().is_err());
        let arrivals = Arrivals::new(2);
        arrivals.add(std::iter::once(payload(0).as_bytes()));
        assert!(arrivals.check().is_err());
    }
}
