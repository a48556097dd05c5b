//! How often memory is allocated.

use anyhow::Context;
use tokio::runtime::Builder;

use crate::workload::{Load, Measurement};

/// How many items each case moves.
const ITEMS: u32 = 200_000;

/// Counts the allocations an item costs in `run`.
///
/// One producer, and a runtime with a single thread: allocations are counted by thread.
///
/// # Errors
///
/// The run fails.
pub(crate) fn per_item(
    case: &str,
    run: impl AsyncFn(Load) -> anyhow::Result<()>,
) -> anyhow::Result<Measurement> {
    let load = Load::new(1, ITEMS)?;
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.context("could not start a runtime")?;
    runtime.block_on(run(load.warm_up()))?;
    let mut result = Ok(());
    let counted = allocation_counter::measure(|| result = runtime.block_on(run(load)));
    result?;
    Ok(Measurement::new(case, per(counted.count_total, ITEMS), "allocations/item")
        .with("bytes_per_item", per(counted.bytes_total, ITEMS))
        .with("items", ITEMS)
        .with("producers", load.producers)
        .with("threads", 1))
}

#[expect(clippy::cast_precision_loss, reason = "no run allocates 2^53 times")]
pub(crate) fn per(count: u64, items: u32) -> f64 {
    count as f64 / f64::from(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_box_is_counted() {
        let boxes = per_item("boxes", async |load| {
            for number in 0..2 * load.items {
                std::hint::black_box(Box::new(number));
            }
            Ok(())
        });
        let boxes = boxes.unwrap();
        assert!((2.0..2.001).contains(&boxes.value), "{boxes:?}");
    }
}
