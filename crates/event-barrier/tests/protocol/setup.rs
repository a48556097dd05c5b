use relaykit_event_barrier::Limits;

/// What a run is made of, besides its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) protocol: Protocol,
    pub(crate) jobs: u64,
    pub(crate) keys: u64,
    /// Keys are spread over them; all jobs of a key go to one.
    pub(crate) workers: usize,
    /// Workers die, and the process restarts.
    pub(crate) faults: bool,
}

/// The calling protocol, and the ways to get it wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Right,
    /// A pass reads the store first, then syncs.
    ReadThenSync,
    /// Outcomes are told to the barrier first, then stored.
    NotifyThenPersist,
    /// Outcomes open the gates at once: whoever tells one syncs.
    OpenAtOnce,
    /// A failure is told only after it has been stored, as the other outcomes are.
    FailAfterPersist,
    /// Jobs that are given up do not ask at the second gate.
    GiveUpUnasked,
    /// The permits of a worker that dies leave, although their jobs cannot be read again yet.
    DeadWorkersLeave,
}

impl Setup {
    /// One key, 30 jobs, no faults.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, protocol: Protocol::Right, jobs: 30, keys: 1, workers: 1, faults: false }
    }

    pub(crate) const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Three keys, of which two share a worker.
    pub(crate) const fn three_keys(mut self) -> Self {
        self.keys = 3;
        self.workers = 2;
        self
    }

    pub(crate) const fn faults(mut self) -> Self {
        self.faults = true;
        self
    }
}
