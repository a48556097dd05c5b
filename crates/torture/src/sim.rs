mod broker;
mod clock;
mod facts;
mod far_inbox;
mod far_outbox;
mod handlers;
mod leases;
mod line;
mod menu;
mod mood;
mod node;
mod operator;
mod producer;
mod receiver;
mod round;
mod sender;
mod settled;
mod trace;
mod world;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use clap::ValueEnum;

use crate::bench::{self, Bench};
use crate::report::Report;

/// What is simulated, on one clock that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Test {
    /// Producers, relays, a broker, receivers and workers, with all that can go wrong between them; a round a seed.
    Chain,
    /// Rounds that are played twice, and must not differ.
    Twice,
}

/// Runs the tests, all unless some are named.
pub(crate) async fn run(bench: &Arc<Bench>, only: &[Test]) -> Vec<Report> {
    bench::run_all(only, async |test: Test| match test {
        Test::Chain => chain(bench),
        Test::Twice => twice(bench),
    })
    .await
}

/// Beyond so many failures nothing is learnt.
const FAILURES: usize = 5;

fn chain(bench: &Bench) -> Report {
    let report = Report::of("chain");
    let seeds = bench.seeds(report.test, bench.rounds(40_000, 400_000));
    let counts = Mutex::new((report, 0, 0));
    let failures = AtomicUsize::new(0);
    each(&seeds, |seed| {
        if failures.load(Ordering::Relaxed) >= FAILURES || bench.is_over("chain") {
            return;
        }
        let played = round::play(seed);
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (report, events, seconds) = &mut *counts;
        report.trials += 1;
        match played {
            Ok(played) => {
                *events += played.events;
                *seconds += played.lasted.as_secs();
                report.items += played.items;
                played.judgements.iter().for_each(|judgement| report.add(0, judgement));
                if !played.is_clean() {
                    failures.fetch_add(1, Ordering::Relaxed);
                    report.fail(complain(bench, report.test, seed, &played));
                }
            }
            Err(error) => {
                failures.fetch_add(1, Ordering::Relaxed);
                report.fail(format!("{error:#}; {}", bench.failed(report.test, seed)));
            }
        }
    });
    let (mut report, events, seconds) = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.note(format!("{events} events in {} simulated hours", seconds / 3_600));
    report
}

fn twice(bench: &Bench) -> Report {
    let report = Report::of("twice");
    let seeds = bench.seeds(report.test, bench.rounds(100, 10_000));
    let report = Mutex::new(report);
    each(&seeds, |seed| {
        if bench.is_over("twice") {
            return;
        }
        let (one, other) = (round::play(seed), round::play(seed));
        let same = one.is_ok_and(|one| other.is_ok_and(|other| one.hash == other.hash));
        let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
        report.trials += 1;
        if !same {
            let again = bench.failed(report.test, seed);
            report.fail(format!("two rounds of a seed differ; {again}"));
        }
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with each seed, on all processors.
fn each(seeds: &[u64], play: impl Fn(u64) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    play(*seed);
                }
            });
        }
    });
}

/// Says what was wrong in a round, and keeps what happened.
fn complain(bench: &Bench, test: &str, seed: u64, played: &round::Played) -> String {
    let kept = bench.fast_folder().and_then(|folder| {
        std::fs::write(folder.path().join("trace.txt"), &played.text)?;
        bench.keep(test, seed, &played.history, folder.path())
    });
    let kept = kept.map_or_else(
        |error| format!("nothing could be kept: {error:#}"),
        |at| format!("kept in {}", at.display()),
    );
    let unclean = played.judgements.iter().filter(|judgement| !judgement.is_clean());
    let mut words: Vec<_> = unclean.map(crate::oracle::Judgement::complaint).collect();
    words.extend(played.words.iter().take(5).cloned());
    format!("{}; {kept}; {}", words.join("; "), bench.failed(test, seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_played_the_same_way_twice_and_another_is_not() {
        let hash = |seed| round::play(seed).expect("it comes to its end").hash;
        for seed in 0..5 {
            assert_eq!(hash(seed), hash(seed), "seed {seed}");
            assert_ne!(hash(seed), hash(seed + 1_000), "seed {seed}");
        }
    }

    #[test]
    fn rounds_come_to_a_clean_end_in_which_messages_were_sent() {
        for seed in 0..20 {
            let played = round::play(seed).expect("it comes to its end");
            assert!(played.is_clean(), "seed {seed}: {:?} {:?}", played.words, played.judgements);
            assert!(played.items > 0 && played.events > 100, "seed {seed}");
        }
    }
}
