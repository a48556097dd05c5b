//! The six batch handlers: one for each request of this crate.

mod deliver;
mod delivered;
mod delivery_error;
mod email_update;
mod event_track;
mod fault;
mod list_subscribe;
mod list_unsubscribe;
mod plan;
mod subscription_update;
mod tally;
mod user_update;

pub use delivered::Delivered;
pub use delivery_error::{DeliveryError, Doubt, SubscriberFailure};
pub use email_update::EmailUpdateHandler;
pub use event_track::EventTrackHandler;
pub use list_subscribe::ListSubscribeHandler;
pub use list_unsubscribe::ListUnsubscribeHandler;
pub use subscription_update::SubscriptionUpdateHandler;
pub use user_update::UserUpdateHandler;

use std::num::NonZeroUsize;

/// How many elements a request holds at most unless a handler is told otherwise. The API publishes no number; this
/// is what its integrators use.
pub const DEFAULT_MAX_ELEMENTS: NonZeroUsize = NonZeroUsize::new(1000).expect("1000 is not 0");
