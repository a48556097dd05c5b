use std::sync::Barrier as Start;
use std::time::Duration;

use anyhow::{Context, ensure};
use relaykit_event_barrier::State;

use super::gate::{Gate, Pick};
use super::trace::{Step, Trace};
use crate::workload::Measurement;
use crate::workload::stopwatch::Stopwatch;

/// How long a measurement takes, about.
const TIME: Duration = Duration::from_millis(300);

/// What a replay measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Replayed {
    time: Duration,
    ended: usize,
    asked: usize,
    syncs: usize,
    pub(super) refused: usize,
    pub(super) unlike_the_plan: usize,
    applied: usize,
}

impl Replayed {
    pub(super) fn describe(self, case: &str) -> Measurement {
        let seconds = self.time.as_secs_f64();
        let ended = count(self.ended);
        Measurement::new(case, ended / seconds, "jobs/s")
            .with("ns_per_job", seconds * 1e9 / ended)
            .with("jobs", self.ended)
            .with("asked", self.asked)
            .with("refused", self.refused)
            .with("unlike_the_plan", self.unlike_the_plan)
            .with("syncs", self.syncs)
            .with("applied", self.applied)
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run has 2^53 jobs")]
fn count(jobs: usize) -> f64 {
    jobs as f64
}

/// Replays the traces, each on a thread of its own, as often as fits into the time. The first one's thread syncs.
///
/// A first replay goes before, so that the ones measured find memory as it is in steady work.
///
/// # Errors
///
/// A thread panics, or not every key is open in the end.
pub(super) fn timed<G: Gate, P: Pick>(
    (gate, mut pick): (G, P),
    traces: &[Trace],
) -> anyhow::Result<Replayed> {
    let warm_up = replay(&gate, &mut pick, traces, 0..1)?;
    let fitting = TIME.as_secs_f64() / warm_up.time.as_secs_f64().max(1e-6);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
    let times = fitting.clamp(1.0, 1_000.0) as u64;
    let replayed = replay(&gate, &mut pick, traces, 1..1 + times)?;
    // What another thread told after the last sync.
    pick.sync();
    let unfinished = gate.unfinished();
    ensure!(unfinished == 0, "{unfinished} keys are blocked or jobs in flight in the end");
    Ok(replayed)
}

fn replay<G: Gate, P: Pick>(
    gate: &G,
    pick: &mut P,
    traces: &[Trace],
    rounds: std::ops::Range<u64>,
) -> anyhow::Result<Replayed> {
    let times = usize::try_from(rounds.end - rounds.start)?;
    let sum = |of: fn(&Trace) -> usize| times * traces.iter().map(of).sum::<usize>();
    let Some((first, others)) = traces.split_first() else { anyhow::bail!("there is no trace") };
    let start = Start::new(traces.len());
    let (time, did) = std::thread::scope(|scope| {
        let others: Vec<_> = others
            .iter()
            .map(|trace| {
                let (gate, start, rounds) = (gate.clone(), &start, rounds.clone());
                scope.spawn(move || {
                    start.wait();
                    rounds.map(|round| run(&gate, || 0, trace, round)).sum::<Did>()
                })
            })
            .collect();
        start.wait();
        let stopwatch = Stopwatch::start();
        let mut did: Did = rounds.map(|round| run(gate, || pick.sync(), first, round)).sum();
        for other in others {
            did = did + other.join().ok().context("a thread panicked")?;
        }
        anyhow::Ok((stopwatch.elapsed(), did))
    })?;
    Ok(Replayed {
        time,
        ended: sum(|trace| trace.ended),
        asked: sum(Trace::asked),
        syncs: times * first.steps.iter().filter(|step| **step == Step::Sync).count(),
        refused: did.refused,
        unlike_the_plan: did.unlike_the_plan,
        applied: did.applied,
    })
}

/// What a thread's steps came to.
#[derive(Debug, Clone, Copy, Default)]
struct Did {
    refused: usize,
    unlike_the_plan: usize,
    applied: usize,
}

impl std::ops::Add for Did {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            refused: self.refused + other.refused,
            unlike_the_plan: self.unlike_the_plan + other.unlike_the_plan,
            applied: self.applied + other.applied,
        }
    }
}

impl std::iter::Sum for Did {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

fn run(gate: &impl Gate, mut sync: impl FnMut() -> usize, trace: &Trace, round: u64) -> Did {
    let mut did = Did::default();
    let later = round * trace.next_job;
    for step in &trace.steps {
        match *step {
            Step::Sync => did.applied += sync(),
            Step::Pass { key, job, state } => {
                if !gate.pass(key, job + later, state) {
                    // Another thread is in the way. The outcome is told all the same, so that each failure has its end.
                    gate.tell(key, job + later, state);
                    did.refused += 1;
                    did.unlike_the_plan += 1;
                }
            }
            Step::Refused { key, job } => {
                if gate.pass(key, job + later, State::Waiting) {
                    did.unlike_the_plan += 1;
                } else {
                    did.refused += 1;
                }
            }
        }
    }
    did
}

#[cfg(test)]
mod tests {
    use relaykit_event_barrier::{Barrier, Limits};

    use super::super::gate::{Plain, Sharded};
    use super::super::setting::Setting;
    use super::*;

    /// All three sides give each job the same answer, so they did the same work.
    #[test]
    fn all_books_answer_as_planned() {
        for name in
            ["ours/failures/10k/1", "ours/limits/1/1", "ours/limits/10k-zipf/1", "ours/failures/10k/1/each"]
        {
            let setting: Setting = name.parse().unwrap();
            let traces = [Trace::of_thread(&setting, 0)];
            let bare = setting.mix.limits();
            let limits = Limits::default().key_threshold(bare.threshold).drain(bare.drain);
            let (ours, mut reader) = Barrier::builder().limits(limits).build().unwrap();
            let (plain, mut plain_pick) = Plain::pair(bare);
            let (sharded, mut sharded_pick) = Sharded::pair(bare);
            let all = [
                replay(&ours, &mut reader, &traces, 0..2).unwrap(),
                replay(&plain, &mut plain_pick, &traces, 0..2).unwrap(),
                replay(&sharded, &mut sharded_pick, &traces, 0..2).unwrap(),
            ];
            for replayed in all {
                assert_eq!(replayed.unlike_the_plan, 0, "{name}: {replayed:?}");
                assert_eq!(replayed.refused, 2 * traces[0].refused, "{name}: {replayed:?}");
                assert_eq!(replayed.applied, all[0].applied, "{name}: {replayed:?}");
            }
            assert!(all[0].refused > 0, "{name} refuses nothing");
            assert_eq!(ours.size(), 0);
            assert_eq!((plain.unfinished(), sharded.unfinished()), (0, 0));
        }
    }
}
