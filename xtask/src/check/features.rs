use std::collections::BTreeMap;

use anyhow::bail;

use crate::process;
use crate::workspace::Workspace;

/// A choice of features to compile a crate with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FeatureSet {
    None,
    Default,
    Only(String),
}

/// Compiles the library and binaries of each crate with each choice of [`feature_sets`].
///
/// # Errors
///
/// Names each crate and choice that failed, after all have been tried.
pub(super) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for member in &workspace.members {
        for set in feature_sets(&member.manifest.features) {
            let mut clippy = process::cargo(["clippy", "--quiet", "--locked", "--package", &member.name]);
            clippy.args(set.args()).args(["--", "-D", "warnings"]).current_dir(&workspace.root);
            if process::run(&mut clippy).is_err() {
                failed.push(format!("{} ({})", member.name, set.name()));
            }
        }
    }
    if !failed.is_empty() {
        bail!("does not compile without warnings: {}", failed.join(", "));
    }
    Ok(())
}

/// Lists no features, the default ones if there are any, and each declared feature alone.
fn feature_sets(declared: &BTreeMap<String, Vec<String>>) -> Vec<FeatureSet> {
    let mut sets = vec![FeatureSet::None];
    if declared.get("default").is_some_and(|features| !features.is_empty()) {
        sets.push(FeatureSet::Default);
    }
    sets.extend(declared.keys().filter(|name| *name != "default").cloned().map(FeatureSet::Only));
    sets
}

impl FeatureSet {
    fn args(&self) -> Vec<&str> {
        match self {
            Self::None => vec!["--no-default-features"],
            Self::Default => vec![],
            Self::Only(feature) => vec!["--no-default-features", "--features", feature],
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::None => "no features",
            Self::Default => "default features",
            Self::Only(feature) => feature,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(features: &[(&str, &[&str])]) -> BTreeMap<String, Vec<String>> {
        let owned = features.iter().map(|(name, uses)| {
            (name.to_string(), uses.iter().map(ToString::to_string).collect::<Vec<String>>())
        });
        owned.collect()
    }

    #[test]
    fn each_feature_is_tried_alone_beside_none_and_default() {
        let sets = feature_sets(&declared(&[("default", &["tls"]), ("tls", &[]), ("json", &["dep:serde"])]));
        let only = |name: &str| FeatureSet::Only(name.into());
        assert_eq!(sets, [FeatureSet::None, FeatureSet::Default, only("json"), only("tls")]);
    }

    #[test]
    fn an_empty_default_is_the_same_as_none() {
        assert_eq!(feature_sets(&declared(&[("default", &[])])), [FeatureSet::None]);
        assert_eq!(feature_sets(&declared(&[])), [FeatureSet::None]);
    }

    #[test]
    fn a_feature_alone_comes_without_the_default_ones() {
        let args = FeatureSet::Only("json".into());
        assert_eq!(args.args(), ["--no-default-features", "--features", "json"]);
        assert!(FeatureSet::Default.args().is_empty());
    }
}
