use std::str::FromStr;

use anyhow::{Context, bail};

use super::THREADS;
use crate::workload::Measurement;

/// How events pass a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) side: Side,
    pub(super) durability: Durability,
    /// How many events a batch has.
    pub(super) flush: u32,
    /// How many batches are taken at once.
    pub(super) take: u32,
    /// The bare loop has none of its own, and pushes everything itself.
    pub(super) producers: u32,
    million: bool,
}

/// Whose queue it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Ours; a push returns once the event is buffered.
    Ours,
    /// Ours; a push returns once the event is stored as the durability says.
    Durable,
    /// A bare loop around SQLite.
    Raw,
}

/// What stored events survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Nothing.
    Memory,
    /// The crash of the process.
    Process,
    /// The loss of power, too.
    Full,
}

impl Setting {
    /// Returns how many events pass. A slow setting has fewer, so that it takes a second or less.
    pub(super) fn events(&self) -> u32 {
        const EVENTS: u32 = 200_000;
        if self.million {
            return 1_000_000;
        }
        match (self.side, self.durability) {
            (Side::Durable, Durability::Full) => 300 * self.producers,
            (Side::Durable, _) => (10_000 * self.producers).min(EVENTS),
            // About 200 batches, each of which is synced to the disk.
            (Side::Raw, Durability::Full) => (200 * self.flush).min(EVENTS),
            _ if self.flush == 1 => 20_000,
            _ => EVENTS,
        }
    }

    /// Adds the setting to a measurement.
    pub(super) fn describe(&self, measurement: Measurement) -> Measurement {
        measurement
            .with("flush", self.flush)
            .with("batches", self.take)
            .with("producers", self.producers)
            .with("threads", THREADS)
    }
}

impl FromStr for Setting {
    type Err = anyhow::Error;

    /// Reads `SIDE/DURABILITY/FLUSHxTAKE/PRODUCERS`, with `/1M` behind it for a million events.
    fn from_str(name: &str) -> anyhow::Result<Self> {
        let unknown = || format!("no case is named queue/{name}");
        let (rest, million) = name.strip_suffix("/1M").map_or((name, false), |rest| (rest, true));
        let parts: Vec<_> = rest.split('/').collect();
        let [side, durability, batches, producers] = parts[..] else { bail!(unknown()) };
        let (flush, take) = batches.split_once('x').with_context(unknown)?;
        let setting = Self {
            side: match side {
                "ours" => Side::Ours,
                "ours-durable" => Side::Durable,
                "raw" => Side::Raw,
                _ => bail!(unknown()),
            },
            durability: match durability {
                "memory" => Durability::Memory,
                "process" => Durability::Process,
                "full" => Durability::Full,
                _ => bail!(unknown()),
            },
            flush: flush.parse().with_context(unknown)?,
            take: take.parse().with_context(unknown)?,
            producers: producers.parse().with_context(unknown)?,
            million,
        };
        let at_least_one = [setting.flush, setting.take, setting.producers].iter().all(|number| *number > 0);
        if !at_least_one || setting.producers > 2_000 {
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
        let setting: Setting = "ours-durable/full/100x10/16".parse().unwrap();
        let expected = Setting {
            side: Side::Durable,
            durability: Durability::Full,
            flush: 100,
            take: 10,
            producers: 16,
            million: false,
        };
        assert_eq!(setting, expected);
        assert_eq!("raw/memory/1000x1/1/1M".parse::<Setting>().unwrap().events(), 1_000_000);
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for name in [
            "",
            "ours",
            "theirs/full/100x10/1",
            "ours/sync/100x10/1",
            "ours/full/100/1",
            "ours/full/0x1/1",
            "ours/full/1x0/1",
            "ours/full/1x1/0",
            "ours/full/1x1/2001",
            "ours/full/1x1/1/2M",
        ] {
            assert!(name.parse::<Setting>().is_err(), "{name:?} is a setting");
        }
    }
}
