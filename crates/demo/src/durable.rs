use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use relaykit_iterable_handlers::Stamper;
use relaykit_persistent_queue::{CloseReport, Queue};
use relaykit_pipeline_traits::{Clock as _, SystemClock};
use serde::{Deserialize, Serialize};

use crate::delivery::{Event, Run, STOP_WITHIN, stop_signal};
use crate::lines::{Line, Source};
use crate::queue::{DeadItems, Kept, Said, ToApi};
use crate::server::Server;

/// So many lines are stored before the position in the input is.
const LINES_A_STEP: u64 = 1_000;

/// How often the end of the queue is looked for once all lines are stored.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How far the input is stored in the queue, kept beside it.
///
/// It is written after the events, so a crash between the two stores some events twice. They have the same ids then, which
/// come from the queue's name and the line, and the API takes each once.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    /// Names this queue's events apart from those of others.
    run: String,
    lines: u64,
}

/// Where the position is.
struct PositionFile {
    path: PathBuf,
    position: Position,
}

impl PositionFile {
    fn beside(queue: &Path, run: String) -> anyhow::Result<Self> {
        let mut path = queue.as_os_str().to_owned();
        path.push(".position");
        let path = PathBuf::from(path);
        let position = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} holds no position", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Position { run, lines: 0 },
            Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
        };
        let file = Self { path, position };
        file.write()?;
        Ok(file)
    }

    /// Writes it so that either the old or the new one is there, whatever happens.
    fn write(&self) -> anyhow::Result<()> {
        let new = self.path.with_extension("position-new");
        let written = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec(&self.position)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)
        };
        written().with_context(|| format!("could not write {}", self.path.display()))
    }
}

/// Delivers the events through a queue in `file`, beginning with those that an earlier run left there. Returns how often the API
/// was called.
pub(crate) async fn deliver(
    run: &mut Run<'_>,
    source: Source,
    server: &Server,
    file: &Path,
) -> anyhow::Result<u64> {
    let clock = SystemClock::new();
    let stamper = Stamper::system();
    let mut position = PositionFile::beside(file, stamped_run(&stamper)?)?;
    let (ledger, checked) = (run.ledger.clone(), run.report.checked_at_server);
    let api = ToApi::open(server, file, Kept::Unordered, move |event, said| match said {
        Said::Delivered => ledger.delivered(event.id(), checked),
        Said::Dead => ledger.not_delivered(event.id()),
    })?;
    let queue = &api.queue;
    let left = queue.stats().stored_items;
    if left > 0 || position.position.lines > 0 {
        let lines = position.position.lines;
        run.progress
            .say(&format!("the queue holds {left} events; {lines} lines of the input were stored before"));
    }

    let mut stopped = std::pin::pin!(stop_signal());
    let mut lines = source.read();
    let mut read = 0;
    let complete = loop {
        let line = tokio::select! {
            biased;
            () = &mut stopped => break false,
            line = lines.recv() => line,
        };
        let Some(line) = line else { break true };
        let line = line.context("could not read the input")?;
        read = line.number;
        if read <= position.position.lines {
            continue;
        }
        store(run, line, queue, &stamper, &position.position.run).await?;
        if read.is_multiple_of(LINES_A_STEP) {
            queue.flush().await.context("could not store the events")?;
            position.position.lines = read;
            position.write()?;
        }
        run.progress.show(api.tally().delivered, run.report.read);
    };
    queue.flush().await.context("could not store the events")?;
    position.position.lines = position.position.lines.max(read);
    position.write()?;
    let finished = complete && {
        let drained = async {
            while queue.stats().stored_items > 0 {
                clock.sleep(LOOK_AGAIN).await;
                run.progress.show(api.tally().delivered, run.report.read);
            }
        };
        tokio::select! {
            biased;
            () = &mut stopped => false,
            () = drained => true,
        }
    };
    let left = queue.close(STOP_WITHIN).await;
    finish(run, &left, &api);
    run.report.complete = finished;
    Ok(api.tally().calls)
}

async fn store(
    run: &mut Run<'_>,
    line: Line,
    queue: &Queue<Event>,
    stamper: &Stamper,
    name: &str,
) -> anyhow::Result<()> {
    let id = format!("{name}-{}", line.number);
    if let Some(event) = run.accept_as(line, Some(id), stamper) {
        let id = event.id().to_owned();
        run.ledger.accept(&id);
        if let Err(refused) = queue.push(event).await {
            run.ledger.withdraw(&id);
            return Err(refused.reason).context("an event was not accepted");
        }
    }
    Ok(())
}

/// Counts what the queue did, and what it keeps for the next time.
fn finish(run: &mut Run<'_>, left: &CloseReport<Event>, api: &ToApi) {
    let tally = api.tally();
    run.report.delivered = tally.delivered;
    run.report.retried = tally.retried;
    let mut dead_items = 0;
    for DeadItems { items, reason, error } in api.take_dead() {
        *run.report.dead.entry(format!("{reason}: {error}")).or_default() += items;
        dead_items += items;
    }
    run.answered = tally.delivered + dead_items;
    if left.stored_items > 0 {
        let kept = run.report.undelivered.entry("kept in the queue for the next time".to_owned());
        *kept.or_default() += left.stored_items;
        run.ledger.keep_all();
    }
    for event in &left.unsaved {
        run.keep(event, "could not be stored".to_owned());
    }
}

/// A name for this queue's events.
fn stamped_run(stamper: &Stamper) -> anyhow::Result<String> {
    use relaykit_iterable_handlers::{EventTrack, Identity, Request as _};

    // The stamp of an event that is never sent.
    let event = EventTrack::new(Identity::user_id("nobody"), "name").prepare(stamper)?;
    Ok(event.id().to_owned())
}
