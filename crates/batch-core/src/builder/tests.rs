use std::convert::Infallible;

use relaykit_pipeline_traits::{BatchContext, BatchOutcome};

use super::*;

struct Sink;

impl BatchHandler<u32> for Sink {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[u32], _: &BatchContext) -> BatchOutcome<(), Infallible> {
        BatchOutcome::all_done(batch.len())
    }
}

fn builder() -> Builder<u32, Sink> {
    Processor::builder(Sink)
}

fn weighed(max_bytes: usize) -> Builder<u32, Sink> {
    builder().max_bytes(max_bytes, |item| *item as usize)
}

/// Returns what the error says, which is the field, its value and the bound.
fn refused(builder: Builder<u32, Sink>) -> String {
    builder.build().unwrap_err().to_string()
}

#[test]
fn the_defaults_are_valid() {
    assert!(builder().build().is_ok());
    assert!(builder().build_with_responses(1, Overflow::Wait).is_ok());
}

#[test]
fn a_batch_holds_at_least_one_item_and_one_byte() {
    assert_eq!(refused(builder().max_items(0)), "max_items is 0, but must be at least 1");
    assert_eq!(refused(weighed(0)), "max_bytes is 0, but must be at least 1");
    assert!(builder().max_items(1).build().is_ok());
    assert!(weighed(1).build().is_ok());
}

#[test]
fn the_buffer_holds_at_least_a_batch() {
    let most = Semaphore::MAX_PERMITS;
    let bound = format!("but must be from max_items, 100, to {most}");
    assert_eq!(refused(builder().capacity(99)), format!("capacity is 99, {bound}"));
    assert_eq!(refused(builder().capacity(0)), format!("capacity is 0, {bound}"));
    assert_eq!(refused(builder().capacity(most + 1)), format!("capacity is {}, {bound}", most + 1));
    // The relation is checked whichever of the two was set.
    let refused = builder().max_items(2_001).build().unwrap_err();
    assert_eq!((refused.field, refused.value.as_str()), ("capacity", "2000"));
    assert!(builder().capacity(100).build().is_ok());
}

#[test]
fn a_bound_in_bytes_needs_weights_and_holds_at_least_a_batch() {
    let error = refused(builder().capacity_bytes(100));
    assert_eq!(error, "capacity_bytes is 100, but must be unset without max_bytes, which weighs");
    let bound = format!("but must be from max_bytes, 10, to {}", u32::MAX);
    assert_eq!(refused(weighed(10).capacity_bytes(9)), format!("capacity_bytes is 9, {bound}"));
    assert!(weighed(10).capacity_bytes(10).build().is_ok());
    assert!(weighed(10).capacity_bytes(u32::MAX as usize).build().is_ok());
    #[cfg(target_pointer_width = "64")]
    assert!(weighed(10).capacity_bytes(1 << 32).build().is_err());
}

#[test]
fn a_bound_in_bytes_with_an_endless_linger_holds_two_batches() {
    let endless = |bytes| weighed(10).capacity_bytes(bytes).linger(Duration::MAX);
    let error = "capacity_bytes is 19, but must be at least twice max_bytes, 10, if batches linger for ever";
    assert_eq!(refused(endless(19)), error);
    assert!(endless(20).build().is_ok());
}

#[test]
fn at_least_one_batch_runs_at_once_and_not_too_many() {
    assert_eq!(refused(builder().concurrency(0)), "concurrency is 0, but must be from 1 to 10000");
    assert_eq!(refused(builder().concurrency(10_001)), "concurrency is 10001, but must be from 1 to 10000");
    assert!(builder().concurrency(1).build().is_ok());
    assert!(builder().concurrency(10_000).build().is_ok());
}

#[test]
fn a_call_gets_some_time() {
    assert_eq!(refused(builder().timeout(Duration::ZERO)), "timeout is 0 s, but must be more than zero");
    assert!(builder().timeout(Duration::MAX).build().is_ok());
}

#[test]
fn at_least_one_individual_call_runs_at_once_and_not_too_many() {
    let individual = |concurrency| builder().recovery(Recovery::Individual { concurrency });
    assert_eq!(refused(individual(0)), "recovery.concurrency is 0, but must be from 1 to 10000");
    assert_eq!(refused(individual(10_001)), "recovery.concurrency is 10001, but must be from 1 to 10000");
    assert!(individual(1).build().is_ok());
    assert!(individual(10_000).build().is_ok());
}

#[test]
fn a_stream_holds_at_least_one_response_and_not_too_many() {
    let refused =
        |capacity| builder().build_with_responses(capacity, Overflow::Wait).unwrap_err().to_string();
    let most = Semaphore::MAX_PERMITS;
    assert_eq!(refused(0), format!("responses is 0, but must be from 1 to {most}"));
    assert_eq!(refused(most + 1), format!("responses is {}, but must be from 1 to {most}", most + 1));
}

#[test]
fn any_linger_is_valid() {
    for linger in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        assert!(builder().linger(linger).build().is_ok());
    }
}
