use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::child::{Order, Plan};
use crate::history::Event;

/// How a child is started: which program, under what, and with which environment.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    pub(crate) program: PathBuf,
    /// A program that runs it, such as strace, with its arguments.
    pub(crate) under: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Start {
    /// This program itself.
    ///
    /// # Errors
    ///
    /// If the system does not say which program this is.
    pub(crate) fn plain() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("could not tell which program this is")?;
        Ok(Self { program, under: Vec::new(), environment: Vec::new() })
    }
}

/// A child process with a queue. What it tells is recorded here, and stays when it is killed.
pub(crate) struct Life {
    child: Child,
    stdin: Option<ChildStdin>,
    reader: JoinHandle<Vec<Event>>,
    opened: watch::Receiver<bool>,
}

/// The signal of `abort`.
const SIGABRT: i32 = 6;

/// How long a child has to come to where it dies.
const MOMENT: Duration = Duration::from_secs(3);

/// How long a child may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(60);

impl Life {
    /// Starts a child.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn begin(start: &Start, plan: &Plan) -> anyhow::Result<Self> {
        Self::begin_as(start, "queue-child", &serde_json::to_string(plan)?)
    }

    /// Starts a child for this subcommand, with its plan.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub(crate) fn begin_as(start: &Start, subcommand: &str, plan: &str) -> anyhow::Result<Self> {
        let mut command = match start.under.split_first() {
            Some((outer, rest)) => {
                let mut command = Command::new(outer);
                command.args(rest).arg(&start.program);
                command
            }
            None => Command::new(&start.program),
        };
        // To write down where a panic came from takes seconds the first time, in which the whole process may stand still.
        command.env("RUST_BACKTRACE", "0");
        command.arg(subcommand).arg(plan).envs(start.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("could not start {}", start.program.display()))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the child has no output")?;
        let (tell, opened) = watch::channel(false);
        let reader = tokio::spawn(async move {
            let mut events = Vec::new();
            let mut lines = BufReader::new(stdout).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                // The last one may be cut off.
                let Ok(said) = serde_json::from_slice::<Vec<Event>>(&line) else { continue };
                if said.contains(&Event::Opened) {
                    tell.send_replace(true);
                }
                events.extend(said);
            }
            events
        });
        Ok(Self { child, stdin, reader, opened })
    }

    /// Returns whether it has not ended.
    ///
    /// # Errors
    ///
    /// If the system does not say.
    pub(crate) fn is_alive(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the file is open. Returns whether it came to that.
    pub(crate) async fn opened(&mut self) -> bool {
        self.opened.wait_for(|opened| *opened).await.is_ok()
    }

    /// Tells the child how to end.
    pub(crate) async fn order(&mut self, order: Order) {
        let line: &[u8] = match order {
            Order::Stop => b"stop\n",
            Order::Leave => b"leave\n",
        };
        if let Some(stdin) = &mut self.stdin {
            // It may be gone already.
            let _ = stdin.write_all(line).await;
        }
    }

    /// Kills the child with SIGKILL, and returns all it said before.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub(crate) async fn kill(mut self) -> anyhow::Result<Vec<Event>> {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        self.child.wait().await?;
        let mut events = self.reader.await?;
        if !matches!(events.last(), Some(Event::Stopped { .. } | Event::Ended { .. })) {
            events.push(Event::Killed);
        }
        Ok(events)
    }

    /// Waits for a moment until the child ends by itself, else kills it. Returns all it said, and whether it aborted.
    ///
    /// # Errors
    ///
    /// If it cannot be waited for.
    pub(crate) async fn end_or_kill(mut self) -> anyhow::Result<(Vec<Event>, bool)> {
        use std::os::unix::process::ExitStatusExt as _;

        tokio::select! {
            _ = self.child.wait() => {}
            () = SystemClock::new().sleep(MOMENT) => self.child.start_kill()?,
        }
        let status = self.child.wait().await?;
        Ok((self.kill().await?, status.signal() == Some(SIGABRT)))
    }

    /// Waits until the child ends by itself, and returns all it said. Whoever ends without a close counts as killed.
    ///
    /// # Errors
    ///
    /// If it does not end within a minute, or ends by a panic.
    pub(crate) async fn end(mut self) -> anyhow::Result<Vec<Event>> {
        let status = tokio::select! {
            status = self.child.wait() => status?,
            () = SystemClock::new().sleep(PATIENCE) => {
                let _ = self.child.start_kill();
                bail!("a child did not end within {PATIENCE:?}");
            }
        };
        drop(self.stdin.take());
        let mut events = self.reader.await?;
        if status.code() == Some(101) {
            bail!("a child panicked");
        }
        if !matches!(events.last(), Some(Event::Stopped { .. } | Event::Ended { .. })) {
            events.push(Event::Killed);
        }
        Ok(events)
    }
}

/// Handles everything in a file, in a child without faults, and returns what it said.
///
/// # Errors
///
/// If the child cannot be started, or does not end.
pub(crate) async fn drain(plan: &Plan) -> anyhow::Result<Vec<Event>> {
    let plan = Plan { work: super::child::Work::Drain, ..plan.clone() };
    Life::begin(&Start::plain()?, &plan)?.end().await
}

/// The id that comes after all that were offered.
pub(crate) fn next_id(history: &[Event]) -> u64 {
    let offered = history.iter().filter_map(|event| match event {
        Event::Offered { id, .. } => Some(*id),
        _ => None,
    });
    offered.max().map_or(1, |id| id + 1)
}
