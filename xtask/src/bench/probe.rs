use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, bail, ensure};
use cargo_metadata::Message;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::line::{Case, Probe};
use crate::process;
use crate::workspace::Workspace;

/// Our own bench package.
const OURS: &str = "relaykit-bench";

/// The probes of a bench, built.
///
/// `PROBE measure CASE` runs a case once and prints one JSON object with `case`, `value` and `unit`.
#[derive(Debug)]
pub(super) struct Probes {
    programs: BTreeMap<Probe, Program>,
    variables: Vec<(&'static str, String)>,
}

/// What a probe answers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(super) struct Measurement {
    pub(super) case: String,
    /// Finite and not negative.
    pub(super) value: f64,
    pub(super) unit: String,
    /// Whatever else the probe tells.
    #[serde(flatten)]
    pub(super) details: Map<String, Value>,
}

/// Why a probe gave no measurement.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    #[error("no probe was built for {case}")]
    Unbuilt { case: String },
    #[error("could not start the probe of {case}")]
    Start { case: String, source: io::Error },
    #[error("the probe of {case} failed with {status}; it said: {stderr}")]
    Failed { case: String, status: ExitStatus, stderr: String },
    #[error("the probe of {case} did not answer with one JSON object, but with {stdout:?}")]
    Unreadable { case: String, stdout: String, source: serde_json::Error },
    #[error("asked for {case}, the probe measured {answered}")]
    WrongCase { case: String, answered: String },
    #[error("the probe of {case} measured {value}; a value is finite and at least 0")]
    Value { case: String, value: f64 },
}

impl Probes {
    /// Builds, in release mode, each probe that the cases need; they will run with these environment variables.
    ///
    /// # Errors
    ///
    /// A probe does not build, or builds more or less than one program.
    pub(super) fn build<'a>(
        workspace: &Workspace,
        cases: impl Iterator<Item = &'a Case>,
        variables: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let probes: BTreeSet<_> = cases.map(|case| case.probe).collect();
        let programs = probes.into_iter().map(|probe| Ok((probe, Program::new(build(workspace, probe)?))));
        Ok(Self { programs: programs.collect::<anyhow::Result<_>>()?, variables })
    }

    /// Runs a case once.
    ///
    /// # Errors
    ///
    /// The probe fails, or answers something else than was asked.
    pub(super) fn measure(&self, case: &Case) -> Result<Measurement, ProbeError> {
        let program = self.programs.get(&case.probe);
        let program = program.ok_or_else(|| ProbeError::Unbuilt { case: case.name.clone() })?;
        program.measure(&case.name, &self.variables)
    }
}

/// A probe's executable.
#[derive(Debug)]
struct Program {
    path: PathBuf,
    /// What stands before `measure`; empty outside tests.
    args: Vec<OsString>,
}

impl Program {
    fn new(path: PathBuf) -> Self {
        Self { path, args: Vec::new() }
    }

    fn measure(&self, case: &str, variables: &[(&str, String)]) -> Result<Measurement, ProbeError> {
        let output = Command::new(&self.path)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .args(&self.args)
            .args(["measure", case])
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ProbeError::Start { case: case.to_owned(), source })?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(ProbeError::Failed { case: case.to_owned(), status: output.status, stderr });
        }
        read(case, &String::from_utf8_lossy(&output.stdout))
    }
}

/// Reads a probe's answer.
fn read(case: &str, stdout: &str) -> Result<Measurement, ProbeError> {
    let case = case.to_owned();
    let measurement: Measurement = match serde_json::from_str(stdout) {
        Ok(measurement) => measurement,
        Err(source) => {
            return Err(ProbeError::Unreadable { case, stdout: stdout.trim().to_owned(), source });
        }
    };
    if measurement.case != case {
        return Err(ProbeError::WrongCase { case, answered: measurement.case });
    }
    if !measurement.value.is_finite() || measurement.value < 0.0 {
        return Err(ProbeError::Value { case, value: measurement.value });
    }
    Ok(measurement)
}

/// Builds a probe and returns its executable.
fn build(workspace: &Workspace, probe: Probe) -> anyhow::Result<PathBuf> {
    let mut command = process::cargo(build_args(probe, &workspace.root, &workspace.target));
    command.current_dir(&workspace.root).stdout(Stdio::piped()).stderr(Stdio::inherit());
    // Whatever `DATABASE_URL` names, the statements in peers' dependencies are not checked against it.
    command.env("SQLX_OFFLINE", "true");
    let line = process::display(&command);
    eprintln!("$ {line}");
    let output = command.output().with_context(|| format!("could not start `{line}`"))?;
    ensure!(output.status.success(), "`{line}` failed: {}", output.status);

    let messages = Message::parse_stream(output.stdout.as_slice());
    let messages: Vec<_> = messages.collect::<Result<_, _>>().context("could not read what cargo built")?;
    let mut executables = messages.into_iter().filter_map(|message| match message {
        Message::CompilerArtifact(artifact) => artifact.executable,
        _ => None,
    });
    match (executables.next(), executables.next()) {
        (Some(executable), None) => Ok(executable.into_std_path_buf()),
        (None, _) => bail!("`{line}` built no program"),
        (Some(first), Some(second)) => bail!("`{line}` built more than one program: {first}, {second}"),
    }
}

fn build_args(probe: Probe, root: &Path, target: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["build", "--release", "--locked", "--message-format=json-render-diagnostics"].map(Into::into).into();
    match probe {
        Probe::Ours => args.extend(["--package", OURS].map(Into::into)),
        Probe::Peer(name) => args.extend([
            "--manifest-path".into(),
            root.join("xtask/peers").join(name).join("Cargo.toml").into(),
            "--target-dir".into(),
            target.join("peers").join(name).into(),
        ]),
    }
    args
}

#[cfg(test)]
mod tests;
