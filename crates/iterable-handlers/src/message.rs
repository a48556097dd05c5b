//! What one asks of the API: six requests, and what it takes to send one again byte for byte.

mod email_update;
mod event_track;
mod identity;
mod invalid_request;
mod list_subscribe;
mod list_unsubscribe;
mod prepared;
mod request;
mod stamper;
mod subscription_update;
#[cfg(test)]
mod tests;
mod user_update;

pub use email_update::EmailUpdate;
pub use event_track::EventTrack;
pub use identity::{Identity, IdentityKey, IdentitySpace};
pub use invalid_request::{InvalidRequest, PrepareError, data_fields};
pub use list_subscribe::{ListSubscribe, Subscriber};
pub use list_unsubscribe::ListUnsubscribe;
pub use prepared::{MAX_ELEMENTS_BYTES, Prepared};
pub use request::Request;
pub use stamper::Stamper;
pub use subscription_update::SubscriptionUpdate;
pub use user_update::UserUpdate;

pub(crate) use list_subscribe::Flags as ListSubscribeFlags;
pub(crate) use list_unsubscribe::Flags as ListUnsubscribeFlags;
pub(crate) use prepared::Element;
