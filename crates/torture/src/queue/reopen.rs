use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relaykit_persistent_queue::{DeadReason, OpenError};

use super::child::{Handler, Kept, Mode, Plan, Work, builder, look_at, work_off};
use crate::history::{Event, Left};

/// What became of a file that was opened after a disaster, and worked off.
pub(crate) struct Reopened {
    /// From the opening to the end.
    pub(crate) events: Vec<Event>,
    /// Why it could not be opened.
    pub(crate) refused: Option<OpenError>,
    /// Items of dead letters that could not be decoded.
    pub(crate) undecodable: u64,
    /// Whether the queue said that something was wrong.
    pub(crate) complained: bool,
}

/// Opens a file in this process, handles everything in it, and closes it.
pub(crate) async fn reopen(file: &Path, durability: Kept, within: Duration) -> Reopened {
    let events = Arc::new(Mutex::new(vec![Event::Opening]));
    let told = Arc::clone(&events);
    let tell =
        move |new: &[Event]| told.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(new);
    let handler = Arc::new(Handler::telling(1, tell));
    let plan = Plan {
        file: file.to_owned(),
        seed: 1,
        first_id: 1,
        mode: Mode::Line,
        durability,
        ballast: 0,
        work: Work::Drain,
    };
    let (mut refused, mut undecodable, mut left) = (None, 0, Left::default());
    match builder(&plan, Arc::clone(&handler)).open() {
        Ok(queue) => {
            left = work_off(&queue, &handler, within).await;
            let dead = queue.dead_letters(0, 1_000_000).await.unwrap_or_default();
            let unread = dead.iter().filter(|letter| letter.reason == DeadReason::Undecodable);
            undecodable = unread.map(|letter| u64::from(letter.items)).sum();
            let _ = queue.close(Duration::from_secs(1)).await;
        }
        Err(error) => refused = Some(error),
    }
    // What is stored is what the file says, whatever the queue believed.
    left = look_at(file, Left { stored: 0, ..left });
    let mut events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    let complained = events.iter().any(|event| matches!(event, Event::Fault { .. }));
    events.push(Event::Ended { left });
    Reopened { events, refused, undecodable, complained }
}
