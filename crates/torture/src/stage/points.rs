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
    let counted = Arc::clone(&deaths);
    bench
        .play_all(&mut report, rounds, move |bench, seed| {
            round::<S>(bench, seed, kind, start.clone(), Arc::clone(&counted))
        })
        .await;
    let deaths = deaths.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (place, count) in &deaths {
        if *count < rounds.min(DEATHS) {
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

async fn round<S: Subject>(
    bench: Arc<Bench>,
    seed: u64,
    kind: Kind,
    start: Start,
    deaths: Deaths,
) -> anyhow::Result<Round> {
    let mut scene = Scene::<S>::begin(&bench, kind, seed).await?;
    let mut places = places::<S>(kind);
    for last in (1..places.len()).rev() {
        places.swap(last, usize::try_from(scene.rng.below(last as u64 + 1))?);
    }
    let mut doomed: Vec<_> = places.into_iter().map(|(role, place)| Doom { role, place, tries: 0 }).collect();
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
