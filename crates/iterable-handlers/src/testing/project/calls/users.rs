use serde_json::Value;

use super::fields::{Fields, keep};
use super::{alone, answer_users, array, each, flag, identity};
use crate::testing::answer::Answer;
use crate::testing::failure_list::FailureList;
use crate::testing::project::identity::{is_email, normal};
use crate::testing::project::{Failed, Identity, Project};
use crate::testing::route::Id;

pub(super) fn update_one(
    project: &mut Project,
    element: &Value,
    create_fields: Option<bool>,
    fields: &mut Fields,
) -> Result<(), Failed> {
    let who = Identity::of(element);
    project.judge(&who)?;
    project.user(&who, true)?;
    let kept = keep(project, None, element, create_fields, fields);
    let merge = flag(element, "mergeNestedObjects").unwrap_or(false);
    let user = project.user(&who, true)?;
    user.write(kept.unwrap_or_default(), merge);
    user.updates += 1;
    Ok(())
}

pub(super) fn update_user(project: &mut Project, body: &Value) -> Answer {
    match update_one(project, body, flag(body, "createNewFields"), &mut Fields::default()) {
        Ok(()) => Answer::success(),
        Err(failed) => alone(&failed),
    }
}

pub(super) fn bulk_update(project: &mut Project, body: &Value) -> Answer {
    let create = flag(body, "createNewFields");
    let mut fields = Fields::default();
    let tally = each(&array(body, "users"), |element| update_one(project, element, create, &mut fields));
    answer_users(project, tally, fields)
}

pub(super) fn update_email(project: &mut Project, body: &Value) -> Answer {
    let new = body.get("newEmail").and_then(Value::as_str).unwrap_or_default();
    if !is_email(new) {
        let msg = format!("Invalid email: {new}");
        return Answer::bad_request("InvalidEmailAddressError", &msg, &Value::Null);
    }
    if project.forgotten.contains(&normal(new)) {
        let failed = Failed { list: Some(FailureList::ForgottenEmails), key: new.to_owned() };
        return alone(&failed);
    }
    let who = Identity::current(body);
    let moved = project
        .judge(&who)
        .and_then(|()| project.user(&who, false).map(|_| ()))
        .and_then(|()| project.users.move_to(&who, new));
    match moved {
        Ok(()) => Answer::success(),
        Err(failed) => alone(&failed),
    }
}

pub(super) fn forget(project: &mut Project, body: &Value) -> Answer {
    let who = Identity::of(body);
    if let Err(failed) = who.check() {
        return alone(&failed);
    }
    project.forgotten.extend(who.keys());
    project.users.remove(&who);
    Answer::success()
}

pub(super) fn unforget(project: &mut Project, body: &Value) -> Answer {
    let who = Identity::of(body);
    if let Err(failed) = who.check() {
        return alone(&failed);
    }
    for key in who.keys() {
        project.forgotten.remove(&key);
    }
    Answer::success()
}

pub(super) fn delete_user(project: &mut Project, id: &Id) -> Answer {
    project.users.remove(&identity(id));
    Answer::success()
}
