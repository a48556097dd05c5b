use serde_json::value::RawValue;

use crate::client::transport::{Call, segment};
use crate::client::{Client, Endpoint};
use crate::error::{ApiError, NotSent};
use crate::identity_check::check_identity;
use crate::wire::{BulkTrackRequest, BulkTrackResponse, Event, EventsReply, PostResponse, TrackRequest};

/// The calls about events; from [`Client::events`].
#[derive(Debug, Clone, Copy)]
pub struct Events<'a> {
    client: &'a Client,
}

/// The longest id of an event, in bytes.
pub const MAX_EVENT_ID_BYTES: usize = 512;
/// The most events that one call returns.
const MAX_LIMIT: u32 = 200;

impl<'a> Events<'a> {
    pub(crate) const fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Tracks one event.
    ///
    /// A 2xx does not mean that the event was taken: the reply's `msg` may say that the project disallows it.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an event without name or user, and one whose id has more than 512 bytes.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the event may have been taken.
    pub async fn track(self, event: &TrackRequest) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::TrackEvent;
        check(event).map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::new(endpoint).with_json(event)?).await?.post()
    }

    /// Tracks many events. The API keeps their order only towards other bulk calls.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if one of the events cannot be (see [`track`](Self::track)), or if all
    /// together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Events that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the events may have been taken.
    pub async fn track_bulk(self, events: &[TrackRequest]) -> Result<BulkTrackResponse, ApiError> {
        let endpoint = Endpoint::TrackEvents;
        events.iter().try_for_each(check).map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::new(endpoint).with_json(&BulkTrackRequest { events })?;
        self.client.call(call).await?.json()
    }

    /// Tracks many events that are serialised already.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if all together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Events that
    /// the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the events may have been taken.
    pub async fn track_bulk_raw(self, events: &[&RawValue]) -> Result<BulkTrackResponse, ApiError> {
        let call = Call::new(Endpoint::TrackEvents).with_json(&BulkTrackRequest { events })?;
        self.client.call(call).await?.json()
    }

    /// Returns the events of the user with this address, at most `limit` of them, 1 to 200; the API's default is 30.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty address and a limit out of range.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get_by_email(self, email: &str, limit: Option<u32>) -> Result<Vec<Event>, ApiError> {
        let path = segment("email", email).map(|email| format!("events/{email}"));
        self.get(Endpoint::GetEventsByEmail, path, limit).await
    }

    /// Returns the events of the user with this id, at most `limit` of them, 1 to 200; the API's default is 30.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty id, `.`, `..` and a limit out of range.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get_by_user_id(self, user_id: &str, limit: Option<u32>) -> Result<Vec<Event>, ApiError> {
        let path = segment("userId", user_id).map(|id| format!("events/byUserId/{id}"));
        self.get(Endpoint::GetEventsById, path, limit).await
    }

    async fn get(
        self,
        endpoint: Endpoint,
        path: Result<String, NotSent>,
        limit: Option<u32>,
    ) -> Result<Vec<Event>, ApiError> {
        let path = path
            .and_then(|path| check_limit(limit, MAX_LIMIT).map(|()| path))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::at(endpoint, path).with_optional_query("limit", limit);
        let reply: EventsReply = self.client.call(call).await?.json()?;
        Ok(reply.events)
    }
}

/// Checks what the API would refuse anyway.
fn check(event: &TrackRequest) -> Result<(), NotSent> {
    if event.event_name.is_empty() {
        return Err(NotSent::Empty { field: "eventName" });
    }
    check_identity(event.email.as_deref(), event.user_id.as_deref())?;
    match event.id.as_deref() {
        Some("") => Err(NotSent::Empty { field: "id" }),
        Some(id) if id.len() > MAX_EVENT_ID_BYTES => {
            Err(NotSent::TooLong { field: "id", bytes: id.len(), max: MAX_EVENT_ID_BYTES })
        }
        _ => Ok(()),
    }
}

pub(crate) const fn check_limit(limit: Option<u32>, max: u32) -> Result<(), NotSent> {
    match limit {
        Some(value) if value == 0 || value > max => {
            Err(NotSent::OutOfRange { field: "limit", value, min: 1, max })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_have_512_bytes_and_no_more() {
        let event = |bytes: usize| TrackRequest {
            email: Some("a@x".to_owned()),
            event_name: "login".to_owned(),
            id: Some("é".repeat(bytes / 2) + &"x".repeat(bytes % 2)),
            ..TrackRequest::default()
        };
        assert!(check(&event(512)).is_ok());
        assert!(matches!(check(&event(513)), Err(NotSent::TooLong { field: "id", bytes: 513, max: 512 })));
        assert!(matches!(check(&event(0)), Err(NotSent::Empty { field: "id" })));
    }

    #[test]
    fn an_event_needs_a_name_and_a_user() {
        let mut event = TrackRequest::default();
        assert!(matches!(check(&event), Err(NotSent::Empty { field: "eventName" })));
        event.event_name = "login".to_owned();
        assert!(matches!(check(&event), Err(NotSent::NoIdentity { .. })));
        event.user_id = Some(String::new());
        assert!(matches!(check(&event), Err(NotSent::Empty { field: "userId" })));
        event.user_id = Some("u1".to_owned());
        assert!(check(&event).is_ok());
    }

    #[test]
    fn a_limit_has_both_ends() {
        assert!(check_limit(None, 200).is_ok() && check_limit(Some(1), 200).is_ok());
        assert!(check_limit(Some(200), 200).is_ok());
        assert!(check_limit(Some(0), 200).is_err() && check_limit(Some(201), 200).is_err());
    }
}
