//! A deterministic model check of the calling protocol. A run draws a schedule and all outcomes from its seed: 30 jobs
//! fail, abort or succeed by chance, 10 % of the failed ones are given up, and the steps of the reader, the workers and the
//! committer are mixed at random, with storing and telling as steps of their own. The protocol of the crate's front page
//! keeps the order in all of 100,000 runs; each wrong variant of it is caught.
//!
//! `REPLAY_SEED=… cargo test -p relaykit-event-barrier --test protocol NAME -- --nocapture` runs one seed of test NAME
//! and prints what happens in it.
#![allow(clippy::print_stdout, reason = "a replay is for reading")]

mod setup;
mod simulation;

use std::ops::Range;

use relaykit_event_barrier::{Limits, OverThreshold};

use setup::{Protocol, Setup};
use simulation::{Verdict, run};

/// Runs of each test of the right protocol: ten of them make 100,000.
const RUNS: u64 = 10_000;

/// The only seed to run, with a trace.
fn replayed() -> Option<u64> {
    let seed = std::env::var("REPLAY_SEED").ok()?;
    Some(seed.parse().expect("REPLAY_SEED is a number"))
}

/// Runs the seeds, each of which must keep the order and finish.
fn holds(setup: Setup, seeds: Range<u64>) {
    if let Some(seed) = replayed() {
        let run = run(setup, seed, true);
        println!("{}\n{:?} after {} steps", run.trace.join("\n"), run.verdict, run.steps);
        assert_eq!(run.verdict, Verdict::Ordered);
        return;
    }
    for seed in seeds {
        let run = run(setup, seed, false);
        assert_eq!(run.verdict, Verdict::Ordered, "REPLAY_SEED={seed} shows what happened");
    }
}

/// Runs the seeds; returns how many lost the order, and how many got stuck.
fn faults(setup: Setup, seeds: Range<u64>) -> (usize, usize) {
    if let Some(seed) = replayed() {
        let run = run(setup, seed, true);
        println!("{}\n{:?} after {} steps", run.trace.join("\n"), run.verdict, run.steps);
    }
    let (mut violations, mut stuck, mut first) = (0, 0, None);
    for seed in seeds {
        match run(setup, seed, false).verdict {
            Verdict::Ordered | Verdict::Leftover(_) => continue,
            Verdict::Violation(_) => violations += 1,
            Verdict::Stuck(_) => stuck += 1,
        }
        first.get_or_insert(seed);
    }
    println!("{:?}: {violations} out of order, {stuck} stuck, first seed {first:?}", setup.protocol);
    (violations, stuck)
}

fn drain(jobs: u32) -> Limits {
    Limits::default().drain(jobs)
}

fn waiving(threshold: u32, drain: u32) -> Limits {
    Limits::default().key_threshold(threshold).over_threshold(OverThreshold::Waive).drain(drain)
}

fn strict(drain: u32) -> Limits {
    Limits::default().key_threshold(1).drain(drain)
}

#[test]
fn the_order_holds_without_limits() {
    holds(Setup::new(drain(0)), 0..RUNS);
}

#[test]
fn the_order_holds_with_drain_limit_1() {
    holds(Setup::new(drain(1)), RUNS..2 * RUNS);
}

#[test]
fn the_order_holds_with_drain_limit_2() {
    holds(Setup::new(drain(2)), 2 * RUNS..3 * RUNS);
}

#[test]
fn the_order_holds_with_a_threshold_that_is_not_reached() {
    holds(Setup::new(waiving(200, 0)), 3 * RUNS..4 * RUNS);
}

#[test]
fn the_order_holds_with_a_threshold_that_is_not_reached_and_drain_limit_1() {
    holds(Setup::new(waiving(200, 1)), 4 * RUNS..5 * RUNS);
}

#[test]
fn the_order_holds_with_a_threshold_that_is_not_reached_and_drain_limit_2() {
    holds(Setup::new(waiving(200, 2)), 5 * RUNS..6 * RUNS);
}

#[test]
fn the_order_holds_with_one_job_at_a_time() {
    holds(Setup::new(strict(0)), 6 * RUNS..7 * RUNS);
}

#[test]
fn the_order_holds_with_one_job_at_a_time_and_drain_limits() {
    holds(Setup::new(strict(1)), 7 * RUNS..7 * RUNS + RUNS / 2);
    holds(Setup::new(strict(2)), 7 * RUNS + RUNS / 2..8 * RUNS);
}

#[test]
fn the_order_holds_for_three_keys_on_two_workers() {
    let blocking = Limits::default().key_threshold(3).drain(2);
    holds(Setup::new(drain(1)).three_keys(), 8 * RUNS..8 * RUNS + RUNS / 2);
    holds(Setup::new(blocking).three_keys(), 8 * RUNS + RUNS / 2..9 * RUNS);
}

#[test]
fn the_order_holds_though_workers_die_and_the_process_restarts() {
    let third = RUNS / 3;
    holds(Setup::new(drain(1)).faults(), 9 * RUNS..9 * RUNS + third);
    holds(Setup::new(strict(2)).faults(), 9 * RUNS + third..9 * RUNS + 2 * third);
    holds(Setup::new(waiving(200, 1)).three_keys().faults(), 9 * RUNS + 2 * third..10 * RUNS);
}

#[test]
fn reading_before_the_sync_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::ReadThenSync);
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

#[test]
fn telling_before_storing_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::NotifyThenPersist);
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

#[test]
fn opening_gates_at_once_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::OpenAtOnce);
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

#[test]
fn telling_failures_late_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::FailAfterPersist);
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

/// The original gives jobs up without asking, which is right while only the oldest failed job is given up. Later ones have
/// failed, too, once workers die or the process restarts.
#[test]
fn giving_jobs_up_unasked_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::GiveUpUnasked).faults();
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

/// A permit leaves on drop, which is right until its job is noted in the store as handed out. From then on the job
/// cannot be read again by itself, so a dropped permit must count as a failure.
#[test]
fn leaving_a_job_that_cannot_be_read_again_is_caught() {
    let setup = Setup::new(drain(1)).protocol(Protocol::DeadWorkersLeave).faults();
    let (violations, stuck) = faults(setup, 0..1000);
    assert!(violations + stuck > 0);
}

#[test]
fn a_threshold_of_2_that_waives_the_order_loses_it() {
    let (violations, _) = faults(Setup::new(waiving(2, 1)), 0..500);
    assert!(violations > 400, "{violations} of 500 runs");
}

#[test]
fn one_seed_gives_one_run() {
    let setup = Setup::new(strict(2)).three_keys().faults();
    for seed in 0..20 {
        let (first, second) = (run(setup, seed, true), run(setup, seed, true));
        assert!(first.trace.len() > 100, "a run of {} steps", first.trace.len());
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.verdict, second.verdict);
    }
    assert_ne!(run(setup, 0, true).trace, run(setup, 1, true).trace);
}
