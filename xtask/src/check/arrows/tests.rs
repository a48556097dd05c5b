use super::*;

/// Makes a published crate of the family that has normal dependencies on `uses`.
fn member(short: &str, uses: &[&str]) -> Member {
    let uses = uses.iter().map(|name| dependency(name, DependencyKind::Normal));
    Member {
        name: format!("relaykit-{short}"),
        published: true,
        dependencies: uses.collect(),
        ..Member::default()
    }
}

fn dependency(name: &str, kind: DependencyKind) -> Dependency {
    Dependency { name: name.into(), kind, optional: false }
}

fn arrow(from: &str, to: &str) -> Violation {
    Violation::Arrow { from: format!("relaykit-{from}"), to: format!("relaykit-{to}") }
}

/// Asserts that `from` may use `to`, or that exactly this arrow is forbidden.
fn assert_arrow(from: &str, to: &str, allowed: bool) {
    let graph = [member(from, &[&format!("relaykit-{to}")]), member(to, &[])];
    let expected = if allowed { vec![] } else { vec![arrow(from, to)] };
    assert_eq!(violations(&graph), expected, "{from} -> {to}");
}

const LIBRARIES: [&str; 11] = [
    "pipeline-traits",
    "retry",
    "event-barrier",
    "batch-core",
    "telemetry",
    "sql-store",
    "brokers",
    "iterable-handlers",
    "persistent-queue",
    "inbox",
    "outbox",
];

#[test]
fn exactly_the_drawn_arrows_are_allowed() {
    for from in LIBRARIES {
        let allowed: &[&str] = match from {
            "pipeline-traits" => &[],
            "iterable-handlers" => &["pipeline-traits", "retry"],
            "persistent-queue" => &["pipeline-traits", "retry", "sql-store"],
            "inbox" | "outbox" => &["pipeline-traits", "sql-store", "retry", "event-barrier"],
            _ => &["pipeline-traits"],
        };
        for to in LIBRARIES.into_iter().filter(|to| *to != from) {
            assert_arrow(from, to, allowed.contains(&to));
        }
    }
}

#[test]
fn inbox_and_outbox_do_not_know_each_other() {
    assert_arrow("inbox", "outbox", false);
    assert_arrow("outbox", "inbox", false);
}

#[test]
fn nothing_published_uses_the_demo_or_the_benches() {
    for to in ["demo", "suite", "bench"] {
        let unpublished = Member { published: false, ..member(to, &[]) };
        let graph = [member("retry", &[&format!("relaykit-{to}")]), unpublished];
        assert_eq!(violations(&graph), [arrow("retry", to)]);
    }
}

#[test]
fn the_demo_the_suite_and_the_benches_use_everything() {
    let all: Vec<String> = LIBRARIES.iter().map(|short| format!("relaykit-{short}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for short in ["demo", "suite", "bench"] {
        let unpublished = Member { published: false, ..member(short, &all) };
        assert_eq!(violations(&[unpublished]), []);
    }
}

#[test]
fn what_uses_everything_is_never_published() {
    let published = member("demo", &[]);
    assert_eq!(violations(&[published]), [Violation::Published { name: "relaykit-demo".into() }]);
}

#[test]
fn xtask_uses_none_of_ours() {
    let xtask = Member {
        name: "xtask".into(),
        dependencies: vec![
            dependency("clap", DependencyKind::Normal),
            dependency("relaykit-pipeline-traits", DependencyKind::Normal),
        ],
        ..Member::default()
    };
    let forbidden = Violation::Arrow { from: "xtask".into(), to: "relaykit-pipeline-traits".into() };
    assert_eq!(violations(&[xtask]), [forbidden]);
}

#[test]
fn an_unknown_crate_is_a_violation() {
    let graph = [member("surprise", &["relaykit-pipeline-traits"])];
    assert_eq!(violations(&graph), [Violation::Unknown { name: "relaykit-surprise".into() }]);
}

#[test]
fn an_arrow_to_an_unknown_crate_is_forbidden_too() {
    let found = violations(&[
        member("retry", &["surprise"]),
        Member { name: "surprise".into(), ..Member::default() },
    ]);
    let forbidden = Violation::Arrow { from: "relaykit-retry".into(), to: "surprise".into() };
    assert_eq!(found, [forbidden, Violation::Unknown { name: "surprise".into() }]);
}

#[test]
fn an_optional_dependency_is_an_arrow() {
    let mut retry = member("retry", &["relaykit-outbox"]);
    retry.dependencies[0].optional = true;
    assert_eq!(violations(&[retry]), [arrow("retry", "outbox")]);
}

#[test]
fn a_build_dependency_is_an_arrow() {
    let mut retry = member("retry", &["relaykit-outbox"]);
    retry.dependencies[0].kind = DependencyKind::Build;
    assert_eq!(violations(&[retry]), [arrow("retry", "outbox")]);
}

#[test]
fn dev_dependencies_are_free() {
    let mut retry = member("retry", &["relaykit-outbox", "tokio"]);
    for dependency in &mut retry.dependencies {
        dependency.kind = DependencyKind::Development;
    }
    assert_eq!(violations(&[retry]), []);
}

#[test]
fn the_vocabulary_and_the_barrier_use_tokio_behind_a_feature_only() {
    for short in ["pipeline-traits", "event-barrier"] {
        let mut needs_tokio = member(short, &["tokio"]);
        assert_eq!(
            violations(&[needs_tokio.clone()]),
            [Violation::Tokio { name: format!("relaykit-{short}") }]
        );
        needs_tokio.dependencies[0].optional = true;
        assert_eq!(violations(&[needs_tokio]), []);
    }
    assert_eq!(violations(&[member("batch-core", &["tokio"])]), []);
}

#[test]
fn messages_name_the_crates() {
    assert_eq!(arrow("inbox", "outbox").to_string(), "relaykit-inbox may not use relaykit-outbox");
}
