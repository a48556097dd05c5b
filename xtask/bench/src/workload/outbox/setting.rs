use std::str::FromStr;

use anyhow::{Context, bail};

use super::THREADS;
use crate::workload::Measurement;

/// What is measured, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) side: Side,
    pub(super) work: Work,
    pub(super) on: On,
    /// How many messages a transaction adds, or how many are sent at once.
    pub(super) batch: u32,
    /// How many connections add, or how many relays, or loops, drain.
    pub(super) workers: u32,
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The outbox's.
    Ours,
    /// Plain statements'.
    Raw,
}

/// Where the messages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Postgres,
    Sqlite,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Messages are added.
    Add,
    /// A backlog is sent.
    Drain,
    /// The same, beside a transaction that is open all the time.
    Held,
    /// A backlog is sent, and what it costs is counted.
    Cost(Cost),
    /// Messages are added, and the time until each is sent is taken.
    Latency(Load),
    /// A relay has nothing to do.
    Idle,
}

/// A cost of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    Statements,
    WalBytes,
    DeadTuples,
}

/// How busy a relay is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// A message each 20 ms.
    Idle,
    /// The same, from another process: the relay is told by the server.
    Notified,
    /// Half of what it can drain.
    Half,
}

impl Setting {
    /// Returns how many messages there are. Slow settings have fewer, so that they take a few seconds.
    pub(super) const fn messages(&self) -> u32 {
        match (self.work, self.batch, self.workers) {
            (Work::Add, 1, 1) if matches!(self.on, On::Sqlite) => 20_000,
            (Work::Add, 1, 1) => 6_000,
            (Work::Add, 1, _) => 20_000,
            (Work::Drain, ..=10, _) => 30_000,
            _ => 100_000,
        }
    }

    /// Adds the setting to a measurement.
    pub(super) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement.with("batch", self.batch).with("workers", self.workers).with("threads", THREADS)
    }
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    /// Reads `SIDE/WORK/BATCHxWORKERS`, where the work is `add`, `drain`, `held`, `statements`, `wal-bytes` or `dead-tuples`;
    /// or `latency-idle`, `latency-notified`, `latency-half` or `idle`; or `sqlite/SIDE/WORK/BATCHxWORKERS`, where it is `add` or `drain`.
    fn from_str(name: &str) -> anyhow::Result<Self> {
        let unknown = || format!("no case is named outbox/{name}");
        let alone = |work| Self { side: Side::Ours, work, on: On::Postgres, batch: 100, workers: 1 };
        match name {
            "latency-idle" => return Ok(alone(Work::Latency(Load::Idle))),
            "latency-notified" => return Ok(alone(Work::Latency(Load::Notified))),
            "latency-half" => return Ok(alone(Work::Latency(Load::Half))),
            "idle" => return Ok(alone(Work::Idle)),
            _ => {}
        }
        let (on, setting) = match name.strip_prefix("sqlite/") {
            Some(setting) => (On::Sqlite, setting),
            None => (On::Postgres, name),
        };
        let parts: Vec<_> = setting.split('/').collect();
        let [who, work, size] = parts[..] else { bail!(unknown()) };
        let (batch, workers) = size.split_once('x').with_context(unknown)?;
        let setting = Self {
            side: match who {
                "ours" => Side::Ours,
                "raw" => Side::Raw,
                _ => bail!(unknown()),
            },
            work: match work {
                "add" => Work::Add,
                "drain" => Work::Drain,
                "held" => Work::Held,
                "statements" => Work::Cost(Cost::Statements),
                "wal-bytes" => Work::Cost(Cost::WalBytes),
                "dead-tuples" => Work::Cost(Cost::DeadTuples),
                _ => bail!(unknown()),
            },
            on,
            batch: batch.parse().with_context(unknown)?,
            workers: workers.parse().with_context(unknown)?,
        };
        let done = on == On::Postgres || matches!(setting.work, Work::Add | Work::Drain);
        if !done || !(1..=1_000).contains(&setting.batch) || !(1..=16).contains(&setting.workers) {
            bail!(unknown());
        }
        Ok(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_read_from_its_name() {
        let setting: Setting = "raw/drain/100x4".parse().unwrap();
        let drain = Setting { side: Side::Raw, work: Work::Drain, on: On::Postgres, batch: 100, workers: 4 };
        assert_eq!(setting, drain);
        let setting: Setting = "sqlite/raw/drain/100x4".parse().unwrap();
        assert_eq!(setting, Setting { on: On::Sqlite, ..drain });
        let setting: Setting = "latency-half".parse().unwrap();
        assert_eq!(setting.work, Work::Latency(Load::Half));
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for name in [
            "",
            "ours",
            "theirs/add/1x1",
            "sqlite/ours/held/100x1",
            "ours/sub/1x1",
            "ours/add/1",
            "ours/add/0x1",
            "ours/add/1x17",
        ] {
            assert!(name.parse::<Setting>().is_err(), "{name:?} is a setting");
        }
    }
}
