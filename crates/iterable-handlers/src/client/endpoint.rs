use std::fmt;

use reqwest::Method;

use super::Rate;

/// A call of the API, and with it the limit that its requests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// Updates or makes one user.
    UpdateUser,
    /// Updates or makes many users.
    BulkUpdateUsers,
    /// Sets one user's subscriptions.
    UpdateSubscriptions,
    /// Sets many users' subscriptions.
    BulkUpdateSubscriptions,
    /// Gives a user another address.
    UpdateEmail,
    /// Reads a user by address.
    GetUserByEmail,
    /// Reads a user by id.
    GetUserById,
    /// Deletes a user by address.
    DeleteUserByEmail,
    /// Deletes a user by id.
    DeleteUserById,
    /// Reads the fields of all profiles.
    GetUserFields,
    /// Reads which messages a user was sent.
    GetSentMessages,
    /// Reads the hashed addresses of forgotten users.
    GetForgottenEmails,
    /// Reads the hashed ids of forgotten users.
    GetForgottenUserIds,
    /// Forgets a user.
    ForgetUser,
    /// Allows a forgotten user again.
    UnforgetUser,
    /// Merges one user into another.
    MergeUsers,
    /// Tracks one event.
    TrackEvent,
    /// Tracks many events.
    TrackEvents,
    /// Reads the events of a user by address.
    GetEventsByEmail,
    /// Reads the events of a user by id.
    GetEventsById,
    /// Reads all lists.
    GetLists,
    /// Makes a list.
    CreateList,
    /// Deletes a list.
    DeleteList,
    /// Puts users on a list.
    SubscribeToList,
    /// Takes users off a list.
    UnsubscribeFromList,
    /// Reads the users of a list.
    GetListUsers,
    /// Reads how many users a list has.
    GetListSize,
}

impl Endpoint {
    /// All endpoints, in the order of their declaration.
    pub const ALL: [Self; 27] = [
        Self::UpdateUser,
        Self::BulkUpdateUsers,
        Self::UpdateSubscriptions,
        Self::BulkUpdateSubscriptions,
        Self::UpdateEmail,
        Self::GetUserByEmail,
        Self::GetUserById,
        Self::DeleteUserByEmail,
        Self::DeleteUserById,
        Self::GetUserFields,
        Self::GetSentMessages,
        Self::GetForgottenEmails,
        Self::GetForgottenUserIds,
        Self::ForgetUser,
        Self::UnforgetUser,
        Self::MergeUsers,
        Self::TrackEvent,
        Self::TrackEvents,
        Self::GetEventsByEmail,
        Self::GetEventsById,
        Self::GetLists,
        Self::CreateList,
        Self::DeleteList,
        Self::SubscribeToList,
        Self::UnsubscribeFromList,
        Self::GetListUsers,
        Self::GetListSize,
    ];

    /// Returns the path below `/api/`, with `{…}` where an id goes.
    pub const fn path(self) -> &'static str {
        match self {
            Self::UpdateUser => "users/update",
            Self::BulkUpdateUsers => "users/bulkUpdate",
            Self::UpdateSubscriptions => "users/updateSubscriptions",
            Self::BulkUpdateSubscriptions => "users/bulkUpdateSubscriptions",
            Self::UpdateEmail => "users/updateEmail",
            Self::GetUserByEmail => "users/getByEmail",
            Self::GetUserById => "users/byUserId",
            Self::DeleteUserByEmail => "users/{email}",
            Self::DeleteUserById => "users/byUserId/{userId}",
            Self::GetUserFields => "users/getFields",
            Self::GetSentMessages => "users/getSentMessages",
            Self::GetForgottenEmails => "users/forgotten",
            Self::GetForgottenUserIds => "users/forgottenUserIds",
            Self::ForgetUser => "users/forget",
            Self::UnforgetUser => "users/unforget",
            Self::MergeUsers => "users/merge",
            Self::TrackEvent => "events/track",
            Self::TrackEvents => "events/trackBulk",
            Self::GetEventsByEmail => "events/{email}",
            Self::GetEventsById => "events/byUserId/{userId}",
            Self::GetLists | Self::CreateList => "lists",
            Self::DeleteList => "lists/{listId}",
            Self::SubscribeToList => "lists/subscribe",
            Self::UnsubscribeFromList => "lists/unsubscribe",
            Self::GetListUsers => "lists/getUsers",
            Self::GetListSize => "lists/{listId}/size",
        }
    }

    /// Returns the limit the API publishes, or `None` where it publishes none.
    ///
    /// From the rate limits in the descriptions of the official Swagger document "Iterable API 1.8". They count
    /// per project (per API key for [`MergeUsers`](Self::MergeUsers)), so other programs that use the project
    /// share them. The limit of 1000 [`ForgetUser`](Self::ForgetUser) in 24 hours is left to the caller.
    pub const fn published_rate(self) -> Option<Rate> {
        match self {
            Self::TrackEvent => Some(Rate::per_second(2000)),
            Self::UpdateUser => Some(Rate::per_second(500)),
            Self::GetUserByEmail
            | Self::GetUserById
            | Self::DeleteUserByEmail
            | Self::DeleteUserById
            | Self::GetEventsByEmail
            | Self::GetEventsById
            | Self::GetLists => Some(Rate::per_second(100)),
            Self::MergeUsers => Some(Rate::per_second(50)),
            Self::TrackEvents => Some(Rate::per_second(10)),
            Self::BulkUpdateUsers => Some(Rate::per_second(5)),
            Self::GetUserFields
            | Self::GetSentMessages
            | Self::GetForgottenEmails
            | Self::GetForgottenUserIds
            | Self::ForgetUser
            | Self::UnforgetUser => Some(Rate::per_second(3)),
            Self::GetListUsers | Self::GetListSize => Some(Rate::per_minute(5)),
            Self::UpdateSubscriptions
            | Self::BulkUpdateSubscriptions
            | Self::UpdateEmail
            | Self::CreateList
            | Self::DeleteList
            | Self::SubscribeToList
            | Self::UnsubscribeFromList => None,
        }
    }

    /// Returns the limit a client keeps unless told otherwise: the published one, or 5 requests a second where
    /// none is published, which is an assumption.
    pub const fn default_rate(self) -> Rate {
        match self.published_rate() {
            Some(rate) => rate,
            None => Rate::per_second(5),
        }
    }

    pub(crate) const fn method(self) -> Method {
        match self {
            Self::GetUserByEmail
            | Self::GetUserById
            | Self::GetUserFields
            | Self::GetSentMessages
            | Self::GetForgottenEmails
            | Self::GetForgottenUserIds
            | Self::GetEventsByEmail
            | Self::GetEventsById
            | Self::GetLists
            | Self::GetListUsers
            | Self::GetListSize => Method::GET,
            Self::DeleteUserByEmail | Self::DeleteUserById | Self::DeleteList => Method::DELETE,
            _ => Method::POST,
        }
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Writes method and path, as in `POST users/bulkUpdate`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_stands_at_its_index() {
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint.index(), index, "{endpoint}");
        }
    }

    #[test]
    fn no_two_endpoints_are_one_call() {
        let calls: BTreeSet<String> = Endpoint::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(calls.len(), Endpoint::ALL.len());
    }

    #[test]
    fn limits_are_those_published_and_five_a_second_elsewhere() {
        let rate = |endpoint: Endpoint| endpoint.default_rate();
        assert_eq!(rate(Endpoint::BulkUpdateUsers), Rate::per_second(5));
        assert_eq!(rate(Endpoint::TrackEvents), Rate::per_second(10));
        assert_eq!(rate(Endpoint::TrackEvent), Rate::per_second(2000));
        assert_eq!(rate(Endpoint::GetListUsers), Rate::per_minute(5));
        assert_eq!(Endpoint::SubscribeToList.published_rate(), None);
        assert_eq!(rate(Endpoint::SubscribeToList), Rate::per_second(5));
    }
}
