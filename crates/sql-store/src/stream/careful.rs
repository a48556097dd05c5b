use std::collections::BTreeMap;

use crate::torture::planted;
use crate::{Lease, Shard};

/// For which shards is noted what is sent, before it is: those whose last owner may have died while it sent something.
///
/// What it had on its way is among the first that the new owner sends, so that many are noted, or all until the shard was read to
/// its end. If the process dies again, the notes tell which messages may be to blame.
#[derive(Debug, Default)]
pub struct Careful {
    /// Under which token each shard is held, and how many of its messages are to be noted yet.
    shards: BTreeMap<Shard, (i64, usize)>,
}

impl Careful {
    /// Takes over which leases are held. Returns how many of the shards are new and were inherited.
    pub(super) fn hold(
        &mut self,
        leases: &[Lease],
        messages: usize,
        is_inherited: impl Fn(Lease) -> bool,
    ) -> usize {
        let mut inherited = 0;
        for &lease in leases {
            if self.shards.get(&lease.shard).is_none_or(|(token, _)| *token != lease.token) {
                let left = if is_inherited(lease) { messages } else { 0 };
                inherited += usize::from(left > 0);
                self.shards.insert(lease.shard, (lease.token, left));
            }
        }
        inherited
    }

    /// Returns whether what is sent of a shard is noted.
    pub(super) fn notes(&self, shard: Shard) -> bool {
        self.shards.get(&shard).is_some_and(|(_, left)| *left > 0) && !planted("notes_nothing")
    }

    /// Returns whether anything is noted.
    pub(super) fn is_any(&self) -> bool {
        self.shards.values().any(|(_, left)| *left > 0)
    }

    /// Counts a message of which is written what became of it.
    pub(super) fn settled(&mut self, shard: Shard, under: i64) {
        if let Some((_, left)) = self.shards.get_mut(&shard).filter(|(token, _)| *token == under) {
            *left = left.saturating_sub(1);
        }
    }

    /// Notes no more of a shard of which nothing can be left that was on its way before.
    pub(super) fn trust(&mut self, shard: Shard) {
        if let Some((_, left)) = self.shards.get_mut(&shard) {
            *left = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Shard = Shard::new(1);
    const LEASE: Lease = Lease { shard: SHARD, token: 7 };

    #[test]
    fn a_shard_that_was_given_back_is_trusted_and_one_that_ran_out_is_not() {
        let mut careful = Careful::default();
        let given_back = Lease { shard: Shard::new(2), token: 3 };
        assert_eq!(careful.hold(&[LEASE, given_back], 5, |lease| lease == LEASE), 1);
        assert!(careful.is_any() && careful.notes(SHARD) && !careful.notes(given_back.shard));
    }

    #[test]
    fn so_many_messages_are_noted_and_no_more_however_often_it_is_asked() {
        let mut careful = Careful::default();
        for left in [2, 1] {
            careful.hold(&[LEASE], 2, |_| true);
            assert!(careful.notes(SHARD), "{left} are left");
            careful.settled(SHARD, 7);
        }
        careful.hold(&[LEASE], 2, |_| true);
        assert!(!careful.notes(SHARD));
    }

    #[test]
    fn what_was_settled_under_another_token_does_not_count() {
        let mut careful = Careful::default();
        careful.hold(&[LEASE], 1, |_| true);
        careful.settled(SHARD, 6);
        assert!(careful.notes(SHARD));
    }

    #[test]
    fn each_new_lease_is_judged_anew() {
        let mut careful = Careful::default();
        careful.hold(&[LEASE], 9, |_| true);
        careful.trust(SHARD);
        assert!(!careful.is_any());
        careful.hold(&[Lease { token: 8, ..LEASE }], 9, |_| true);
        assert!(careful.notes(SHARD));
        careful.hold(&[Lease { token: 9, ..LEASE }], 9, |_| false);
        assert!(!careful.notes(SHARD));
    }
}
