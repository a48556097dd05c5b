use std::time::Duration;

use proptest::prelude::*;
use relaykit_pipeline_traits::{ManualClock, Rng, Timestamp};
use serde_json::{Value, json};

use super::*;

fn stamper() -> Stamper {
    Stamper::new(ManualClock::new(), Rng::seeded(7))
}

fn event() -> EventTrack {
    EventTrack::new(Identity::email("ada@example.com"), "login")
}

fn sent<R: Request>(prepared: &Prepared<R>) -> Vec<Value> {
    let json = |element: &Element| serde_json::from_str(element.json.get()).unwrap();
    prepared.elements().iter().map(json).collect()
}

fn refused<R: Request>(request: R) -> InvalidRequest {
    let error = request.prepare(&stamper()).unwrap_err();
    assert!(std::error::Error::source(&error).is_some());
    error.into_parts().1
}

#[test]
fn an_event_gets_its_id_and_moment_once() {
    let clock = ManualClock::new();
    let stamper = Stamper::new(clock.clone(), Rng::seeded(7));
    let first = event().prepare(&stamper).unwrap();
    clock.advance(Duration::from_secs(60));
    let second = event().prepare(&stamper).unwrap();
    assert_ne!(first.id(), second.id());
    assert_eq!(
        sent(&first),
        [
            json!({"email": "ada@example.com", "eventName": "login", "id": first.id(), "createdAt": 1_761_955_200})
        ]
    );
    assert_eq!(sent(&second)[0]["createdAt"], 1_761_955_260);
}

#[test]
fn a_given_id_and_moment_stay() {
    let given = event().id("order-7").created_at(Timestamp::from_micros(1_500_000));
    let prepared = given.prepare(&stamper()).unwrap();
    assert_eq!(prepared.id(), "order-7");
    assert_eq!(sent(&prepared)[0]["createdAt"], 1);
}

#[test]
fn what_is_not_given_is_not_sent_and_an_empty_list_is() {
    let user = UserUpdate::new(Identity::user_id("u1")).prepare(&stamper()).unwrap();
    assert_eq!(sent(&user), [json!({"userId": "u1"})]);
    let cleared = SubscriptionUpdate::new(Identity::user_id("u1")).email_list_ids([]);
    assert_eq!(sent(&cleared.prepare(&stamper()).unwrap()), [json!({"userId": "u1", "emailListIds": []})]);
    let moved = EmailUpdate::new(Identity::user_id("u1"), "new@example.com");
    assert_eq!(
        sent(&moved.prepare(&stamper()).unwrap()),
        [json!({"currentUserId": "u1", "newEmail": "new@example.com"})]
    );
}

#[test]
fn every_setter_sets_its_member() {
    let event = event()
        .field("n", 1)
        .campaign_id(2)
        .template_id(3)
        .create_new_fields(false)
        .id("i")
        .created_at(Timestamp::EPOCH);
    assert_eq!(
        serde_json::to_value(event).unwrap(),
        json!({"email": "ada@example.com", "eventName": "login", "id": "i", "createdAt": 0, "dataFields": {"n": 1},
            "campaignId": 2, "templateId": 3, "createNewFields": false})
    );
    let user = UserUpdate::new(Identity::both("a@x", "u"))
        .fields(data_fields(&json!({"n": 1})).unwrap())
        .prefer_user_id(true)
        .merge_nested_objects(false);
    let user_json = json!({"email": "a@x", "userId": "u", "dataFields": {"n": 1}, "preferUserId": true,
        "mergeNestedObjects": false});
    assert_eq!(serde_json::to_value(&user).unwrap(), user_json);
    let subscriptions = SubscriptionUpdate::new(Identity::email("a@x"))
        .email_list_ids([1])
        .unsubscribed_channel_ids([2])
        .unsubscribed_message_type_ids([3])
        .subscribed_message_type_ids([4])
        .campaign_id(5)
        .template_id(6)
        .validate_channel_alignment(false);
    assert_eq!(
        serde_json::to_value(subscriptions).unwrap(),
        json!({"email": "a@x", "emailListIds": [1], "unsubscribedChannelIds": [2], "unsubscribedMessageTypeIds": [3],
            "subscribedMessageTypeIds": [4], "campaignId": 5, "templateId": 6, "validateChannelAlignment": false})
    );
    let join = ListSubscribe::new(9).subscriber(user).update_existing_users_only(true);
    assert_eq!(
        serde_json::to_value(join).unwrap(),
        json!({"listId": 9, "subscribers": [user_json], "updateExistingUsersOnly": true})
    );
    let leave = ListUnsubscribe::new(9).user(Identity::user_id("u")).campaign_id(1).channel_unsubscribe(true);
    assert_eq!(
        serde_json::to_value(leave).unwrap(),
        json!({"listId": 9, "subscribers": [{"userId": "u"}], "campaignId": 1, "channelUnsubscribe": true})
    );
}

#[test]
fn a_request_that_names_nobody_well_comes_back_with_the_reason() {
    let nobody = EventTrack::from(crate::wire::TrackRequest {
        email: Some(String::new()),
        event_name: "login".to_owned(),
        ..Default::default()
    });
    let error = nobody.clone().prepare(&stamper()).unwrap_err();
    assert_eq!(error.reason().to_string(), "neither email nor userId is given");
    assert!(error.into_request() == nobody);
    let reasons = [
        refused(UserUpdate::new(Identity::email(" "))).to_string(),
        refused(UserUpdate::new(Identity::user_id("\t"))).to_string(),
        refused(UserUpdate::new(Identity::email("ada.example.com"))).to_string(),
        refused(SubscriptionUpdate::new(Identity::both("a@x", ""))).to_string(),
        refused(EmailUpdate::new(Identity::email("a@x"), "nowhere")).to_string(),
        refused(EventTrack::new(Identity::user_id("u"), " ")).to_string(),
        refused(event().id("")).to_string(),
        refused(ListSubscribe::new(1)).to_string(),
        refused(ListUnsubscribe::new(1)).to_string(),
    ];
    assert_eq!(
        reasons,
        [
            "email is blank",
            "userId is blank",
            "email of 15 bytes is no address: it has no '@'",
            "userId is blank",
            "newEmail of 7 bytes is no address: it has no '@'",
            "eventName is blank",
            "id is blank",
            "subscribers is empty, but must have at least 1",
            "subscribers is empty, but must have at least 1",
        ]
    );
}

#[test]
fn a_wrong_subscriber_is_told_by_its_place() {
    let list = ListSubscribe::new(1).user(Identity::user_id("u")).user(Identity::email("nowhere"));
    match refused(list) {
        InvalidRequest::Subscriber { index: 1, source } => {
            assert!(matches!(*source, InvalidRequest::NotAnEmail { field: "email", bytes: 7 }));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_id_may_have_512_bytes_and_no_more() {
    assert!(event().id("é".repeat(256)).prepare(&stamper()).is_ok());
    let reason = refused(event().id(format!("{}x", "é".repeat(256))));
    assert_eq!(reason.to_string(), "id has 513 bytes, but must have at most 512");
}

#[test]
fn a_message_that_no_request_can_hold_is_refused_before_it_is_sent() {
    let fill = |bytes: usize| {
        let user = UserUpdate::new(Identity::user_id("u")).field("x", "");
        let empty = user.clone().prepare(&stamper()).unwrap().weight();
        user.field("x", "y".repeat(bytes - empty))
    };
    let largest = fill(MAX_ELEMENTS_BYTES).prepare(&stamper()).unwrap();
    assert_eq!(largest.weight(), MAX_ELEMENTS_BYTES);
    let reason = refused(fill(MAX_ELEMENTS_BYTES + 1));
    assert!(
        matches!(reason, InvalidRequest::TooLarge { bytes, max } if bytes == MAX_ELEMENTS_BYTES + 1 && max == MAX_ELEMENTS_BYTES)
    );
}

#[test]
fn data_fields_are_an_object() {
    assert_eq!(data_fields(&json!({"a": null})).unwrap()["a"], Value::Null);
    for (value, kind) in [
        (json!(null), "null"),
        (json!([]), "an array"),
        (json!("x"), "a string"),
        (json!(1), "a number"),
        (json!(true), "a boolean"),
    ] {
        let error = data_fields(&value).unwrap_err();
        assert_eq!(error.to_string(), format!("data fields are {kind}, but must be an object"));
    }
    let keys_are_pairs = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(data_fields(&keys_are_pairs), Err(InvalidRequest::Json { .. })));
}

#[test]
fn nothing_that_is_printed_shows_whom_it_is_about() {
    let secret = Identity::both("ada@example.com", "ada-lovelace");
    let shown = [
        format!("{secret:?}"),
        format!("{:?}", event().field("salary", 7)),
        format!("{:?}", UserUpdate::new(secret.clone()).field("salary", 7)),
        format!("{:?}", SubscriptionUpdate::new(secret.clone())),
        format!("{:?}", EmailUpdate::new(secret.clone(), "ada@example.com")),
        format!("{:?}", ListSubscribe::new(1).user(secret.clone())),
        format!("{:?}", ListUnsubscribe::new(1).user(secret.clone())),
        format!("{:?}", UserUpdate::new(secret).field("salary", 7).prepare(&stamper()).unwrap()),
        format!("{:?}", event().prepare(&stamper()).unwrap().keys().collect::<Vec<_>>()),
        format!("{:?}", EventTrack::new(Identity::email("ada"), "x").prepare(&stamper()).unwrap_err()),
    ];
    for text in shown {
        assert!(!text.contains("ada") && !text.contains("salary"), "{text}");
    }
}

#[test]
fn keys_are_normalised_and_come_from_the_data_fields_too() {
    let update = UserUpdate::new(Identity::both(" Ada@Example.COM", " U1 "))
        .field("email", "new@example.com")
        .field("userId", 7);
    let prepared = update.prepare(&stamper()).unwrap();
    let keys: Vec<_> = prepared.keys().map(|key| (key.space(), key.as_str())).collect();
    assert_eq!(
        keys,
        [
            (IdentitySpace::UserId, "U1"),
            (IdentitySpace::Email, "ada@example.com"),
            (IdentitySpace::Email, "new@example.com")
        ]
    );
    assert_eq!(prepared.ordering_key().unwrap().as_str(), "id:U1");
    let move_back = EmailUpdate::new(Identity::email("A@x"), "a@X").prepare(&stamper()).unwrap();
    assert_eq!(move_back.keys().count(), 1);
    assert_eq!(move_back.ordering_key().unwrap().as_str(), "email:a@x");
}

#[test]
fn a_message_about_several_users_has_no_ordering_key() {
    let one = ListSubscribe::new(1).user(Identity::user_id("u"));
    let two = one.clone().user(Identity::user_id("v"));
    assert!(one.prepare(&stamper()).unwrap().ordering_key().is_some());
    assert!(two.prepare(&stamper()).unwrap().ordering_key().is_none());
}

#[test]
fn the_form_on_disk_does_not_change() {
    // Written by the first release. A later one must read it.
    let stored = r#"{"id":"7","flags":{"list_id":1,"update_existing_users_only":null},"elements":[{"userId":"u"},{"email":"a@x","dataFields":{"n":1.10}}]}"#;
    let prepared: Prepared<ListSubscribe> = serde_json::from_str(stored).unwrap();
    assert_eq!(prepared.id(), "7");
    assert_eq!(serde_json::to_string(&prepared).unwrap(), stored);
}

#[test]
fn what_is_stored_is_checked_when_it_is_read() {
    for bad in [
        r#"{"id":"7","flags":null,"elements":[]}"#,
        r#"{"id":"7","flags":null,"elements":[{"eventName":"x"}]}"#,
        r#"{"id":"7","flags":null,"elements":["x"]}"#,
        r#"{"id":"7","elements":[{"userId":"u","eventName":"x"}]}"#,
    ] {
        assert!(serde_json::from_str::<Prepared<EventTrack>>(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn a_stored_message_comes_back_byte_for_byte(
        name in "[a-z ]{1,20}x",
        number in any::<f64>(),
        text in any::<String>(),
        user in "[^ ]{1,10}x",
    ) {
        let request = EventTrack::new(Identity::user_id(user), name).field("n", number).field("t", text);
        let before = request.prepare(&stamper()).unwrap();
        let stored = serde_json::to_string(&before).unwrap();
        let after: Prepared<EventTrack> = serde_json::from_str(&stored).unwrap();
        prop_assert_eq!(before.elements()[0].json.get(), after.elements()[0].json.get());
        prop_assert_eq!(before.id(), after.id());
        prop_assert_eq!(before.weight(), after.weight());
        prop_assert!(before.keys().eq(after.keys()));
    }
}
