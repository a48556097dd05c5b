use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_pipeline_traits::{Clock as _, Message, MessageId};
use relaykit_sql_store::{StoreError, Wake};

use super::far_outbox::FarOutbox;
use super::handlers::KIND;

/// Whom producers may wake: a relay of each node.
pub(super) type Wakes = Arc<Mutex<Vec<Wake>>>;

/// Adds so many messages, now and then one.
pub(super) async fn produce(outbox: FarOutbox, messages: u32, wakes: Wakes) {
    let world = Arc::clone(&outbox.line.world);
    let menu = world.menu;
    let pace = menu.trouble / (messages + 1);
    for number in 0..messages {
        // In bursts, as life goes.
        if world.chance(0.5) {
            outbox.line.clock.sleep(world.wait(pace * 4)).await;
        }
        let key = (!world.chance(menu.keyless)).then(|| {
            let any = world.lock().rng.below(menu.keys);
            if world.chance(menu.hot) { 0 } else { any }
        });
        let delay = world.chance(menu.delayed).then(|| world.wait(Duration::from_secs(30)));
        let id = MessageId::new(outbox.line.clock.now(), &mut world.lock().rng);
        let mut message =
            Message::builder(id, KIND, outbox.line.clock.now()).payload(number.to_be_bytes().to_vec());
        if let Some(key) = key {
            message = message.ordering_key(format!("key-{key}"));
        }
        let message = message.build().expect("kind and key are short");
        while let Err(error) = outbox.add(message.clone(), key, delay).await {
            // Whether it was added nobody knows: it is not added twice.
            if !matches!(error, StoreError::Unavailable { .. }) {
                break;
            }
            outbox.line.clock.sleep(world.wait(Duration::from_secs(3))).await;
        }
        if world.chance(0.7) {
            let at = world.below(wakes.lock().unwrap_or_else(PoisonError::into_inner).len());
            wakes.lock().unwrap_or_else(PoisonError::into_inner)[at].nudge();
        }
    }
}
