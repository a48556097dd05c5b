use hyper::StatusCode;
use serde_json::{Value, json};

use super::fields::{Fields, keep};
use super::{alone, array, flag};
use crate::testing::answer::Answer;
use crate::testing::project::{AppliedEvent, Failed, Identity, Project};
use crate::testing::tally::Tally;

enum Tracked {
    Applied(AppliedEvent),
    Disallowed(String),
    Failed(Failed),
}

fn track_one(project: &mut Project, element: &Value, fields: &mut Fields) -> Tracked {
    let name = element.get("eventName").and_then(Value::as_str).unwrap_or_default();
    if project.rules.disallowed_events.contains(name) {
        return Tracked::Disallowed(name.to_owned());
    }
    let who = Identity::of(element);
    if let Err(failed) = project.judge(&who) {
        return Tracked::Failed(failed);
    }
    if let Err(failed) = project.user(&who, false) {
        return Tracked::Failed(failed);
    }
    let create = flag(element, "createNewFields");
    let kept = keep(project, Some(name), element, create, fields);
    let mut element = element.clone();
    if let (Some(kept), Value::Object(members)) = (kept, &mut element) {
        members.insert("dataFields".to_owned(), Value::Object(kept));
    }
    Tracked::Applied(project.events.write(who.key(), &element))
}

pub(super) fn track(project: &mut Project, body: &Value, applied: &mut Vec<AppliedEvent>) -> Answer {
    match track_one(project, body, &mut Fields::default()) {
        Tracked::Applied(event) => {
            let msg = format!("Event with id: {} tracked.", event.id);
            let params = json!({"id": event.id});
            applied.push(event);
            Answer::envelope(StatusCode::OK, "Success", &msg, &params)
        }
        // Iterable says so with a 200.
        Tracked::Disallowed(name) => {
            let msg = format!("event {name} is disallowed from tracking.");
            Answer::envelope(StatusCode::OK, "Success", &msg, &Value::Null)
        }
        Tracked::Failed(failed) => alone(&failed),
    }
}

pub(super) fn track_bulk(project: &mut Project, body: &Value, applied: &mut Vec<AppliedEvent>) -> Answer {
    let mut tally = Tally::default();
    let mut fields = Fields::default();
    for element in array(body, "events") {
        match track_one(project, &element, &mut fields) {
            Tracked::Applied(event) => {
                applied.push(event);
                tally.success();
            }
            Tracked::Disallowed(name) => tally.disallow(&name),
            Tracked::Failed(failed) => tally.fail(failed),
        }
    }
    fields.tell(&mut tally);
    let rules = &project.rules;
    Answer::json(StatusCode::OK, &tally.events(rules.counts, rules.lowercase_failed_keys))
}
