//! What a tracing system sees of a relay.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use relaykit_outbox::conformance::TestSender;
use relaykit_outbox::{MemoryOutbox, Relay};
use relaykit_pipeline_traits::{ManualClock, Message, MessageId, Rng, Timestamp};
use relaykit_sql_store::Shards;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps every span with its fields.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Captured>>>);

#[derive(Clone)]
struct Captured {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Captured {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut captured = Captured { name: span.metadata().name(), fields: BTreeMap::new() };
        span.record(&mut captured);
        let mut spans = self.0.lock().unwrap();
        spans.push(captured);
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let index = usize::try_from(span.into_u64()).unwrap() - 1;
        values.record(&mut self.0.lock().unwrap()[index]);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn each_call_of_the_sender_is_a_span_that_is_linked_to_the_producers() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(spans.clone());
    let (clock, sender, mut rng) = (ManualClock::new(), TestSender::new(), Rng::seeded(1));
    let store = MemoryOutbox::new(Shards::new(8).unwrap(), clock.clone());
    let at = Timestamp::from_millis(1_763_683_200_000);
    let mut message = |key: &str, span: u8| {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902{span:02x}-01");
        let builder = Message::builder(MessageId::new(at, &mut rng), "kind", at).ordering_key(key);
        builder.header("traceparent", parent).build().unwrap()
    };
    let messages = [message("a", 1), message("b", 2), message("a", 3)];
    store.add_all(&messages, None).unwrap();
    let linked: Arc<Mutex<Vec<(u64, usize)>>> = Arc::default();
    let seen = Arc::clone(&linked);
    let relay = Relay::builder(store, sender.clone())
        .name("orders")
        .clock(clock)
        .link_spans(move |span, messages| {
            let traced = messages.iter().filter(|message| message.headers().get("traceparent").is_some());
            seen.lock().unwrap().push((span.id().unwrap().into_u64(), traced.count()));
            panic!("the message is sent all the same");
        })
        .build()
        .unwrap();
    assert_eq!(relay.run_once().await.unwrap().sent, 3);
    let spans = spans.0.lock().unwrap().clone();
    let mut linked = linked.lock().unwrap().clone();
    linked.sort_unstable();
    let sends: Vec<_> = (1u64..).zip(&spans).filter(|(_, span)| span.name == "stream.send").collect();
    assert_eq!(linked, [(sends[0].0, 2), (sends[1].0, 1)]);
    let fields = |span: &Captured| {
        ["stream", "messages", "attempt", "traceparent"].map(|name| span.fields.get(name).cloned())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(fields(sends[0].1), [some("orders"), some("2"), some("1"), None]);
    let alone = messages[2].headers().get("traceparent").unwrap();
    assert_eq!(fields(sends[1].1), [some("orders"), some("1"), some("1"), some(alone)]);
    for (name, field, value) in [("stream.page", "shards", "8"), ("stream.settle", "rows", "2")] {
        let span = spans.iter().find(|span| span.name == name).unwrap();
        assert_eq!(span.fields[field], value);
    }
}
