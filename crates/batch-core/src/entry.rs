use std::num::NonZeroU64;

use relaykit_pipeline_traits::Attempts;
use tokio::sync::oneshot;

use crate::answer::Answer;

/// Where an item's answer goes.
pub(crate) enum Reply<T, O, E> {
    /// To the future that `add` returned.
    Ticket(oneshot::Sender<Answer<T, O, E>>),
    /// To the response stream if there is one, else nowhere.
    Stream,
}

/// What the engine knows of an item beside the item itself.
pub(crate) struct Seat<T, O, E> {
    pub(crate) reply: Reply<T, O, E>,
    /// Bytes as the user weighs the item.
    pub(crate) weight: usize,
    /// Bytes taken from the buffer's bound, given back when a worker takes the item.
    pub(crate) charged: u32,
    /// Hash of the ordering key, for items that have one.
    pub(crate) key: Option<NonZeroU64>,
    /// How many flushes were asked for before the item was added.
    pub(crate) epoch: u64,
    pub(crate) attempts: Attempts,
}

/// An item and its seat.
pub(crate) type Entry<T, O, E> = (T, Seat<T, O, E>);

/// Items and their seats, side by side, so that the items can be lent as a slice.
pub(crate) struct Batch<T, O, E> {
    pub(crate) items: Vec<T>,
    pub(crate) seats: Vec<Seat<T, O, E>>,
}

impl<T, O, E> Batch<T, O, E> {
    pub(crate) const fn new() -> Self {
        Self { items: Vec::new(), seats: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn push(&mut self, item: T, seat: Seat<T, O, E>) {
        self.items.push(item);
        self.seats.push(seat);
    }

    pub(crate) fn reserve(&mut self, items: usize) {
        self.items.reserve_exact(items);
        self.seats.reserve_exact(items);
    }

    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new())
    }

    /// Takes the later half out, the smaller one if the halves differ.
    pub(crate) fn split_half(&mut self) -> Self {
        let at = self.len().div_ceil(2);
        Self { items: self.items.split_off(at), seats: self.seats.split_off(at) }
    }

    pub(crate) fn into_entries(self) -> impl ExactSizeIterator<Item = Entry<T, O, E>> {
        self.items.into_iter().zip(self.seats)
    }

    pub(crate) fn charged(&self) -> usize {
        self.seats.iter().map(|seat| seat.charged as usize).sum()
    }
}
