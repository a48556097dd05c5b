use std::path::{Path, PathBuf};

/// Where a database lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// In this file. The path is taken as it is, whatever characters it has; it is no URI.
    File(PathBuf),
    /// In memory, gone when it is closed.
    Memory,
}

impl Location {
    /// Names a file.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// Returns the file's path, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Memory => None,
        }
    }
}
