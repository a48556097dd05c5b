use std::sync::Arc;
use std::time::Duration;

use relaykit_pipeline_traits::{Classify, ErrorClass};

use crate::{ApiError, MismatchedFields, Reason};

/// Why a message was not delivered, or not yet.
///
/// Cheap to clone: the messages of one request share its cause.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The API says that it did not take this message, and why. Permanent, unless the reason is that the API
    /// [failed inside](Reason::is_transient).
    #[error("iterable did not take the message: {reason}")]
    Rejected {
        /// Why; the first reason, where there are several.
        reason: Reason,
        /// For a list request: which subscribers were not taken. All others were.
        failures: Arc<[SubscriberFailure]>,
    },
    /// The API refused a whole request because of this message, which was alone in it; or because of one of its
    /// messages, which will be found by sending them in smaller requests.
    #[error("iterable refused the request: {reason}")]
    Refused {
        /// Why.
        reason: Reason,
        /// What the API said.
        source: Arc<ApiError>,
    },
    /// A data field has another type than the project knows it by. Permanent.
    #[error("{} data fields have a type that iterable does not expect", fields.len())]
    FieldTypes {
        /// Which fields; empty where the reply does not say.
        fields: Arc<MismatchedFields>,
        /// What the API said.
        source: Arc<ApiError>,
    },
    /// The project did not know the list, which may have been made a moment ago. Transient.
    #[error("iterable does not know list {list_id} yet")]
    UnknownList {
        /// The list.
        list_id: i64,
        /// What the API said.
        source: Arc<ApiError>,
    },
    /// The reply does not tell whether this message was taken. Transient.
    #[error("iterable did not say whether it took the message: {doubt}")]
    Ambiguous {
        /// What does not fit.
        doubt: Doubt,
    },
    /// The call failed, and no message is at fault. Of the error's class.
    #[error("call to iterable failed")]
    Api {
        /// How.
        source: Arc<ApiError>,
    },
}

/// What in a reply does not fit the messages that were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Doubt {
    /// One user has several messages in the request, and not all of them failed.
    WhichOfSeveral,
    /// A failure is reported for a user that no message names.
    UnmatchedKey,
    /// A list of failures is filled that this crate does not know.
    UnknownList,
    /// The counts of the reply and the messages do not add up.
    Counts,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WhichOfSeveral => "some of the user's messages failed",
            Self::UnmatchedKey => "a failure matches no message",
            Self::UnknownList => "a list of failures is unknown",
            Self::Counts => "the counts do not add up",
        })
    }
}

/// One subscriber of a list request that the API did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberFailure {
    /// Which subscriber of the request, counted from 0; `None` if the reply names one that the request does not.
    pub index: Option<usize>,
    /// Why.
    pub reason: Reason,
}

impl DeliveryError {
    /// Returns why the API did not take the message, if it said so.
    pub const fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Rejected { reason, .. } | Self::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Returns the error of the call, if the call failed.
    pub fn api_error(&self) -> Option<&ApiError> {
        match self {
            Self::Refused { source, .. }
            | Self::FieldTypes { source, .. }
            | Self::UnknownList { source, .. }
            | Self::Api { source } => Some(source),
            Self::Rejected { .. } | Self::Ambiguous { .. } => None,
        }
    }
}

impl Classify for DeliveryError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Rejected { reason, .. } if reason.is_transient() => ErrorClass::Transient,
            Self::Rejected { .. } | Self::Refused { .. } | Self::FieldTypes { .. } => ErrorClass::Permanent,
            Self::UnknownList { .. } | Self::Ambiguous { .. } => ErrorClass::Transient,
            Self::Api { source } => source.class(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Api { source } => source.retry_after(),
            _ => None,
        }
    }
}
