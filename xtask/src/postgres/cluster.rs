use std::env;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::user::User;
use super::watchdog::Watchdog;
use super::{Postgres, pooler};

/// What the name of a throwaway folder begins with; the id of the xtask that made it follows.
pub(super) const PREFIX: &str = "relaykit-pg-";

/// Stops the pooler, if there is one, and the server in folder `$2` with the programs of `$1`, and removes the folder.
pub(super) const STOP: &str = r#"kill "$(cat "$2/pgbouncer.pid")"
"$1/pg_ctl" stop --silent --mode=immediate --pgdata="$2/data"
rm -rf "$2""#;

/// The longest folder in which a socket fits: its path must stay under 104 bytes on every Unix.
const MAX_FOLDER_BYTES: usize = 104 - "/.s.PGSQL.5432.lock".len() - 1;

/// Makes a throwaway cluster and starts it. It listens on a socket in its folder only, so it needs no port, and
/// nobody but root and its user can reach it. What it commits is on the disk, as in production.
pub(super) fn start(programs: &Path) -> anyhow::Result<Postgres> {
    let user = User::of_server()?;
    let folder = parent(user).join(format!("{PREFIX}{}", std::process::id()));
    make(&folder, user)?;
    // From here on the folder, and later the server, goes when the watchdog is let go.
    let args = [programs.as_os_str(), folder.as_os_str()];
    let watchdog = Watchdog::start(STOP, args, |shell| user.run(shell))?;
    let data = folder.join("data");
    let mut initdb = Command::new(programs.join("initdb"));
    initdb.args([
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-instructions",
    ]);
    run(initdb.arg("--pgdata").arg(&data), user)?;
    write_settings(&data, &folder)?;
    let mut pg_ctl = Command::new(programs.join("pg_ctl"));
    pg_ctl.args(["start", "--silent", "--wait"]).arg("--pgdata").arg(&data);
    run(pg_ctl.arg("--log").arg(folder.join("log")), user)
        .with_context(|| fs::read_to_string(folder.join("log")).unwrap_or_default())?;
    let pooler = pooler::start(&folder, user)?.then(|| format!("{}&port={}", url(&folder), pooler::PORT));
    let control = serde_json::json!({
        "pg_ctl": programs.join("pg_ctl"),
        "data": data,
        "log": folder.join("log"),
        "user": user.is_other().then_some((user.uid, user.gid)),
    });
    let (url, control) = (url(&folder), Some(control.to_string()));
    Ok(Postgres { url, pooler, control, _stop: Some(watchdog) })
}

/// Returns where throwaway folders go: root's own may be closed to others.
pub(super) fn parent(user: User) -> PathBuf {
    let own = env::temp_dir();
    if user.is_other() || !fits(&own.join(format!("{PREFIX}{}", u32::MAX))) { "/tmp".into() } else { own }
}

fn fits(folder: &Path) -> bool {
    folder.as_os_str().len() <= MAX_FOLDER_BYTES
}

/// Makes the folder for its user alone. One that is there already is somebody else's.
fn make(folder: &Path, user: User) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().mode(0o700).create(folder);
    made.with_context(|| format!("could not make {}", folder.display()))?;
    if user.is_other() {
        std::os::unix::fs::chown(folder, Some(user.uid), Some(user.gid))
            .with_context(|| format!("could not give {} away", folder.display()))?;
    }
    Ok(())
}

/// Appends our settings to those of initdb; the options of `pg_ctl` would need quoting for a shell.
fn write_settings(data: &Path, folder: &Path) -> anyhow::Result<()> {
    let path = data.join("postgresql.conf");
    let file = fs::OpenOptions::new().append(true).mode(0o600).open(&path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, settings(folder).as_bytes()))
        .with_context(|| format!("could not write {}", path.display()))
}

fn settings(folder: &Path) -> String {
    let sockets = folder.display().to_string().replace('\'', "''");
    format!(
        "listen_addresses = ''\nport = 5432\nunix_socket_directories = '{sockets}'\nunix_socket_permissions = 0700\n\
         max_connections = 200\nfsync = on\nsynchronous_commit = on\ntimezone = 'UTC'\n"
    )
}

fn url(folder: &Path) -> String {
    format!("postgres://postgres@localhost/postgres?host={}", percent_encoded(&folder.display().to_string()))
}

/// Encodes what has a meaning in the query of a URL; a folder seldom has any of it.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Runs a command as the user; what it says is shown only if it fails.
pub(super) fn run(command: &mut Command, user: User) -> anyhow::Result<()> {
    user.run(command);
    let line = crate::process::display(command);
    // To a file, not a pipe: the server that pg_ctl starts would keep a pipe open.
    let log = env::temp_dir().join(format!("{PREFIX}{}.out", std::process::id()));
    let file = fs::File::create(&log).with_context(|| format!("could not write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("could not start `{line}`"));
    let said = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(&log);
    let status = status?;
    if !status.success() {
        bail!("`{line}` failed: {status}: {}", said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_server_is_as_durable_as_in_production_and_listens_on_no_port() {
        let settings = settings(Path::new("/tmp/it's"));
        assert!(settings.contains("fsync = on") && settings.contains("listen_addresses = ''"));
        assert!(settings.contains("unix_socket_directories = '/tmp/it''s'"), "{settings}");
    }

    #[test]
    fn the_url_names_the_folder_of_the_socket() {
        assert_eq!(
            url(Path::new("/tmp/a b&c")),
            "postgres://postgres@localhost/postgres?host=/tmp/a%20b%26c"
        );
    }

    #[test]
    fn a_folder_too_deep_for_a_socket_is_not_used() {
        assert!(fits(Path::new("/tmp/relaykit-pg-4294967295")));
        assert!(!fits(&PathBuf::from(format!("/{}", "x".repeat(90)))));
    }

    #[test]
    fn a_server_runs_as_long_as_it_is_held_and_leaves_nothing_behind() {
        let Some(programs) = super::super::binaries::find() else {
            return eprintln!("skip: there are no Postgres binaries here");
        };
        let folder = parent(User::of_server().unwrap()).join(format!("{PREFIX}{}", std::process::id()));
        let postgres = start(&programs).unwrap();
        let socket = folder.join(".s.PGSQL.5432");
        UnixStream::connect(&socket).unwrap();
        let pooler = folder.join(format!(".s.PGSQL.{}", pooler::PORT));
        let mut pooler = postgres.pooler.is_some().then(|| UnixStream::connect(&pooler).unwrap());
        drop(postgres);
        assert!(!folder.exists());
        // Its end of the connection closes when it is gone.
        assert_eq!(pooler.as_mut().map_or(0, |pooler| pooler.read(&mut [0]).unwrap_or(0)), 0);
    }
}
