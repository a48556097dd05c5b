use std::collections::BTreeSet;

use relaykit_outbox::conformance::TestSender;
use relaykit_outbox::{OutboxStore, Relay};
use relaykit_pipeline_traits::{Message, MessageId, Rng, Timestamp};
use relaykit_recipes::Error;

/// The tables of the shop, whose stock is enough for two orders.
macro_rules! tables {
    ($schema:literal) => {
        concat!(
            "create table ",
            $schema,
            "orders (number integer primary key);
            create table ",
            $schema,
            "stock (on_hand integer check (on_hand >= 0));
            insert into ",
            $schema,
            "stock values (2);"
        )
    };
}
pub(crate) use tables;

fn message(id: MessageId, key: &str, payload: &str) -> Message {
    let at = Timestamp::from_micros(1_763_683_200_123_456);
    let message = Message::builder(id, "order.paid", at).ordering_key(key).payload(payload.to_owned());
    message.header("traceparent", "00-4bf9-01").build().unwrap()
}

/// Books orders by a recipe, and checks that the relay gets the messages of those that were written, and no others.
pub(crate) async fn check<S: OutboxStore>(
    store: S,
    mut book: impl AsyncFnMut(i32, &[Message]) -> Result<Vec<MessageId>, Error>,
) {
    let mut rng = Rng::seeded(1);
    let mut id = || MessageId::new(Timestamp::from_millis(1_763_683_200_000), &mut rng);
    let first =
        [message(id(), "ada", "{\"paid\": \"7 €\"}"), message(id(), "k\u{e9}y 'quoted' \u{1f511}", "")];
    let repeated = message(first[0].id(), "ada", "something else");
    let (second, third) = (message(id(), "ada", "\u{1}$1 ?1 :a \\"), message(id(), "ada", "3"));
    let pending = async || store.depth().await.unwrap().pending;
    let ids = |messages: &[&Message]| messages.iter().map(|message| message.id()).collect::<BTreeSet<_>>();
    let mut book = async |order, messages: &[Message]| -> Result<BTreeSet<MessageId>, Error> {
        Ok(book(order, messages).await?.into_iter().collect())
    };

    assert_eq!(book(1, &first).await.unwrap(), ids(&[&first[0], &first[1]]));
    assert_eq!(pending().await, 2, "what was committed is to be sent");
    // A repetition is passed over, and so is another message under a known id; the ids tell.
    assert_eq!(book(2, &[first[1].clone(), repeated, second.clone()]).await.unwrap(), ids(&[&second]));
    assert_eq!(pending().await, 3);
    book(3, &[third]).await.expect_err("the stock is empty");
    assert_eq!(pending().await, 3, "what was rolled back is not there");

    let sender = TestSender::new();
    let relay = Relay::builder(store, sender.clone()).build().unwrap();
    assert_eq!(relay.run_once().await.unwrap().sent, 3);
    let [one, other] = first;
    let sent = [one, other, second];
    sender.assert_complete_and_in_order(&sent);
    assert!(sent.iter().all(|message| sender.taken().contains(message)), "{:?}", sender.taken());
    assert_eq!(relay.release().await, 0);
}
