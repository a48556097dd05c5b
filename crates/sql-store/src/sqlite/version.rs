use super::SqliteError;

/// The first version that has the fix of the WAL-reset bug, as SQLite numbers it: 3.51.3.
pub const FLOOR: i32 = 3_051_003;

/// Withdrawn, without the fix: 3.52.0.
const WITHDRAWN: i32 = 3_052_000;

/// Checks the linked library's version.
///
/// # Errors
///
/// [`SqliteError::UnsafeVersion`] if it can corrupt files.
pub fn check_version() -> Result<(), SqliteError> {
    if is_safe(rusqlite::version_number()) {
        return Ok(());
    }
    Err(SqliteError::UnsafeVersion { found: rusqlite::version().to_owned() })
}

const fn is_safe(version: i32) -> bool {
    version >= FLOOR && version != WITHDRAWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_bug_are_refused() {
        for bad in [3_040_001, 3_051_001, 3_051_002, 3_052_000] {
            assert!(!is_safe(bad), "{bad}");
        }
        for good in [3_051_003, 3_053_000, 3_054_001, 4_000_000] {
            assert!(is_safe(good), "{good}");
        }
    }

    #[test]
    fn the_linked_version_is_safe() {
        check_version().unwrap();
    }
}
