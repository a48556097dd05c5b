use std::time::Duration;

use relaykit_pipeline_traits::{InvalidSetting, Rng};

/// A way in which a request goes wrong. All of them are transient: trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// A 500; every second one after the request took effect.
    ServerError,
    /// A 503 without effect.
    Unavailable,
    /// A 429 with `Retry-After: 1`, without effect.
    Throttled,
    /// The connection ends without a reply and without effect.
    LostRequest,
    /// The request takes effect, and the connection ends without a reply.
    LostReply,
    /// The request takes effect, and half of the reply's body arrives.
    CutReply,
    /// A 413 without effect, for a request of more elements than some small number; never for one element.
    TooLarge,
    /// The request takes effect and is answered after 1 to 20 ms.
    Slow,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::ServerError,
        Self::Unavailable,
        Self::Throttled,
        Self::LostRequest,
        Self::LostReply,
        Self::CutReply,
        Self::TooLarge,
        Self::Slow,
    ];
}

/// How often each [`Fault`] happens, as a probability per request.
///
/// Which one hits a request is a pure function of the stand-in's seed and the request's number.
///
/// ```
/// use relaykit_iterable_handlers::testing::{Fault, Faults};
///
/// // One reply in ten is lost, until the hundredth request.
/// let faults = Faults::none().with(Fault::LostReply, 0.1).first(100);
/// # let _ = faults;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    chances: [f64; Fault::ALL.len()],
    first: u64,
}

/// A fault, with what the dice said about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    ServerError { applied: bool },
    Unavailable,
    Throttled,
    LostRequest,
    LostReply,
    CutReply,
    TooLarge { above: usize },
    Slow(Duration),
}

impl Hit {
    pub(crate) const fn fault(self) -> Fault {
        match self {
            Self::ServerError { .. } => Fault::ServerError,
            Self::Unavailable => Fault::Unavailable,
            Self::Throttled => Fault::Throttled,
            Self::LostRequest => Fault::LostRequest,
            Self::LostReply => Fault::LostReply,
            Self::CutReply => Fault::CutReply,
            Self::TooLarge { .. } => Fault::TooLarge,
            Self::Slow(_) => Fault::Slow,
        }
    }
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub const fn none() -> Self {
        Self { chances: [0.0; Fault::ALL.len()], first: u64::MAX }
    }

    /// A bad day: about one request in eight is hit.
    #[must_use]
    pub const fn some() -> Self {
        Self { chances: [0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.01, 0.02], first: u64::MAX }
    }

    /// A storm: about half of the requests are hit.
    #[must_use]
    pub const fn storm() -> Self {
        Self { chances: [0.08, 0.06, 0.08, 0.06, 0.06, 0.05, 0.05, 0.08], first: u64::MAX }
    }

    /// Sets a fault's probability per request, from 0 to 1. All together must not exceed 1, which
    /// [`start`](super::StandInBuilder::start) checks.
    #[must_use]
    pub fn with(mut self, fault: Fault, probability: f64) -> Self {
        for (chance, of) in self.chances.iter_mut().zip(Fault::ALL) {
            if of == fault {
                *chance = probability;
            }
        }
        self
    }

    /// Ends the faults with the `count`-th request. Default: they never end.
    #[must_use]
    pub const fn first(mut self, count: u64) -> Self {
        self.first = count;
        self
    }

    /// Checks that the probabilities are some.
    pub(crate) fn check(&self) -> Result<(), InvalidSetting> {
        let sum: f64 = self.chances.iter().sum();
        let each = self.chances.iter().all(|chance| (0.0..=1.0).contains(chance));
        // Half a thousandth covers what adding decimal fractions loses.
        if each && sum <= 1.0005 {
            Ok(())
        } else {
            Err(InvalidSetting::new(
                "faults",
                format!("{:?}", self.chances),
                "probabilities from 0 to 1 that add up to at most 1",
            ))
        }
    }

    /// Decides which fault hits the request of this number, from 1.
    pub(crate) fn hit(&self, seed: u64, number: u64) -> Option<Hit> {
        if number > self.first {
            return None;
        }
        let mut rng = Rng::seeded(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let dice = rng.unit();
        let mut below = 0.0;
        let fault = self
            .chances
            .iter()
            .zip(Fault::ALL)
            .find(|(chance, _)| {
                below += **chance;
                dice < below
            })?
            .1;
        Some(match fault {
            Fault::ServerError => Hit::ServerError { applied: rng.chance(0.5) },
            Fault::Unavailable => Hit::Unavailable,
            Fault::Throttled => Hit::Throttled,
            Fault::LostRequest => Hit::LostRequest,
            Fault::LostReply => Hit::LostReply,
            Fault::CutReply => Hit::CutReply,
            Fault::TooLarge => Hit::TooLarge { above: 1 + usize::try_from(rng.below(16)).unwrap_or(0) },
            Fault::Slow => Hit::Slow(Duration::from_millis(1 + rng.below(20))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_fault_is_a_function_of_seed_and_number() {
        let draw = |seed| (1..200).map(|n| Faults::storm().hit(seed, n)).collect::<Vec<_>>();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn a_storm_has_every_fault_and_hits_about_half() {
        let mut seen: BTreeMap<Fault, u32> = BTreeMap::new();
        for number in 1..=10_000 {
            if let Some(hit) = Faults::storm().hit(1, number) {
                *seen.entry(hit.fault()).or_default() += 1;
            }
        }
        assert_eq!(seen.len(), Fault::ALL.len(), "{seen:?}");
        let all: u32 = seen.values().sum();
        assert!((4_900..5_500).contains(&all), "{seen:?}");
    }

    #[test]
    fn none_never_hits_and_faults_end_when_told() {
        assert!((1..1000).all(|n| Faults::none().hit(3, n).is_none()));
        let lost = Faults::none().with(Fault::LostReply, 1.0).first(2);
        assert_eq!(lost.hit(3, 2), Some(Hit::LostReply));
        assert_eq!(lost.hit(3, 3), None);
    }

    #[test]
    fn probabilities_that_are_none_are_refused() {
        assert!(Faults::storm().check().is_ok());
        assert!(Faults::none().with(Fault::Slow, 1.0).check().is_ok());
        for bad in [1.1, -0.1, f64::NAN] {
            let error = Faults::none().with(Fault::Slow, bad).check().unwrap_err();
            assert_eq!(error.field, "faults");
        }
        assert!(Faults::storm().with(Fault::Slow, 0.9).check().is_err());
    }
}
