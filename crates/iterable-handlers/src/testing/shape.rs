use std::collections::BTreeMap;

use serde_json::Value;

use super::route::Route;

/// A member of a request body.
#[derive(Debug)]
pub(crate) struct Field {
    name: &'static str,
    kind: Kind,
    required: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    /// Text of at most 512 bytes.
    EventId,
    Integer,
    Flag,
    Object,
    Integers,
    Elements(&'static [Field]),
}

/// The longest event id that Iterable takes, in bytes.
const MAX_EVENT_ID_BYTES: usize = 512;

/// How many problems one reply names.
const MAX_PROBLEMS: usize = 16;

const fn must(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: true }
}

const fn may(name: &'static str, kind: Kind) -> Field {
    Field { name, kind, required: false }
}

const EVENT: &[Field] = &[
    must("eventName", Kind::Text),
    may("email", Kind::Text),
    may("userId", Kind::Text),
    may("id", Kind::EventId),
    may("createdAt", Kind::Integer),
    may("dataFields", Kind::Object),
    may("campaignId", Kind::Integer),
    may("templateId", Kind::Integer),
    may("createNewFields", Kind::Flag),
];
const EVENTS: &[Field] = &[must("events", Kind::Elements(EVENT))];
const BULK_USER: &[Field] = &[
    may("email", Kind::Text),
    may("userId", Kind::Text),
    may("dataFields", Kind::Object),
    may("preferUserId", Kind::Flag),
    may("mergeNestedObjects", Kind::Flag),
];
const USER: &[Field] = &[
    may("email", Kind::Text),
    may("userId", Kind::Text),
    may("dataFields", Kind::Object),
    may("preferUserId", Kind::Flag),
    may("mergeNestedObjects", Kind::Flag),
    may("createNewFields", Kind::Flag),
];
const USERS: &[Field] = &[must("users", Kind::Elements(BULK_USER)), may("createNewFields", Kind::Flag)];
const IDENTITY: &[Field] = &[may("email", Kind::Text), may("userId", Kind::Text)];
const EMAIL: &[Field] =
    &[may("currentEmail", Kind::Text), may("currentUserId", Kind::Text), must("newEmail", Kind::Text)];
const SUBSCRIPTION: &[Field] = &[
    may("email", Kind::Text),
    may("userId", Kind::Text),
    may("emailListIds", Kind::Integers),
    may("unsubscribedChannelIds", Kind::Integers),
    may("unsubscribedMessageTypeIds", Kind::Integers),
    may("subscribedMessageTypeIds", Kind::Integers),
    may("campaignId", Kind::Integer),
    may("templateId", Kind::Integer),
    may("validateChannelAlignment", Kind::Flag),
];
const SUBSCRIPTIONS: &[Field] = &[must("updateSubscriptionsRequests", Kind::Elements(SUBSCRIPTION))];
const LIST: &[Field] = &[must("name", Kind::Text), may("description", Kind::Text)];
const SUBSCRIBE: &[Field] = &[
    must("listId", Kind::Integer),
    must("subscribers", Kind::Elements(BULK_USER)),
    may("updateExistingUsersOnly", Kind::Flag),
];
const UNSUBSCRIBE: &[Field] = &[
    must("listId", Kind::Integer),
    must("subscribers", Kind::Elements(IDENTITY)),
    may("campaignId", Kind::Integer),
    may("channelUnsubscribe", Kind::Flag),
];

/// Returns the members that a call's body has; `None` for a call without one, or whose body is not looked at.
pub(crate) const fn of(route: &Route) -> Option<&'static [Field]> {
    Some(match route {
        Route::Track => EVENT,
        Route::TrackBulk => EVENTS,
        Route::UpdateUser => USER,
        Route::BulkUpdateUsers => USERS,
        Route::UpdateEmail => EMAIL,
        Route::UpdateSubscriptions => SUBSCRIPTION,
        Route::BulkUpdateSubscriptions => SUBSCRIPTIONS,
        Route::Forget | Route::Unforget => IDENTITY,
        Route::CreateList => LIST,
        Route::Subscribe => SUBSCRIBE,
        Route::Unsubscribe => UNSUBSCRIBE,
        _ => return None,
    })
}

/// Returns the name of the array of a bulk call.
pub(crate) const fn array(route: &Route) -> Option<&'static str> {
    Some(match route {
        Route::TrackBulk => "events",
        Route::BulkUpdateUsers => "users",
        Route::BulkUpdateSubscriptions => "updateSubscriptionsRequests",
        Route::Subscribe | Route::Unsubscribe => "subscribers",
        _ => return None,
    })
}

/// Returns the elements of a body: those of a bulk call's array, else the body itself.
pub(crate) fn elements<'a>(route: &Route, body: &'a Value) -> &'a [Value] {
    match array(route) {
        Some(name) => body.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice),
        None => std::slice::from_ref(body),
    }
}

/// Returns the path of an element: `obj.events[3]`, or `obj`.
pub(crate) fn element_path(route: &Route, index: usize) -> String {
    array(route).map_or_else(|| "obj".to_owned(), |name| format!("obj.{name}[{index}]"))
}

/// Returns what is wrong with a body, by path: the first sixteen problems. Members that are not known are
/// ignored, as is `null` where a member may be absent.
pub(crate) fn problems(fields: &[Field], body: &Value) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    object("obj", fields, body, &mut found);
    found
}

fn object(path: &str, fields: &[Field], value: &Value, found: &mut BTreeMap<String, &'static str>) {
    let Value::Object(members) = value else {
        found.insert(path.to_owned(), "error.expected.jsobject");
        return;
    };
    for field in fields {
        if found.len() >= MAX_PROBLEMS {
            return;
        }
        let path = format!("{path}.{}", field.name);
        match members.get(field.name) {
            None if field.required => {
                found.insert(path, "error.path.missing");
            }
            None => {}
            Some(Value::Null) if !field.required => {}
            Some(value) => member(&path, field.kind, value, found),
        }
    }
}

fn member(path: &str, kind: Kind, value: &Value, found: &mut BTreeMap<String, &'static str>) {
    let problem = match (kind, value) {
        (Kind::Elements(fields), Value::Array(elements)) => {
            for (index, element) in elements.iter().enumerate() {
                if found.len() >= MAX_PROBLEMS {
                    return;
                }
                object(&format!("{path}[{index}]"), fields, element, found);
            }
            return;
        }
        (Kind::Integers, Value::Array(elements)) => {
            for (index, element) in elements.iter().enumerate() {
                if !element.is_i64() && found.len() < MAX_PROBLEMS {
                    found.insert(format!("{path}[{index}]"), "error.expected.jsnumber");
                }
            }
            return;
        }
        (Kind::EventId, Value::String(id)) if id.len() > MAX_EVENT_ID_BYTES => "error.maxLength",
        (Kind::Text | Kind::EventId, Value::String(_))
        | (Kind::Flag, Value::Bool(_))
        | (Kind::Object, Value::Object(_)) => return,
        (Kind::Integer, value) if value.is_i64() => return,
        (Kind::Text | Kind::EventId, _) => "error.expected.jsstring",
        (Kind::Flag, _) => "error.expected.jsboolean",
        (Kind::Integer, _) => "error.expected.jsnumber",
        (Kind::Object, _) => "error.expected.jsobject",
        (Kind::Integers | Kind::Elements(_), _) => "error.expected.jsarray",
    };
    found.insert(path.to_owned(), problem);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn first(route: &Route, body: &Value) -> Option<(String, &'static str)> {
        problems(of(route).unwrap(), body).into_iter().next()
    }

    #[test]
    fn a_problem_is_named_by_its_path() {
        for (route, body, path, problem) in [
            (Route::TrackBulk, json!({}), "obj.events", "error.path.missing"),
            (Route::TrackBulk, json!([]), "obj", "error.expected.jsobject"),
            (
                Route::TrackBulk,
                json!({"events": [{"eventName": "a"}, {"eventName": 1}]}),
                "obj.events[1].eventName",
                "error.expected.jsstring",
            ),
            (
                Route::Subscribe,
                json!({"listId": 1, "subscribers": [{"dataFields": []}]}),
                "obj.subscribers[0].dataFields",
                "error.expected.jsobject",
            ),
            (
                Route::UpdateSubscriptions,
                json!({"emailListIds": [1, "2"]}),
                "obj.emailListIds[1]",
                "error.expected.jsnumber",
            ),
            (Route::Track, json!({"eventName": "a", "id": "x".repeat(513)}), "obj.id", "error.maxLength"),
            (Route::Track, json!({"eventName": null}), "obj.eventName", "error.expected.jsstring"),
        ] {
            assert_eq!(first(&route, &body), Some((path.to_owned(), problem)), "{body}");
        }
    }

    #[test]
    fn unknown_members_and_optional_nulls_pass() {
        let body = json!({"eventName": "a", "email": null, "surprise": 1});
        assert_eq!(first(&Route::Track, &body), None);
    }

    #[test]
    fn the_number_of_problems_is_bounded() {
        let events: Vec<Value> = (0..100).map(|_| json!({})).collect();
        let found = problems(of(&Route::TrackBulk).unwrap(), &json!({"events": events}));
        assert_eq!(found.len(), MAX_PROBLEMS);
    }
}
