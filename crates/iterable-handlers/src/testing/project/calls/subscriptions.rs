use hyper::StatusCode;
use serde_json::Value;

use super::{alone, array, each};
use crate::testing::answer::Answer;
use crate::testing::failure_list::FailureList;
use crate::testing::project::{Failed, Identity, Project};

const SUBSCRIPTIONS: &[&str] =
    &["emailListIds", "unsubscribedChannelIds", "unsubscribedMessageTypeIds", "subscribedMessageTypeIds"];

fn update_one(project: &mut Project, element: &Value) -> Result<(), Failed> {
    let who = Identity::of(element);
    project.judge(&who)?;
    let user = project.user(&who, false)?;
    for name in SUBSCRIPTIONS {
        if let Some(value @ Value::Array(ids)) = element.get(name) {
            if *name == "emailListIds" {
                user.lists = ids.iter().filter_map(Value::as_i64).collect();
            }
            user.subscriptions.insert((*name).to_owned(), value.clone());
        }
    }
    user.updates += 1;
    Ok(())
}

pub(super) fn update(project: &mut Project, body: &Value) -> Answer {
    match update_one(project, body) {
        Ok(()) => Answer::success(),
        Err(failed) => alone(&failed),
    }
}

pub(super) fn bulk_update(project: &mut Project, body: &Value) -> Answer {
    let elements = array(body, "updateSubscriptionsRequests");
    let tally = each(&elements, |element| {
        update_one(project, element).map_err(|failed| as_subscription(failed, element))
    });
    let rules = &project.rules;
    Answer::json(StatusCode::OK, &tally.subscriptions(rules.counts, rules.lowercase_failed_keys))
}

/// Names a failure of which the description of subscriptions has no list as one inside Iterable.
fn as_subscription(failed: Failed, element: &Value) -> Failed {
    use FailureList as L;
    match failed.list {
        Some(
            L::NotFoundEmails
            | L::NotFoundUserIds
            | L::ForgottenEmails
            | L::ForgottenUserIds
            | L::ConflictEmails
            | L::ConflictUserIds,
        ) => Identity::of(element).failed_by_kind(L::ValidEmailFailures, L::ValidUserIdFailures),
        _ => failed,
    }
}
