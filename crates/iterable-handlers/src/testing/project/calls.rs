mod events;
mod fields;
mod lists;
mod reads;
mod subscriptions;
mod users;

use hyper::StatusCode;
use relaykit_pipeline_traits::Timestamp;
use serde_json::{Value, json};

use super::identity::{Failed, Identity};
use super::{AppliedEvent, Project};
use crate::testing::answer::Answer;
use crate::testing::mismatch;
use crate::testing::recorded::Recorded;
use crate::testing::route::{self, Id, Route};
use crate::testing::shape;
use crate::testing::tally::Tally;
use fields::Fields;

/// A request and the moment it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) request: &'a Recorded,
    pub(crate) now: Timestamp,
}

/// Lets a request take effect and answers it; the events that took effect are added to `applied`.
pub(crate) fn apply(project: &mut Project, call: Call<'_>, applied: &mut Vec<AppliedEvent>) -> Answer {
    let path = call.request.path.as_str();
    let Some(matched) = route::find(&call.request.method, path) else {
        return Answer::envelope(StatusCode::NOT_FOUND, "NotFound", "no such endpoint", &Value::Null);
    };
    if project.size() > project.max_state {
        let msg = format!("the stand-in keeps {} things: raise max_state", project.max_state);
        return Answer::envelope(StatusCode::INTERNAL_SERVER_ERROR, "GenericError", &msg, &Value::Null);
    }
    let body = match read(project, &matched, call.request) {
        Ok(body) => body,
        Err(refusal) => return *refusal,
    };
    match &matched.route {
        Route::Track => events::track(project, &body, applied),
        Route::TrackBulk => events::track_bulk(project, &body, applied),
        Route::UpdateUser => users::update_user(project, &body),
        Route::BulkUpdateUsers => users::bulk_update(project, &body),
        Route::UpdateEmail => users::update_email(project, &body),
        Route::UpdateSubscriptions => subscriptions::update(project, &body),
        Route::BulkUpdateSubscriptions => subscriptions::bulk_update(project, &body),
        Route::Forget => users::forget(project, &body),
        Route::Unforget => users::unforget(project, &body),
        Route::Subscribe => lists::subscribe(project, &body, call.now),
        Route::Unsubscribe => lists::unsubscribe(project, &body, call.now),
        Route::CreateList => lists::create_list(project, &body, call.now),
        Route::DeleteUser(id) => users::delete_user(project, id),
        Route::DeleteList(id) => lists::delete_list(project, id),
        read => reads::answer(project, read, call.request),
    }
}

/// Reads the body and refuses what the call cannot take as a whole.
fn read(project: &Project, matched: &route::Matched, request: &Recorded) -> Result<Value, Box<Answer>> {
    let Some(fields) = shape::of(&matched.route) else {
        return Ok(Value::Null);
    };
    let msg = format!("[{}] Invalid JSON body", request.path);
    let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
        return Err(Box::new(Answer::bad_request("BadJsonBody", &msg, &json!({}))));
    };
    let problems = shape::problems(fields, &body);
    if !problems.is_empty() {
        return Err(Box::new(Answer::bad_request("BadJsonBody", &msg, &json!(problems))));
    }
    let elements = shape::elements(&matched.route, &body);
    if let Some(index) = project.rules.bad_element(elements) {
        let path = shape::element_path(&matched.route, index);
        return Err(Box::new(Answer::bad_request("BadJsonBody", &msg, &json!({path: "error.invalid"}))));
    }
    if let Some(max) = project.rules.exceeded(matched.pattern, elements.len()) {
        let msg = format!("{} elements are more than {max}", elements.len());
        return Err(Box::new(Answer::too_large(&msg)));
    }
    let category = match matched.route {
        Route::Track | Route::TrackBulk => "event",
        _ => "user",
    };
    if let Some(params) = mismatch::params(&project.rules.expected_types, category, elements) {
        let msg =
            "Project 1: The request does not have the same data types as the data previously submitted.";
        return Err(Box::new(Answer::bad_request("RequestFieldsTypesMismatched", msg, &params)));
    }
    Ok(body)
}

fn array(body: &Value, name: &str) -> Vec<Value> {
    body.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn flag(body: &Value, name: &str) -> Option<bool> {
    body.get(name).and_then(Value::as_bool)
}

/// Answers a call about one user that failed.
fn alone(failed: &Failed) -> Answer {
    let (status, code, msg) = match &failed.list {
        None => (400, "InvalidEmailAddressError", "Invalid email: none".to_owned()),
        Some(list) => {
            let (status, code) = list.alone();
            (status, code, format!("{}: {}", list.name(), failed.key))
        }
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    Answer::envelope(status, code, &msg, &Value::Null)
}

/// Does something with each element and counts what came of it.
fn each(elements: &[Value], mut act: impl FnMut(&Value) -> Result<(), Failed>) -> Tally {
    let mut tally = Tally::default();
    for element in elements {
        match act(element) {
            Ok(()) => tally.success(),
            Err(failed) => tally.fail(failed),
        }
    }
    tally
}

fn answer_users(project: &Project, mut tally: Tally, fields: Fields) -> Answer {
    fields.tell(&mut tally);
    let rules = &project.rules;
    Answer::json(StatusCode::OK, &tally.users(rules.counts, rules.lowercase_failed_keys))
}

fn identity(id: &Id) -> Identity<'_> {
    match id {
        Id::Email(email) => Identity { email: Some(email), user_id: None },
        Id::UserId(user_id) => Identity { email: None, user_id: Some(user_id) },
    }
}
