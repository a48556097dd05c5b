use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Where runs leave what they need again: seeds that failed, and the evidence.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    root: PathBuf,
}

impl Workshop {
    /// `torture` in the folder where cargo builds.
    pub(crate) fn in_target(target: &Path) -> Self {
        Self { root: target.join("torture") }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn seeds_file(&self, test: &str) -> PathBuf {
        self.root.join("seeds").join(format!("{test}.txt"))
    }

    /// The seeds that failed in former runs, oldest first.
    pub(crate) fn failed_seeds(&self, test: &str) -> Vec<u64> {
        let lines = fs::read_to_string(self.seeds_file(test)).unwrap_or_default();
        lines.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    /// Remembers a seed that failed; once.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(crate) fn remember(&self, test: &str, seed: u64) -> anyhow::Result<()> {
        if self.failed_seeds(test).contains(&seed) {
            return Ok(());
        }
        let path = self.seeds_file(test);
        fs::create_dir_all(self.root.join("seeds"))?;
        writeln!(OpenOptions::new().create(true).append(true).open(path)?, "{seed}")?;
        Ok(())
    }

    /// Makes an empty folder for what a failure leaves.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn evidence(&self, test: &str, seed: u64) -> anyhow::Result<PathBuf> {
        let folder = self.root.join(format!("{test}-{seed}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_that_failed_is_replayed_by_later_runs_once() {
        let target = tempfile::tempdir().expect("a temporary directory");
        let workshop = Workshop::in_target(target.path());
        assert_eq!(workshop.failed_seeds("kill"), [0; 0]);
        for seed in [7, 9, 7] {
            workshop.remember("kill", seed).expect("it is writable");
        }
        assert_eq!(workshop.failed_seeds("kill"), [7, 9]);
        assert_eq!(workshop.failed_seeds("power"), [0; 0]);
    }
}
