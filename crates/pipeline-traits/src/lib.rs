#![doc = include_str!("../README.md")]

mod attempts;
mod batch_handler;
mod buffer;
mod classify;
mod clock;
mod codec;
mod flush_policy;
mod headers;
#[cfg(feature = "test-util")]
mod manual_clock;
#[cfg(feature = "test-util")]
mod memory_recorder;
mod message;
mod message_id;
mod recorder;
mod retry_policy;
mod rng;
mod setting;
mod timestamp;
mod verdict;

pub use attempts::{Attempts, MAX_FREE_ROUNDS};
pub use batch_handler::{BatchContext, BatchHandler, HandleFuture, Handler, HandlerFn, OneByOne, handler_fn};
pub use buffer::{Appending, Buffer, Merging, Placed};
pub use classify::{Classify, ErrorClass};
#[cfg(feature = "tokio")]
pub use clock::SystemClock;
pub use clock::{Clock, Monotonic, Sleep};
#[cfg(feature = "json")]
pub use codec::Json;
pub use codec::{Codec, CodecError, Raw};
pub use flush_policy::{Fill, FlushPolicy, FlushReason};
pub use headers::{Headers, InvalidHeader, MAX_HEADERS, MAX_HEADERS_BYTES};
#[cfg(feature = "test-util")]
pub use manual_clock::ManualClock;
#[cfg(feature = "test-util")]
pub use memory_recorder::MemoryRecorder;
pub use message::{InvalidMessage, MAX_KEY_BYTES, MAX_KIND_BYTES, Message, MessageBuilder, OrderingKey};
pub use message_id::{InvalidMessageId, MessageId};
pub use recorder::{Metric, MetricKind, NoRecorder, Recorder};
pub use retry_policy::{DurableDecision, Failure, GiveUp, NoRetry, RetryBound, RetryDecision, RetryPolicy};
pub use rng::Rng;
pub use setting::InvalidSetting;
pub use timestamp::{Timestamp, TimestampOutOfRange};
pub use verdict::{BatchOutcome, Verdict};

// What the public signatures name, so that users need not match versions.
pub use bytes;
pub use uuid;
