use std::num::NonZeroUsize;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde_json::value::RawValue;

use super::deliver::{Answer, Call, deliver};
use super::plan::Rules;
use super::{DEFAULT_MAX_ELEMENTS, Delivered, DeliveryError};
use crate::message::{ListUnsubscribe, ListUnsubscribeFlags, Prepared};
use crate::reconcile::{Counting, Reply};
use crate::{ApiError, Client};

/// Takes users off lists, by `POST /api/lists/unsubscribe`: one call for each list and set of flags in a batch, in
/// order of first appearance, each whatever became of the others.
///
/// A call names no user in two messages: later messages are answered `Untried` and go out after the first. Messages
/// are never sent by another endpoint, only in smaller company.
#[derive(Debug, Clone)]
pub struct ListUnsubscribeHandler {
    client: Client,
    max_elements: NonZeroUsize,
}

impl ListUnsubscribeHandler {
    /// Makes a handler that sends through this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, max_elements: DEFAULT_MAX_ELEMENTS }
    }

    /// Sets how many subscribers a request holds at most, unless a single message has more. Default: 1000.
    #[must_use]
    pub const fn max_elements(mut self, max: NonZeroUsize) -> Self {
        self.max_elements = max;
        self
    }
}

impl BatchHandler<Prepared<ListUnsubscribe>> for ListUnsubscribeHandler {
    type Output = Delivered;
    type Error = DeliveryError;

    /// # Cancel safety
    ///
    /// A dropped call may have been applied by the API; the same again changes nothing.
    async fn handle(
        &self,
        batch: &[Prepared<ListUnsubscribe>],
        cx: &BatchContext,
    ) -> BatchOutcome<Delivered, DeliveryError> {
        let rules = Rules { max_elements: self.max_elements, each_user_once: true, independent: true };
        deliver(self, batch, cx, rules).await
    }
}

impl Call<ListUnsubscribe> for ListUnsubscribeHandler {
    async fn call(&self, flags: &ListUnsubscribeFlags, elements: &[&RawValue]) -> Result<Answer, ApiError> {
        let lists = self.client.lists();
        let response = lists
            .unsubscribe_raw(flags.list_id, elements, flags.campaign_id, flags.channel_unsubscribe)
            .await?;
        Ok(Answer { reply: Reply::from(&response), delivered: Delivered::default() })
    }

    fn counting(_flags: &ListUnsubscribeFlags) -> Counting {
        Counting::Users
    }

    fn list_id(flags: &ListUnsubscribeFlags) -> Option<i64> {
        Some(flags.list_id)
    }
}
