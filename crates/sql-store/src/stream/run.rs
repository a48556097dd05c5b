use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{LeaseKeeper, LeaseStore};

/// Works under leases that are renewed meanwhile, until the work ends, and gives them back. `work` is told when `shutdown` ends. Returns
/// what it returned, and how many shards could not be given back.
///
/// # Panics
///
/// Outside of a tokio runtime, and if the work panics.
///
/// # Cancel safety
///
/// Dropping it drops the work, and gives nothing back: the leases run out.
pub async fn leased<L, W>(
    keeper: &Arc<LeaseKeeper<L>>,
    shutdown: impl Future<Output = ()>,
    work: impl FnOnce(watch::Receiver<bool>) -> W,
) -> (W::Output, usize)
where
    L: LeaseStore,
    W: Future,
{
    let (stop, stopped) = watch::channel(false);
    let (keeper, mut told) = (Arc::clone(keeper), stopped.clone());
    // A task of its own, so that a handler that blocks its thread does not keep the leases from being renewed.
    let keeping = AbortOnDrop(tokio::spawn(async move {
        // An error says that this run was dropped, which aborts the task, too.
        keeper.run(async move { drop(told.wait_for(|stopped| *stopped).await) }).await
    }));
    let (mut shutdown, mut work) = (pin!(shutdown), pin!(work(stopped)));
    let worked = tokio::select! {
        biased;
        () = &mut shutdown => None,
        worked = &mut work => Some(worked),
    };
    stop.send_replace(true);
    let worked = match worked {
        Some(worked) => worked,
        None => work.await,
    };
    (worked, keeping.join().await)
}

/// Ends when a work is told to stop.
pub async fn told(mut stopped: watch::Receiver<bool>) {
    // An error says that whoever tells is gone, and the work with it.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// A task that ends with whoever waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T: Default> AbortOnDrop<T> {
    async fn join(mut self) -> T {
        match (&mut self.0).await {
            Ok(value) => value,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => T::default(),
            },
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
