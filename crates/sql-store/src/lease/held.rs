use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use relaykit_pipeline_traits::Monotonic;

use super::store::Lease;
use crate::Shard;

/// What this process knows of its leases. Every answer depends on the present, which the caller brings.
#[derive(Debug, Default)]
pub(super) struct Held {
    entries: BTreeMap<Shard, Entry>,
    /// How long leases counted when they were renewed last.
    given: Duration,
}

#[derive(Debug, Default)]
struct Entry {
    /// The lease, unless it was lost while there is still work on the shard.
    lease: Option<HeldLease>,
    /// Work that began under an earlier lease of ours and has not ended.
    stale: usize,
}

#[derive(Debug)]
struct HeldLease {
    token: i64,
    /// Until when it counts as held.
    until: Monotonic,
    /// Work that has begun under this lease and has not ended.
    in_flight: usize,
    state: State,
    /// Whether the owner before may have died.
    inherited: bool,
}

/// Whether a lease is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Kept,
    /// No new work begins; it is given back when the work has ended.
    Retiring,
    /// The store was asked to take it back. That may take effect at any time, so it is never used again.
    GivenBack,
}

impl Entry {
    fn is_idle(&self) -> bool {
        self.stale == 0 && self.lease.as_ref().is_none_or(|lease| lease.in_flight == 0)
    }

    /// Counts the work under the lease, which ends here, as stale.
    fn lose(&mut self) {
        self.stale += self.lease.take().map_or(0, |lease| lease.in_flight);
    }
}

impl Held {
    /// Takes over what a heartbeat says `now`: these leases are held until `until`, and no others. One that is new here was taken by a
    /// call whose answer was lost, so nobody knows whether it was inherited; it may have been.
    pub(super) fn renew(&mut self, leases: &[Lease], until: Monotonic, now: Monotonic) {
        self.given = until.since(now);
        let held: BTreeSet<Shard> = leases.iter().map(|lease| lease.shard).collect();
        for (shard, entry) in &mut self.entries {
            if !held.contains(shard) {
                entry.lose();
            }
        }
        self.put(leases, until, |_| true);
        self.entries.retain(|_, entry| entry.lease.is_some() || !entry.is_idle());
    }

    /// Takes over leases that were just taken. Those of `expired` shards are inherited.
    pub(super) fn add(&mut self, leases: &[Lease], until: Monotonic, expired: &[Shard]) {
        self.put(leases, until, |shard| expired.contains(&shard));
    }

    fn put(&mut self, leases: &[Lease], until: Monotonic, inherited: impl Fn(Shard) -> bool) {
        for &Lease { shard, token } in leases {
            let entry = self.entries.entry(shard).or_default();
            match &mut entry.lease {
                Some(lease) if lease.token == token => lease.until = until,
                _ => {
                    entry.lose();
                    let (state, inherited) = (State::Kept, inherited(shard));
                    entry.lease = Some(HeldLease { token, until, in_flight: 0, state, inherited });
                }
            }
        }
    }

    /// Returns the leases that new work may begin under, with the time that remains of each.
    pub(super) fn usable(&self, now: Monotonic) -> impl Iterator<Item = (Lease, Duration)> {
        self.entries.iter().filter_map(move |(shard, entry)| {
            let lease = entry.lease.as_ref()?;
            // Earlier work of ours on this shard has lost its lease, but may still be under way.
            let usable = lease.state == State::Kept && entry.stale == 0 && now < lease.until;
            usable.then(|| (Lease { shard: *shard, token: lease.token }, lease.until.since(now)))
        })
    }

    /// Returns how long leases counted when they were renewed last.
    pub(super) const fn given(&self) -> Duration {
        self.given
    }

    /// Returns the time that remains of a lease, retiring or not; zero if it was lost.
    pub(super) fn remaining(&self, lease: Lease, now: Monotonic) -> Duration {
        let held = self.entries.get(&lease.shard).and_then(|entry| entry.lease.as_ref());
        held.filter(|held| held.token == lease.token).map_or(Duration::ZERO, |held| held.until.since(now))
    }

    /// Returns whether a lease is held and was inherited.
    pub(super) fn is_inherited(&self, lease: Lease) -> bool {
        let held = self.entries.get(&lease.shard).and_then(|entry| entry.lease.as_ref());
        held.is_some_and(|held| held.token == lease.token && held.inherited)
    }

    /// Takes note that a lease is another's, as the store says. Returns whether it counted as held.
    pub(super) fn lose(&mut self, lease: Lease) -> bool {
        let entry = self.entries.get_mut(&lease.shard);
        let same = |entry: &&mut Entry| entry.lease.as_ref().is_some_and(|held| held.token == lease.token);
        entry.filter(same).map(Entry::lose).is_some()
    }

    /// Returns whether a lease is held and is to be given back.
    pub(super) fn is_retiring(&self, lease: Lease) -> bool {
        let held = self.entries.get(&lease.shard).and_then(|entry| entry.lease.as_ref());
        held.is_some_and(|held| held.token == lease.token && held.state != State::Kept)
    }

    /// Begins work on a shard, if that may be.
    pub(super) fn enter(&mut self, shard: Shard, now: Monotonic) -> Option<Lease> {
        let entry = self.entries.get_mut(&shard)?;
        let stale = entry.stale;
        let lease = entry.lease.as_mut()?;
        if lease.state != State::Kept || stale > 0 || now >= lease.until {
            return None;
        }
        lease.in_flight += 1;
        Some(Lease { shard, token: lease.token })
    }

    /// Ends work that [`enter`](Self::enter) began; tells whether the shard can be given back now.
    pub(super) fn leave(&mut self, lease: Lease) -> bool {
        let Some(entry) = self.entries.get_mut(&lease.shard) else { return false };
        match &mut entry.lease {
            Some(held) if held.token == lease.token => held.in_flight = held.in_flight.saturating_sub(1),
            _ => entry.stale = entry.stale.saturating_sub(1),
        }
        let idle = entry.is_idle();
        let retiring = entry.lease.as_ref().is_some_and(|held| held.state == State::Retiring);
        if idle && entry.lease.is_none() {
            self.entries.remove(&lease.shard);
        }
        idle && retiring
    }

    /// Returns the shards that are held, those to give back first last: what retires already, then what has
    /// work under way, so that giving back waits for as little as possible.
    pub(super) fn by_preference(&self) -> Vec<Shard> {
        let held = self.entries.iter().filter_map(|(shard, entry)| Some((shard, entry.lease.as_ref()?)));
        let mut shards: Vec<_> = held
            .map(|(shard, lease)| ((lease.state != State::Kept, lease.in_flight == 0, *shard), *shard))
            .collect();
        shards.sort_unstable();
        shards.into_iter().map(|(_, shard)| shard).collect()
    }

    /// Returns the shards on which work of ours may still be under way though their lease is lost.
    pub(super) fn stale(&self) -> impl Iterator<Item = Shard> {
        self.entries.iter().filter(|(_, entry)| entry.stale > 0).map(|(shard, _)| *shard)
    }

    /// Retires these shards, and keeps all others that are not given back yet.
    pub(super) fn retire(&mut self, shards: &[Shard]) {
        for (shard, entry) in &mut self.entries {
            if let Some(lease) = entry.lease.as_mut().filter(|lease| lease.state != State::GivenBack) {
                lease.state = if shards.contains(shard) { State::Retiring } else { State::Kept };
            }
        }
    }

    /// Retires all shards.
    pub(super) fn retire_all(&mut self) {
        let all: Vec<_> = self.entries.keys().copied().collect();
        self.retire(&all);
    }

    /// Returns the leases to give back now, and marks them so.
    pub(super) fn give_back(&mut self) -> Vec<Lease> {
        let idle = self.entries.iter_mut().filter(|(_, entry)| entry.is_idle());
        idle.filter_map(|(shard, entry)| {
            let lease = entry.lease.as_mut().filter(|lease| lease.state != State::Kept)?;
            lease.state = State::GivenBack;
            Some(Lease { shard: *shard, token: lease.token })
        })
        .collect()
    }

    /// Forgets leases that the store has taken back.
    pub(super) fn forget(&mut self, leases: &[Lease]) {
        for lease in leases {
            let same = |entry: &Entry| entry.lease.as_ref().is_some_and(|held| held.token == lease.token);
            if self.entries.get(&lease.shard).is_some_and(same) {
                self.entries.remove(&lease.shard);
            }
        }
    }

    /// Returns how many shards are held or worked on.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Monotonic = Monotonic::from_origin(Duration::from_secs(20));

    fn at(secs: u64) -> Monotonic {
        Monotonic::from_origin(Duration::from_secs(secs))
    }

    fn lease(shard: u16, token: i64) -> Lease {
        Lease { shard: Shard::new(shard), token }
    }

    fn held(leases: &[Lease]) -> Held {
        let mut held = Held::default();
        held.renew(leases, UNTIL, at(0));
        held
    }

    fn usable(held: &Held, now: Monotonic) -> Vec<Lease> {
        held.usable(now).map(|(lease, _)| lease).collect()
    }

    #[test]
    fn a_lease_counts_until_its_end_and_not_at_it() {
        let mut held = held(&[lease(1, 7)]);
        assert_eq!(held.remaining(lease(1, 7), at(19)), Duration::from_secs(1));
        assert!(held.enter(Shard::new(1), at(19)).is_some());
        assert!(held.enter(Shard::new(1), at(20)).is_none());
        assert_eq!(usable(&held, at(20)), []);
    }

    #[test]
    fn a_shard_that_ran_out_is_inherited_and_one_that_was_given_back_is_not() {
        let mut held = Held::default();
        held.add(&[lease(1, 7), lease(2, 3)], UNTIL, &[Shard::new(2)]);
        held.renew(&[lease(1, 7), lease(2, 3)], UNTIL, at(0));
        assert!(!held.is_inherited(lease(1, 7)), "renewing changes nothing");
        assert!(held.is_inherited(lease(2, 3)));
        assert!(!held.is_inherited(lease(2, 4)), "another lease");
    }

    #[test]
    fn a_shard_whose_taking_was_never_answered_may_be_inherited() {
        assert!(held(&[lease(1, 7)]).is_inherited(lease(1, 7)));
    }

    #[test]
    fn a_lease_that_is_lost_lets_its_work_end_before_the_shard_is_used_again() {
        let mut held = held(&[lease(1, 7)]);
        let old = held.enter(Shard::new(1), at(0)).unwrap();
        held.renew(&[], UNTIL, at(0));
        assert_eq!(held.remaining(old, at(0)), Duration::ZERO);
        held.renew(&[lease(1, 9)], UNTIL, at(0));
        assert_eq!(usable(&held, at(0)), [], "work under token 7 may still be under way");
        assert_eq!(held.stale().collect::<Vec<_>>(), [Shard::new(1)]);
        held.leave(old);
        assert_eq!(held.enter(Shard::new(1), at(0)), Some(lease(1, 9)));
    }

    #[test]
    fn a_lease_that_the_store_says_is_anothers_is_not_used_any_more() {
        let mut held = held(&[lease(1, 7), lease(2, 3)]);
        let work = held.enter(Shard::new(1), at(0)).unwrap();
        assert!(held.lose(work) && !held.lose(work));
        assert!(!held.lose(lease(2, 2)), "an earlier one is no news");
        assert_eq!(held.remaining(work, at(0)), Duration::ZERO);
        assert_eq!(usable(&held, at(0)), [lease(2, 3)]);
        held.leave(work);
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn a_shard_is_given_back_when_its_work_has_ended() {
        let mut held = held(&[lease(1, 7), lease(2, 3)]);
        let work = held.enter(Shard::new(1), at(0)).unwrap();
        held.retire(&[Shard::new(1), Shard::new(2)]);
        assert!(held.enter(Shard::new(1), at(0)).is_none());
        assert!(held.is_retiring(work) && !held.is_retiring(lease(1, 8)));
        assert_eq!(held.give_back(), [lease(2, 3)]);
        assert!(held.leave(work));
        assert_eq!(held.give_back(), [lease(1, 7), lease(2, 3)]);
    }

    #[test]
    fn a_shard_that_was_given_back_in_doubt_is_never_used_again_under_its_token() {
        let mut held = held(&[lease(1, 7)]);
        held.retire(&[Shard::new(1)]);
        assert_eq!(held.give_back(), [lease(1, 7)]);
        // The call failed, a heartbeat still shows the lease, and the plan would rather keep it now.
        held.renew(&[lease(1, 7)], UNTIL, at(0));
        held.retire(&[]);
        assert_eq!(usable(&held, at(0)), []);
        held.renew(&[lease(1, 8)], UNTIL, at(0));
        assert_eq!(usable(&held, at(0)), [lease(1, 8)]);
    }

    #[test]
    fn a_shard_that_only_retires_can_be_kept_after_all() {
        let mut held = held(&[lease(1, 7)]);
        held.retire(&[Shard::new(1)]);
        held.retire(&[]);
        assert!(!held.is_retiring(lease(1, 7)));
        assert_eq!(usable(&held, at(0)), [lease(1, 7)]);
    }

    #[test]
    fn idle_shards_are_given_back_before_busy_ones() {
        let mut held = held(&[lease(1, 1), lease(2, 1), lease(3, 1)]);
        let _work = held.enter(Shard::new(3), at(0)).unwrap();
        let order: Vec<_> = held.by_preference().into_iter().map(Shard::number).collect();
        assert_eq!(order, [3, 1, 2]);
    }
}
