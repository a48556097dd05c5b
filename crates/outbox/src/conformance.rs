//! Every promise of an outbox as a case to run on a store. Feature `conformance`.
//!
//! Write a [`Harness`] for the store and name it in [`outbox_conformance!`](crate::outbox_conformance): each case is a test then,
//! under the name of what it promises.

#![expect(clippy::missing_panics_doc, reason = "a case panics if its promise is broken")]

mod cases;
mod crashes;
mod harness;
mod sender;
mod storm;

pub use cases::*;
pub use crashes::*;
pub use harness::{Bench, Harness};
pub use sender::{Call, TestError, TestSender};
pub use storm::*;

/// Makes a test of each case. Takes an expression that makes a new, empty [`Harness`] in an async function, as an `Option`: with
/// `None` the test is skipped, which the harness has said aloud.
#[macro_export]
macro_rules! outbox_conformance {
    ($harness:expr) => {
        $crate::outbox_conformance! { @cases $harness;
            a_committed_message_is_sent
            an_aborted_message_is_never_sent
            a_message_added_twice_is_sent_once
            another_message_under_a_known_id_is_refused
            a_message_beyond_the_limits_is_refused_before_anything_is_written
            messages_of_one_key_are_sent_in_the_order_they_were_added
            a_batch_has_one_message_of_a_key
            a_failed_message_holds_its_key_and_no_other
            a_failed_message_is_sent_again_when_its_wait_is_over
            a_message_that_is_due_holds_its_key_until_it_is_read
            attempts_are_remembered_by_the_store
            a_delayed_message_waits_for_its_time_and_holds_its_key
            a_rejected_message_is_a_dead_letter_and_its_key_goes_on
            a_message_whose_attempts_are_spent_is_a_dead_letter
            a_refusal_spends_no_attempt_and_writes_nothing
            what_is_left_untried_spends_no_attempt
            a_sender_that_panics_over_one_message_loses_no_other
            a_sender_with_too_few_verdicts_loses_nothing
            a_sender_that_hangs_is_given_up_and_its_batch_sent_again
            what_a_killed_relay_had_is_sent_after_its_lease
            what_a_stopped_relay_had_is_sent_at_once
            a_message_that_kills_its_relay_is_a_dead_letter_in_the_end
            what_is_sent_is_noted_only_after_a_crash
            a_refusal_takes_back_what_was_noted
            what_is_noted_stays_until_it_is_settled
            what_is_settled_under_a_stale_lease_settles_nothing
            a_settlement_can_be_repeated
            a_settlement_tells_what_waited
            relays_share_the_shards
            dead_letters_are_listed_by_filter_and_page
            a_replayed_message_goes_before_its_successors
            purged_dead_letters_are_gone
            a_skipped_message_lets_its_key_go_on
            a_parked_key_waits_until_it_is_resumed
            blocked_keys_are_listed_with_head_and_age
            what_waits_is_counted
            nothing_is_lost_or_reordered_in_a_storm
        }
    };
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                if let Some(harness) = $harness.await {
                    $crate::conformance::$case(&harness).await;
                    $crate::conformance::Harness::clean(harness).await;
                }
            }
        )*
    };
}
