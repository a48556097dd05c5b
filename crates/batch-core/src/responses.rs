use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc;

use crate::answer::Cause;

/// The answer to one sent item, with the item.
pub struct Response<T, O, E> {
    /// The item.
    pub item: T,
    /// The handler's output, or why there is none.
    pub result: Result<O, Cause<E>>,
    /// How many attempts were spent on it.
    pub attempts: u32,
}

impl<T, O: fmt::Debug, E: fmt::Debug> fmt::Debug for Response<T, O, E> {
    /// Leaves out the item, which may hold personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("result", &self.result)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// What happens to a response when nobody has read enough of the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// The worker waits until there is room, and so, in the end, does whoever adds. A stop does not wait longer
    /// than its deadline: its report then holds the responses that nobody read. This is the default.
    #[default]
    Wait,
    /// The response is dropped and counted in [`Stats::responses_dropped`](crate::Stats::responses_dropped).
    DropNewest,
}

/// The answers to the items given to [`send`](crate::Processor::send), in the order in which they come.
///
/// It ends when the processor and all its handles are gone. Dropping it discards later responses.
pub struct Responses<T, O, E> {
    receiver: mpsc::Receiver<Response<T, O, E>>,
}

impl<T, O, E> Responses<T, O, E> {
    pub(crate) const fn new(receiver: mpsc::Receiver<Response<T, O, E>>) -> Self {
        Self { receiver }
    }

    /// Waits for the next response; `None` when there will be none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a dropped call takes no response.
    pub async fn recv(&mut self) -> Option<Response<T, O, E>> {
        self.receiver.recv().await
    }

    /// Returns a response if one is there.
    pub fn try_recv(&mut self) -> Option<Response<T, O, E>> {
        self.receiver.try_recv().ok()
    }
}

impl<T, O, E> Stream for Responses<T, O, E> {
    type Item = Response<T, O, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

impl<T, O, E> fmt::Debug for Responses<T, O, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responses")
    }
}
