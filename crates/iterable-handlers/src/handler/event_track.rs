use std::num::NonZeroUsize;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde_json::value::RawValue;

use super::deliver::{Answer, Call, deliver};
use super::plan::Rules;
use super::{DEFAULT_MAX_ELEMENTS, Delivered, DeliveryError};
use crate::message::{EventTrack, Prepared};
use crate::reconcile::{Counting, Reply};
use crate::{ApiError, Client};

/// Delivers events, by `POST /api/events/trackBulk`.
///
/// An event that is sent again carries the same id and moment, so the API updates the event it has. Events of one
/// user share a request and stand in it in order.
#[derive(Debug, Clone)]
pub struct EventTrackHandler {
    client: Client,
    max_elements: NonZeroUsize,
}

impl EventTrackHandler {
    /// Makes a handler that sends through this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, max_elements: DEFAULT_MAX_ELEMENTS }
    }

    /// Sets how many events a request holds at most. Default: 1000. A larger batch goes out in several requests.
    #[must_use]
    pub const fn max_elements(mut self, max: NonZeroUsize) -> Self {
        self.max_elements = max;
        self
    }
}

impl BatchHandler<Prepared<EventTrack>> for EventTrackHandler {
    type Output = Delivered;
    type Error = DeliveryError;

    /// # Cancel safety
    ///
    /// A dropped call may have been applied by the API; the events keep their ids, so sending them again adds none.
    async fn handle(
        &self,
        batch: &[Prepared<EventTrack>],
        cx: &BatchContext,
    ) -> BatchOutcome<Delivered, DeliveryError> {
        let rules = Rules { max_elements: self.max_elements, each_user_once: false, independent: false };
        deliver(self, batch, cx, rules).await
    }
}

impl Call<EventTrack> for EventTrackHandler {
    async fn call(&self, (): &(), elements: &[&RawValue]) -> Result<Answer, ApiError> {
        let response = self.client.events().track_bulk_raw(elements).await?;
        Ok(Answer {
            reply: Reply::from(&response),
            delivered: Delivered {
                created_fields: response.created_fields.into(),
                filtered_out_fields: response.filtered_out_fields.into(),
            },
        })
    }

    fn counting((): &()) -> Counting {
        Counting::Each
    }
}
