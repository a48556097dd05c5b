use super::line::{Better, Line, Probe};

const POLICIES: [&str; 5] = ["fixed", "linear", "exponential", "exponential-full-jitter", "decorrelated"];

/// Lists what a retry decision is measured by.
pub(super) fn lines() -> Vec<Line> {
    let mut lines: Vec<_> = POLICIES.iter().map(|policy| decision(policy)).collect();
    lines.extend([
        Line::at_most("allocations-per-decision", Probe::Ours.case("allocations-per-decision"), 0.0),
        Line::ratio(
            "decision-vs-backoff",
            Probe::Ours.case("ns-per-decision/exponential-equal-jitter"),
            Probe::Ours.case("ns-per-decision/backoff-crate"),
            Better::Lower,
            1.0,
        ),
    ]);
    lines
}

/// A decision takes at most 50 ns.
fn decision(policy: &str) -> Line {
    let name = format!("ns-per-decision/{policy}");
    Line::at_most(name.clone(), Probe::Ours.case(name), 50.0)
}
