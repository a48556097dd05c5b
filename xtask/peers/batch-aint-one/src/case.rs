use anyhow::{Context, bail};

use crate::batcher::{self, ANSWERED, COSTED, IN_FLIGHT};
use crate::workload::{Load, Measurement, rate};

/// Runs a case once, by its name: `NAME/PRODUCERS`.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) fn measure(case: &str) -> anyhow::Result<Measurement> {
    let Some((name, producers)) = case.split_once('/') else {
        bail!("no case is named {case:?}");
    };
    let producers =
        producers.parse().with_context(|| format!("{case}: {producers:?} is not a number of producers"))?;
    let (load, settings) = match name {
        "answered" => (Load::answered(producers)?, ANSWERED),
        "in-flight" => (Load::in_flight(producers)?, IN_FLIGHT),
        "costed" => (Load::costed(producers)?, COSTED),
        _ => bail!("no case is named {case:?}"),
    };
    let measurement = match name {
        "answered" => rate(case, load, batcher::answered),
        "in-flight" => rate(case, load, batcher::in_flight),
        _ => rate(case, load, batcher::costed),
    };
    Ok(settings.describe(measurement?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_case_is_refused() {
        for case in ["", "answered", "answered/", "answered/0", "answered/2001", "send/1"] {
            assert!(measure(case).is_err(), "{case:?} was measured");
        }
    }
}
