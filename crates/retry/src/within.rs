use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use relaykit_pipeline_traits::Clock;

/// Runs `work` for at most `limit`, then drops it and returns the error that `late` makes.
///
/// Bounds one attempt of a [`Retry`](crate::Retry), whose policy decides between calls only:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use relaykit_pipeline_traits::{Classify, ErrorClass, SystemClock};
/// use relaykit_retry::{Backoff, retry, within};
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("no answer within {0:?}")]
/// struct Late(Duration);
///
/// impl Classify for Late {
///     fn class(&self) -> ErrorClass {
///         ErrorClass::Transient
///     }
/// }
///
/// # async fn ask() -> Result<u32, Late> { Ok(42) }
/// let (clock, limit) = (SystemClock::new(), Duration::from_secs(5));
/// let policy = Backoff::exponential(Duration::from_millis(100)).build()?;
/// let answer = retry(policy, clock, |_| within(&clock, limit, ask(), || Late(limit))).await?;
/// # assert_eq!(answer, 42);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The error of `work`, or that of `late` when the limit is reached first.
///
/// # Cancel safety
///
/// As cancel safe as `work`, which is dropped with it.
pub async fn within<T, E>(
    clock: &impl Clock,
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    late: impl FnOnce() -> E,
) -> Result<T, E> {
    let mut sleep = clock.sleep(limit);
    let mut work = pin!(work);
    let finished = std::future::poll_fn(|cx| {
        // The work first: a result that is there counts, however late it is looked at.
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        sleep.as_mut().poll(cx).map(|()| None)
    })
    .await;
    finished.unwrap_or_else(|| Err(late()))
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::ManualClock;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn work_that_ends_in_time_gives_its_result() {
        let clock = ManualClock::new();
        let fine = within(&clock, LIMIT, async { Ok::<_, &str>(1) }, || "late").await;
        assert_eq!(fine, Ok(1));
        let failed = within(&clock, LIMIT, async { Err::<u32, _>("broken") }, || "late").await;
        assert_eq!(failed, Err("broken"));
        assert_eq!(clock.sleepers(), 0);
    }

    #[tokio::test]
    async fn work_that_hangs_is_dropped_at_the_limit_and_not_before() {
        let clock = ManualClock::new();
        let (alive, mut dropped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn({
            let clock = clock.clone();
            async move {
                let work = async move {
                    let _alive = alive;
                    std::future::pending::<Result<u32, &str>>().await
                };
                within(&clock, LIMIT, work, || "late").await
            }
        });
        clock.until_sleepers(1).await;
        clock.advance(LIMIT.checked_sub(Duration::from_nanos(1)).unwrap());
        tokio::task::yield_now().await;
        assert!(
            dropped.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty)
        );
        clock.advance(Duration::from_nanos(1));
        assert_eq!(task.await.unwrap(), Err("late"));
        assert!(dropped.await.is_err());
    }
}
