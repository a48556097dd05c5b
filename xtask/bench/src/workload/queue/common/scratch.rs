use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// A folder beside the probe, on a real disk, that is gone in the end.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// Makes an empty folder.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("could not find out where this program is")?;
        let beside = program.parent().context("this program is in no folder")?;
        let folder = TempDir::with_prefix_in("queue-bench-", beside);
        Ok(Self(folder.with_context(|| format!("could not make a folder in {}", beside.display()))?))
    }

    /// Names a file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Returns how many bytes all files in the folder have.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub(crate) fn bytes(&self) -> anyhow::Result<u64> {
        bytes_below(self.0.path())
    }
}

fn bytes_below(folder: &Path) -> anyhow::Result<u64> {
    let context = || format!("could not read {}", folder.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let data = entry.metadata().with_context(context)?;
        bytes += if data.is_dir() { bytes_below(&entry.path())? } else { data.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_at_any_depth() {
        let scratch = Scratch::new().unwrap();
        std::fs::write(scratch.file("a"), [0; 7]).unwrap();
        std::fs::create_dir(scratch.file("b")).unwrap();
        std::fs::write(scratch.file("b/c"), [0; 5]).unwrap();
        assert_eq!(scratch.bytes().unwrap(), 12);
    }
}
