use allocation_counter::{AllocationInfo, measure};
use anyhow::ensure;
use relaykit_event_barrier::{Barrier, Reader, State};

use super::gate::NOW;
use crate::workload::Measurement;

/// Tables double as they grow, so a key costs most just after that.
pub(super) const SIZES: [u64; 11] =
    [500_000, 550_000, 600_000, 650_000, 700_000, 750_000, 800_000, 850_000, 900_000, 950_000, 1_000_000];

/// How many keys are blocked and opened again.
const KEYS: u64 = 1_000_000;

/// How blocked keys open again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// An operator releases them.
    Released,
    /// Their failed jobs succeed.
    Succeeded,
}

/// A barrier, and how much memory it has taken.
struct Counted {
    barrier: Barrier<u64>,
    reader: Reader<u64>,
    /// In bytes.
    taken: i64,
    /// The most bytes during the last change, beyond what was taken before it.
    most: u64,
}

impl Counted {
    /// Makes an empty barrier.
    fn new() -> anyhow::Result<Self> {
        let mut built = None;
        let info = measure(|| built = Some(Barrier::builder().build()));
        let Some(built) = built else { anyhow::bail!("nothing was built") };
        let (barrier, reader) = built?;
        Ok(Self { barrier, reader, taken: info.bytes_current, most: info.bytes_max })
    }

    fn change(&mut self, change: impl FnOnce(&Barrier<u64>, &mut Reader<u64>)) {
        let info: AllocationInfo = measure(|| change(&self.barrier, &mut self.reader));
        self.taken += info.bytes_current;
        self.most = info.bytes_max;
    }

    fn block(&mut self, keys: u64) {
        self.change(|barrier, _| {
            for key in 0..keys {
                barrier.state_changed(&key, key, State::Failed, NOW);
            }
        });
    }
}

/// Measures how many bytes a blocked key costs besides the key itself, at the size where that is most.
///
/// # Errors
///
/// Not all keys are blocked.
pub(super) fn blocked(case: &str, sizes: &[u64]) -> anyhow::Result<Measurement> {
    let mut worst = (0.0, 0);
    for &keys in sizes {
        let mut counted = Counted::new()?;
        let start = counted.taken;
        counted.block(keys);
        ensure!(counted.barrier.stats().blocked as u64 == keys, "not all of {keys} keys are blocked");
        let each = bytes(counted.taken - start) / bytes(i64::try_from(keys)?);
        let besides = each - bytes(i64::try_from(size_of::<u64>())?);
        if besides > worst.0 {
            worst = (besides, keys);
        }
    }
    Ok(Measurement::new(case, worst.0, "bytes/key").with("keys", worst.1).with("sizes", sizes.to_vec()))
}

/// Measures how many times as much memory as an empty barrier one takes that had many blocked keys.
///
/// # Errors
///
/// A key is still known.
pub(super) fn released(case: &str, way: Way) -> anyhow::Result<Measurement> {
    let mut counted = Counted::new()?;
    let start = counted.taken;
    counted.block(KEYS);
    let blocked = counted.taken;
    counted.change(|barrier, reader| {
        for key in 0..KEYS {
            match way {
                Way::Released => {
                    barrier.release(&key);
                }
                Way::Succeeded => {
                    barrier.state_changed(&key, key, State::Succeeded, NOW);
                }
            }
        }
        reader.sync(NOW);
    });
    ensure!(counted.barrier.size() == 0, "{} keys are still known", counted.barrier.size());
    Ok(Measurement::new(case, bytes(counted.taken) / bytes(start), "× the start")
        .with("bytes_at_start", start)
        .with("bytes_blocked", blocked)
        .with("bytes_after", counted.taken)
        .with("bytes_more_meanwhile", counted.most)
        .with("keys", KEYS))
}

#[expect(clippy::cast_precision_loss, reason = "no memory has 2^53 bytes")]
fn bytes(count: i64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_costs_at_least_its_record_when_blocked() {
        let measurement = blocked("bytes-blocked", &[20_000, 30_000]).unwrap();
        assert!((40.0..1_000.0).contains(&measurement.value), "{measurement:?}");
    }
}
