use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

/// A crate that must not be in our lockfile, even if nothing compiles it.
struct Banned {
    name: &'static str,
    /// What the version starts with; empty bans every version.
    version: &'static str,
    reason: &'static str,
}

const BANNED: [Banned; 3] = [
    Banned {
        name: "sqlx-sqlite",
        version: "",
        reason: "it locks a second SQLite beside rusqlite's; a sqlx feature other than runtime-tokio and postgres brings it",
    },
    Banned {
        name: "bincode",
        version: "",
        reason: "it is unmaintained and its last release is a compile error",
    },
    Banned { name: "parking_lot", version: "0.13.", reason: "it needs a newer Rust than our rust-version" },
];

/// A banned crate that was found in the lockfile.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Cargo.lock: {name} {version} is banned: {reason}")]
pub(super) struct Found {
    name: String,
    version: String,
    reason: &'static str,
}

#[derive(Debug, Deserialize)]
struct Lockfile {
    #[serde(rename = "package", default)]
    packages: Vec<Locked>,
}

#[derive(Debug, Deserialize)]
struct Locked {
    name: String,
    version: String,
}

/// Reads `Cargo.lock` in `root` and finds what is banned.
pub(super) fn read(root: &Path) -> anyhow::Result<Vec<Found>> {
    let path = root.join("Cargo.lock");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    violations(&text).with_context(|| format!("{} is not a lockfile", path.display()))
}

fn violations(lockfile: &str) -> Result<Vec<Found>, toml::de::Error> {
    let lockfile: Lockfile = toml::from_str(lockfile)?;
    let found = lockfile.packages.into_iter().filter_map(|package| {
        let banned = BANNED
            .iter()
            .find(|banned| banned.name == package.name && package.version.starts_with(banned.version))?;
        Some(Found { name: package.name, version: package.version, reason: banned.reason })
    });
    Ok(found.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(packages: &[(&str, &str)]) -> Vec<String> {
        let entry = |(name, version)| format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
        let text: String = packages.iter().copied().map(entry).collect();
        let found = violations(&format!("version = 4\n{text}")).unwrap();
        found.into_iter().map(|found| format!("{} {}", found.name, found.version)).collect()
    }

    #[test]
    fn banned_crates_are_found() {
        assert_eq!(found(&[("sqlx-core", "0.9.0"), ("sqlx-sqlite", "0.9.0")]), ["sqlx-sqlite 0.9.0"]);
        assert_eq!(found(&[("bincode", "2.0.1"), ("bincode", "3.0.0")]), ["bincode 2.0.1", "bincode 3.0.0"]);
    }

    #[test]
    fn only_the_new_parking_lot_is_banned() {
        assert_eq!(found(&[("parking_lot", "0.12.5"), ("parking_lot", "0.13.0")]), ["parking_lot 0.13.0"]);
    }

    #[test]
    fn what_is_no_lockfile_is_an_error() {
        assert!(violations("[[package]]\nname = 1\n").is_err());
    }
}
