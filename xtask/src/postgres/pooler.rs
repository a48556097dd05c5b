use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::cluster::run;
use super::user::User;

/// Where it listens, in the folder's socket.
pub(super) const PORT: u16 = 6432;

/// Starts the pooler `$1` in folder `$2` and waits, for at most 10 s, until it listens and can be stopped: it goes to
/// the background before either.
const START: &str = r#""$1" --daemon "$2/pgbouncer.ini" || exit 1
for _ in $(seq 100); do [ -S "$2/.s.PGSQL.6432" ] && [ -s "$2/pgbouncer.pid" ] && exit 0; sleep 0.1; done; exit 1"#;

/// Starts a `PgBouncer` in transaction mode before the server in `folder`, if there is one on this machine. The
/// watchdog of the server stops it.
///
/// # Errors
///
/// It is there and does not start.
pub(super) fn start(folder: &Path, user: User) -> anyhow::Result<bool> {
    let Some(program) = find() else { return Ok(false) };
    let path = folder.join("pgbouncer.ini");
    fs::write(&path, settings(folder)).with_context(|| format!("could not write {}", path.display()))?;
    run(Command::new("sh").arg("-c").arg(START).arg("pooler").arg(program).arg(folder), user)
        .with_context(|| fs::read_to_string(folder.join("pgbouncer.log")).unwrap_or_default())?;
    Ok(true)
}

fn find() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join("pgbouncer")).find(|program| program.is_file())
}

/// Few sessions for many clients, so that a client seldom meets the same session again.
fn settings(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "[databases]\n* = host={folder} port=5432 user=postgres\n\
         [pgbouncer]\nlisten_addr =\nlisten_port = {PORT}\nunix_socket_dir = {folder}\nauth_type = any\n\
         pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n\
         ignore_startup_parameters = extra_float_digits\n\
         pidfile = {folder}/pgbouncer.pid\nlogfile = {folder}/pgbouncer.log\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pooler_shares_few_sessions_in_transaction_mode() {
        let settings = settings(Path::new("/tmp/x"));
        assert!(settings.contains("pool_mode = transaction\ndefault_pool_size = 3\n"), "{settings}");
        assert!(settings.contains("* = host=/tmp/x port=5432"), "{settings}");
    }
}
