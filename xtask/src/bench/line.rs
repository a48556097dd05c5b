/// How many times as fast as the fastest of its kind it is at least.
const OF_A_PEER: f64 = 1.0;

/// One line of a bench: a case of ours, what it is compared with, and what we want.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) ours: Case,
    /// Absent on an absolute line, whose target is a bound on the value itself.
    pub(super) reference: Option<Case>,
    /// A bound on the ratio ours/reference, or on the value of an absolute line.
    pub(super) target: f64,
    pub(super) better: Better,
    /// How often it is measured at most, however often others are.
    pub(super) most_rounds: Option<u32>,
}

/// Something that a probe measures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) probe: Probe,
    pub(super) name: String,
}

/// A program that measures cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    /// Our own bench package, `relaykit-bench`.
    Ours,
    /// A package of its own below `xtask/peers`, so that its dependencies stay out of our lockfile.
    Peer(&'static str),
}

/// Which values are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

impl Line {
    /// Makes a line that compares two cases by their ratio.
    pub(super) fn ratio(
        name: impl Into<String>,
        ours: Case,
        reference: Case,
        better: Better,
        target: f64,
    ) -> Self {
        Self { name: name.into(), ours, reference: Some(reference), target, better, most_rounds: None }
    }

    /// Makes a line that compares a case with one of a crate of its kind, one round: they are slow.
    pub(super) fn against_peer(ours: Case, peer: Probe, reference: &str) -> Self {
        let name = format!("{reference}-vs-{}", peer.name());
        Self::ratio(name, ours, peer.case(reference), Better::Higher, OF_A_PEER).at_most_rounds(1)
    }

    /// Makes a line whose value must not exceed `target`.
    pub(super) fn at_most(name: impl Into<String>, ours: Case, target: f64) -> Self {
        Self { name: name.into(), ours, reference: None, target, better: Better::Lower, most_rounds: None }
    }

    /// Measures it so often at most, since it takes long or always says the same.
    pub(super) fn at_most_rounds(mut self, rounds: u32) -> Self {
        self.most_rounds = Some(rounds);
        self
    }

    /// Lists the cases that the line needs.
    pub(super) fn cases(&self) -> impl Iterator<Item = &Case> {
        std::iter::once(&self.ours).chain(&self.reference)
    }
}

impl Probe {
    pub(super) const GRAPHILE_WORKER: Self = Self::Peer("graphile_worker");
    pub(super) const OBIX: Self = Self::Peer("obix");

    /// Returns what a line calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer(name) => name,
        }
    }

    /// Names a case of this probe.
    pub(super) fn case(self, name: impl Into<String>) -> Case {
        Case { probe: self, name: name.into() }
    }
}

impl Better {
    /// Decides whether a value reaches the target; equal is enough.
    pub(super) fn is_met(self, value: f64, target: f64) -> bool {
        match self {
            Self::Higher => value >= target,
            Self::Lower => value <= target,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_value_meets_a_target_for_rates() {
        assert!(Better::Higher.is_met(0.41, 0.40));
        assert!(Better::Higher.is_met(0.40, 0.40));
        assert!(!Better::Higher.is_met(0.39, 0.40));
    }

    #[test]
    fn a_lower_value_meets_a_target_for_costs() {
        assert!(Better::Lower.is_met(18.0, 19.0));
        assert!(Better::Lower.is_met(19.0, 19.0));
        assert!(!Better::Lower.is_met(19.5, 19.0));
    }
}
