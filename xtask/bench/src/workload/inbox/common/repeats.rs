use std::ops::Range;

/// Each so manieth message came before.
const REPEATED: u64 = 5;

/// Messages that come in, some of them again.
#[derive(Debug)]
pub(crate) struct Repeats<T> {
    numbers: Range<u64>,
    before: Vec<T>,
}

impl<T: Clone> Repeats<T> {
    pub(crate) const fn new(numbers: Range<u64>) -> Self {
        Self { numbers, before: Vec::new() }
    }

    /// Makes the next ones; nothing at the end. Each fifth came before: in an earlier batch, but for the first.
    ///
    /// # Errors
    ///
    /// One cannot be made.
    pub(crate) fn batch(
        &mut self,
        count: u32,
        mut make: impl FnMut(u64) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let mut batch = Vec::new();
        let known = self.before.len();
        for number in self.numbers.by_ref().take(count as usize) {
            let again = number % REPEATED == REPEATED - 1 && !self.before.is_empty();
            if again {
                let among = if known == 0 { self.before.len() } else { known };
                batch.push(self.before[scattered(number, among)].clone());
            } else {
                let message = make(number)?;
                self.before.push(message.clone());
                batch.push(message);
            }
        }
        Ok(batch)
    }
}

/// Returns how many of so many came for the first time.
pub(crate) const fn new_ones(messages: u32) -> u32 {
    messages - messages / 5
}

/// Picks one of `among`, the same for the same number.
fn scattered(number: u64, among: usize) -> usize {
    // The multiplier is 2^64 divided by the golden ratio: the products of neighbours lie far apart.
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(spread).unwrap_or_default() % among
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_fifth_message_came_before() {
        for (size, count) in [(1, 1_000), (100, 1_000)] {
            let mut incoming = Repeats::new(0..count);
            let mut all = Vec::new();
            loop {
                let batch = incoming.batch(size, Ok).unwrap();
                if batch.is_empty() {
                    break;
                }
                all.extend(batch);
            }
            let distinct: HashSet<_> = all.iter().collect();
            let expected = new_ones(u32::try_from(count).unwrap());
            assert_eq!((all.len() as u64, distinct.len()), (count, expected as usize));
        }
    }

    #[test]
    fn what_came_before_is_scattered() {
        let picked: HashSet<_> = (0..1_000).map(|number| scattered(5 * number + 4, 4_000)).collect();
        assert!(picked.len() > 800, "{} of 1000 differ", picked.len());
        assert!(picked.iter().any(|one| *one < 100) && picked.iter().any(|one| *one > 3_900));
    }
}
