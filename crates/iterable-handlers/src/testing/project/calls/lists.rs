use hyper::StatusCode;
use relaykit_pipeline_traits::Timestamp;
use serde_json::{Value, json};

use super::fields::Fields;
use super::users::update_one;
use super::{answer_users, array, each, flag};
use crate::testing::answer::Answer;
use crate::testing::failure_list::FailureList;
use crate::testing::project::{Identity, List, Project};

/// Returns the request's list; one that nobody created comes into being.
fn list_of(project: &mut Project, body: &Value, now: Timestamp) -> Result<i64, Box<Answer>> {
    let id = body.get("listId").and_then(Value::as_i64).unwrap_or_default();
    if id < 1 || project.rules.rejected_lists.contains(&id) {
        return Err(Box::new(invalid_list(id)));
    }
    project.lists.entry(id).or_insert_with(|| List {
        name: format!("list {id}"),
        description: None,
        created_at: now.as_millis(),
    });
    Ok(id)
}

/// Answers as the official client's tests show: a 400 whose code is `Success`.
fn invalid_list(id: i64) -> Answer {
    let msg = format!("error.lists.invalidListId({id})");
    Answer::bad_request("Success", &msg, &json!({"projectId": 1, "listId": id}))
}

pub(super) fn subscribe(project: &mut Project, body: &Value, now: Timestamp) -> Answer {
    let list = match list_of(project, body, now) {
        Ok(list) => list,
        Err(refusal) => return *refusal,
    };
    let existing_only = flag(body, "updateExistingUsersOnly").unwrap_or(false);
    let mut fields = Fields::default();
    let tally = each(&array(body, "subscribers"), |element| {
        let who = Identity::of(element);
        project.judge(&who)?;
        if existing_only && project.users.get(&who).is_none() {
            return Err(who.failed_by_kind(FailureList::NotFoundEmails, FailureList::NotFoundUserIds));
        }
        update_one(project, element, None, &mut fields)?;
        project.user(&who, true)?.lists.insert(list);
        Ok(())
    });
    answer_users(project, tally, fields)
}

pub(super) fn unsubscribe(project: &mut Project, body: &Value, now: Timestamp) -> Answer {
    let list = match list_of(project, body, now) {
        Ok(list) => list,
        Err(refusal) => return *refusal,
    };
    let tally = each(&array(body, "subscribers"), |element| {
        let who = Identity::of(element);
        project.judge(&who)?;
        let user = project.user(&who, false)?;
        user.lists.remove(&list);
        user.updates += 1;
        Ok(())
    });
    answer_users(project, tally, Fields::default())
}

pub(super) fn create_list(project: &mut Project, body: &Value, now: Timestamp) -> Answer {
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = project.lists.last_key_value().map_or(1, |(id, _)| id + 1);
    let list = List {
        name: text("name").unwrap_or_default(),
        description: text("description"),
        created_at: now.as_millis(),
    };
    project.lists.insert(id, list);
    Answer::json(StatusCode::OK, &json!({"listId": id}))
}

pub(super) fn delete_list(project: &mut Project, id: &str) -> Answer {
    let id = match known_list(project, Some(id)) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    project.lists.remove(&id);
    project.users.leave_list(id);
    Answer::success()
}

pub(super) fn known_list(project: &Project, id: Option<&str>) -> Result<i64, Box<Answer>> {
    let Some(id) = id.and_then(|id| id.parse::<i64>().ok()) else {
        return Err(Box::new(Answer::bad_request("BadParams", "listId is not a number", &Value::Null)));
    };
    if project.lists.contains_key(&id) && !project.rules.rejected_lists.contains(&id) {
        Ok(id)
    } else {
        Err(Box::new(invalid_list(id)))
    }
}
