use proptest::prelude::*;
use relaykit_pipeline_traits::{Classify, Verdict};
use serde_json::{Value, json};

use super::*;
use crate::wire::{BulkSubscriptionsResponse, BulkTrackResponse, BulkUpdateResponse};

/// A message by its users; each user by the words that name them.
type Named = Vec<Vec<IdentityKey>>;

fn key(word: &str) -> IdentityKey {
    let space = if word.contains('@') { IdentitySpace::Email } else { IdentitySpace::UserId };
    IdentityKey::new(space, word)
}

fn named(users: &[&[&str]]) -> Named {
    users.iter().map(|words| words.iter().map(|word| key(word)).collect()).collect()
}

fn judge(messages: &[Named], counting: Counting, reply: &Reply) -> Vec<Verdict<(), DeliveryError>> {
    let units: Vec<Vec<Unit<'_>>> = messages
        .iter()
        .map(|users| {
            let unit = |keys| Unit { keys, event_name: None };
            users.iter().map(Vec::as_slice).map(unit).collect()
        })
        .collect();
    reconcile(&units, counting, reply)
}

/// Says in a letter each what became of the messages: Done, Retry, X for dead, Isolate.
fn letters(verdicts: &[Verdict<(), DeliveryError>]) -> String {
    let letter = |verdict: &Verdict<(), DeliveryError>| match verdict {
        Verdict::Done(()) => 'D',
        Verdict::Retry { .. } => 'R',
        Verdict::Dead(_) => 'X',
        Verdict::Isolate(_) => 'I',
        _ => '?',
    };
    verdicts.iter().map(letter).collect()
}

fn error(verdict: &Verdict<(), DeliveryError>) -> &DeliveryError {
    match verdict {
        Verdict::Retry { error, .. } | Verdict::Dead(error) | Verdict::Isolate(error) => error,
        other => panic!("{other:?} has no error"),
    }
}

fn users(reply: Value) -> Reply {
    Reply::from(&serde_json::from_value::<BulkUpdateResponse>(reply).unwrap())
}

fn subscriptions(reply: Value) -> Reply {
    Reply::from(&serde_json::from_value::<BulkSubscriptionsResponse>(reply).unwrap())
}

fn events(sent: &[(&str, &str)], reply: Value) -> Vec<Verdict<(), DeliveryError>> {
    let reply = Reply::from(&serde_json::from_value::<BulkTrackResponse>(reply).unwrap());
    let keys: Vec<[IdentityKey; 1]> = sent.iter().map(|(user, _)| [key(user)]).collect();
    let units: Vec<Vec<Unit<'_>>> =
        sent.iter().zip(&keys).map(|((_, name), keys)| vec![Unit { keys, event_name: Some(name) }]).collect();
    reconcile(&units, Counting::Each, &reply)
}

/// Judges one-user messages by a reply to `users/bulkUpdate`.
fn bulk(sent: &[&[&str]], reply: Value) -> String {
    let messages: Vec<Named> = sent.iter().map(|words| named(&[words])).collect();
    letters(&judge(&messages, Counting::Each, &users(reply)))
}

#[test]
fn failed_keys_find_their_messages() {
    let counts = |success: u64, fail: u64, failed: Value| json!({"successCount": success, "failCount": fail, "failedUpdates": failed});
    let a: &[&str] = &["a@x"];
    let b: &[&str] = &["b@x"];
    let both: &[&str] = &["u", "c@x"];
    for (name, sent, reply, expected) in [
        ("all taken", vec![a, b], counts(2, 0, json!({})), "DD"),
        ("one failed", vec![a, b], counts(1, 1, json!({"invalidEmails": ["a@x"]})), "XD"),
        ("other case and spaces", vec![a, b], counts(1, 1, json!({"invalidEmails": [" A@X "]})), "XD"),
        ("by the id of both", vec![both, b], counts(1, 1, json!({"invalidUserIds": ["u"]})), "XD"),
        ("by the address of both", vec![both, b], counts(1, 1, json!({"conflictEmails": ["C@x"]})), "XD"),
        ("an address as id", vec![a, b], counts(1, 1, json!({"notFoundUserIds": ["a@x"]})), "XD"),
        (
            "by id and address",
            vec![both, b],
            counts(1, 1, json!({"invalidUserIds": ["u"], "invalidEmails": ["c@x"]})),
            "XD",
        ),
        ("two of two", vec![a, a, b], counts(1, 2, json!({"invalidEmails": ["a@x", "A@x"]})), "XXD"),
        ("one of two", vec![a, a, b], counts(2, 1, json!({"invalidEmails": ["a@x"]})), "IID"),
        ("one listed for two counted", vec![a, a, b], counts(1, 2, json!({"invalidEmails": ["a@x"]})), "III"),
        (
            "one each in two lists",
            vec![a, a, b],
            counts(1, 2, json!({"invalidEmails": ["a@x"], "forgottenEmails": ["a@x"]})),
            "III",
        ),
        ("three of two", vec![a, a, b], counts(0, 3, json!({"invalidEmails": ["a@x", "a@x", "a@x"]})), "III"),
        ("a stranger", vec![a, b], counts(1, 1, json!({"invalidEmails": ["z@x"]})), "II"),
        (
            "a stranger and a known one",
            vec![a, b],
            counts(0, 2, json!({"invalidEmails": ["z@x", "a@x"]})),
            "XI",
        ),
        ("a stranger that nobody counts", vec![a, b], counts(2, 0, json!({"invalidEmails": ["z@x"]})), "II"),
        ("an unknown list", vec![a, b], counts(2, 0, json!({"shadowBanned": ["a@x"]})), "II"),
        ("an unknown list that is empty", vec![a, b], counts(2, 0, json!({"shadowBanned": []})), "DD"),
        ("a key that is no text", vec![a, b], counts(1, 1, json!({"invalidEmails": [null]})), "II"),
        ("too few counted", vec![a, b], counts(1, 0, json!({})), "II"),
        ("too many counted", vec![a, b], counts(3, 0, json!({})), "II"),
        ("a failure nobody lists", vec![a, b], counts(1, 1, json!({})), "II"),
        ("a failure listed, not counted", vec![a, b], counts(2, 0, json!({"invalidEmails": ["a@x"]})), "XI"),
        ("counts of zero", vec![a, b], counts(0, 0, json!({})), "II"),
    ] {
        assert_eq!(bulk(&sent, reply), expected, "{name}");
    }
    assert_eq!(bulk(&[a, b], json!({"failedUpdates": {}})), "II", "no counts");
    let top_level = json!({"successCount": 2, "failCount": 0, "rejectedUsers": ["a@x"]});
    assert_eq!(bulk(&[a, b], top_level), "II", "an unknown list at the top level");
    let harmless = json!({"successCount": 2, "failCount": 0, "createdUsers": ["a@x"], "msg": "ok"});
    assert_eq!(bulk(&[a, b], harmless), "DD", "a new member that tells of no failure");
}

#[test]
fn deprecated_lists_are_read_and_not_counted_twice() {
    let a: &[&str] = &["a@x"];
    let b: &[&str] = &["b@x"];
    let alone = json!({"successCount": 1, "failCount": 1, "invalidEmails": ["a@x"]});
    assert_eq!(bulk(&[a, b], alone), "XD");
    let doubled = json!({"successCount": 1, "failCount": 1, "invalidEmails": ["a@x"],
        "failedUpdates": {"forgottenEmails": ["A@x"]}});
    let messages = [named(&[a]), named(&[b])];
    let verdicts = judge(&messages, Counting::Each, &users(doubled));
    assert_eq!(letters(&verdicts), "XD");
    assert_eq!(error(&verdicts[0]).reason(), Some(&Reason::ForgottenEmails));
}

#[test]
fn every_list_has_its_reason() {
    for (list, user, reason) in [
        ("conflictEmails", "a@x", Reason::ConflictEmails),
        ("conflictUserIds", "a", Reason::ConflictUserIds),
        ("forgottenEmails", "a@x", Reason::ForgottenEmails),
        ("forgottenUserIds", "a", Reason::ForgottenUserIds),
        ("invalidDataEmails", "a@x", Reason::InvalidDataEmails),
        ("invalidDataUserIds", "a", Reason::InvalidDataUserIds),
        ("invalidEmails", "a@x", Reason::InvalidEmails),
        ("invalidUserIds", "a", Reason::InvalidUserIds),
        ("notFoundEmails", "a@x", Reason::NotFoundEmails),
        ("notFoundUserIds", "a", Reason::NotFoundUserIds),
    ] {
        let reply = json!({"successCount": 1, "failCount": 1, "failedUpdates": {list: [user]}});
        let verdicts = judge(&[named(&[&[user]]), named(&[&["b"]])], Counting::Each, &users(reply.clone()));
        assert_eq!(letters(&verdicts), "XD", "{list}");
        assert_eq!(error(&verdicts[0]).reason(), Some(&reason), "{list}");
        let verdicts = events(&[(user, "x"), ("b", "x")], reply);
        assert_eq!(error(&verdicts[0]).reason(), Some(&reason), "{list} of events");
    }
}

#[test]
fn a_failure_inside_the_api_is_tried_again() {
    let reply = |emails: Value, ids: Value| {
        subscriptions(json!({"successCount": 1, "failCount": 2, "invalidEmails": [], "invalidUserIds": ["c"],
            "validEmailFailures": emails, "validUserIdFailures": ids}))
    };
    let messages = [named(&[&["a@x"]]), named(&[&["b"]]), named(&[&["c"]])];
    for reply in [reply(json!(["a@x"]), json!([])), reply(json!([]), json!(["a@x"]))] {
        let verdicts = judge(&messages, Counting::Each, &reply);
        assert_eq!(letters(&verdicts), "RDX");
        assert!(error(&verdicts[0]).is_transient());
        assert!(!error(&verdicts[2]).is_transient());
    }
    let alone =
        subscriptions(json!({"successCount": 0, "failCount": 1, "invalidEmails": [], "invalidUserIds": [],
        "validEmailFailures": ["A@X"], "validUserIdFailures": []}));
    assert_eq!(letters(&judge(&messages[..1], Counting::Each, &alone)), "R");
}

#[test]
fn a_disallowed_name_fails_its_events_and_no_others() {
    let sent = [("a@x", "bad"), ("a@x", "good"), ("b@x", "Bad"), ("c@x", "bad")];
    // Whether or not the API counts them among the failures, the successes are the others.
    for fail in [0, 2] {
        let reply = json!({"successCount": 2, "failCount": fail, "disallowedEventNames": ["bad"]});
        let verdicts = events(&sent, reply);
        assert_eq!(letters(&verdicts), "XDDX", "{fail}");
        assert_eq!(error(&verdicts[0]).reason(), Some(&Reason::DisallowedEventName));
    }
    let off = json!({"successCount": 3, "failCount": 1, "disallowedEventNames": ["bad"]});
    assert_eq!(letters(&events(&sent, off)), "XIIX");
    let stranger = json!({"successCount": 4, "failCount": 0, "disallowedEventNames": ["worse"]});
    assert_eq!(letters(&events(&sent, stranger)), "IIII");
}

#[test]
fn a_recorded_reply_names_the_reasons_in_order() {
    let reply = json!({"successCount": 2, "failCount": 8, "disallowedEventNames": ["disallowedEvent1"],
        "filteredOutFields": [], "createdFields": [], "failedUpdates": {
            "invalidEmails": ["email1@example.com"], "invalidUserIds": ["email1"],
            "notFoundEmails": ["email2@example.com"], "notFoundUserIds": ["email2"],
            "forgottenEmails": ["email3@example.com"], "forgottenUserIds": ["email3"]}});
    let sent = [
        ("email1@example.com", "x"),
        ("email1", "x"),
        ("email2@example.com", "x"),
        ("email2", "x"),
        ("email3@example.com", "x"),
        ("email3", "x"),
        ("email4", "disallowedEvent1"),
        ("email5", "disallowedEvent1"),
        ("email6", "x"),
        ("email7", "x"),
    ];
    let verdicts = events(&sent, reply);
    assert_eq!(letters(&verdicts), "XXXXXXXXDD");
    let reasons: Vec<_> =
        verdicts[..8].iter().map(|verdict| error(verdict).reason().unwrap().to_string()).collect();
    assert_eq!(
        reasons,
        [
            "Malformed Email",
            "Malformed UserId",
            "Email not found",
            "UserId not found",
            "Email Forgotten",
            "UserId Forgotten",
            "Disallowed Event Name",
            "Disallowed Event Name"
        ]
    );
}

#[test]
fn a_message_that_was_alone_owns_every_failure() {
    let one = |reply: Value| judge(&[named(&[&["u"]])], Counting::Each, &users(reply)).remove(0);
    let counts = |success: u64, fail: u64, failed: Value| json!({"successCount": success, "failCount": fail, "failedUpdates": failed});
    assert!(one(counts(1, 0, json!({}))).is_done());
    for (reply, reason) in [
        // The existing address that stands in the way is none of the message's own.
        (counts(0, 1, json!({"conflictEmails": ["other@x"]})), Reason::ConflictEmails),
        (counts(0, 1, json!({})), Reason::Unexplained),
        (counts(1, 1, json!({})), Reason::Unexplained),
        (
            counts(0, 1, json!({"shadowBanned": ["u"]})),
            Reason::Unrecognised { list: "shadowBanned".to_owned(), key: FailedKey::new(r#"["u"]"#) },
        ),
    ] {
        let verdict = one(reply.clone());
        assert!(matches!(verdict, Verdict::Dead(_)), "{reply}");
        assert_eq!(error(&verdict).reason(), Some(&reason), "{reply}");
    }
    for reply in [json!({}), counts(0, 0, json!({})), counts(2, 0, json!({}))] {
        let verdict = one(reply.clone());
        assert_eq!(letters(std::slice::from_ref(&verdict)), "R", "{reply}");
        assert!(matches!(error(&verdict), DeliveryError::Ambiguous { doubt: Doubt::Counts }), "{reply}");
    }
    let verdict =
        events(&[("u", "x")], json!({"successCount": 1, "failCount": 0, "disallowedEventNames": ["y"]}));
    assert_eq!(letters(&verdict), "X");
}

#[test]
fn a_list_message_has_one_verdict_and_tells_which_subscribers_failed() {
    let lists = |messages: &[Named], reply: Value| judge(messages, Counting::Users, &users(reply));
    let three = named(&[&["a"], &["b"], &["c"]]);
    let two = named(&[&["d"], &["e"]]);
    let reply = json!({"successCount": 3, "failCount": 2,
        "failedUpdates": {"notFoundUserIds": ["b"], "forgottenUserIds": ["c"]}});
    let verdicts = lists(&[three.clone(), two.clone()], reply);
    assert_eq!(letters(&verdicts), "XD");
    let DeliveryError::Rejected { reason, failures } = error(&verdicts[0]) else {
        panic!("{verdicts:?}");
    };
    assert_eq!(*reason, Reason::NotFoundUserIds);
    assert_eq!(
        failures.iter().map(|failure| (failure.index, failure.reason.clone())).collect::<Vec<_>>(),
        [(Some(1), Reason::NotFoundUserIds), (Some(2), Reason::ForgottenUserIds)]
    );
    let stranger = json!({"successCount": 4, "failCount": 1, "failedUpdates": {"notFoundUserIds": ["z"]}});
    assert_eq!(letters(&lists(&[three.clone(), two], stranger.clone())), "II");
    let alone = lists(&[three], stranger);
    let DeliveryError::Rejected { failures, .. } = error(&alone[0]) else {
        panic!("{alone:?}");
    };
    assert_eq!(failures[0].index, None);
}

#[test]
fn users_that_are_named_twice_or_passed_over_are_no_doubt_on_lists() {
    let twice = [named(&[&["a"], &["a"], &["b"]]), named(&[&["c"]])];
    let reply = |success: u64| users(json!({"successCount": success, "failCount": 0}));
    for (counting, success, expected) in [
        (Counting::Users, 4, "DD"),
        (Counting::Users, 3, "DD"),
        (Counting::Users, 2, "II"),
        (Counting::Users, 5, "II"),
        (Counting::KnownUsers, 0, "DD"),
        (Counting::KnownUsers, 5, "II"),
        (Counting::Each, 3, "II"),
    ] {
        let verdicts = judge(&twice, counting, &reply(success));
        assert_eq!(letters(&verdicts), expected, "{counting:?} {success}");
    }
    let failed = users(json!({"successCount": 0, "failCount": 1}));
    assert_eq!(letters(&judge(&twice, Counting::KnownUsers, &failed)), "II");
}

/// What the API does with a request, and how it tells.
#[derive(Debug, Clone)]
struct Truth {
    messages: Vec<Named>,
    failed: Vec<Vec<Option<usize>>>,
}

const LISTS: [(&str, &str); 5] = [
    ("conflictUserIds", "conflictEmails"),
    ("forgottenUserIds", "forgottenEmails"),
    ("invalidDataUserIds", "invalidDataEmails"),
    ("invalidUserIds", "invalidEmails"),
    ("notFoundUserIds", "notFoundEmails"),
];

fn truth() -> impl Strategy<Value = Truth> {
    let user = prop_oneof![
        (0..4_u8).prop_map(|n| vec![key(&format!("u{n}"))]),
        (0..4_u8).prop_map(|n| vec![key(&format!("m{n}@x"))]),
        (0..4_u8, 0..4_u8).prop_map(|(n, m)| vec![key(&format!("u{n}")), key(&format!("m{m}@x"))]),
    ];
    let unit = (user, prop::option::weighted(0.3, 0..LISTS.len()));
    prop::collection::vec(prop::collection::vec(unit, 1..3), 1..7).prop_map(|messages| {
        let split = |units: Vec<(Vec<IdentityKey>, Option<usize>)>| -> (Named, Vec<Option<usize>>) {
            units.into_iter().unzip()
        };
        let (messages, failed) = messages.into_iter().map(split).unzip();
        Truth { messages, failed }
    })
}

impl Truth {
    /// Tells the truth: each failed element once, by one of its names, in some spelling.
    fn reply(&self, spelling: u64) -> Value {
        let mut rng = relaykit_pipeline_traits::Rng::seeded(spelling);
        let mut lists = serde_json::Map::new();
        let (mut success, mut fail) = (0, 0);
        for (keys, failed) in self.messages.iter().flatten().zip(self.failed.iter().flatten()) {
            let Some(list) = failed else {
                success += 1;
                continue;
            };
            fail += 1;
            let name = &keys[usize::try_from(rng.below(keys.len() as u64)).unwrap()];
            let (ids, emails) = LISTS[*list];
            let (list, text) = match name.space() {
                IdentitySpace::UserId => (ids, format!("{} ", name.as_str())),
                IdentitySpace::Email => (emails, name.as_str().to_uppercase()),
            };
            let list = lists.entry(list).or_insert_with(|| json!([]));
            list.as_array_mut().unwrap().push(json!(text));
        }
        json!({"successCount": success, "failCount": fail, "failedUpdates": lists})
    }

    fn any_failed(&self, message: usize) -> bool {
        self.failed[message].iter().any(Option::is_some)
    }
}

proptest! {
    #[test]
    fn an_honest_reply_is_never_misread(truth in truth(), spelling: u64) {
        let verdicts = judge(&truth.messages, Counting::Each, &users(truth.reply(spelling)));
        prop_assert_eq!(verdicts.len(), truth.messages.len());
        for (at, verdict) in verdicts.iter().enumerate() {
            match verdict {
                Verdict::Done(()) => prop_assert!(!truth.any_failed(at), "false success of {}", at),
                Verdict::Dead(_) => prop_assert!(truth.any_failed(at), "false failure of {}", at),
                Verdict::Isolate(_) => prop_assert!(truth.messages.len() > 1, "isolates what is alone"),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn a_failure_that_matches_nobody_lets_nobody_succeed(truth in truth(), spelling: u64, list in 0..LISTS.len()) {
        let mut reply = truth.reply(spelling);
        let list = reply["failedUpdates"].as_object_mut().unwrap().entry(LISTS[list].1).or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(json!("stranger@x"));
        let verdicts = judge(&truth.messages, Counting::Each, &users(reply));
        prop_assert_eq!(verdicts.len(), truth.messages.len());
        prop_assert!(verdicts.iter().all(|verdict| !verdict.is_done()), "{}", letters(&verdicts));
    }

    #[test]
    fn every_message_has_a_verdict_whatever_the_reply(
        truth in truth(),
        success in prop::option::of(0..9_u64),
        fail in prop::option::of(0..9_u64),
        failed in prop::collection::btree_map("(invalid|forgotten|odd)(Emails|UserIds)", prop::collection::vec("[um][0-5](@x)?", 0..4), 0..4),
        deprecated in prop::collection::vec("m[0-5]@x", 0..3),
    ) {
        let reply = json!({"successCount": success, "failCount": fail, "failedUpdates": failed, "invalidEmails": deprecated});
        for counting in [Counting::Each, Counting::Users, Counting::KnownUsers] {
            let verdicts = judge(&truth.messages, counting, &users(reply.clone()));
            prop_assert_eq!(verdicts.len(), truth.messages.len());
            let claims_success = success.is_some() && fail == Some(0);
            if !claims_success && failed.values().all(Vec::is_empty) && deprecated.is_empty() {
                prop_assert!(verdicts.iter().all(|verdict| !verdict.is_done()));
            }
        }
    }
}
