//! Each codec, from push to handler and back from disk.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relaykit_persistent_queue::{Builder, DeadReason, Plain, Queue};
use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Event {
    id: u64,
    name: String,
    tags: Vec<Option<i32>>,
}

fn events() -> Vec<Event> {
    (0..500)
        .map(|id| Event { id, name: format!("Grüße {id}"), tags: vec![None, Some(-1), Some(7)] })
        .collect()
}

#[derive(Clone, Default)]
struct Sees(Arc<Mutex<Vec<Event>>>);

impl BatchHandler<Event> for Sees {
    type Output = ();
    type Error = Infallible;

    async fn handle(&self, batch: &[Event], _cx: &BatchContext) -> BatchOutcome<(), Infallible> {
        self.0.lock().expect("no test panics with the lock").extend_from_slice(batch);
        BatchOutcome::all_done(batch.len())
    }
}

type Configure = fn(Builder<Event, Plain<Sees>>) -> Builder<Event, Plain<Sees>>;

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// Stores everything, and reads it back after a restart. Returns how many bytes that took.
async fn round_trip(path: &Path, configure: Configure) -> u64 {
    let builder = |sees: &Sees| configure(Queue::builder(path, sees.clone()).ballast_bytes(0));
    let queue = builder(&Sees::default()).open().unwrap();
    queue.pause();
    queue.push_all(events()).await.unwrap();
    queue.flush().await.unwrap();
    let bytes = queue.stats().stored_bytes;
    let _ = queue.close(Duration::from_secs(1)).await;
    let sees = Sees::default();
    let queue = builder(&sees).open().unwrap();
    assert_eq!(queue.stats().stored_bytes, bytes);
    until(|| queue.stats().processed == 500).await;
    assert_eq!(*sees.0.lock().unwrap(), events());
    bytes
}

#[tokio::test]
async fn every_codec_gives_back_what_it_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let json = round_trip(&directory.path().join("json"), |builder| builder).await;
    #[cfg(feature = "msgpack")]
    {
        let path = directory.path().join("msgpack");
        let bytes = round_trip(&path, |builder| builder.codec(relaykit_persistent_queue::MessagePack)).await;
        assert!(bytes < json, "{bytes} bytes");
    }
    #[cfg(feature = "postcard")]
    {
        let path = directory.path().join("postcard");
        let bytes = round_trip(&path, |builder| builder.codec(relaykit_persistent_queue::Postcard)).await;
        assert!(bytes < json / 2, "{bytes} bytes");
    }
    #[cfg(feature = "zstd")]
    {
        let bytes = round_trip(&directory.path().join("zstd"), |builder| builder.zstd(1)).await;
        assert!(bytes < json / 3, "{bytes} bytes");
    }
    assert!(json > 0);
}

#[cfg(feature = "msgpack")]
#[tokio::test]
async fn batches_of_another_codec_are_set_aside_and_can_be_replayed_by_the_right_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("queue.db");
    let builder = |sees: &Sees| Queue::builder(&path, sees.clone()).ballast_bytes(0);
    let queue = builder(&Sees::default()).open().unwrap();
    queue.pause();
    queue.push_all(events().into_iter().take(3)).await.unwrap();
    let _ = queue.close(Duration::from_secs(1)).await;
    let queue = builder(&Sees::default()).codec(relaykit_persistent_queue::MessagePack).open().unwrap();
    until(|| queue.stats().died == 3).await;
    let dead = queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(dead[0].reason, DeadReason::Undecodable);
    assert_eq!(dead[0].error, r#"the batch was written as "json", but the queue reads "msgpack""#);
    let _ = queue.close(Duration::from_secs(1)).await;
    let sees = Sees::default();
    let queue = builder(&sees).open().unwrap();
    assert_eq!(queue.replay(&[dead[0].id]).await.unwrap(), 3);
    until(|| queue.stats().processed == 3).await;
    assert_eq!(*sees.0.lock().unwrap(), events()[..3]);
}
