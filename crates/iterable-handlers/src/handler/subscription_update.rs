use std::num::NonZeroUsize;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde_json::value::RawValue;

use super::deliver::{Answer, Call, deliver};
use super::plan::Rules;
use super::{DEFAULT_MAX_ELEMENTS, Delivered, DeliveryError};
use crate::message::{Prepared, SubscriptionUpdate};
use crate::reconcile::{Counting, Reply};
use crate::{ApiError, Client};

/// Delivers updates of subscriptions, by `POST /api/users/bulkUpdateSubscriptions`.
///
/// A request names no user twice, as the API does not say in which order it applies two updates of one user: later
/// ones are answered `Untried` and go out after the first.
#[derive(Debug, Clone)]
pub struct SubscriptionUpdateHandler {
    client: Client,
    max_elements: NonZeroUsize,
}

impl SubscriptionUpdateHandler {
    /// Makes a handler that sends through this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, max_elements: DEFAULT_MAX_ELEMENTS }
    }

    /// Sets how many updates a request holds at most. Default: 1000. A larger batch goes out in several requests.
    #[must_use]
    pub const fn max_elements(mut self, max: NonZeroUsize) -> Self {
        self.max_elements = max;
        self
    }
}

impl BatchHandler<Prepared<SubscriptionUpdate>> for SubscriptionUpdateHandler {
    type Output = Delivered;
    type Error = DeliveryError;

    /// # Cancel safety
    ///
    /// A dropped call may have been applied by the API; the same update again changes nothing.
    async fn handle(
        &self,
        batch: &[Prepared<SubscriptionUpdate>],
        cx: &BatchContext,
    ) -> BatchOutcome<Delivered, DeliveryError> {
        let rules = Rules { max_elements: self.max_elements, each_user_once: true, independent: false };
        deliver(self, batch, cx, rules).await
    }
}

impl Call<SubscriptionUpdate> for SubscriptionUpdateHandler {
    async fn call(&self, (): &(), elements: &[&RawValue]) -> Result<Answer, ApiError> {
        let response = self.client.users().bulk_update_subscriptions_raw(elements).await?;
        Ok(Answer { reply: Reply::from(&response), delivered: Delivered::default() })
    }

    fn counting((): &()) -> Counting {
        Counting::Each
    }
}
