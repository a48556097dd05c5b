use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use relaykit_pipeline_traits::Timestamp;
use relaykit_sql_store::Shard;

use super::ledger::Entry;
use super::place::shards;
use super::plan::{LEASE, POLL};
use crate::history::Event;

/// How late others may come to what the dead held. A lease may have been renewed just before, and is looked at three times in a
/// lease. The rest is for a machine whose cores are busy with other rounds, on which what was on its way with the dead is handled one
/// after another, each alone.
pub(crate) fn bound() -> Duration {
    LEASE + LEASE / 3 + POLL + Duration::from_secs(4)
}

/// Returns how long after the fault each shard that one of these held was handled again, by somebody who is not dead; `None` if it
/// was not yet.
pub(crate) fn recoveries(
    entries: &[Entry],
    fault: Timestamp,
    held: &HashSet<usize>,
    dead: &HashSet<usize>,
) -> BTreeMap<Shard, Option<Duration>> {
    let (mut holders, mut again) = (BTreeMap::new(), BTreeMap::new());
    for entry in entries {
        for event in &entry.events {
            let Event::Lent { key, .. } = event else { continue };
            let shard = shards().of(format!("key-{key}").as_bytes());
            if entry.at <= fault.as_micros() {
                holders.insert(shard, entry.life);
            } else if !dead.contains(&entry.life) {
                again.entry(shard).or_insert(Timestamp::from_micros(entry.at).since(fault));
            }
        }
    }
    let theirs = holders.into_iter().filter(|(_, life)| held.contains(life));
    theirs.map(|(shard, _)| (shard, again.get(&shard).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Said;

    fn lent(life: usize, at: i64, key: u64) -> Entry {
        Entry { life, at, events: vec![Event::Lent { id: 1, key, said: Said::Done }] }
    }

    #[test]
    fn what_the_dead_held_is_recovered_when_somebody_else_handles_it() {
        let entries = [lent(1, 10, 0), lent(2, 20, 1), lent(1, 30, 2), lent(2, 40, 2), lent(2, 150, 0)];
        let dead = HashSet::from([1]);
        let shard = |key: u64| shards().of(format!("key-{key}").as_bytes());
        let found = recoveries(&entries, Timestamp::from_micros(100), &dead, &dead);
        assert_eq!(found, BTreeMap::from([(shard(0), Some(Duration::from_micros(50)))]));
        let found = recoveries(&entries[..4], Timestamp::from_micros(100), &dead, &dead);
        assert_eq!(found, BTreeMap::from([(shard(0), None)]));
    }
}
