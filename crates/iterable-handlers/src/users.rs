use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::client::transport::{Call, is_unknown_user, segment};
use crate::client::{Client, Endpoint};
use crate::error::{ApiError, NotSent};
use crate::events::check_limit;
use crate::identity_check::{check_identity, check_identity_named};
use crate::wire::{
    BulkSubscriptionsRequest, BulkSubscriptionsResponse, BulkUpdateRequest, BulkUpdateResponse, BulkUser,
    FieldsReply, ForgottenEmailsReply, ForgottenUserIdsReply, MergeUsersRequest, PostResponse, SentMessage,
    SentMessagesQuery, SentMessagesReply, UpdateEmailRequest, UpdateSubscriptionsRequest, UpdateUserRequest,
    User, UserId, UserReply,
};

/// The calls about users; from [`Client::users`].
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    client: &'a Client,
}

/// The most sent messages that one call returns.
const MAX_SENT_MESSAGES: u32 = 1000;

impl<'a> Users<'a> {
    pub(crate) const fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Updates one user, or makes it.
    ///
    /// The API applies it with delay: leave 60 s before a call that depends on it.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a request without identity.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been written.
    pub async fn update(self, user: &UpdateUserRequest) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::UpdateUser;
        check_identity(user.email.as_deref(), user.user_id.as_deref())
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::new(endpoint).with_json(user)?).await?.post()
    }

    /// Updates or makes many users.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if a user has no identity, or if all together exceed
    /// [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Users that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may have been written.
    pub async fn bulk_update(
        self,
        users: &[BulkUser],
        create_new_fields: Option<bool>,
    ) -> Result<BulkUpdateResponse, ApiError> {
        let endpoint = Endpoint::BulkUpdateUsers;
        users
            .iter()
            .try_for_each(|user| check_identity(user.email.as_deref(), user.user_id.as_deref()))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::new(endpoint).with_json(&BulkUpdateRequest { users, create_new_fields })?;
        self.client.call(call).await?.json()
    }

    /// Updates or makes many users that are serialised already.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if all together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Users that
    /// the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may have been written.
    pub async fn bulk_update_raw(
        self,
        users: &[&RawValue],
        create_new_fields: Option<bool>,
    ) -> Result<BulkUpdateResponse, ApiError> {
        let call = Call::new(Endpoint::BulkUpdateUsers)
            .with_json(&BulkUpdateRequest { users, create_new_fields })?;
        self.client.call(call).await?.json()
    }

    /// Sets what a user is subscribed to.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a request without identity.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been written.
    pub async fn update_subscriptions(
        self,
        user: &UpdateSubscriptionsRequest,
    ) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::UpdateSubscriptions;
        check_identity(user.email.as_deref(), user.user_id.as_deref())
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::new(endpoint).with_json(user)?).await?.post()
    }

    /// Sets what many users are subscribed to.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if a user has no identity, or if all together exceed
    /// [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Users that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may have been written.
    pub async fn bulk_update_subscriptions(
        self,
        users: &[UpdateSubscriptionsRequest],
    ) -> Result<BulkSubscriptionsResponse, ApiError> {
        let endpoint = Endpoint::BulkUpdateSubscriptions;
        users
            .iter()
            .try_for_each(|user| check_identity(user.email.as_deref(), user.user_id.as_deref()))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::new(endpoint)
            .with_json(&BulkSubscriptionsRequest { update_subscriptions_requests: users })?;
        self.client.call(call).await?.json()
    }

    /// Sets what many users are subscribed to, from requests that are serialised already.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if all together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Users that
    /// the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may have been written.
    pub async fn bulk_update_subscriptions_raw(
        self,
        users: &[&RawValue],
    ) -> Result<BulkSubscriptionsResponse, ApiError> {
        let call = Call::new(Endpoint::BulkUpdateSubscriptions)
            .with_json(&BulkSubscriptionsRequest { update_subscriptions_requests: users })?;
        self.client.call(call).await?.json()
    }

    /// Gives a user another e-mail address. For projects that identify users by e-mail.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a request without present identity or new address.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the address may have changed.
    pub async fn update_email(self, request: &UpdateEmailRequest) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::UpdateEmail;
        check_email_update(request).map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::new(endpoint).with_json(request)?).await?.post()
    }

    /// Gives a user another e-mail address, from a request that is serialised already.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the address may have changed.
    pub async fn update_email_raw(self, request: &RawValue) -> Result<PostResponse, ApiError> {
        let call = Call::new(Endpoint::UpdateEmail).with_json(request)?;
        self.client.call(call).await?.post()
    }

    /// Returns the user with this address, or `None`.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty address.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get_by_email(self, email: &str) -> Result<Option<User>, ApiError> {
        self.get(Endpoint::GetUserByEmail, "email", email).await
    }

    /// Returns the user with this id, or `None`.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty id.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn get_by_user_id(self, user_id: &str) -> Result<Option<User>, ApiError> {
        self.get(Endpoint::GetUserById, "userId", user_id).await
    }

    async fn get(self, endpoint: Endpoint, field: &'static str, id: &str) -> Result<Option<User>, ApiError> {
        not_empty(endpoint, field, id)?;
        match self.client.call(Call::new(endpoint).with_query(field, id)).await {
            Ok(reply) => Ok(reply.json::<UserReply>()?.found()),
            Err(error) if is_unknown_user(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the user with this address. The API does it later.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty address.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been deleted.
    pub async fn delete_by_email(self, email: &str) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::DeleteUserByEmail;
        let email = segment("email", email).map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::at(endpoint, format!("users/{email}"))).await?.post()
    }

    /// Deletes the user with this id. The API does it later.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty id, and `.` and `..`, which a path cannot carry.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been deleted.
    pub async fn delete_by_user_id(self, user_id: &str) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::DeleteUserById;
        let id = segment("userId", user_id).map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::at(endpoint, format!("users/byUserId/{id}"));
        self.client.call(call).await?.post()
    }

    /// Returns the fields of all profiles and the type of each.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn fields(self) -> Result<BTreeMap<String, String>, ApiError> {
        let reply: FieldsReply = self.client.call(Call::new(Endpoint::GetUserFields)).await?.json()?;
        Ok(reply.fields)
    }

    /// Returns messages that a user was sent.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a query without identity, or with a limit out of range.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn sent_messages(self, query: &SentMessagesQuery) -> Result<Vec<SentMessage>, ApiError> {
        let endpoint = Endpoint::GetSentMessages;
        check_identity(query.email.as_deref(), query.user_id.as_deref())
            .and_then(|()| check_limit(query.limit, MAX_SENT_MESSAGES))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let mut call = Call::new(endpoint)
            .with_optional_query("email", query.email.as_ref())
            .with_optional_query("userId", query.user_id.as_ref())
            .with_optional_query("limit", query.limit);
        for campaign_id in &query.campaign_ids {
            call = call.with_query("campaignIds", campaign_id);
        }
        let call = call
            .with_optional_query("startDateTime", query.start_date_time.as_ref())
            .with_optional_query("endDateTime", query.end_date_time.as_ref())
            .with_optional_query("excludeBlastCampaigns", query.exclude_blast_campaigns)
            .with_optional_query("messageMedium", query.message_medium.as_ref());
        let reply: SentMessagesReply = self.client.call(call).await?.json()?;
        Ok(reply.messages)
    }

    /// Returns the hashed addresses of forgotten users.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn forgotten_emails(self) -> Result<Vec<String>, ApiError> {
        let call = Call::new(Endpoint::GetForgottenEmails);
        let reply: ForgottenEmailsReply = self.client.call(call).await?.json()?;
        Ok(reply.hashed_emails)
    }

    /// Returns the hashed ids of forgotten users.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn forgotten_user_ids(self) -> Result<Vec<String>, ApiError> {
        let call = Call::new(Endpoint::GetForgottenUserIds);
        let reply: ForgottenUserIdsReply = self.client.call(call).await?.json()?;
        Ok(reply.hashed_user_ids)
    }

    /// Forgets the user with this address: deletes it, and takes no more data about it.
    ///
    /// The API takes 1000 of these in 24 hours, which the client does not count.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty address.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been forgotten.
    pub async fn forget_by_email(self, email: &str) -> Result<PostResponse, ApiError> {
        self.name_by_email(Endpoint::ForgetUser, email).await
    }

    /// Forgets the user with this id: deletes it, and takes no more data about it.
    ///
    /// The API takes 1000 of these in 24 hours, which the client does not count.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty id.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the user may have been forgotten.
    pub async fn forget_by_user_id(self, user_id: &str) -> Result<PostResponse, ApiError> {
        self.name_by_user_id(Endpoint::ForgetUser, user_id).await
    }

    /// Takes data about a forgotten user with this address again.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty address.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the call may have taken effect.
    pub async fn unforget_by_email(self, email: &str) -> Result<PostResponse, ApiError> {
        self.name_by_email(Endpoint::UnforgetUser, email).await
    }

    /// Takes data about a forgotten user with this id again.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is an empty id.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the call may have taken effect.
    pub async fn unforget_by_user_id(self, user_id: &str) -> Result<PostResponse, ApiError> {
        self.name_by_user_id(Endpoint::UnforgetUser, user_id).await
    }

    /// Merges one user into another, which keeps its identity.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a request that lacks either user.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may have been merged.
    pub async fn merge(self, request: &MergeUsersRequest) -> Result<PostResponse, ApiError> {
        let endpoint = Endpoint::MergeUsers;
        check_merge(request).map_err(|source| ApiError::NotSent { endpoint, source })?;
        self.client.call(Call::new(endpoint).with_json(request)?).await?.post()
    }

    async fn name_by_email(self, endpoint: Endpoint, email: &str) -> Result<PostResponse, ApiError> {
        not_empty(endpoint, "email", email)?;
        let user = UserId { email: Some(email), ..UserId::default() };
        self.client.call(Call::new(endpoint).with_json(&user)?).await?.post()
    }

    async fn name_by_user_id(self, endpoint: Endpoint, user_id: &str) -> Result<PostResponse, ApiError> {
        not_empty(endpoint, "userId", user_id)?;
        let user = UserId { user_id: Some(user_id), ..UserId::default() };
        self.client.call(Call::new(endpoint).with_json(&user)?).await?.post()
    }
}

fn not_empty(endpoint: Endpoint, field: &'static str, id: &str) -> Result<(), ApiError> {
    if id.is_empty() {
        let source = NotSent::Empty { field };
        return Err(ApiError::NotSent { endpoint, source });
    }
    Ok(())
}

fn check_email_update(request: &UpdateEmailRequest) -> Result<(), NotSent> {
    check_identity_named(
        ("currentEmail", request.current_email.as_deref()),
        ("currentUserId", request.current_user_id.as_deref()),
    )?;
    if request.new_email.is_empty() {
        return Err(NotSent::Empty { field: "newEmail" });
    }
    Ok(())
}

fn check_merge(request: &MergeUsersRequest) -> Result<(), NotSent> {
    check_identity_named(
        ("sourceEmail", request.source_email.as_deref()),
        ("sourceUserId", request.source_user_id.as_deref()),
    )?;
    check_identity_named(
        ("destinationEmail", request.destination_email.as_deref()),
        ("destinationUserId", request.destination_user_id.as_deref()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_update_needs_both_ends() {
        let mut request = UpdateEmailRequest::default();
        let refused = |request: &UpdateEmailRequest| check_email_update(request).unwrap_err().to_string();
        assert_eq!(refused(&request), "neither currentEmail nor currentUserId is given");
        request.current_email = Some(String::new());
        assert_eq!(refused(&request), "currentEmail is empty");
        request.current_email = Some("a@x".to_owned());
        assert_eq!(refused(&request), "newEmail is empty");
        request.new_email = "b@x".to_owned();
        assert!(check_email_update(&request).is_ok());
    }

    #[test]
    fn a_merge_needs_both_users() {
        let mut request =
            MergeUsersRequest { source_email: Some("a@x".to_owned()), ..MergeUsersRequest::default() };
        let refused = check_merge(&request).unwrap_err().to_string();
        assert_eq!(refused, "neither destinationEmail nor destinationUserId is given");
        request.destination_user_id = Some("u1".to_owned());
        assert!(check_merge(&request).is_ok());
    }
}
