#![doc = include_str!("../README.md")]

pub mod wire;

#[cfg(feature = "testing")]
pub mod testing;

mod client;
mod error;
mod events;
mod field_type;
mod handler;
mod identity_check;
mod lists;
mod message;
mod mismatch;
mod reason;
mod reconcile;
mod users;

pub use client::{
    ApiKey, BuildError, Client, ClientBuilder, Endpoint, MAX_BODY_BYTES, METRICS, Rate, Region,
};
pub use error::{ApiError, Cause, NotSent, Phase, ReplyBody, Unreadable};
pub use events::{Events, MAX_EVENT_ID_BYTES};
pub use field_type::FieldType;
pub use handler::{
    DEFAULT_MAX_ELEMENTS, Delivered, DeliveryError, Doubt, EmailUpdateHandler, EventTrackHandler,
    ListSubscribeHandler, ListUnsubscribeHandler, SubscriberFailure, SubscriptionUpdateHandler,
    UserUpdateHandler,
};
pub use lists::Lists;
pub use message::{
    EmailUpdate, EventTrack, Identity, IdentityKey, IdentitySpace, InvalidRequest, ListSubscribe,
    ListUnsubscribe, MAX_ELEMENTS_BYTES, PrepareError, Prepared, Request, Stamper, Subscriber,
    SubscriptionUpdate, UserUpdate, data_fields,
};
pub use mismatch::{InvalidMismatch, MismatchedField, MismatchedFields};
pub use reason::{FailedKey, Reason};
pub use users::Users;
// What the public signatures name, so that users need not match versions.
pub use reqwest;
