use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use relaykit_pipeline_traits::{Clock as _, Rng, SystemClock};

use super::child::{Kept, Mode, Order, Plan, UNSETTLED, Work};
use super::life::{Life, Start, drain, next_id};
use crate::bench::{Bench, Round};
use crate::history::Event;
use crate::oracle::Promises;
use crate::report::Report;

/// Lives of one file, in most of which the disk is full for a while.
const LIVES: u64 = 10;

/// The whole disk, and what the queue keeps for bad days.
const DISK: &str = "size=4m";
const BALLAST: u64 = 400_000;

/// Fills the disk beside the queue, empties it, kills the process, and closes it.
pub(crate) async fn filled(bench: &Arc<Bench>) -> Report {
    let mut report = Report::of("full");
    match bench.fast_folder().and_then(SmallDisk::mount) {
        Ok(_) => bench.play(&mut report, bench.rounds(10, 600), round).await,
        Err(error) => bench.skip(&mut report, &format!("{error:#}")),
    }
    report
}

/// A file system of a few megabytes, as long as this lives.
struct SmallDisk {
    at: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(at: tempfile::TempDir) -> anyhow::Result<Self> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at.path()).output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            bail!("needs the right to mount a tmpfs (run it as root)");
        }
        Ok(Self { at })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at.path()).output();
    }
}

async fn round(bench: Arc<Bench>, seed: u64) -> anyhow::Result<Round> {
    let mut rng = Rng::seeded(seed);
    let disk = SmallDisk::mount(bench.fast_folder()?)?;
    let mode = [Mode::Line, Mode::Keys, Mode::Free][usize::try_from(seed % 3)?];
    let file = disk.at.path().join("queue.db");
    let mut plan =
        Plan { file, seed, first_id: 1, mode, durability: Kept::Full, ballast: BALLAST, work: Work::Push };
    let (start, mut history, other) = (Start::plain()?, Vec::new(), disk.at.path().join("other"));
    for _ in 0..LIVES {
        (plan.seed, plan.first_id) = (rng.next_u64() >> 1, next_id(&history));
        let mut life = Life::begin(&start, &plan)?;
        life.opened().await;
        history.extend(live(life, &other, &mut rng).await?);
    }
    // There is room again, and all of it is worked off.
    let _ = std::fs::remove_file(&other);
    history.extend(drain(&plan).await?);
    anyhow::ensure!(
        history.iter().any(|event| matches!(event, Event::Refused { .. } | Event::Fault { .. })),
        "the disk was never full"
    );
    let folder = bench.fast_folder()?;
    for entry in disk.at.path().read_dir()?.flatten() {
        let _ = std::fs::copy(entry.path(), folder.path().join(entry.file_name()));
    }
    let promises = Promises { ordered: mode != Mode::Free, unsettled: UNSETTLED, successors_wait: false };
    Ok(Round { trials: LIVES, promises, history, folder })
}

async fn live(mut life: Life, other: &Path, rng: &mut Rng) -> anyhow::Result<Vec<Event>> {
    let clock = SystemClock::new();
    clock.sleep(Duration::from_millis(rng.below(30))).await;
    // Somebody else takes all the room that there is.
    let _ = std::fs::write(other, vec![1; 4 * 1024 * 1024]);
    clock.sleep(Duration::from_millis(rng.below(60))).await;
    if rng.chance(0.6) {
        let _ = std::fs::remove_file(other);
        clock.sleep(Duration::from_millis(rng.below(60))).await;
    }
    if rng.chance(0.5) {
        return life.kill().await;
    }
    life.order(Order::Stop).await;
    life.end().await
}
