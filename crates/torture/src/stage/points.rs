use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use relaykit_pipeline_traits::{Clock as _, SystemClock};
use tokio::task::JoinSet;

use super::place::Kind;
use super::plan::{LEASE, Role};
use super::scene::{Actor, Scene};
use super::subject::Subject;
use crate::bench::{Bench, Round};
use crate::history::Event;
use crate::queue::life::Start;
use crate::report::Report;
use crate::sabotage;

const WORKS: Role = Role::Work { engines: 1 };

/// Where every engine is made to die.
const PLACES: [(Role, &str); 7] = [
    (WORKS, "lease.taken"),
    (WORKS, "lease.renewed"),
    (WORKS, GIVEN_BACK),
    (WORKS, "page.read"),
    (WORKS, "send.noted"),
    (WORKS, "send.answered"),
    (WORKS, "send.settled"),
];

/// Comes only when it is asked to end.
const GIVEN_BACK: &str = "lease.given_back";

/// Where the thread that writes a SQLite file is made to die.
const ON_SQLITE: [(Role, &str); 4] = [
    (WORKS, "writer.before_begin"),
    (WORKS, "writer.after_request"),
    (WORKS, "writer.after_commit"),
    (WORKS, "writer.before_answer"),
];

/// So many are about to die at once, beside the cast.
const AT_ONCE: usize = 3;

/// How often each place is to be met, and how often more it is tried in a round.
const DEATHS: u64 = 20;
const TRIES: u32 = 3;

/// How many times as many rounds are played at the most, until each place was met often enough; and how many are to die at a place that
/// was not, in each of them. Some places are met only by who gets what somebody else left, and gets it first.
const TIMES: u64 = 4;
const COPIES: usize = 3;

/// How many died where.
type Deaths = Arc<Mutex<BTreeMap<&'static str, u64>>>;

/// Lets processes die at each named place, at an early visit and at later ones.
pub(crate) async fn points<S: Subject>(bench: &Arc<Bench>, test: &'static str, kind: Kind) -> Report {
    let mut report = Report::of(test);
    if !kind.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    let program = match sabotage::build(bench) {
        Ok(program) => program,
        Err(error) => {
            report.fail(format!("{error:#}"));
            return report;
        }
    };
    let places = places::<S>(kind);
    let deaths: Deaths = Arc::new(Mutex::new(places.iter().map(|(_, place)| (*place, 0)).collect()));
    let start = Start { program, under: Vec::new(), environment: Vec::new() };
    // Now and then one is killed before it comes there.
    let rounds = bench.rounds(DEATHS + 4, 60);
    let last = bench.seed + rounds;
    let wanted = rounds.min(DEATHS);
    let play = |bench, seed| {
        let all = doomed(places.iter().map(|place| (*place, 1)));
        let rare = places.iter().filter(|(_, place)| met(&deaths, place) < wanted);
        let doomed = if seed < last { all } else { doomed(rare.map(|place| (*place, COPIES))) };
        round::<S>(bench, seed, kind, start.clone(), doomed, Arc::clone(&deaths))
    };
    let is_enough = || places.iter().all(|(_, place)| met(&deaths, place) >= wanted);
    bench.play_until(&mut report, (rounds, TIMES), play, is_enough).await;
    let deaths = deaths.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (place, count) in &deaths {
        if *count < wanted {
            report.fail(format!("only {count} died at {place}"));
        }
    }
    report.note(format!(
        "{} places, {} deaths at the rarest",
        deaths.len(),
        deaths.values().min().unwrap_or(&0)
    ));
    report
}

fn places<S: Subject>(kind: Kind) -> Vec<(Role, &'static str)> {
    let on_sqlite = ON_SQLITE.into_iter().filter(|_| kind == Kind::Sqlite);
    PLACES.into_iter().chain(S::PLACES.iter().copied()).chain(on_sqlite).collect()
}

fn met(deaths: &Deaths, place: &str) -> u64 {
    deaths.lock().unwrap_or_else(PoisonError::into_inner).get(place).copied().unwrap_or_default()
}

/// Makes so many die at each of these places.
fn doomed(places: impl Iterator<Item = ((Role, &'static str), usize)>) -> Vec<Doom> {
    places
        .flat_map(|((role, place), copies)| (0..copies).map(move |_| Doom { role, place, tries: 0 }))
        .collect()
}

async fn round<S: Subject>(
    bench: Arc<Bench>,
    seed: u64,
    kind: Kind,
    start: Start,
    mut doomed: Vec<Doom>,
    deaths: Deaths,
) -> anyhow::Result<Round> {
    let mut scene = Scene::<S>::begin(&bench, kind, seed).await?;
    for last in (1..doomed.len()).rev() {
        doomed.swap(last, usize::try_from(scene.rng.below(last as u64 + 1))?);
    }
    let (mut dying, mut trials) = (JoinSet::new(), 0);
    loop {
        while dying.len() < AT_ONCE
            && let Some(doom) = doomed.pop()
        {
            let first = doom.place.starts_with("lease.") || doom.tries > 0 || scene.rng.chance(0.5);
            let visit = if first { 1 } else { 1 + scene.rng.below(6) };
            let environment = vec![("RELAYKIT_CRASH_AT", format!("{}:{visit}", doom.place))];
            let actor = scene.spawn_as(doom.role, &Start { environment, ..start.clone() })?;
            dying.spawn(doom.comes_over(actor));
        }
        let Some(ended) = dying.join_next().await else { break };
        let (doom, numbers, died) = ended??;
        scene.note(numbers, &Event::Killed);
        if died {
            trials += 1;
            *deaths.lock().unwrap_or_else(PoisonError::into_inner).entry(doom.place).or_default() += 1;
        } else if doom.tries < TRIES {
            doomed.push(Doom { tries: doom.tries + 1, ..doom });
        }
    }
    scene.end(trials).await
}

/// Who is to die where.
struct Doom {
    role: Role,
    place: &'static str,
    tries: u32,
}

impl Doom {
    /// Waits until it has died, or did not. Some places are met only by who gets what somebody else left.
    async fn comes_over(self, mut actor: Actor) -> anyhow::Result<(Self, Range<usize>, bool)> {
        if self.place == GIVEN_BACK {
            SystemClock::new().sleep(LEASE).await;
            actor.stop().await;
        }
        let (numbers, died) = actor.dies().await?;
        Ok((self, numbers, died))
    }
}
