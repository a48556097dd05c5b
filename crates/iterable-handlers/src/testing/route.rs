use hyper::Method;
use percent_encoding::percent_decode_str;

/// A call of the API, with what its path says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Track,
    TrackBulk,
    EventsOf(Id),
    UpdateUser,
    BulkUpdateUsers,
    UpdateEmail,
    UpdateSubscriptions,
    BulkUpdateSubscriptions,
    Forget,
    Unforget,
    /// The user named in the path, or in the query if the id is absent.
    User(Option<Id>, Named),
    DeleteUser(Id),
    Fields,
    SentMessages,
    ForgottenEmails,
    ForgottenUserIds,
    Lists,
    CreateList,
    DeleteList(String),
    ListSize(String),
    ListUsers,
    Subscribe,
    Unsubscribe,
    /// A call that the stand-in accepts without effect.
    Accepted,
}

/// How a path names a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Id {
    Email(String),
    UserId(String),
}

/// Which query parameter names a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    ByEmail,
    ByUserId,
}

/// A route and the pattern of its path, by which limits are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Matched {
    pub(crate) route: Route,
    pub(crate) pattern: &'static str,
}

/// Finds the route of a request; `None` is a 404.
pub(crate) fn find(method: &Method, path: &str) -> Option<Matched> {
    let rest = path.strip_prefix("/api/")?;
    let segments: Vec<String> =
        rest.split('/').map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned()).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (route, pattern) = match *method {
        Method::POST => post(&segments)?,
        Method::GET => get(&segments)?,
        Method::DELETE => delete(&segments)?,
        _ => return None,
    };
    Some(Matched { route, pattern })
}

fn post(segments: &[&str]) -> Option<(Route, &'static str)> {
    Some(match segments {
        ["events", "track"] => (Route::Track, "/api/events/track"),
        ["events", "trackBulk"] => (Route::TrackBulk, "/api/events/trackBulk"),
        ["users", "update"] => (Route::UpdateUser, "/api/users/update"),
        ["users", "bulkUpdate"] => (Route::BulkUpdateUsers, "/api/users/bulkUpdate"),
        ["users", "updateEmail"] => (Route::UpdateEmail, "/api/users/updateEmail"),
        ["users", "updateSubscriptions"] => (Route::UpdateSubscriptions, "/api/users/updateSubscriptions"),
        ["users", "bulkUpdateSubscriptions"] => {
            (Route::BulkUpdateSubscriptions, "/api/users/bulkUpdateSubscriptions")
        }
        ["users", "forget"] => (Route::Forget, "/api/users/forget"),
        ["users", "unforget"] => (Route::Unforget, "/api/users/unforget"),
        ["lists"] => (Route::CreateList, "/api/lists"),
        ["lists", "subscribe"] => (Route::Subscribe, "/api/lists/subscribe"),
        ["lists", "unsubscribe"] => (Route::Unsubscribe, "/api/lists/unsubscribe"),
        ["users", last] => (Route::Accepted, accepted(ACCEPTED_USERS, last)?),
        ["events", last] => (Route::Accepted, accepted(ACCEPTED_EVENTS, last)?),
        _ => return None,
    })
}

fn accepted(paths: &'static [&'static str], last: &str) -> Option<&'static str> {
    paths.iter().copied().find(|path| path.rsplit('/').next() == Some(last))
}

/// Calls that change nothing which the stand-in keeps.
const ACCEPTED_USERS: &[&str] = &[
    "/api/users/disableDevice",
    "/api/users/merge",
    "/api/users/registerBrowserToken",
    "/api/users/registerDeviceToken",
];

const ACCEPTED_EVENTS: &[&str] = &[
    "/api/events/inAppConsume",
    "/api/events/trackInAppClick",
    "/api/events/trackInAppClose",
    "/api/events/trackInAppDelivery",
    "/api/events/trackInAppOpen",
    "/api/events/trackPushOpen",
    "/api/events/trackWebPushClick",
];

fn get(segments: &[&str]) -> Option<(Route, &'static str)> {
    Some(match segments {
        ["users", "byUserId"] => (Route::User(None, Named::ByUserId), "/api/users/byUserId"),
        ["users", "getByEmail"] => (Route::User(None, Named::ByEmail), "/api/users/getByEmail"),
        ["users", "getFields"] => (Route::Fields, "/api/users/getFields"),
        ["users", "getSentMessages"] => (Route::SentMessages, "/api/users/getSentMessages"),
        ["users", "forgotten"] => (Route::ForgottenEmails, "/api/users/forgotten"),
        ["users", "forgottenUserIds"] => (Route::ForgottenUserIds, "/api/users/forgottenUserIds"),
        ["users", "byUserId", id] if !id.is_empty() => {
            (Route::User(Some(Id::UserId((*id).to_owned())), Named::ByUserId), "/api/users/byUserId/{userId}")
        }
        ["users", email] if !email.is_empty() => {
            (Route::User(Some(Id::Email((*email).to_owned())), Named::ByEmail), "/api/users/{email}")
        }
        ["events", "byUserId", id] if !id.is_empty() => {
            (Route::EventsOf(Id::UserId((*id).to_owned())), "/api/events/byUserId/{userId}")
        }
        ["events", email] if !email.is_empty() => {
            (Route::EventsOf(Id::Email((*email).to_owned())), "/api/events/{email}")
        }
        ["lists"] => (Route::Lists, "/api/lists"),
        ["lists", "getUsers"] => (Route::ListUsers, "/api/lists/getUsers"),
        ["lists", id, "size"] => (Route::ListSize((*id).to_owned()), "/api/lists/{listId}/size"),
        _ => return None,
    })
}

fn delete(segments: &[&str]) -> Option<(Route, &'static str)> {
    Some(match segments {
        ["users", "byUserId", id] if !id.is_empty() => {
            (Route::DeleteUser(Id::UserId((*id).to_owned())), "/api/users/byUserId/{userId}")
        }
        ["users", email] if !email.is_empty() => {
            (Route::DeleteUser(Id::Email((*email).to_owned())), "/api/users/{email}")
        }
        ["lists", id] => (Route::DeleteList((*id).to_owned()), "/api/lists/{listId}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_paths_are_decoded_after_the_split() {
        let found = find(&Method::DELETE, "/api/users/a%2Fb%40example.com").unwrap();
        assert_eq!(found.route, Route::DeleteUser(Id::Email("a/b@example.com".to_owned())));
        assert_eq!(found.pattern, "/api/users/{email}");
    }

    #[test]
    fn fixed_names_win_over_ids() {
        let found = find(&Method::GET, "/api/users/getFields").unwrap();
        assert_eq!(found.route, Route::Fields);
    }

    #[test]
    fn unknown_paths_and_methods_have_no_route() {
        for (method, path) in [
            (Method::GET, "/api/nothing"),
            (Method::POST, "/users/update"),
            (Method::PUT, "/api/users/update"),
            (Method::DELETE, "/api/users/"),
            (Method::POST, "/api/users/e"),
        ] {
            assert_eq!(find(&method, path), None, "{method} {path}");
        }
    }
}
