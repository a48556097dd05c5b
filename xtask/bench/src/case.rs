use anyhow::{Context, bail};

use crate::processor::{AT_ONCE, GATHERING};
use crate::workload::{Load, Measurement, rate};
use crate::{allocations, barrier, channel, decision, inbox, outbox, poison, processor, queue};

/// How many items are moved where nobody waits for answers.
const SENT: u32 = 12_000_000;

/// Runs a case once, by its name: `NAME`, `NAME/PRODUCERS`, `NAME/POLICY`, `barrier/…`, `queue/…`, `outbox/…` or `inbox/…`.
///
/// # Errors
///
/// No case has this name, or the run fails.
pub(crate) fn measure(case: &str) -> anyhow::Result<Measurement> {
    if let Some(name) = case.strip_prefix("barrier/") {
        return barrier::measure(case, name);
    }
    if let Some(name) = case.strip_prefix("queue/") {
        return queue::measure(case, name);
    }
    if let Some(name) = case.strip_prefix("outbox/") {
        return outbox::measure(case, name);
    }
    if let Some(name) = case.strip_prefix("inbox/") {
        return inbox::measure(case, name);
    }
    match case.rsplit_once('/') {
        None => single(case),
        Some(("ns-per-decision", policy)) => decision::nanoseconds(case, policy),
        Some((name, producers)) => {
            let producers = producers
                .parse()
                .with_context(|| format!("{case}: {producers:?} is not a number of producers"))?;
            throughput(case, name, producers)
        }
    }
}

fn throughput(case: &str, name: &str, producers: u32) -> anyhow::Result<Measurement> {
    let sent = Load::new(producers, SENT)?;
    let answered = Load::answered(producers)?;
    let in_flight = Load::in_flight(producers)?;
    let costed = Load::costed(producers)?;
    let gathering = |measurement| GATHERING.describe(measurement);
    let at_once = |measurement| AT_ONCE.describe(measurement);
    match name {
        "channel" => rate(case, sent, channel::send),
        "channel-oneshot-dropped" => rate(case, sent, channel::answers_dropped),
        "channel-oneshot" => rate(case, answered, channel::answered),
        "channel-oneshot-in-flight" => rate(case, in_flight, channel::in_flight),
        "processor-send" => rate(case, sent, processor::send).map(gathering),
        "processor-add-dropped" => rate(case, sent, processor::add_dropped).map(gathering),
        "processor-answered" => rate(case, answered, processor::answered).map(at_once),
        "processor-in-flight" => rate(case, in_flight, processor::in_flight).map(at_once),
        "processor-costed" => rate(case, costed, processor::costed).map(at_once),
        _ => bail!("no case is named {case:?}"),
    }
}

fn single(case: &str) -> anyhow::Result<Measurement> {
    match case {
        "isolate-poison" => poison::isolate(case),
        "allocations-send" => {
            allocations::per_item(case, processor::send).map(|measurement| GATHERING.describe(measurement))
        }
        "allocations-answered" => {
            allocations::per_item(case, processor::in_flight).map(|measurement| AT_ONCE.describe(measurement))
        }
        "allocations-channel-oneshot" => allocations::per_item(case, channel::in_flight),
        "allocations-per-decision" => decision::allocations(case),
        _ => bail!("no case is named {case:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_case_is_refused() {
        for case in
            ["", "processor", "processor/1", "ns-per-decision/", "channel/0", "channel/x", "channel/2001"]
        {
            assert!(measure(case).is_err(), "{case:?} was measured");
        }
    }

    #[test]
    fn one_poison_item_among_five_hundred_is_found_in_nineteen_calls() {
        let measurement = measure("isolate-poison").unwrap();
        assert_eq!(measurement.case, "isolate-poison");
        assert!((1.0..=19.0).contains(&measurement.value), "{measurement:?}");
    }
}
