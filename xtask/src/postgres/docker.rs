use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Postgres;
use super::watchdog::Watchdog;

/// The image of the throwaway container.
pub(super) const IMAGE: &str = "postgres:17";

/// Waits, for at most a minute, until the server answers on TCP; while it prepares itself, it answers on its
/// socket only.
const READY: &str = "for _ in $(seq 300); do pg_isready -q -h 127.0.0.1 && exit 0; sleep 0.2; done; exit 1";

/// Tells whether a Docker engine answers.
pub(super) fn answers() -> bool {
    let mut info = docker(["info", "--format", "{{.ServerVersion}}"]);
    info.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Starts a container on a free port of the loopback interface.
pub(super) fn start() -> anyhow::Result<Postgres> {
    let name = format!("relaykit-pg-{}", std::process::id());
    let watchdog = Watchdog::start(r#"docker rm --force --volumes "$1""#, [&name], |_| {})?;
    said(&mut docker([
        "run",
        "--detach",
        "--rm",
        "--name",
        &name,
        "--publish",
        "127.0.0.1::5432",
        "--env",
        "POSTGRES_HOST_AUTH_METHOD=trust",
        IMAGE,
        "-c",
        "max_connections=200",
    ]))?;
    said(&mut docker(["exec", &name, "sh", "-c", READY]))?;
    let bound = said(&mut docker(["port", &name, "5432/tcp"]))?;
    let port = port_of(&bound).with_context(|| format!("`docker port` names no port: {bound}"))?;
    let url = format!("postgres://postgres@127.0.0.1:{port}/postgres");
    Ok(Postgres { url, pooler: None, control: None, _stop: Some(watchdog) })
}

/// Reads the port out of lines such as `127.0.0.1:49153`.
fn port_of(bound: &str) -> Option<u16> {
    bound.lines().find_map(|line| line.rsplit_once(':')?.1.trim().parse().ok())
}

fn docker<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new("docker");
    command.args(args).stdin(Stdio::null());
    command
}

fn said(command: &mut Command) -> anyhow::Result<String> {
    let line = crate::process::display(command);
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_read_from_the_first_line_that_has_one() {
        assert_eq!(port_of("127.0.0.1:49153\n"), Some(49153));
        assert_eq!(port_of("\n[::1]:5555\n"), Some(5555));
        assert_eq!(port_of("nothing"), None);
    }
}
