use std::time::Duration;

/// What a call costs, whatever it is given.
const PER_CALL: Duration = Duration::from_millis(5);
/// What each item adds.
const PER_ITEM: Duration = Duration::from_micros(20);

/// Waits as long as a call with `items` items costs: 5 ms and 20 µs for each.
///
/// # Cancel safety
///
/// Cancel safe.
#[expect(clippy::disallowed_methods, reason = "both sides wait on tokio's timer, without our clock between")]
pub(crate) async fn wait_for_cost(items: usize) {
    let items = u32::try_from(items).unwrap_or(u32::MAX);
    tokio::time::sleep(PER_CALL + PER_ITEM * items).await;
}
