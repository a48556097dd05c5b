use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relaykit_event_barrier::{Barrier, Reader, State};
use relaykit_pipeline_traits::Monotonic;

use super::bare::Books;
use super::setting::BareLimits;

/// All that happens, happens at once: a look at the clock is not what is measured.
pub(super) const NOW: Monotonic = Monotonic::from_origin(std::time::Duration::from_secs(1));

/// Books about keys, as each thread uses them.
pub(super) trait Gate: Clone + Send {
    /// Asks for a job, and tells what became of it if it may go; answers whether it may.
    fn pass(&self, key: u64, job: u64, state: State) -> bool;

    /// Tells what became of a job.
    fn tell(&self, key: u64, job: u64, state: State);

    /// Returns how many keys are blocked, and jobs in flight, as far as they are counted.
    fn unfinished(&self) -> usize;
}

/// What the one thread that picks jobs has besides.
pub(super) trait Pick: Send {
    /// Applies what was told; returns how much that was.
    fn sync(&mut self) -> usize;
}

impl Gate for Barrier<u64> {
    #[inline]
    fn pass(&self, key: u64, job: u64, state: State) -> bool {
        match self.enter(&key, job, NOW).permit() {
            Some(permit) => {
                permit.settle(state, NOW);
                true
            }
            None => false,
        }
    }

    #[inline]
    fn tell(&self, key: u64, job: u64, state: State) {
        self.state_changed(&key, job, state, NOW);
    }

    fn unfinished(&self) -> usize {
        let stats = self.stats();
        stats.blocked + stats.in_flight
    }
}

impl Pick for Reader<u64> {
    #[inline]
    fn sync(&mut self) -> usize {
        Self::sync(self, NOW).applied
    }
}

/// Books behind one lock.
#[derive(Debug, Clone)]
pub(super) struct Plain(Arc<Mutex<Books>>);

impl Plain {
    pub(super) fn pair(limits: BareLimits) -> (Self, Self) {
        let plain = Self(Arc::new(Mutex::new(Books::new(limits))));
        (plain.clone(), plain)
    }
}

impl Gate for Plain {
    #[inline]
    fn pass(&self, key: u64, job: u64, state: State) -> bool {
        // As a worker would: the job is sent between the two calls.
        let passes = lock(&self.0).enter(key, job);
        if passes {
            lock(&self.0).tell(key, job, state);
        }
        passes
    }

    #[inline]
    fn tell(&self, key: u64, job: u64, state: State) {
        lock(&self.0).tell(key, job, state);
    }

    fn unfinished(&self) -> usize {
        lock(&self.0).unfinished()
    }
}

impl Pick for Plain {
    #[inline]
    fn sync(&mut self) -> usize {
        lock(&self.0).sync()
    }
}

/// As many shards as a barrier has.
const SHARDS: usize = 64;

/// Books behind a lock for each part of the keys, and a word that tells which have something to apply.
#[derive(Debug, Clone)]
pub(super) struct Sharded(Arc<Shards>);

#[derive(Debug)]
struct Shards {
    dirty: AtomicU64,
    shards: [Shard; SHARDS],
}

/// Keeps two shards off one cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Shard(Mutex<Books>);

impl Sharded {
    pub(super) fn pair(limits: BareLimits) -> (Self, Self) {
        let shards = std::array::from_fn(|_| Shard(Mutex::new(Books::new(limits))));
        let sharded = Self(Arc::new(Shards { dirty: AtomicU64::new(0), shards }));
        (sharded.clone(), sharded)
    }

    /// Spreads the keys by one multiplication, since they are numbers; each map hashes them again.
    #[inline]
    fn place(key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
    }

    #[inline]
    fn books(&self, place: usize) -> MutexGuard<'_, Books> {
        lock(&self.0.shards[place].0)
    }
}

impl Gate for Sharded {
    #[inline]
    fn pass(&self, key: u64, job: u64, state: State) -> bool {
        let passes = self.books(Self::place(key)).enter(key, job);
        if passes {
            self.tell(key, job, state);
        }
        passes
    }

    #[inline]
    fn tell(&self, key: u64, job: u64, state: State) {
        let place = Self::place(key);
        let noted = self.books(place).tell(key, job, state);
        let bit = 1 << place;
        if noted && self.0.dirty.load(Ordering::Acquire) & bit == 0 {
            self.0.dirty.fetch_or(bit, Ordering::AcqRel);
        }
    }

    fn unfinished(&self) -> usize {
        (0..SHARDS).map(|place| self.books(place).unfinished()).sum()
    }
}

impl Pick for Sharded {
    #[inline]
    fn sync(&mut self) -> usize {
        if self.0.dirty.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let dirty = self.0.dirty.swap(0, Ordering::AcqRel);
        (0..SHARDS).filter(|place| dirty & (1 << place) != 0).map(|place| self.books(place).sync()).sum()
    }
}

#[inline]
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
