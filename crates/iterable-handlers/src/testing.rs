//! A stand-in of the Iterable API and handlers that answer by script. Feature `testing`.
//!
//! [`StandIn`] is an HTTP server on loopback that does what Iterable's own API description says: it keeps users,
//! events and lists, applies a bulk request element by element, names what failed, and counts honestly. A test
//! scripts single replies ([`Reply`]), lets chance disturb the traffic from a seed ([`Faults`]), or holds callers
//! to the published rates ([`Limits`]). What arrived can be read back ([`Recorded`]).
//!
//! [`ScriptedHandler`] is a batch handler whose items decide their own fate, for tests of what drives handlers.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use relaykit_iterable_handlers::testing::{FailureList, Reply, StandIn};
//! use serde_json::json;
//!
//! let api = StandIn::start().await?;
//! api.reject_user("gone@example.com", FailureList::ForgottenEmails);
//! api.script(Reply::json(429, json!({"msg": "", "code": "RateLimitExceeded", "params": {}})));
//! assert!(api.base_url().starts_with("http://127.0.0.1:"));
//! // … point a client at `api.base_url()` …
//! api.stop().await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod builder;
mod counts;
mod exchange;
mod failure_list;
mod faults;
mod limits;
mod mismatch;
mod project;
mod recorded;
mod reply;
mod route;
mod rules;
mod script;
mod scripted_handler;
mod server;
mod shape;
mod stand_in;
mod tally;

pub use builder::{StandInBuilder, StandInError};
pub use counts::Counts;
pub use failure_list::FailureList;
pub use faults::{Fault, Faults};
pub use limits::Limits;
pub use project::{AppliedEvent, UnknownUsers, UserState};
pub use recorded::Recorded;
pub use reply::Reply;
pub use scripted_handler::{Fate, ScriptedError, ScriptedHandler};
pub use stand_in::StandIn;
