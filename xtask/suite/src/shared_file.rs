use std::path::{Path, PathBuf};

/// Returns a file of the `shared` folder that lies beside the workspace; `None`, with a printed `skip:` line, if it is
/// not there.
///
/// # Panics
///
/// If the file is not there and the environment variable `CI` is set.
pub fn shared_file(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(name);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{name} is missing");
    #[expect(clippy::print_stdout, reason = "whoever runs the tests must see it")]
    {
        println!("skip: {name} is missing");
    }
    None
}
