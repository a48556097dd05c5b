use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use relaykit_pipeline_traits::{BatchHandler, Codec, Json};
use relaykit_sql_store::sqlite::{Location, Writer, WriterOptions};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::file::{connect, file_options, set_corrupt_aside};
use super::{Handle, Queue};
use crate::ballast::Ballast;
use crate::builder::{Builder, Config, file, json};
use crate::dead::DeadReason;
use crate::error::OpenError;
use crate::handler::{Plain, QueueHandler};
use crate::keeper::keep;
use crate::metrics;
use crate::order::Line;
use crate::shared::Shared;
use crate::state::State;
use crate::worker::work;

impl<T: Send + Sync + 'static> Queue<T> {
    /// Returns a builder for a queue in the file, with items as JSON, for any batch handler.
    pub fn builder<H>(path: impl Into<PathBuf>, handler: H) -> Builder<T, Plain<H>>
    where
        H: BatchHandler<T> + 'static,
        H::Error: fmt::Display + Sync,
        Json: Codec<T>,
    {
        Builder::plain(file(path), handler, json())
    }

    /// Returns a builder for a queue in memory, which behaves the same and is gone when it is closed.
    pub fn in_memory<H>(handler: H) -> Builder<T, Plain<H>>
    where
        H: BatchHandler<T> + 'static,
        H::Error: fmt::Display + Sync,
        Json: Codec<T>,
    {
        Builder::plain(Location::Memory, handler, json())
    }

    /// Returns a builder for a queue in the file, with items as JSON, for a handler that wants to push back.
    pub fn builder_with<H>(path: impl Into<PathBuf>, handler: H) -> Builder<T, H>
    where
        H: QueueHandler<T> + 'static,
        Json: Codec<T>,
    {
        Builder::new(file(path), handler, json())
    }

    pub(crate) fn open<H: QueueHandler<T> + 'static>(
        handler: H,
        config: Config<T>,
    ) -> Result<Self, OpenError> {
        let runtime = match &config.runtime {
            Some(runtime) => runtime.clone(),
            None => tokio::runtime::Handle::try_current().map_err(|_| OpenError::NoRuntime)?,
        };
        let path = config.location.path().map(Path::to_path_buf);
        let (wall, monotonic) = (config.clock.now(), config.clock.monotonic());
        let (connection, opened) = match connect(&config, wall) {
            Err(OpenError::Corrupt { path, .. }) if config.recreate_corrupt => {
                set_corrupt_aside(&path)?;
                connect(&config, wall)?
            }
            connected => connected?,
        };
        let mut options = WriterOptions::default();
        options.name = String::from("queue-writer");
        options.window = config.commit_window;
        options.commit_seconds = config.recorder.clone().map(|recorder| (recorder, &metrics::COMMIT));
        options.reopen = path.is_some().then(|| (config.location.clone(), file_options(&config)));
        let writer = Writer::start(connection, Arc::clone(&config.clock), options)
            .map_err(|source| OpenError::Thread { source })?;
        let ballast = Ballast::beside(path.as_deref(), config.ballast_bytes);
        let crashed_items = opened.crashed_items;
        let line = config.key.is_some().then(|| Line::new(config.order_keys));
        let state = State::new(Shared::empty_batch(&config), opened, line);
        let mut rng = config.rng.clone();
        let (workers, unsettled) = (config.workers, config.unsettled);
        let shared = Arc::new(Shared::new(config, state, writer, (wall, monotonic), ballast));
        if crashed_items > 0 {
            let (items, reason) = (crashed_items, DeadReason::Crashed);
            shared.record(|recorder, queue| recorder.add(&metrics::DEAD, &[queue, reason.as_str()], items));
            let error = "the process died too often while it handled them".to_owned();
            shared.fault(&crate::QueueFault::Dead { items, reason, error });
        }
        let handler = Arc::new(handler);
        let unsettled = Arc::new(Semaphore::new(unsettled.max(workers)));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let work = work(Arc::clone(&shared), Arc::clone(&handler), Arc::clone(&unsettled), rng.fork());
            tasks.spawn_on(work, &runtime);
        }
        tasks.spawn_on(keep(Arc::clone(&shared)), &runtime);
        Ok(Self { handle: Arc::new(Handle { shared, runtime, tasks: Mutex::new(Some(tasks)) }) })
    }
}
