use crate::Shard;

/// The instances that share the shards, as one of them sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// How many are alive, this one included.
    pub members: u32,
    /// How many of them come before this one, in an order that all see alike.
    pub rank: u32,
}

impl Membership {
    /// Returns the fair share of this instance: the shares of all differ by one at most, and add up to `shards`.
    #[must_use]
    pub fn share(self, shards: u16) -> usize {
        let members = self.members.max(1);
        let (each, rest) = (u32::from(shards) / members, u32::from(shards) % members);
        let share = each + u32::from(self.rank < rest);
        usize::try_from(share).unwrap_or(usize::MAX)
    }
}

/// What an instance does to come to its fair share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Shards to take.
    pub take: Vec<Shard>,
    /// Shards to give back, once the work on them has ended.
    pub give_back: Vec<Shard>,
}

/// Decides what to take and what to give back, to come from `mine` to a share of so many shards.
///
/// Nothing moves that need not: it gives back only what exceeds the share, the last of `mine` first, and
/// takes only what is `free`. If all decide by the same membership, all come to their shares, since those add up.
#[must_use]
pub fn plan(mine: &[Shard], free: &[Shard], share: usize) -> Plan {
    Plan {
        take: free.iter().copied().take(share.saturating_sub(mine.len())).collect(),
        give_back: mine.iter().copied().skip(share).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn shards(numbers: impl IntoIterator<Item = u16>) -> Vec<Shard> {
        numbers.into_iter().map(Shard::new).collect()
    }

    #[test]
    fn one_alone_takes_all_and_gives_half_back_to_a_second() {
        let alone = Membership { members: 1, rank: 0 };
        assert_eq!(plan(&[], &shards(0..4), alone.share(4)).take, shards(0..4));
        let first = Membership { members: 2, rank: 0 };
        assert_eq!(
            plan(&shards(0..4), &[], first.share(4)),
            Plan { take: vec![], give_back: shards([2, 3]) }
        );
    }

    #[test]
    fn who_has_its_share_moves_nothing() {
        assert_eq!(plan(&shards([7, 9]), &shards([1, 2]), 2), Plan::default());
    }

    #[test]
    fn more_members_than_shards_leaves_some_without() {
        let shares: Vec<_> = (0..5).map(|rank| Membership { members: 5, rank }.share(3)).collect();
        assert_eq!(shares, [1, 1, 1, 0, 0]);
    }

    proptest! {
        #[test]
        fn shares_differ_by_one_at_most_and_add_up(shards in 1..=1024_u16, members in 1..100_u32) {
            let shares: Vec<_> = (0..members).map(|rank| Membership { members, rank }.share(shards)).collect();
            prop_assert_eq!(shares.iter().sum::<usize>(), usize::from(shards));
            prop_assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }

        /// From any distribution, in any order of turns: two rounds suffice, and a third moves nothing.
        #[test]
        fn all_come_to_their_shares_in_two_rounds_and_stay(
            owners in prop::collection::vec(prop::option::of(0..7_usize), 1..200),
            members in 1..7_usize,
        ) {
            let total = u16::try_from(owners.len()).unwrap();
            // Whoever is not a member has died: its shards are free.
            let mut owned: BTreeMap<Shard, Option<usize>> = shards(0..total)
                .into_iter()
                .zip(owners.into_iter().map(|owner| owner.filter(|owner| *owner < members)))
                .collect();
            let mut moved = Vec::new();
            for _round in 0..3 {
                let mut moves = 0;
                for member in 0..members {
                    let of = |who| owned.iter().filter(move |(_, owner)| **owner == who).map(|(shard, _)| *shard);
                    let (mine, free): (Vec<_>, Vec<_>) = (of(Some(member)).collect(), of(None).collect());
                    let membership = Membership {
                        members: u32::try_from(members).unwrap(),
                        rank: u32::try_from(member).unwrap(),
                    };
                    let plan = plan(&mine, &free, membership.share(total));
                    prop_assert!(plan.take.is_empty() || plan.give_back.is_empty());
                    moves += plan.take.len() + plan.give_back.len();
                    for shard in plan.take {
                        prop_assert_eq!(owned.insert(shard, Some(member)), Some(None));
                    }
                    for shard in plan.give_back {
                        owned.insert(shard, None);
                    }
                }
                moved.push(moves);
            }
            prop_assert_eq!(moved[2], 0);
            prop_assert!(owned.values().all(Option::is_some));
        }
    }
}
