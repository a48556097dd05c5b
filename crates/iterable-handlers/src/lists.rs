use serde_json::value::RawValue;

use crate::client::transport::Call;
use crate::client::{Client, Endpoint};
use crate::error::{ApiError, NotSent};
use crate::identity_check::check_identity;
use crate::wire::{
    BulkUser, CreateListReply, CreateListRequest, List, ListMembers, ListResponse, ListsReply, PostResponse,
    SubscribeRequest, UnsubscribeRequest, Unsubscriber,
};

/// The calls about lists; from [`Client::lists`].
#[derive(Debug, Clone, Copy)]
pub struct Lists<'a> {
    client: &'a Client,
}

impl<'a> Lists<'a> {
    pub(crate) const fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// Returns all lists.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn all(self) -> Result<Vec<List>, ApiError> {
        let reply: ListsReply = self.client.call(Call::new(Endpoint::GetLists)).await?.json()?;
        Ok(reply.lists)
    }

    /// Makes a list and returns its id. The API may not know a new list for a short while.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Not sent is a list without name.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the list may have been made.
    pub async fn create(self, list: &CreateListRequest) -> Result<i64, ApiError> {
        let endpoint = Endpoint::CreateList;
        if list.name.is_empty() {
            let source = NotSent::Empty { field: "name" };
            return Err(ApiError::NotSent { endpoint, source });
        }
        let reply: CreateListReply = self.client.call(Call::new(endpoint).with_json(list)?).await?.json()?;
        Ok(reply.list_id)
    }

    /// Deletes a list.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the list may have been deleted.
    pub async fn delete(self, list_id: i64) -> Result<PostResponse, ApiError> {
        let call = Call::at(Endpoint::DeleteList, format!("lists/{list_id}"));
        self.client.call(call).await?.post()
    }

    /// Puts users on a list.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if a subscriber has no identity, or if all together exceed
    /// [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Subscribers that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may be on the list.
    pub async fn subscribe(
        self,
        list_id: i64,
        subscribers: &[BulkUser],
        update_existing_users_only: Option<bool>,
    ) -> Result<ListResponse, ApiError> {
        let endpoint = Endpoint::SubscribeToList;
        subscribers
            .iter()
            .try_for_each(|user| check_identity(user.email.as_deref(), user.user_id.as_deref()))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::new(endpoint).with_json(&SubscribeRequest {
            list_id,
            subscribers,
            update_existing_users_only,
        })?;
        self.client.call(call).await?.json()
    }

    /// Puts users on a list that are serialised already.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if all together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Subscribers
    /// that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may be on the list.
    pub async fn subscribe_raw(
        self,
        list_id: i64,
        subscribers: &[&RawValue],
        update_existing_users_only: Option<bool>,
    ) -> Result<ListResponse, ApiError> {
        let call = Call::new(Endpoint::SubscribeToList).with_json(&SubscribeRequest {
            list_id,
            subscribers,
            update_existing_users_only,
        })?;
        self.client.call(call).await?.json()
    }

    /// Takes users off a list; with `channel_unsubscribe`, off its whole channel.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if a subscriber has no identity, or if all together exceed
    /// [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Subscribers that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may be off the list.
    pub async fn unsubscribe(
        self,
        list_id: i64,
        subscribers: &[Unsubscriber],
        campaign_id: Option<i64>,
        channel_unsubscribe: Option<bool>,
    ) -> Result<ListResponse, ApiError> {
        let endpoint = Endpoint::UnsubscribeFromList;
        subscribers
            .iter()
            .try_for_each(|user| check_identity(user.email.as_deref(), user.user_id.as_deref()))
            .map_err(|source| ApiError::NotSent { endpoint, source })?;
        let call = Call::new(endpoint).with_json(&UnsubscribeRequest {
            list_id,
            subscribers,
            campaign_id,
            channel_unsubscribe,
        })?;
        self.client.call(call).await?.json()
    }

    /// Takes users off a list that are serialised already; with `channel_unsubscribe`, off its whole channel.
    ///
    /// # Errors
    ///
    /// [`ApiError`]. Nothing is sent if all together exceed [`MAX_BODY_BYTES`](crate::MAX_BODY_BYTES). Subscribers
    /// that the API refuses stand in the reply.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it waits for its turn, nothing is sent. Dropped later, the users may be off the list.
    pub async fn unsubscribe_raw(
        self,
        list_id: i64,
        subscribers: &[&RawValue],
        campaign_id: Option<i64>,
        channel_unsubscribe: Option<bool>,
    ) -> Result<ListResponse, ApiError> {
        let call = Call::new(Endpoint::UnsubscribeFromList).with_json(&UnsubscribeRequest {
            list_id,
            subscribers,
            campaign_id,
            channel_unsubscribe,
        })?;
        self.client.call(call).await?.json()
    }

    /// Returns the users of a list, by user id where both are known if `prefer_user_id`.
    ///
    /// The API takes minutes for large lists and may answer 503. The whole reply is held in memory, up to
    /// [`max_export_bytes`](crate::ClientBuilder::max_export_bytes); it may take
    /// [`export_timeout`](crate::ClientBuilder::export_timeout).
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn users(self, list_id: i64, prefer_user_id: Option<bool>) -> Result<ListMembers, ApiError> {
        let call = Call::new(Endpoint::GetListUsers)
            .with_query("listId", &list_id)
            .with_optional_query("preferUserId", prefer_user_id)
            .for_text();
        self.client.call(call).await?.text().map(ListMembers::new)
    }

    /// Returns how many users a list has.
    ///
    /// # Errors
    ///
    /// [`ApiError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn size(self, list_id: i64) -> Result<u64, ApiError> {
        let call = Call::at(Endpoint::GetListSize, format!("lists/{list_id}/size")).for_text();
        self.client.call(call).await?.number()
    }
}
