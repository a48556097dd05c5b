use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;

/// Gathers items until they are flushed: one after the other, or merged by key.
///
/// What comes out is in the order in which the items, or their keys, were first pushed.
pub trait Buffer<T>: Send {
    /// Takes an item and says where it went.
    fn push(&mut self, item: T) -> Placed;

    /// Returns how many items would come out.
    fn len(&self) -> usize;

    /// Returns how many items were pushed since the last drain, merged ones too.
    fn pushes(&self) -> usize;

    /// Takes everything out and leaves the buffer empty.
    fn drain(&mut self) -> Vec<T>;

    /// Returns whether nothing would come out.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a pushed item went. Positions count from 0 in the order in which items come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It stands by itself.
    New(usize),
    /// It was merged into an earlier one.
    Merged(usize),
}

/// A [`Buffer`] that keeps every item.
#[derive(Debug, Clone)]
pub struct Appending<T> {
    items: Vec<T>,
}

impl<T> Appending<T> {
    /// Makes an empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: Vec::new() }
    }
}

impl<T> Default for Appending<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send> Buffer<T> for Appending<T> {
    fn push(&mut self, item: T) -> Placed {
        self.items.push(item);
        Placed::New(self.items.len() - 1)
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn pushes(&self) -> usize {
        self.items.len()
    }

    fn drain(&mut self) -> Vec<T> {
        std::mem::take(&mut self.items)
    }
}

/// A [`Buffer`] that keeps one item for each key and merges later ones into it.
///
/// The merge is a left fold: the item already there comes first. To be safe across batches and crashes it
/// should be associative: merging `a`, `b`, `c` gives the same however they are grouped.
///
/// ```
/// use relaykit_pipeline_traits::{Buffer, Merging, Placed};
///
/// let mut counts = Merging::new(|(page, _): &(&str, u32)| *page, |sum, (_, hits)| sum.1 += hits);
/// assert_eq!(counts.push(("/", 1)), Placed::New(0));
/// assert_eq!(counts.push(("/about", 1)), Placed::New(1));
/// assert_eq!(counts.push(("/", 5)), Placed::Merged(0));
/// assert_eq!((counts.len(), counts.pushes()), (2, 3));
/// assert_eq!(counts.drain(), [("/", 6), ("/about", 1)]);
/// ```
pub struct Merging<T, K, KeyOf, MergeInto> {
    items: Vec<T>,
    positions: HashMap<K, usize>,
    pushes: usize,
    key_of: KeyOf,
    merge_into: MergeInto,
}

impl<T, K, KeyOf, MergeInto> Merging<T, K, KeyOf, MergeInto>
where
    K: Hash + Eq,
    KeyOf: Fn(&T) -> K,
    MergeInto: Fn(&mut T, T),
{
    /// Makes an empty buffer from what names an item's key and what merges a later item into an earlier one.
    #[must_use]
    pub fn new(key_of: KeyOf, merge_into: MergeInto) -> Self {
        Self { items: Vec::new(), positions: HashMap::new(), pushes: 0, key_of, merge_into }
    }
}

impl<T, K, KeyOf, MergeInto> Buffer<T> for Merging<T, K, KeyOf, MergeInto>
where
    T: Send,
    K: Hash + Eq + Send,
    KeyOf: Fn(&T) -> K + Send,
    MergeInto: Fn(&mut T, T) + Send,
{
    fn push(&mut self, item: T) -> Placed {
        self.pushes = self.pushes.saturating_add(1);
        match self.positions.entry((self.key_of)(&item)) {
            Entry::Occupied(at) => {
                (self.merge_into)(&mut self.items[*at.get()], item);
                Placed::Merged(*at.get())
            }
            Entry::Vacant(slot) => {
                let at = *slot.insert(self.items.len());
                self.items.push(item);
                Placed::New(at)
            }
        }
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn pushes(&self) -> usize {
        self.pushes
    }

    fn drain(&mut self) -> Vec<T> {
        self.positions.clear();
        self.pushes = 0;
        std::mem::take(&mut self.items)
    }
}

impl<T, K, KeyOf, MergeInto> fmt::Debug for Merging<T, K, KeyOf, MergeInto> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Merging")
            .field("len", &self.items.len())
            .field("pushes", &self.pushes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn appending_keeps_every_item_in_order() {
        let mut buffer = Appending::new();
        assert_eq!((buffer.push("a"), buffer.push("a")), (Placed::New(0), Placed::New(1)));
        assert_eq!(buffer.drain(), ["a", "a"]);
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_drained_merging_buffer_starts_afresh() {
        let mut buffer = Merging::new(|n: &u32| n % 10, |sum, n| *sum += n);
        buffer.push(1);
        buffer.push(11);
        assert_eq!(buffer.drain(), [12]);
        assert_eq!((buffer.len(), buffer.pushes()), (0, 0));
        assert_eq!(buffer.push(21), Placed::New(0));
    }

    proptest! {
        #[test]
        fn merging_in_any_grouping_gives_the_same_sums(
            items in prop::collection::vec((0_u8..5, 0_u64..1000), 0..200),
            cut in 0_usize..200,
        ) {
            fn sums() -> impl Buffer<(u8, u64)> {
                Merging::new(|item: &(u8, u64)| item.0, |sum: &mut (u8, u64), item| sum.1 += item.1)
            }
            let whole = { let mut b = sums(); for i in &items { b.push(*i); } b.drain() };
            let (head, tail) = items.split_at(cut.min(items.len()));
            let mut parts = sums();
            for part in [head, tail] {
                let mut b = sums();
                for i in part { b.push(*i); }
                for merged in b.drain() { parts.push(merged); }
            }
            prop_assert_eq!(parts.drain(), whole);
        }
    }
}
