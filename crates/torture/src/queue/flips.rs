use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::child::{Kept, Mode, Plan, Work};
use super::life::{Life, Start};
use super::reopen::reopen;
use crate::bench::Bench;
use crate::history::{Event, Id, Said};
use crate::report::Report;

/// Flips for each file that is made.
const FLIPS: u64 = 600;

/// How many files are opened at once; a damaged one mostly waits.
const AT_ONCE: usize = 32;

/// How long a damaged file is given.
const WITHIN: Duration = Duration::from_millis(1_500);

/// A queue's files before anything is flipped.
struct Whole {
    files: Vec<(&'static str, Vec<u8>)>,
    /// What must be in them.
    items: HashSet<Id>,
}

/// What a flip did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Nothing,
    /// The file was refused, or something was set aside, or the queue complained.
    Noticed,
    /// Items are not handed out, but still there.
    HeldBack,
    /// Items are missing, and nobody said so.
    Silent(u64),
    /// Other bytes were handed out than were pushed.
    Wrong(u64),
}

/// Flips single bits of a file, closed or left by a crash, and opens it.
pub(crate) async fn flipped(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("flips");
    let mut silent_in_log = (0, 0);
    let (mut noticed, mut nothing, mut held_back) = (0, 0, 0);
    for seed in bench.seed..bench.seed + bench.rounds(13, 1_600) {
        if bench.is_over(report.test) {
            break;
        }
        // Every fourth was left by a crash, with its log.
        let crashed = seed.is_multiple_of(4);
        let whole = match make(bench, seed, crashed).await {
            Ok(whole) => Arc::new(whole),
            Err(error) => {
                report.fail(format!("{error:#}; {}", bench.failed("flips", seed)));
                continue;
            }
        };
        report.items += whole.items.len() as u64;
        let mut flips = flip_all(bench, seed, &whole);
        let before = (report.phantom, report.lost);
        let mut places = Vec::new();
        while let Some(flip) = flips.join_next().await {
            report.trials += 1;
            match flip {
                Ok((_, _, Effect::Nothing)) => nothing += 1,
                Ok((_, _, Effect::Noticed)) => noticed += 1,
                Ok((_, _, Effect::HeldBack)) => held_back += 1,
                Ok(("-wal", _, Effect::Silent(items))) => {
                    silent_in_log = (silent_in_log.0 + 1, silent_in_log.1 + items);
                }
                Ok((_, at, Effect::Silent(items))) => {
                    places.push(at);
                    report.lost += items;
                }
                Ok((_, _, Effect::Wrong(items))) => report.phantom += items,
                Err(error) => report.fail(format!("a panic: {error}")),
            }
        }
        if before != (report.phantom, report.lost) {
            report.fail(format!(
                "{} items with wrong bytes, {} silently missing, by bytes {places:?}; {}",
                report.phantom - before.0,
                report.lost - before.1,
                bench.failed("flips", seed)
            ));
        }
    }
    report.note(format!("{nothing} flips did nothing, {noticed} were noticed, {held_back} held an item back that stays in the file"));
    report.note(format!(
        "{} flips in the log of a crashed process cut it off silently, {} items in all: to SQLite that is where it ends",
        silent_in_log.0, silent_in_log.1
    ));
    report
}

async fn make(bench: &Bench, seed: u64, crashed: bool) -> anyhow::Result<Whole> {
    let folder = bench.fast_folder()?;
    let file = folder.path().join("queue.db");
    // A crashed one has everything in its log that was not written back.
    let work = Work::Fill { items: if crashed { 1_000 } else { 80 } };
    let plan = Plan {
        file: file.clone(),
        seed,
        first_id: 1,
        mode: Mode::Line,
        durability: Kept::Full,
        ballast: 0,
        work,
    };
    let start = Start::plain()?;
    let mut history = Vec::new();
    if crashed {
        let mut life = Life::begin(&start, &plan)?;
        life.opened().await;
        SystemClock::new().sleep(Duration::from_millis(20)).await;
        history.extend(life.kill().await?);
    } else {
        history.extend(Life::begin(&start, &plan)?.end().await?);
    }
    let mut items: HashSet<_> = history
        .iter()
        .filter_map(|event| match event {
            Event::Acknowledged { id } => Some(*id),
            _ => None,
        })
        .collect();
    for event in &history {
        if let Event::Lent { id, said: Said::Done | Said::Dead, .. } = event {
            items.remove(id);
        }
    }
    let mut files = Vec::new();
    for suffix in ["", "-wal"] {
        if let Ok(bytes) = std::fs::read(format!("{}{suffix}", file.display())) {
            files.push((suffix, bytes));
        }
    }
    Ok(Whole { files, items })
}

fn flip_all(bench: &Arc<Bench>, seed: u64, whole: &Arc<Whole>) -> JoinSet<(&'static str, usize, Effect)> {
    let (mut rng, room, mut flips) = (Rng::seeded(seed), Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for _ in 0..FLIPS {
        let (bench, whole, room, mut rng) =
            (Arc::clone(bench), Arc::clone(whole), Arc::clone(&room), rng.fork());
        flips.spawn(async move {
            let _place = room.acquire().await;
            let folder = bench.fast_folder().expect("there is room in the temporary folder");
            let file = folder.path().join("queue.db");
            let chosen = rng.below(whole.files.len() as u64);
            let mut flipped = ("", 0);
            for (number, (suffix, bytes)) in (0..).zip(&whole.files) {
                let mut bytes = bytes.clone();
                if number == chosen && !bytes.is_empty() {
                    let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap_or(0);
                    bytes[at] ^= 1 << rng.below(8);
                    flipped = (*suffix, at);
                }
                let path = format!("{}{suffix}", file.display());
                std::fs::write(path, bytes).expect("there is room in the temporary folder");
            }
            (flipped.0, flipped.1, effect(&file, &whole.items).await)
        });
    }
    flips
}

async fn effect(file: &Path, items: &HashSet<Id>) -> Effect {
    let reopened = reopen(file, Kept::Full, WITHIN).await;
    if reopened.refused.is_some() {
        return Effect::Noticed;
    }
    let (mut missing, mut wrong, mut stored) = (items.clone(), 0, 0);
    for event in &reopened.events {
        match event {
            Event::Lent { id, .. } | Event::Found { id } => drop(missing.remove(id)),
            Event::Wrong { .. } => wrong += 1,
            Event::Ended { left } => stored = left.stored,
            _ => {}
        }
    }
    match (wrong, missing.len() as u64) {
        (0, 0) if reopened.complained => Effect::Noticed,
        (0, 0) => Effect::Nothing,
        (0, _) if reopened.complained || reopened.undecodable > 0 => Effect::Noticed,
        (0, missing) if missing <= stored => Effect::HeldBack,
        (0, missing) => Effect::Silent(missing),
        (wrong, _) => Effect::Wrong(wrong),
    }
}
