use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use relaykit_pipeline_traits::{Clock, Monotonic};

use crate::report::say;

/// Shows how far the demo is: a bar on a terminal, a plain line every few seconds otherwise.
pub(crate) struct Progress<'a> {
    bar: Option<ProgressBar>,
    clock: &'a dyn Clock,
    next_line: Monotonic,
}

const LINE_EVERY: Duration = Duration::from_secs(2);

impl<'a> Progress<'a> {
    /// Begins; `expected` is how many events will come, if known.
    pub(crate) fn new(expected: Option<u64>, clock: &'a dyn Clock) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(expected, ProgressDrawTarget::stderr());
            let template = if expected.is_some() {
                "{bar:40} {pos}/{len} answered, {per_sec}, {eta} left {msg}"
            } else {
                "{spinner} {pos} answered, {per_sec} {msg}"
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, clock, next_line: clock.monotonic() + LINE_EVERY }
    }

    /// Shows the counts so far.
    pub(crate) fn show(&mut self, answered: u64, read: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(answered);
        } else if self.clock.monotonic() >= self.next_line {
            self.next_line = self.clock.monotonic() + LINE_EVERY;
            say(&format!("{read} read, {answered} answered"));
        }
    }

    /// Says something without disturbing the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
