//! What goes over the wire: the requests and replies of the API, member by member.
//!
//! Requests are exact about absence: a member that is `None` is not sent, and `Some(vec![])` is sent as an empty
//! array, since several calls overwrite what they name. Build them with `..Default::default()`, as the API gains
//! members now and then. Replies are read leniently: a missing or `null` array is empty, a member of the wrong
//! type does not lose the rest, and members this crate does not know are kept where failures could hide in them.

mod common;
mod events;
mod lenient;
mod lists;
mod users;

pub use common::{FailedUpdates, IterableCode, PostResponse};
pub use events::{BulkTrackRequest, BulkTrackResponse, Event, TrackRequest};
pub use lists::{
    CreateListRequest, List, ListMembers, ListResponse, SubscribeRequest, UnsubscribeRequest, Unsubscriber,
};
pub use users::{
    ArrayMerge, BulkSubscriptionsRequest, BulkSubscriptionsResponse, BulkUpdateRequest, BulkUpdateResponse,
    BulkUser, MergeUsersRequest, SentMessage, SentMessagesQuery, UpdateEmailRequest,
    UpdateSubscriptionsRequest, UpdateUserRequest, User,
};

pub(crate) use events::EventsReply;
pub(crate) use lists::{CreateListReply, ListsReply};
pub(crate) use users::{
    FieldsReply, ForgottenEmailsReply, ForgottenUserIdsReply, SentMessagesReply, UserId, UserReply,
};
