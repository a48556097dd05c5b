use std::time::Duration;

use relaykit_pipeline_traits::Rng;

/// What a seed stands for: how large everything is, and what goes wrong how often. Rates of 0 are frequent, so that seeds differ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Menu {
    pub(super) nodes: u64,
    /// Relays of a node.
    pub(super) relays: u64,
    pub(super) producers: u64,
    /// Of each producer.
    pub(super) messages: u32,
    pub(super) keys: u64,
    /// How many of the messages are of the first key.
    pub(super) hot: f64,
    /// How many have no key.
    pub(super) keyless: f64,
    /// How many are added with a delay.
    pub(super) delayed: f64,
    pub(super) shards: u16,
    pub(super) lease: Duration,
    pub(super) send_timeout: Duration,
    pub(super) settle_timeout: Duration,
    pub(super) batch_size: usize,
    pub(super) concurrency: usize,
    pub(super) attempts: u32,
    pub(super) backoff: Duration,
    /// How long things go wrong.
    pub(super) trouble: Duration,
    /// How often an operator does something.
    pub(super) operated: f64,
    /// How many processes look for work now and then, in place of running on.
    pub(super) cron: f64,
    pub(super) nodes_faults: NodeFaults,
    pub(super) calls: CallFaults,
    pub(super) stores: StoreFaults,
}

/// What happens to nodes, as a share of all that happens to them, and how often something does.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeFaults {
    pub(super) every: Duration,
    pub(super) crash: f64,
    pub(super) freeze: f64,
    pub(super) restart: f64,
    pub(super) step: f64,
    /// How far node clocks run fast or slow at most, in millionths.
    pub(super) drift: u64,
}

/// What happens to calls of the sender and of handlers.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallFaults {
    pub(super) slow: f64,
    pub(super) hang: f64,
    pub(super) panic: f64,
    /// The effect happened, and an error is what comes back.
    pub(super) unknown: f64,
    pub(super) failed: f64,
    pub(super) dead: f64,
    pub(super) throttled: f64,
    pub(super) refused: f64,
    pub(super) split: f64,
    /// Some of a batch are done, others not.
    pub(super) partial: f64,
    /// Answers of the wrong length.
    pub(super) wrong: f64,
    /// How often the broker goes down.
    pub(super) outage: f64,
    /// How often a partition is read by somebody else.
    pub(super) rebalance: f64,
    /// How often an acknowledgement is lost, and how often something old is delivered again.
    pub(super) redelivered: f64,
}

/// What happens to calls of the databases.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreFaults {
    pub(super) slow: f64,
    /// Nothing was done.
    pub(super) before: f64,
    /// It was done, and nobody learns it.
    pub(super) after: f64,
    /// It is done later, and nobody learns it.
    pub(super) late: f64,
    /// How often a database goes down.
    pub(super) outage: f64,
    /// How often its wall clock is moved.
    pub(super) step: f64,
}

impl Menu {
    pub(super) fn draw(rng: &mut Rng) -> Self {
        let (send, settle) = (between(rng, 2, 15), between(rng, 1, 5));
        let lease = Duration::from_secs(send + settle).mul_f64(1.35) + Duration::from_secs(rng.below(15));
        Self {
            nodes: between(rng, 1, 3),
            relays: between(rng, 1, 2),
            producers: between(rng, 1, 2),
            messages: u32::try_from(between(rng, 5, 40)).unwrap_or(5),
            keys: between(rng, 1, 8),
            hot: if rng.chance(0.3) { 0.7 } else { 0.0 },
            keyless: some(rng, 0.5, 0.3),
            delayed: some(rng, 0.3, 0.2),
            shards: [1, 2, 4, 8][usize::try_from(rng.below(4)).unwrap_or(0)],
            lease,
            send_timeout: Duration::from_secs(send),
            settle_timeout: Duration::from_secs(settle),
            batch_size: usize::try_from(between(rng, 1, 8)).unwrap_or(1),
            concurrency: usize::try_from(between(rng, 1, 4)).unwrap_or(1),
            attempts: u32::try_from(between(rng, 3, 12)).unwrap_or(3),
            backoff: Duration::from_millis(between(rng, 50, 3_000)),
            trouble: Duration::from_secs(between(rng, 30, 240)),
            operated: some(rng, 0.3, 1.0),
            cron: some(rng, 0.3, 0.5),
            nodes_faults: NodeFaults::draw(rng),
            calls: CallFaults::draw(rng),
            stores: StoreFaults::draw(rng),
        }
    }
}

impl NodeFaults {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            every: Duration::from_secs(between(rng, 5, 60)),
            crash: some(rng, 0.6, 1.0),
            freeze: some(rng, 0.5, 1.0),
            restart: some(rng, 0.5, 1.0),
            step: some(rng, 0.3, 0.5),
            drift: if rng.chance(0.5) { rng.below(20_000) } else { 0 },
        }
    }
}

impl CallFaults {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            slow: some(rng, 0.5, 0.3),
            hang: some(rng, 0.2, 0.1),
            panic: some(rng, 0.3, 0.2),
            unknown: some(rng, 0.4, 0.3),
            failed: some(rng, 0.5, 0.3),
            dead: some(rng, 0.3, 0.2),
            throttled: some(rng, 0.3, 0.2),
            refused: some(rng, 0.2, 0.1),
            split: some(rng, 0.3, 0.2),
            partial: some(rng, 0.4, 0.5),
            wrong: some(rng, 0.2, 0.1),
            outage: some(rng, 0.3, 0.3),
            rebalance: some(rng, 0.4, 0.3),
            redelivered: some(rng, 0.5, 0.3),
        }
    }
}

impl StoreFaults {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            slow: some(rng, 0.5, 0.1),
            before: some(rng, 0.5, 0.2),
            after: some(rng, 0.5, 0.2),
            late: some(rng, 0.3, 0.1),
            outage: some(rng, 0.3, 0.3),
            step: some(rng, 0.2, 0.3),
        }
    }
}

fn between(rng: &mut Rng, least: u64, most: u64) -> u64 {
    least + rng.below(most - least + 1)
}

/// Draws a rate: 0, or up to `most` with the chance `on`.
fn some(rng: &mut Rng, on: f64, most: f64) -> f64 {
    if rng.chance(on) { rng.unit() * most } else { 0.0 }
}
