use std::path::Path;

use crate::workspace::Member;

/// Files that travel with every published crate.
const FILES: [&str; 2] = ["README.md", "CHANGELOG.md"];

/// What a crate's manifest or folder lacks.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lack {
    #[error("{name}: the manifest does not say `lints.workspace = true`")]
    Lints { name: String },
    #[error("{name}: the manifest has no {field}")]
    Field { name: String, field: &'static str },
    #[error("{name}: {file} is missing")]
    File { name: String, file: &'static str },
}

/// Finds what each crate lacks: the workspace's lints, and what a registry page shows.
pub(super) fn violations(members: &[Member]) -> Vec<Lack> {
    members.iter().flat_map(|member| lacks(member, Path::is_file)).collect()
}

fn lacks(member: &Member, exists: impl Fn(&Path) -> bool) -> Vec<Lack> {
    let name = || member.name.clone();
    let mut lacks = Vec::new();
    if !member.manifest.lints.workspace {
        lacks.push(Lack::Lints { name: name() });
    }
    if !member.published {
        return lacks;
    }
    for (field, value) in [("description", &member.description), ("license", &member.license)] {
        if value.as_ref().is_none_or(String::is_empty) {
            lacks.push(Lack::Field { name: name(), field });
        }
    }
    for file in FILES {
        if !exists(&member.folder.join(file)) {
            lacks.push(Lack::File { name: name(), file });
        }
    }
    lacks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Lints, Manifest};

    fn complete() -> Member {
        Member {
            name: "relaykit-retry".into(),
            folder: "crates/retry".into(),
            published: true,
            description: Some("Retry policies".into()),
            license: Some("MIT OR Apache-2.0".into()),
            manifest: Manifest { lints: Lints { workspace: true }, ..Manifest::default() },
            ..Member::default()
        }
    }

    #[test]
    fn a_complete_crate_lacks_nothing() {
        assert_eq!(lacks(&complete(), |_| true), []);
    }

    #[test]
    fn lints_are_inherited_even_by_unpublished_crates() {
        let member = Member { manifest: Manifest::default(), published: false, ..complete() };
        assert_eq!(lacks(&member, |_| true), [Lack::Lints { name: "relaykit-retry".into() }]);
    }

    #[test]
    fn a_published_crate_has_a_description_and_a_license() {
        let member = Member { description: Some(String::new()), license: None, ..complete() };
        let missing = |field| Lack::Field { name: "relaykit-retry".into(), field };
        assert_eq!(lacks(&member, |_| true), [missing("description"), missing("license")]);
    }

    #[test]
    fn a_published_crate_has_a_readme_and_a_changelog() {
        let has_readme_only = |file: &Path| file == Path::new("crates/retry/README.md");
        let missing = Lack::File { name: "relaykit-retry".into(), file: "CHANGELOG.md" };
        assert_eq!(lacks(&complete(), has_readme_only), [missing]);
        let unpublished = Member { published: false, ..complete() };
        assert_eq!(lacks(&unpublished, has_readme_only), []);
    }
}
