use std::num::NonZeroUsize;

use relaykit_pipeline_traits::{BatchContext, BatchHandler, BatchOutcome};
use serde_json::value::RawValue;

use super::deliver::{Answer, Call, deliver};
use super::plan::Rules;
use super::{Delivered, DeliveryError};
use crate::message::{EmailUpdate, Prepared};
use crate::reconcile::{Counting, Reply};
use crate::{ApiError, Client};

/// Delivers new e-mail addresses, by `POST /api/users/updateEmail`: one call for each message, in order.
///
/// At the first call that fails without the message being at fault, the rest of the batch is answered `Untried`. An
/// update whose reply was lost is sent again; the API then no longer knows the old address, and the message is dead
/// with [`NotFoundEmails`](crate::Reason::NotFoundEmails) or [`ConflictEmails`](crate::Reason::ConflictEmails)
/// although the user has the new one.
#[derive(Debug, Clone)]
pub struct EmailUpdateHandler {
    client: Client,
}

impl EmailUpdateHandler {
    /// Makes a handler that sends through this client.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }
}

impl BatchHandler<Prepared<EmailUpdate>> for EmailUpdateHandler {
    type Output = Delivered;
    type Error = DeliveryError;

    /// # Cancel safety
    ///
    /// A dropped call may have been applied by the API, with what the type's documentation says about lost replies.
    async fn handle(
        &self,
        batch: &[Prepared<EmailUpdate>],
        cx: &BatchContext,
    ) -> BatchOutcome<Delivered, DeliveryError> {
        let rules = Rules { max_elements: NonZeroUsize::MIN, each_user_once: false, independent: false };
        deliver(self, batch, cx, rules).await
    }
}

impl Call<EmailUpdate> for EmailUpdateHandler {
    async fn call(&self, (): &(), elements: &[&RawValue]) -> Result<Answer, ApiError> {
        for element in elements {
            self.client.users().update_email_raw(element).await?;
        }
        Ok(Answer {
            reply: Reply {
                success_count: Some(elements.len() as u64),
                fail_count: Some(0),
                ..Reply::default()
            },
            delivered: Delivered::default(),
        })
    }

    fn counting((): &()) -> Counting {
        Counting::Each
    }
}
