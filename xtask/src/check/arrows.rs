use cargo_metadata::DependencyKind;

use crate::workspace::{Dependency, Member};

/// What a crate of ours may use of ours, in normal and build dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Use(&'static [&'static str]),
    /// Everything; only an unpublished crate may.
    UseAll,
}

use May::{Use, UseAll};

/// The arrows that docs/architecture.md draws. A new crate is added here knowingly.
const ARROWS: [(&str, May); 16] = [
    ("relaykit-pipeline-traits", Use(&[])),
    ("relaykit-retry", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-event-barrier", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-batch-core", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-telemetry", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-sql-store", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-brokers", Use(&["relaykit-pipeline-traits"])),
    ("relaykit-iterable-handlers", Use(&["relaykit-pipeline-traits", "relaykit-retry"])),
    ("relaykit-persistent-queue", Use(&["relaykit-pipeline-traits", "relaykit-retry", "relaykit-sql-store"])),
    ("relaykit-inbox", Use(IOBOX)),
    ("relaykit-outbox", Use(IOBOX)),
    ("relaykit-demo", UseAll),
    ("relaykit-suite", UseAll),
    ("relaykit-torture", UseAll),
    ("relaykit-bench", UseAll),
    ("xtask", Use(&[])),
];

const IOBOX: &[&str] =
    &["relaykit-pipeline-traits", "relaykit-sql-store", "relaykit-retry", "relaykit-event-barrier"];

/// Crates that compile without tokio; a feature may bring it.
const WITHOUT_TOKIO: [&str; 2] = ["relaykit-pipeline-traits", "relaykit-event-barrier"];

/// A dependency that the architecture forbids.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Violation {
    #[error("{from} may not use {to}")]
    Arrow { from: String, to: String },
    #[error("{name} is unknown; add what it may use to xtask/src/check/arrows.rs")]
    Unknown { name: String },
    #[error("{name} may use every crate, so it needs `publish = false`")]
    Published { name: String },
    #[error("{name} may use tokio behind a feature only")]
    Tokio { name: String },
}

/// Finds the forbidden dependencies between our crates. Dev-dependencies are free.
pub(super) fn violations(members: &[Member]) -> Vec<Violation> {
    members.iter().flat_map(|member| violations_of(member, members)).collect()
}

fn violations_of(member: &Member, members: &[Member]) -> Vec<Violation> {
    let Some((_, may)) = ARROWS.iter().find(|(name, _)| *name == member.name) else {
        return vec![Violation::Unknown { name: member.name.clone() }];
    };
    let mut found = Vec::new();
    match may {
        UseAll if member.published => found.push(Violation::Published { name: member.name.clone() }),
        UseAll => {}
        Use(allowed) => {
            let ours = shipped(member).filter(|dependency| is_ours(&dependency.name, members));
            let forbidden = ours.filter(|dependency| !allowed.contains(&dependency.name.as_str()));
            found.extend(forbidden.map(|dependency| Violation::Arrow {
                from: member.name.clone(),
                to: dependency.name.clone(),
            }));
        }
    }
    let needs_tokio = shipped(member).any(|dependency| dependency.name == "tokio" && !dependency.optional);
    if needs_tokio && WITHOUT_TOKIO.contains(&member.name.as_str()) {
        found.push(Violation::Tokio { name: member.name.clone() });
    }
    found
}

/// Lists the dependencies that a user of the crate compiles too.
fn shipped(member: &Member) -> impl Iterator<Item = &Dependency> {
    member.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development)
}

fn is_ours(name: &str, members: &[Member]) -> bool {
    members.iter().any(|member| member.name == name) || ARROWS.iter().any(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests;
