use std::fmt;
use std::hash::{BuildHasher, Hash};

use crate::barrier::Barrier;

/// Writes every known key, sorted, with its failed jobs and those in flight. For people; the text may change.
impl<K, J, S> fmt::Display for Barrier<K, J, S>
where
    K: Hash + Eq + Ord + Clone + fmt::Debug,
    J: Ord + Copy + fmt::Debug,
    S: BuildHasher,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut keys = Vec::new();
        self.each_shard(|shard| {
            for (key, record) in shard.records() {
                let mut in_flight: Vec<J> = record.in_flight().collect();
                in_flight.sort_unstable();
                keys.push((key.clone(), record.head(), in_flight, record.state_name()));
            }
        });
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        f.write_str("Barrier{")?;
        for (name, value) in self.metadata() {
            write!(f, "{name}: {value}, ")?;
        }
        f.write_str("[")?;
        for (n, (key, failed, in_flight, state)) in keys.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{{key: {key:?}, failed: ")?;
            match failed {
                Some(job) => write!(f, "{job:?}")?,
                None => f.write_str("none")?,
            }
            write!(f, ", in flight: {in_flight:?}, {state}}}")?;
        }
        f.write_str("]}")
    }
}

/// Says that it is a barrier, without looking at its keys.
impl<K, J, S> fmt::Debug for Barrier<K, J, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").finish_non_exhaustive()
    }
}
