use std::fmt;

use relaykit_pipeline_traits::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::identity::{check_identity, check_not_blank, keys_of};
use super::request::parts;
use super::{Identity, IdentityKey, InvalidRequest, Request, Stamper};
use crate::MAX_EVENT_ID_BYTES;
use crate::wire::TrackRequest;

/// Something a user did.
///
/// ```
/// use relaykit_iterable_handlers::{EventTrack, Identity, Request, Stamper};
///
/// let login = EventTrack::new(Identity::email("ada@example.com"), "login").field("device", "phone");
/// let prepared = login.prepare(&Stamper::system())?;
/// assert!(!prepared.id().is_empty());
/// # Ok::<(), relaykit_iterable_handlers::PrepareError<EventTrack>>(())
/// ```
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTrack(TrackRequest);

impl EventTrack {
    /// Makes an event of that name.
    pub fn new(user: Identity, name: impl Into<String>) -> Self {
        Self(TrackRequest {
            email: user.email,
            user_id: user.user_id,
            event_name: name.into(),
            ..TrackRequest::default()
        })
    }

    /// Sets the id: a second event of the same id updates the first. At most 512 bytes. Default: a new UUID,
    /// version 7, given by [`prepare`](Request::prepare).
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = Some(id.into());
        self
    }

    /// Sets when it happened, to the second. Default: when it is [prepared](Request::prepare).
    #[must_use]
    pub fn created_at(mut self, at: Timestamp) -> Self {
        self.0.created_at = Some(at.as_secs());
        self
    }

    /// Sets one data field.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let fields = self.0.data_fields.get_or_insert_default();
        fields.insert(name.into(), value.into());
        self
    }

    /// Sets all data fields. Default: none. [`data_fields`](crate::data_fields) makes them of a struct.
    #[must_use]
    pub fn fields(mut self, fields: Map<String, Value>) -> Self {
        self.0.data_fields = Some(fields);
        self
    }

    /// Sets the campaign that the event is a conversion of. Default: none.
    #[must_use]
    pub const fn campaign_id(mut self, id: i64) -> Self {
        self.0.campaign_id = Some(id);
        self
    }

    /// Sets the template that the event belongs to. Default: none.
    #[must_use]
    pub const fn template_id(mut self, id: i64) -> Self {
        self.0.template_id = Some(id);
        self
    }

    /// Sets whether fields that the project does not know are added to it. Default: as the project is set.
    #[must_use]
    pub const fn create_new_fields(mut self, create: bool) -> Self {
        self.0.create_new_fields = Some(create);
        self
    }

    /// Returns the event as it is sent.
    pub const fn as_wire(&self) -> &TrackRequest {
        &self.0
    }
}

/// Takes an event in the form of the API. An id or a user that is empty counts as not given.
impl From<TrackRequest> for EventTrack {
    fn from(mut wire: TrackRequest) -> Self {
        for text in [&mut wire.id, &mut wire.email, &mut wire.user_id] {
            text.take_if(|text| text.is_empty());
        }
        Self(wire)
    }
}

/// Tells the shape, not whom it is about nor what it says.
impl fmt::Debug for EventTrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventTrack")
            .field("name", &self.0.event_name)
            .field("fields", &self.0.data_fields.as_ref().map_or(0, Map::len))
            .finish_non_exhaustive()
    }
}

impl Request for EventTrack {}

impl parts::Parts for EventTrack {
    type Flags = ();
    type Element = TrackRequest;

    fn flags(&self) {}

    fn elements(&self) -> &[TrackRequest] {
        std::slice::from_ref(&self.0)
    }

    fn stamp(&mut self, stamper: &Stamper) -> String {
        self.0.created_at.get_or_insert_with(|| stamper.now().as_secs());
        self.0.id.get_or_insert_with(|| stamper.id()).clone()
    }
}

impl parts::Element for TrackRequest {
    fn check(&self) -> Result<(), InvalidRequest> {
        check_identity(("email", self.email.as_deref()), ("userId", self.user_id.as_deref()))?;
        check_not_blank("eventName", &self.event_name)?;
        match &self.id {
            Some(id) if id.len() > MAX_EVENT_ID_BYTES => {
                Err(InvalidRequest::TooLong { field: "id", bytes: id.len(), max: MAX_EVENT_ID_BYTES })
            }
            Some(id) => check_not_blank("id", id),
            None => Ok(()),
        }
    }

    fn keys(&self) -> Vec<IdentityKey> {
        keys_of(self.email.as_deref(), self.user_id.as_deref(), self.data_fields.as_ref())
    }

    fn event_name(&self) -> Option<&str> {
        Some(&self.event_name)
    }
}
