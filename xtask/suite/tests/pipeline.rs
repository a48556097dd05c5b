//! The batcher with the Iterable handlers behind it, against the stand-in.

use std::time::Duration;

use relaykit_batch_core::{Builder, Cause, Processor, Recovery, Ticket};
use relaykit_iterable_handlers::testing::{Faults, Reply, StandIn};
use relaykit_iterable_handlers::{
    ApiKey, Client, Delivered, DeliveryError, EventTrack, EventTrackHandler, Identity, MAX_BODY_BYTES,
    MAX_ELEMENTS_BYTES, Prepared, Reason, Request as _, Stamper,
};
use relaykit_pipeline_traits::Rng;
use relaykit_retry::Backoff;
use relaykit_suite::{Api, api};
use serde_json::json;

const TRACK: &str = "/api/events/trackBulk";

type Event = Prepared<EventTrack>;
type Events = Processor<Event, EventTrackHandler>;

fn builder(api: &Api) -> Builder<Event, EventTrackHandler> {
    let key = ApiKey::new("key").expect("the settings are valid");
    let client = Client::builder(key)
        .base_url(api.base_url())
        .no_rate_limits()
        .build()
        .expect("the settings are valid");
    let retry = Backoff::exponential(Duration::from_millis(1))
        .max_attempts(30)
        .build()
        .expect("the settings are valid");
    Processor::builder(EventTrackHandler::new(client))
        .max_bytes(MAX_ELEMENTS_BYTES, Event::weight)
        .linger(Duration::MAX)
        .retry(retry)
        .rng(Rng::seeded(1))
}

async fn add(events: &Events, event: EventTrack) -> Ticket<Event, Delivered, DeliveryError> {
    let prepared = event.prepare(&Stamper::system()).expect("the event is valid");
    events.add(prepared).await.expect("the processor runs")
}

fn event(user: usize) -> EventTrack {
    EventTrack::new(Identity::user_id(format!("user-{user}")), "login")
}

#[tokio::test]
async fn a_413_is_bisected_and_every_event_arrives_once() {
    let api = api!();
    api.max_elements(TRACK, 30);
    let events = builder(&api).max_items(100).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in 0..100 {
        tickets.push(add(&events, event(user)).await);
    }
    for ticket in tickets {
        ticket.await.expect("every event is delivered");
    }
    assert_eq!(api.events().len(), 100);
    assert!(api.events().values().all(|times| *times == 1));
    // 100, two of 50, four of 25.
    assert_eq!(api.request_count(), 7);
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn one_bad_element_among_500_costs_about_two_calls_for_each_halving() {
    let api = api!();
    api.reject_element("poison");
    let events = builder(&api).max_items(500).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in 0..500 {
        let event = if user == 321 { event(user).field("mood", "poison") } else { event(user) };
        tickets.push(add(&events, event).await);
    }
    let mut dead = Vec::new();
    for (user, ticket) in tickets.into_iter().enumerate() {
        if let Err(failed) = ticket.await {
            assert!(failed.cause.is_dead(), "{failed}");
            dead.push((user, failed.item.is_some()));
        }
    }
    assert_eq!(dead, [(321, true)]);
    assert_eq!(api.events().len(), 499);
    assert!(api.request_count() <= 19, "{} calls", api.request_count());
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn a_refused_key_hands_every_event_back_and_kills_none() {
    let api = api!(StandIn::builder().require_key("another key"));
    let events = builder(&api).max_items(10).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in 0..25 {
        tickets.push(add(&events, event(user)).await);
    }
    events.flush().await.unwrap();
    for ticket in tickets {
        let failed = ticket.await.expect_err("the key is refused");
        assert!(matches!(failed.cause, Cause::Refused(_)), "{failed}");
        assert!(failed.item.is_some());
        assert_eq!(failed.attempts, 0);
    }
    // The first refusal halts the client; batches under way beside it may have been sent, too.
    assert!((1..=3).contains(&api.request_count()), "{} calls", api.request_count());
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn a_reply_lost_after_the_effect_repeats_the_same_bytes() {
    let api = api!();
    api.script(Reply::drop_connection().applied(true));
    let events = builder(&api).max_items(3).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in 0..3 {
        tickets.push(add(&events, event(user)).await);
    }
    for ticket in tickets {
        ticket.await.expect("the repeat is answered");
    }
    let requests = api.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(api.events().values().copied().collect::<Vec<_>>(), [2, 2, 2]);
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn no_body_exceeds_four_megabytes() {
    let api = api!();
    let events = builder(&api).max_items(100).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    let large = "x".repeat(900_000);
    for user in 0..12 {
        tickets.push(add(&events, event(user).field("text", large.clone())).await);
    }
    events.flush().await.unwrap();
    for ticket in tickets {
        ticket.await.expect("every event is delivered");
    }
    let requests = api.requests();
    assert!(requests.iter().all(|request| request.body.len() <= MAX_BODY_BYTES));
    assert_eq!(requests.len(), 3);
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn ambiguous_answers_are_settled_one_by_one() {
    let api = api!();
    // The API names one user without saying which of two events of theirs it means.
    let ambiguous = json!({
        "successCount": 3, "failCount": 1, "createdFields": [], "filteredOutFields": [],
        "disallowedEventNames": [], "invalidEmails": [], "invalidUserIds": ["user-1"],
        "failedUpdates": {"invalidUserIds": ["user-1"]},
    });
    api.script(Reply::json(200, ambiguous));
    let recovery = Recovery::Individual { concurrency: 2 };
    let events = builder(&api).max_items(4).recovery(recovery).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in [1, 2, 1, 3] {
        tickets.push(add(&events, event(user)).await);
    }
    for ticket in tickets {
        ticket.await.expect("alone, each is delivered");
    }
    // The first request, then the two events in question, each by itself.
    let sizes: Vec<usize> = api
        .requests()
        .iter()
        .map(|request| request.json()["events"].as_array().map_or(0, Vec::len))
        .collect();
    assert_eq!(sizes, [4, 1, 1]);
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn a_disallowed_event_is_dead_for_the_reason_the_api_gave() {
    let api = api!();
    api.disallow_event("secret");
    let events = builder(&api).max_items(2).build().unwrap();
    events.start().unwrap();
    let good = add(&events, event(1)).await;
    let bad = add(&events, EventTrack::new(Identity::user_id("user-2"), "secret")).await;
    good.await.expect("it is allowed");
    let failed = bad.await.expect_err("it is not");
    let Cause::Dead(error) = &failed.cause else { panic!("{failed}") };
    assert!(matches!(error.reason(), Some(Reason::DisallowedEventName)), "{error}");
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}

#[tokio::test]
async fn nothing_is_lost_under_a_storm_of_faults() {
    let seed = Rng::from_entropy().next_u64();
    println!("seed {seed}");
    let api = api!(StandIn::builder().seed(seed).faults(Faults::storm()));
    let events = builder(&api).max_items(50).concurrency(4).build().unwrap();
    events.start().unwrap();
    let mut tickets = Vec::new();
    for user in 0..1_000 {
        tickets.push(add(&events, event(user % 37)).await);
    }
    events.flush().await.unwrap();
    for ticket in tickets {
        ticket.await.expect("the faults pass");
    }
    assert_eq!(api.events().len(), 1_000);
    assert!(events.stop(Duration::from_secs(5)).await.is_clean());
    api.finish().await;
}
