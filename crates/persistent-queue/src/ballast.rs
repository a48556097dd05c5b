use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// A file beside the queue's that takes up room, to be given up when the disk is full.
///
/// On a full disk nothing can be deleted from a database either, since a deletion is written to its log first. With the
/// ballast gone it can.
#[derive(Debug)]
pub(crate) struct Ballast {
    path: Option<PathBuf>,
    bytes: u64,
    armed: Mutex<bool>,
    /// It was given up and is not back yet.
    spent: AtomicBool,
}

impl Ballast {
    /// For a queue in `file`; none in memory.
    pub(crate) fn beside(file: Option<&std::path::Path>, bytes: u64) -> Self {
        let path = file.filter(|_| bytes > 0).map(|file| {
            let mut name = file.as_os_str().to_owned();
            name.push(".ballast");
            PathBuf::from(name)
        });
        Self { path, bytes, armed: Mutex::new(false), spent: AtomicBool::new(false) }
    }

    /// Whether it was given up and is not back yet. Until then nothing new is taken: the first room that there is again
    /// belongs to the ballast, or the next full disk could not be worked off.
    pub(crate) fn is_spent(&self) -> bool {
        self.spent.load(Ordering::Relaxed)
    }

    /// Whether it should be there and is not.
    pub(crate) fn is_missing(&self) -> bool {
        self.path.is_some() && !*self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the file if it is not there, as far as the disk has room.
    pub(crate) fn arm(&self) {
        let Some(path) = &self.path else { return };
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        if *armed {
            return;
        }
        match fs::metadata(path) {
            Ok(found) if found.len() == self.bytes => {
                *armed = true;
                self.spent.store(false, Ordering::Relaxed);
            }
            _ => match write(path, self.bytes) {
                Ok(()) => {
                    *armed = true;
                    self.spent.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    tracing::debug!(%error, "no room for ballast");
                    let _ = fs::remove_file(path);
                }
            },
        }
    }

    /// Gives the room up. Returns whether there was any.
    pub(crate) fn drop_it(&self) -> bool {
        let Some(path) = &self.path else { return false };
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped = std::mem::replace(&mut *armed, false) && fs::remove_file(path).is_ok();
        if dropped {
            self.spent.store(true, Ordering::Relaxed);
        }
        dropped
    }
}

/// Real bytes: a file with a hole takes no room.
fn write(path: &std::path::Path, bytes: u64) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    let block = [0xBA; 16 * 1024];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left.min(block.len() as u64)).unwrap_or(block.len());
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    file.sync_all()
}
