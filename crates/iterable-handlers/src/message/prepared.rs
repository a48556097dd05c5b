use std::fmt;

use relaykit_pipeline_traits::OrderingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use super::request::parts;
use super::{IdentityKey, IdentitySpace, InvalidRequest, Request};
use crate::MAX_BODY_BYTES;

/// Room in a request body for everything but the elements: names, list id, flags.
const ENVELOPE_BYTES: usize = 256;

/// The most that the elements of one request may weigh, in bytes of JSON.
pub const MAX_ELEMENTS_BYTES: usize = MAX_BODY_BYTES - ENVELOPE_BYTES;

/// A request that was checked and serialised: what the handlers deliver.
///
/// It carries its own bytes, so every attempt sends the same ones, and an event keeps its id and its moment. It
/// serialises for a durable queue, in formats of `serde_json` only, and comes back with the same bytes.
#[derive(Clone)]
pub struct Prepared<R: Request> {
    id: String,
    flags: R::Flags,
    elements: Vec<Element>,
    weight: usize,
}

/// What stands for one user in the array of a call, serialised.
#[derive(Clone)]
pub(crate) struct Element {
    pub(crate) json: Box<RawValue>,
    pub(crate) keys: Vec<IdentityKey>,
    pub(crate) event_name: Option<Box<str>>,
}

impl<R: Request> Prepared<R> {
    pub(super) fn of(id: String, request: &R) -> Result<Self, InvalidRequest> {
        let elements = request
            .elements()
            .iter()
            .map(|element| {
                let json = serde_json::value::to_raw_value(element)
                    .map_err(|source| InvalidRequest::Json { source })?;
                Ok(Element::of(json, element))
            })
            .collect::<Result<Vec<_>, InvalidRequest>>()?;
        Self::weigh(id, request.flags(), elements)
    }

    fn weigh(id: String, flags: R::Flags, elements: Vec<Element>) -> Result<Self, InvalidRequest> {
        let weight = elements.iter().map(Element::weight).sum();
        if weight > MAX_ELEMENTS_BYTES {
            return Err(InvalidRequest::TooLarge { bytes: weight, max: MAX_ELEMENTS_BYTES });
        }
        Ok(Self { id, flags, elements, weight })
    }

    fn restore(stored: Stored<R::Flags>) -> Result<Self, InvalidRequest> {
        let read = stored
            .elements
            .iter()
            .map(|json| serde_json::from_str(json.get()).map_err(|source| InvalidRequest::Json { source }))
            .collect::<Result<Vec<R::Element>, _>>()?;
        parts::check(&read)?;
        let elements = stored
            .elements
            .into_iter()
            .zip(&read)
            .map(|(json, element)| Element::of(json, element))
            .collect();
        Self::weigh(stored.id, stored.flags, elements)
    }

    /// Returns the id: an event's own, or one that tells this message from others.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns how much of a request body it takes, in bytes. At most [`MAX_ELEMENTS_BYTES`].
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// Returns by which addresses and ids its users are known, normalised: those they are named by, then those
    /// that the data fields give them.
    pub fn keys(&self) -> impl Iterator<Item = &IdentityKey> {
        self.elements.iter().flat_map(|element| &element.keys)
    }

    /// Returns the key under which an engine keeps the messages of one user in order: `id:…` or `email:…`. `None`
    /// if the message is about several users, or their name is no [`OrderingKey`].
    ///
    /// One user who is named by id here and by address there has two keys.
    pub fn ordering_key(&self) -> Option<OrderingKey> {
        let [only] = self.elements.as_slice() else {
            return None;
        };
        let key = only.keys.first()?;
        let space = match key.space() {
            IdentitySpace::UserId => "id",
            IdentitySpace::Email => "email",
        };
        OrderingKey::new(format!("{space}:{}", key.as_str())).ok()
    }

    pub(crate) const fn flags(&self) -> &R::Flags {
        &self.flags
    }

    pub(crate) fn elements(&self) -> &[Element] {
        &self.elements
    }
}

impl Element {
    fn of(json: Box<RawValue>, element: &impl parts::Element) -> Self {
        Self { json, keys: element.keys(), event_name: element.event_name().map(Into::into) }
    }

    /// The bytes it takes in an array, the comma included.
    fn weight(&self) -> usize {
        self.json.get().len() + 1
    }
}

/// Tells the id and the size, never the payload.
impl<R: Request> fmt::Debug for Prepared<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("id", &self.id)
            .field("flags", &self.flags)
            .field("elements", &self.elements.len())
            .field("weight", &self.weight)
            .finish()
    }
}

impl<R: Request> Serialize for Prepared<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Stored {
            id: &self.id,
            flags: &self.flags,
            elements: self.elements.iter().map(|element| &element.json).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de, R: Request> Deserialize<'de> for Prepared<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::deserialize(deserializer)?;
        Self::restore(stored).map_err(de::Error::custom)
    }
}

/// The form in which a prepared request is stored.
#[derive(Serialize, Deserialize)]
struct Stored<F, I = String, J = Box<RawValue>> {
    id: I,
    flags: F,
    elements: Vec<J>,
}
