use std::time::Duration;

use relaykit_pipeline_traits::ErrorClass;

/// What [`Retry::notify`](crate::Retry::notify) is told before each wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// The attempt that failed: 1 for the first. Calls that spend no attempt repeat its number.
    pub attempt: u32,
    /// The class of the error.
    pub class: ErrorClass,
    /// The time since the first call began.
    pub elapsed: Duration,
    /// The wait that follows.
    pub wait: Duration,
}

/// Hears of each failed call that is followed by a wait. A closure `FnMut(&E, &Notice)` is one.
pub trait Notify<E> {
    /// Takes notice of the error.
    fn notice(&mut self, error: &E, notice: &Notice);
}

/// A [`Notify`] that does nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Silent;

impl<E> Notify<E> for Silent {
    fn notice(&mut self, _error: &E, _notice: &Notice) {}
}

impl<E, F: FnMut(&E, &Notice)> Notify<E> for F {
    fn notice(&mut self, error: &E, notice: &Notice) {
        self(error, notice);
    }
}
