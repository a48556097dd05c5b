use std::str::FromStr;

use anyhow::{Context, bail};

use super::THREADS;
use super::common::{BYTES, HANDLED, received};
use crate::workload::Measurement;

/// What is measured, and of how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) side: Side,
    pub(super) work: Work,
    pub(super) on: On,
    /// How many messages a transaction receives; how many handlers there are; or, for memory, thousands of messages.
    pub(super) many: u32,
    /// How many connections receive; or how many messages of a handler are lent at a time.
    pub(super) at_once: u32,
}

/// Whose work it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// The inbox's.
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
    /// Messages are received.
    Receive,
    /// A backlog is handled by plain handlers.
    Plain,
    /// A backlog is handled by transactional handlers.
    Transactional,
    /// A backlog is handled by a plain handler, and it is looked how much memory that takes.
    Memory,
}

impl Setting {
    /// Returns how many messages there are. Slow settings have fewer, so that they take a few seconds.
    pub(super) const fn messages(&self) -> u32 {
        match (self.work, self.on) {
            (Work::Receive, On::Postgres) => received(self.many, self.at_once),
            (Work::Receive, On::Sqlite) => match self.many {
                1 => 10_000,
                _ => 100_000,
            },
            (Work::Plain, _) if self.at_once < 100 => HANDLED,
            (Work::Plain, _) => 100_000 / self.many,
            (Work::Transactional, On::Postgres) => 10_000 / self.many,
            (Work::Transactional, On::Sqlite) => 5_000 / self.many,
            (Work::Memory, _) => self.many * 1_000,
        }
    }

    /// Returns how many handlers each message has.
    pub(super) const fn handlers(&self) -> u32 {
        match self.work {
            Work::Plain | Work::Transactional => self.many,
            Work::Receive | Work::Memory => 1,
        }
    }

    /// Returns how many messages of a handler are settled at once: a worker lends those that it lends at a time in four parts.
    pub(super) const fn page(&self) -> u32 {
        self.at_once.div_ceil(4)
    }

    /// Returns how large a message's payload is.
    pub(super) const fn bytes(&self) -> usize {
        match self.work {
            Work::Memory => 100,
            _ => BYTES,
        }
    }

    /// Adds the setting to a measurement.
    pub(super) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement
            .with("messages", self.messages())
            .with("payload_bytes", self.bytes())
            .with("threads", THREADS)
    }
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    /// Reads `SIDE/WORK/MANYxATONCE`, where the work is `receive`, `plain`, `transactional` or `memory`; behind `sqlite/` it is
    /// measured there.
    fn from_str(name: &str) -> anyhow::Result<Self> {
        let unknown = || format!("no case is named inbox/{name}");
        let (on, setting) = match name.strip_prefix("sqlite/") {
            Some(setting) => (On::Sqlite, setting),
            None => (On::Postgres, name),
        };
        let parts: Vec<_> = setting.split('/').collect();
        let [whose, work, size] = parts[..] else { bail!(unknown()) };
        let (many, at_once) = size.split_once('x').with_context(unknown)?;
        let setting = Self {
            side: match whose {
                "ours" => Side::Ours,
                "raw" => Side::Raw,
                _ => bail!(unknown()),
            },
            work: match work {
                "receive" => Work::Receive,
                "plain" => Work::Plain,
                "transactional" => Work::Transactional,
                "memory" => Work::Memory,
                _ => bail!(unknown()),
            },
            on,
            many: many.parse().with_context(unknown)?,
            at_once: at_once.parse().with_context(unknown)?,
        };
        let most = if matches!(setting.work, Work::Plain | Work::Transactional) { 8 } else { 1_000 };
        let one_writes = on == On::Sqlite && setting.work == Work::Receive && setting.at_once != 1;
        let no_memory = setting.work == Work::Memory && (on == On::Sqlite || setting.side == Side::Raw);
        if !(1..=most).contains(&setting.many)
            || !(1..=1_000).contains(&setting.at_once)
            || one_writes
            || no_memory
        {
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
        let setting: Setting = "raw/plain/3x1000".parse().unwrap();
        let plain = Setting { side: Side::Raw, work: Work::Plain, on: On::Postgres, many: 3, at_once: 1_000 };
        assert_eq!(setting, plain);
        assert_eq!((setting.handlers(), setting.page()), (3, 250));
        let setting: Setting = "sqlite/raw/plain/3x1000".parse().unwrap();
        assert_eq!(setting, Setting { on: On::Sqlite, ..plain });
        let setting: Setting = "ours/memory/100x1000".parse().unwrap();
        assert_eq!((setting.messages(), setting.handlers()), (100_000, 1));
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for name in [
            "",
            "ours",
            "theirs/receive/1x1",
            "ours/send/1x1",
            "ours/receive/1",
            "ours/receive/0x1",
            "ours/plain/9x1",
            "ours/plain/1x1001",
            "raw/memory/1x1000",
            "sqlite/ours/receive/1x8",
        ] {
            assert!(name.parse::<Setting>().is_err(), "{name:?} is a setting");
        }
    }
}
