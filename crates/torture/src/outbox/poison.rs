use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use super::child::UNSETTLED;
use super::producer::Work;
use super::subject::Outbox;
use crate::bench::{Bench, Round};
use crate::history::{Event, Left};
use crate::item::Item;
use crate::oracle::Promises;
use crate::queue::child::Order;
use crate::queue::life::{Life, Start};
use crate::report::Report;
use crate::stage::ledger::{self, Ledger};
use crate::stage::place::{Ground, Kind};
use crate::stage::plan::{ATTEMPTS, POISON, Plan, Role, Trouble};
use crate::stage::subject::Subject as _;

/// So many deaths are more than it may take: one until anything is noted, one until it is known which message it is, and one an attempt.
const DEATHS: u64 = 2 + ATTEMPTS as u64;

/// How long a process that does not die may take.
const LONG: Duration = Duration::from_secs(20);

/// A message kills whoever sends it: after its attempts it is a dead letter, and all others are sent.
pub(crate) async fn poisoned(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("poison");
    if !Kind::Postgres.is_there() {
        bench.skip(&mut report, "needs a Postgres server");
        return report;
    }
    for kind in [Kind::Sqlite, Kind::Postgres] {
        bench.play(&mut report, bench.rounds(3, 100), |bench, seed| round(bench, seed, kind)).await;
    }
    report
}

async fn round(bench: Arc<Bench>, seed: u64, kind: Kind) -> anyhow::Result<Round> {
    let (folder, mut rng) = (bench.fast_folder()?, Rng::seeded(seed));
    let ground = Ground::make(kind, folder.path()).await?;
    let outbox = Outbox::make(&ground).await?;
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path, 0)?;
    let poisoned = rng.below(60);
    let key = |id: u64| if id == poisoned || id == poisoned + 20 { POISON } else { id % 8 };
    // The second one of its key is poison, too.
    let items: Vec<_> = (0..60).map(|id| Item::new(id, key(id))).collect();
    let poison = items.iter().filter(|item| item.key == POISON).count() as u64;
    for items in items.chunks(10) {
        let work = Work::of(items.to_vec(), &mut rng)?;
        ledger.say(&work.offered());
        outbox.add(&ground, &work).await?;
        ledger.say(&work.ended());
    }
    let (mut deaths, mut life) = (0, 1);
    loop {
        let place = ground.place()?;
        let role = Role::Work { engines: 1 };
        let plan = Plan {
            place,
            ledger: path.clone(),
            life,
            seed: rng.next_u64() >> 1,
            role,
            trouble: Trouble::Poison,
        };
        let process = Life::begin_as(&Start::plain()?, Outbox::CHILD, &serde_json::to_string(&plan)?)?;
        if !dies(process, &outbox).await? {
            break;
        }
        ledger.say_of(life, &[Event::Killed]);
        (deaths, life) = (deaths + 1, life + 1);
        if deaths > DEATHS * poison {
            break;
        }
    }
    let mut history = ledger::read(&path)?;
    history.push(Event::By { life: 0 });
    history.extend(outbox.testimony(&ground).await?);
    let stored = outbox.depth().await?.pending;
    history.push(Event::Ended { left: Left { stored, ..Left::default() } });
    ground.clean().await;
    let promises = Promises { ordered: true, unsettled: UNSETTLED, successors_wait: true };
    Ok(Round { trials: deaths, promises, history, folder })
}

/// Waits until a process dies, or until nothing is left to send. Returns whether it died.
async fn dies(mut process: Life, outbox: &Outbox) -> anyhow::Result<bool> {
    let clock = SystemClock::new();
    let until = clock.monotonic() + LONG;
    while process.is_alive()? {
        if outbox.depth().await?.pending == 0 {
            process.order(Order::Stop).await;
            process.end().await?;
            return Ok(false);
        }
        ensure!(clock.monotonic() < until, "nobody dies, and messages are left");
        clock.sleep(Duration::from_millis(20)).await;
    }
    process.kill().await?;
    Ok(true)
}
