/// What a processor has done since it was built, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Items accepted.
    pub accepted: u64,
    /// Items answered with the handler's output.
    pub done: u64,
    /// Items answered with a reason why they were not delivered.
    pub failed: u64,
    /// Items handed back by a stop.
    pub handed_back: u64,
    /// Calls of the handler.
    pub calls: u64,
    /// Items lent in those calls; an item that is tried again counts again.
    pub lent: u64,
    /// Responses dropped because the stream was full, under [`Overflow::DropNewest`](crate::Overflow::DropNewest).
    pub responses_dropped: u64,
    /// Items accepted that no worker has taken yet.
    pub buffered: usize,
    /// Those of them that wait for an earlier item of their key.
    pub parked: usize,
    /// Items that a worker has: with the handler, or waiting to be tried again.
    pub in_flight: usize,
}
