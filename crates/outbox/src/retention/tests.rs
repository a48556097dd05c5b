use std::sync::atomic::{AtomicU32, Ordering};

use relaykit_pipeline_traits::{ManualClock, MemoryRecorder};
use tokio::sync::oneshot;

use super::*;
use crate::archive::{ArchiveFilter, Archived};

/// Fails the first time, is put off the second, and works from then on.
#[derive(Debug, Clone, Default)]
struct Script(Arc<AtomicU32>);

impl Archive for Script {
    async fn list(&self, _filter: &ArchiveFilter, _limit: u32) -> Result<Vec<Archived>, StoreError> {
        Ok(Vec::new())
    }

    async fn maintain(&self, _upkeep: &Upkeep) -> Result<Maintained, StoreError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(StoreError::Rejected { op: "keep the archive", source: "no".into() }),
            1 => Ok(Maintained { postponed: 2, in_default: 7, ..Maintained::default() }),
            _ => Ok(Maintained { made: 1, ..Maintained::default() }),
        }
    }
}

#[tokio::test]
async fn it_looks_at_once_and_each_period_whatever_happens_until_it_is_told_to_stop() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (clock, script, recorder) = (ManualClock::new(), Script::default(), Arc::new(MemoryRecorder::new()));
    let told = Arc::new(AtomicU32::new(0));
    let told_too = Arc::clone(&told);
    let retention = Retention::builder(script.clone())
        .clock(clock.clone())
        .rng(Rng::seeded(3))
        .recorder(Arc::clone(&recorder) as Arc<dyn Recorder>)
        .on_pass(move |result| {
            told_too.fetch_add(u32::from(result.is_err()), Ordering::SeqCst);
        })
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = tokio::spawn(async move { retention.run(async move { drop(stopped.await) }).await });
    for passes in 1..=3 {
        clock.until_sleepers(1).await;
        assert_eq!(script.0.load(Ordering::SeqCst), passes);
        let wait = clock.advance_to_next_sleeper().unwrap();
        assert!(wait <= HOUR && wait >= HOUR.mul_f64(0.75), "{wait:?}");
    }
    clock.until_sleepers(1).await;
    stop.send(()).unwrap();
    run.await.unwrap();
    assert_eq!(told.load(Ordering::SeqCst), 1);
    let passes = |outcome| recorder.value("outbox_archive_passes_total", &["outbox", outcome]);
    assert_eq!((passes("failed"), passes("postponed"), passes("done")), (Some(1.0), Some(1.0), Some(2.0)));
    assert_eq!(recorder.value("outbox_archive_default_messages", &["outbox"]), Some(0.0));
}

/// Has so many chunks to delete.
#[derive(Debug, Clone)]
struct Chunks(Arc<AtomicU32>);

impl Archive for Chunks {
    async fn list(&self, _filter: &ArchiveFilter, _limit: u32) -> Result<Vec<Archived>, StoreError> {
        Ok(Vec::new())
    }

    async fn maintain(&self, upkeep: &Upkeep) -> Result<Maintained, StoreError> {
        let left = self.0.fetch_sub(1, Ordering::SeqCst) - 1;
        Ok(Maintained {
            deleted: upkeep.chunk.into(),
            more: left > 0,
            in_default: left.into(),
            ..Maintained::default()
        })
    }
}

#[tokio::test]
async fn between_two_chunks_others_have_a_turn() {
    let clock = ManualClock::new();
    let chunks = Chunks(Arc::new(AtomicU32::new(3)));
    let retention = Retention::builder(chunks.clone()).clock(clock.clone()).chunk(10).build().unwrap();
    let run = tokio::spawn(async move { retention.run_once().await.unwrap() });
    for left in [2, 1] {
        clock.until_sleepers(1).await;
        assert_eq!(chunks.0.load(Ordering::SeqCst), left);
        assert_eq!(clock.advance_to_next_sleeper(), Some(PAUSE));
    }
    let done = run.await.unwrap();
    assert_eq!((done.deleted, done.in_default, done.more), (30, 0, false));
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let begin = || Retention::builder(Script::default());
    let refused = |builder: RetentionBuilder<Script>| builder.build().unwrap_err().to_string();
    assert_eq!(refused(begin().days_ahead(0)), "days_ahead is 0, but must be from 1 to 60");
    assert_eq!(refused(begin().days_ahead(61)), "days_ahead is 61, but must be from 1 to 60");
    assert_eq!(refused(begin().days_kept(3661)), "days_kept is 3661, but must be at most 3660");
    assert_eq!(refused(begin().chunk(5001)), "chunk is 5001, but must be from 1 to 5000");
    assert!(refused(begin().chunk(0)).starts_with("chunk is 0"));
    assert!(refused(begin().lock_timeout(Duration::ZERO)).starts_with("lock_timeout is 0ns"));
    assert!(refused(begin().lock_timeout(Duration::from_secs(6))).starts_with("lock_timeout is 6s"));
    assert!(refused(begin().period(Duration::ZERO)).starts_with("period is 0ns"));
    assert!(begin().days_kept(0).days_ahead(60).chunk(5000).build().is_ok());
}
