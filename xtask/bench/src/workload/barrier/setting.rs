use std::str::FromStr;

use anyhow::{Context, bail, ensure};

use crate::workload::Measurement;

/// What is measured, from a name such as `ours/failures/10k-zipf/2`, with `/each` for a sync after every job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) book: Book,
    pub(super) mix: Mix,
    pub(super) keys: u64,
    /// Whether few keys have most jobs, instead of all the same.
    pub(super) zipf: bool,
    /// 1 or 2.
    pub(super) threads: u64,
    /// How many jobs a pass picks, which begins with a sync.
    pub(super) page: usize,
}

/// Who keeps the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Book {
    /// The barrier.
    Ours,
    /// A `HashMap` behind each of 64 locks.
    Sharded,
    /// A `HashMap` behind one lock.
    Plain,
}

/// What becomes of the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mix {
    /// All succeed.
    Happy,
    /// One in ten fails, and succeeds when it is tried again.
    Failures,
    /// Those in flight are counted, up to 200 of a key; one in 500 fails and is aborted when it is tried again, and then
    /// jobs of its key are let through one at a time until one has ended.
    Limits,
}

/// How much of a key may be in flight; 0 means any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BareLimits {
    pub(super) threshold: u32,
    pub(super) drain: u32,
}

impl Mix {
    /// Returns how likely a job's first attempt is to fail.
    pub(super) const fn failing(self) -> f64 {
        match self {
            Self::Happy => 0.0,
            Self::Failures => 0.1,
            Self::Limits => 0.002,
        }
    }

    pub(super) const fn limits(self) -> BareLimits {
        match self {
            Self::Happy | Self::Failures => BareLimits { threshold: 0, drain: 0 },
            Self::Limits => BareLimits { threshold: 200, drain: 1 },
        }
    }
}

impl Setting {
    /// Returns how many passes later a failed job is tried again: the more keys, the more of them are blocked at a time.
    pub(super) fn backoff(&self) -> usize {
        match self.keys {
            ..1_000 => 1,
            1_000..100_000 => 10,
            _ => 100,
        }
    }

    pub(super) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement
            .with("keys", self.keys)
            .with("zipf", self.zipf)
            .with("threads", self.threads)
            .with("page", self.page)
            .with("backoff_passes", self.backoff())
    }
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = name.split('/').collect();
        let (parts, page) = match parts.as_slice() {
            [parts @ .., "each"] => (parts, 1),
            parts => (parts, 1_000),
        };
        let [book, mix, keys, threads] = parts else {
            bail!("{name:?} is not BOOK/MIX/KEYS/THREADS or that with /each");
        };
        let book = match *book {
            "ours" => Book::Ours,
            "sharded" => Book::Sharded,
            "plain" => Book::Plain,
            _ => bail!("book is {book:?}, but must be ours, sharded or plain"),
        };
        let mix = match *mix {
            "happy" => Mix::Happy,
            "failures" => Mix::Failures,
            "limits" => Mix::Limits,
            _ => bail!("mix is {mix:?}, but must be happy, failures or limits"),
        };
        let (keys, zipf) = match keys.strip_suffix("-zipf") {
            Some(keys) => (keys, true),
            None => (*keys, false),
        };
        let keys = match keys {
            "1" => 1,
            "10k" => 10_000,
            "1M" => 1_000_000,
            _ => bail!("keys is {keys:?}, but must be 1, 10k or 1M"),
        };
        let threads = threads.parse().with_context(|| format!("threads is {threads:?}, no number"))?;
        ensure!((1..=2).contains(&threads), "threads is {threads}, but must be 1 or 2");
        ensure!(page > 1 || threads == 1, "a sync after every job is measured on one thread");
        Ok(Self { book, mix, keys, zipf, threads, page })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_from_its_name() {
        let setting: Setting = "sharded/failures/10k-zipf/2".parse().unwrap();
        let expected = Setting {
            book: Book::Sharded,
            mix: Mix::Failures,
            keys: 10_000,
            zipf: true,
            threads: 2,
            page: 1_000,
        };
        assert_eq!(setting, expected);
        assert_eq!("ours/happy/1/1/each".parse::<Setting>().unwrap().page, 1);
    }

    #[test]
    fn a_name_with_an_unknown_part_is_refused() {
        for name in [
            "",
            "ours",
            "mine/happy/1/1",
            "ours/sad/1/1",
            "ours/happy/2k/1",
            "ours/happy/1/0",
            "ours/happy/1/3",
            "ours/happy/1/x",
            "ours/happy/1/2/each",
            "ours/happy/1/1/every",
        ] {
            assert!(name.parse::<Setting>().is_err(), "{name:?} was read");
        }
    }
}
