use std::collections::VecDeque;
use std::future::Future;

/// Answers that are awaited, up to a bound, the oldest first.
#[derive(Debug)]
pub(crate) struct Window<F> {
    answers: VecDeque<F>,
    most: usize,
}

impl<F: Future + Unpin> Window<F> {
    /// Makes an empty window for `most` answers.
    pub(crate) fn new(most: usize) -> Self {
        Self { answers: VecDeque::with_capacity(most), most }
    }

    /// Makes room for one: waits for the oldest answer and returns it if there is no room yet.
    pub(crate) async fn make_room(&mut self) -> Option<F::Output> {
        if self.answers.len() < self.most { None } else { self.oldest().await }
    }

    /// Adds an answer that is still to come.
    pub(crate) fn push(&mut self, answer: F) {
        self.answers.push_back(answer);
    }

    /// Waits for the oldest answer and returns it; `None` if none is to come.
    pub(crate) async fn oldest(&mut self) -> Option<F::Output> {
        match self.answers.pop_front() {
            Some(answer) => Some(answer.await),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn a_full_window_gives_the_oldest_answer_first() {
        let mut window = Window::new(2);
        let mut given = Vec::new();
        for number in 0..4 {
            given.extend(window.make_room().await);
            window.push(ready(number));
        }
        assert_eq!(given, [0, 1]);
        assert_eq!((window.oldest().await, window.oldest().await), (Some(2), Some(3)));
        assert_eq!(window.oldest().await, None);
    }
}
