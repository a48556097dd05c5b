use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use cargo_metadata::{DependencyKind, MetadataCommand, Package};
use serde::Deserialize;

/// What the chores need to know about this workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// Our packages, by name.
    pub(crate) members: Vec<Member>,
}

/// One of our packages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The folder of its manifest.
    pub(crate) folder: PathBuf,
    /// Whether it can go to a registry (`publish` is not `false`).
    pub(crate) published: bool,
    pub(crate) description: Option<String>,
    pub(crate) license: Option<String>,
    /// Whether it has a library whose docs are tested.
    pub(crate) has_doc_tests: bool,
    pub(crate) dependencies: Vec<Dependency>,
    /// What its manifest says that `cargo metadata` leaves out.
    pub(crate) manifest: Manifest,
}

/// A dependency of one of our packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: DependencyKind,
    pub(crate) optional: bool,
}

/// The parts of a manifest that `cargo metadata` leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Manifest {
    /// The declared features; unlike in the metadata, no implicit ones of optional dependencies.
    #[serde(default)]
    pub(crate) features: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(crate) lints: Lints,
}

/// A manifest's `[lints]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Lints {
    /// Whether the workspace's lints apply.
    #[serde(default)]
    pub(crate) workspace: bool,
}

impl Workspace {
    /// Reads the workspace around the current folder.
    ///
    /// # Errors
    ///
    /// `cargo metadata` fails, or a manifest cannot be read.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec().context("could not read `cargo metadata`")?;
        let mut members: Vec<_> =
            metadata.workspace_packages().into_iter().map(Member::load).collect::<anyhow::Result<_>>()?;
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            root: metadata.workspace_root.into_std_path_buf(),
            target: metadata.target_directory.into_std_path_buf(),
            members,
        })
    }
}

impl Member {
    fn load(package: &Package) -> anyhow::Result<Self> {
        let path = package.manifest_path.as_std_path();
        let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        let manifest =
            toml::from_str(&text).with_context(|| format!("{} is not a manifest", path.display()))?;
        let dependencies = package.dependencies.iter().map(|dependency| Dependency {
            name: dependency.name.clone(),
            kind: dependency.kind,
            optional: dependency.optional,
        });
        Ok(Self {
            name: package.name.to_string(),
            version: package.version.to_string(),
            folder: path.parent().context("a manifest lies in a folder")?.to_path_buf(),
            published: package.publish.as_ref().is_none_or(|registries| !registries.is_empty()),
            description: package.description.clone(),
            license: package.license.clone(),
            has_doc_tests: package.targets.iter().any(|target| target.doctest),
            dependencies: dependencies.collect(),
            manifest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_tells_its_declared_features_and_lints() {
        let text = "[features]\ndefault = ['tls']\ntls = ['dep:rustls']\n[lints]\nworkspace = true\n";
        let manifest: Manifest = toml::from_str(text).unwrap();
        assert_eq!(manifest.features.keys().collect::<Vec<_>>(), ["default", "tls"]);
        assert!(manifest.lints.workspace);
    }

    #[test]
    fn a_manifest_without_lints_inherits_none() {
        let manifest: Manifest = toml::from_str("[package]\nname = 'a'\n").unwrap();
        assert_eq!(manifest, Manifest::default());
        let own: Manifest = toml::from_str("[lints.rust]\nunsafe_code = 'deny'\n").unwrap();
        assert!(!own.lints.workspace);
    }

    #[test]
    fn this_workspace_has_an_unpublished_xtask() {
        let workspace = Workspace::load().unwrap();
        let xtask = workspace.members.iter().find(|member| member.name == "xtask").unwrap();
        assert!(!xtask.published);
        assert!(!xtask.has_doc_tests);
        assert!(xtask.manifest.lints.workspace);
        assert!(workspace.members.iter().any(|member| member.published && member.has_doc_tests));
    }
}
