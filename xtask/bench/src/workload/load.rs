use std::future::Future;
use std::ops::Range;

use anyhow::{Context, ensure};
use tokio::task::JoinSet;

/// The most items of a batch.
pub(crate) const BATCH: usize = 100;
/// The most items that are buffered.
pub(crate) const CAPACITY: usize = 2_000;
/// How many answers all producers together await at once, where they await many.
const IN_FLIGHT: u32 = 2_000;

/// How much work there is, and among how many producers it is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) producers: u32,
    pub(crate) items: u32,
}

impl Load {
    /// Divides `items` items among `producers` producers.
    ///
    /// # Errors
    ///
    /// Refuses less than one producer, or more than 2,000.
    pub(crate) fn new(producers: u32, items: u32) -> anyhow::Result<Self> {
        ensure!(
            (1..=IN_FLIGHT).contains(&producers),
            "producers is {producers}, but must be from 1 to {IN_FLIGHT}"
        );
        Ok(Self { producers, items })
    }

    /// Returns the load of producers that wait for each answer before they go on.
    pub(crate) fn answered(producers: u32) -> anyhow::Result<Self> {
        Self::new(producers, 3_000_000)
    }

    /// Returns the load of producers that await many answers at once.
    pub(crate) fn in_flight(producers: u32) -> anyhow::Result<Self> {
        Self::new(producers, 4_000_000)
    }

    /// Returns the load of a handler that takes its time.
    pub(crate) fn costed(producers: u32) -> anyhow::Result<Self> {
        Self::new(producers, 150_000)
    }

    /// Returns how many answers one producer awaits at once, where it awaits many.
    pub(crate) fn window(self) -> usize {
        (IN_FLIGHT / self.producers) as usize
    }

    /// Returns the load to run before the one that is measured: a twentieth of it.
    pub(crate) fn warm_up(self) -> Self {
        Self { items: self.items / 20, ..self }
    }

    /// Returns each producer's part, as the numbers of its items.
    fn parts(self) -> impl Iterator<Item = Range<u64>> {
        let start = move |part: u32| u64::from(self.items) * u64::from(part) / u64::from(self.producers);
        (0..self.producers).map(move |part| start(part)..start(part + 1))
    }

    /// Runs the producers, each a task of its own, until all have ended.
    ///
    /// # Errors
    ///
    /// A producer fails.
    pub(crate) async fn produce<F, P>(self, producer: F) -> anyhow::Result<()>
    where
        F: Fn(Range<u64>) -> P,
        P: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let mut producers: JoinSet<_> = self.parts().map(producer).collect();
        while let Some(ended) = producers.join_next().await {
            ended.context("a producer panicked")??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_all_items_once() {
        for (producers, items) in [(1, 10), (3, 10), (64, 1_000_003), (2_000, 7)] {
            let load = Load::new(producers, items).unwrap();
            let parts: Vec<_> = load.parts().collect();
            assert_eq!(parts.len(), producers as usize);
            let numbers: Vec<u64> = parts.into_iter().flatten().collect();
            assert_eq!(numbers, (0..u64::from(items)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_producers_together_await_at_most_two_thousand_answers() {
        for producers in [1, 3, 64, 2_000] {
            let in_flight = Load::new(producers, 1).unwrap().window() * producers as usize;
            assert!((1_900..=2_000).contains(&in_flight), "{producers} producers await {in_flight}");
        }
    }

    #[test]
    fn no_producers_and_too_many_are_refused() {
        for producers in [0, 2_001] {
            let error = Load::new(producers, 1).unwrap_err();
            assert!(error.to_string().contains(&format!("producers is {producers}")), "{error}");
        }
    }

    #[tokio::test]
    async fn a_producers_error_is_the_loads_error() {
        let load = Load::new(4, 8).unwrap();
        let produced = load.produce(async |numbers| {
            ensure!(numbers.start != 4, "no item {}", numbers.start);
            Ok(())
        });
        assert_eq!(produced.await.unwrap_err().to_string(), "no item 4");
    }
}
