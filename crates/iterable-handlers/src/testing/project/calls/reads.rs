use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::identity;
use super::lists::known_list;
use crate::testing::answer::Answer;
use crate::testing::project::{Project, UserState};
use crate::testing::recorded::Recorded;
use crate::testing::route::{Id, Named, Route};

/// Answers a call that changes nothing.
pub(super) fn answer(project: &Project, route: &Route, request: &Recorded) -> Answer {
    let ok = |body: Value| Answer::json(StatusCode::OK, &body);
    match route {
        Route::User(id, named) => user(project, id.as_ref(), *named, request),
        Route::EventsOf(id) => events(project, id, request),
        Route::Fields => ok(json!({"fields": project.user_fields})),
        Route::SentMessages => ok(json!({"messages": []})),
        Route::ForgottenEmails => ok(json!({"hashedEmails": []})),
        Route::ForgottenUserIds => ok(json!({"hashedUserIds": []})),
        Route::Lists => ok(lists(project)),
        Route::ListSize(id) => match known_list(project, Some(id)) {
            Ok(id) => ok(json!(project.users.iter().filter(|user| user.lists.contains(&id)).count())),
            Err(refusal) => *refusal,
        },
        Route::ListUsers => list_users(project, request),
        _ => Answer::success(),
    }
}

fn query(request: &Recorded, name: &str) -> Option<String> {
    request.query_pairs().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn user(project: &Project, id: Option<&Id>, named: Named, request: &Recorded) -> Answer {
    let asked = match named {
        Named::ByEmail => query(request, "email").map(Id::Email),
        Named::ByUserId => query(request, "userId").map(Id::UserId),
    };
    let Some(id) = id.cloned().or(asked) else {
        return Answer::bad_request("BadParams", "no user is named", &Value::Null);
    };
    // A user who is not there is an empty object.
    let body =
        project.users.get(&identity(&id)).map_or_else(|| json!({}), |user| json!({"user": profile(user)}));
    Answer::json(StatusCode::OK, &body)
}

fn profile(user: &UserState) -> Value {
    let mut profile = Map::new();
    if let Some(email) = &user.email {
        profile.insert("email".to_owned(), json!(email));
    }
    if let Some(id) = &user.user_id {
        profile.insert("userId".to_owned(), json!(id));
    }
    profile.insert("dataFields".to_owned(), json!(user.data_fields));
    Value::Object(profile)
}

fn events(project: &Project, id: &Id, request: &Recorded) -> Answer {
    const DEFAULT: usize = 30;
    const MAX: usize = 200;
    let limit = match query(request, "limit").map(|limit| limit.parse::<usize>()) {
        None => DEFAULT,
        Some(Ok(limit)) if limit <= MAX => limit,
        Some(_) => return Answer::bad_request("BadParams", "limit is not within 0–200", &Value::Null),
    };
    let key = identity(id).key();
    let events: Vec<Value> = project
        .events
        .of(&key)
        .take(limit)
        .map(|(event, fields)| {
            json!({
                "email": event.user,
                "eventName": event.name,
                "createdAt": event.created_at,
                "eventType": "customEvent",
                "dataFields": fields,
            })
        })
        .collect();
    Answer::json(StatusCode::OK, &json!({"events": events}))
}

fn lists(project: &Project) -> Value {
    let lists: Vec<Value> = project
        .lists
        .iter()
        .map(|(id, list)| {
            json!({
                "id": id,
                "name": list.name,
                "description": list.description.as_deref().unwrap_or_default(),
                "createdAt": list.created_at,
                "listType": "Standard",
            })
        })
        .collect();
    json!({"lists": lists})
}

/// Answers with one user in a line.
fn list_users(project: &Project, request: &Recorded) -> Answer {
    let id = match known_list(project, query(request, "listId").as_deref()) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let prefer_id = query(request, "preferUserId").as_deref() == Some("true");
    let mut lines = String::new();
    for user in project.users.iter().filter(|user| user.lists.contains(&id)) {
        let (email, user_id) = (user.email.as_deref(), user.user_id.as_deref());
        let line = if prefer_id { user_id.or(email) } else { email.or(user_id) };
        lines.push_str(line.unwrap_or_default());
        lines.push('\n');
    }
    Answer::text(StatusCode::OK, lines)
}
