use std::fs::{self, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relaykit_pipeline_traits::Monotonic;

use super::SqliteError;
use super::error::is_no_room;

/// How often the file is looked for.
const EVERY: Duration = Duration::from_secs(1);

/// The file as it was when it was opened.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    identity: Option<Identity>,
    checked: Option<Monotonic>,
}

type Identity = (u64, u64);

impl File {
    pub(super) fn seen_at(path: &Path) -> Self {
        // The process may change its directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { identity: identity(&path), path, checked: None }
    }

    /// Looks, once a second at most, whether the path still names the file that was opened.
    pub(super) fn check(&mut self, now: Monotonic) -> Result<(), SqliteError> {
        if self.checked.is_some_and(|checked| now.since(checked) < EVERY) {
            return Ok(());
        }
        if self.identity.is_some() && identity(&self.path) != self.identity {
            return Err(SqliteError::Moved { path: self.path.clone() });
        }
        self.checked = Some(now);
        Ok(())
    }

    /// Tries whether so much could be written beside the file, at the place where the file or its log ends.
    ///
    /// The only way to learn what kept SQLite from writing: it does not hand the system's error on.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let mut path = self.path.as_os_str().to_owned();
        path.push("-probe");
        let path = PathBuf::from(path);
        let written = self.probe(&path, bytes);
        let _ = fs::remove_file(&path);
        !written.is_err_and(|error| is_no_room(&error))
    }

    fn probe(&self, path: &Path, bytes: usize) -> io::Result<()> {
        let mut log = self.path.as_os_str().to_owned();
        log.push("-wal");
        let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        let end = length(&self.path).max(length(Path::new(&log)));
        let mut probe = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        probe.seek(SeekFrom::Start(end))?;
        let block = [0xBA; 4096];
        for _ in 0..=bytes / block.len() + 4 {
            probe.write_all(&block)?;
        }
        // Some file systems find out only now.
        probe.sync_data()
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt as _;

    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Elsewhere an open file cannot be moved away.
#[cfg(not(unix))]
fn identity(_path: &Path) -> Option<Identity> {
    None
}
