use std::num::NonZeroUsize;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde_json::value::RawValue;

use super::deliver::{Answer, Call, deliver};
use super::plan::Rules;
use super::{DEFAULT_MAX_ELEMENTS, Delivered, DeliveryError};
use crate::message::{Prepared, UserUpdate};
use crate::reconcile::{Counting, Reply};
use crate::{ApiError, Client};

/// Delivers updates of users, by `POST /api/users/bulkUpdate`.
///
/// A request names no user twice, as the API does not say in which order it applies two updates of one user: later
/// ones are answered `Untried` and go out after the first.
#[derive(Debug, Clone)]
pub struct UserUpdateHandler {
    client: Client,
    max_elements: NonZeroUsize,
    create_new_fields: Option<bool>,
}

impl UserUpdateHandler {
    /// Makes a handler that sends through this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, max_elements: DEFAULT_MAX_ELEMENTS, create_new_fields: None }
    }

    /// Sets how many updates a request holds at most. Default: 1000. A larger batch goes out in several requests.
    #[must_use]
    pub const fn max_elements(mut self, max: NonZeroUsize) -> Self {
        self.max_elements = max;
        self
    }

    /// Sets whether fields that the project does not know are added to it. Default: as the project is set.
    #[must_use]
    pub const fn create_new_fields(mut self, create: bool) -> Self {
        self.create_new_fields = Some(create);
        self
    }
}

impl BatchHandler<Prepared<UserUpdate>> for UserUpdateHandler {
    type Output = Delivered;
    type Error = DeliveryError;

    /// # Cancel safety
    ///
    /// A dropped call may have been applied by the API; the same update again changes nothing.
    async fn handle(
        &self,
        batch: &[Prepared<UserUpdate>],
        cx: &BatchContext,
    ) -> BatchOutcome<Delivered, DeliveryError> {
        let rules = Rules { max_elements: self.max_elements, each_user_once: true, independent: false };
        deliver(self, batch, cx, rules).await
    }
}

impl Call<UserUpdate> for UserUpdateHandler {
    async fn call(&self, (): &(), elements: &[&RawValue]) -> Result<Answer, ApiError> {
        let users = self.client.users();
        let response = users.bulk_update_raw(elements, self.create_new_fields).await?;
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
