use std::time::Duration;

use anyhow::bail;
use relaykit_pipeline_traits::{Clock as _, SystemClock};

use super::ledger::Ledger;
use super::plan::CALL;
use crate::history::Event;

/// Does work of an application's own, which gives up in time.
///
/// # Errors
///
/// Those of the work, or it took too long.
pub(crate) async fn bounded<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = SystemClock::new().sleep(CALL * 2) => bail!("it took longer than {:?}", CALL * 2),
    }
}

/// Calls a store, which gives up in time by itself; else that is told. It waits for a connection and for an answer; the rest is for
/// processes that are stopped for a while.
pub(crate) async fn watched<T>(ledger: &Ledger, call: impl Future<Output = T>) -> T {
    let (clock, limit) = (SystemClock::new(), CALL * 4);
    let begun = clock.monotonic();
    let done = call.await;
    let took = clock.monotonic().since(begun);
    if took > limit {
        ledger.say(&[Event::Blocked { millis: u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }]);
    }
    done
}

/// Calls a store, and rests.
pub(crate) async fn probe<T>(ledger: &Ledger, call: impl Future<Output = T>) {
    watched(ledger, call).await;
    SystemClock::new().sleep(Duration::from_millis(100)).await;
}
