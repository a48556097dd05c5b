//! Every promise of an inbox as a case to run on a store. Feature `conformance`.
//!
//! Write a [`Harness`] for the store and name it in [`inbox_conformance!`](crate::inbox_conformance): each case is a test then,
//! under the name of what it promises.

#![expect(clippy::missing_panics_doc, reason = "a case panics if its promise is broken")]

mod cases;
mod crashes;
mod harness;
mod storm;
mod test_handler;

pub use cases::*;
pub use crashes::*;
pub use harness::{Bench, Harness};
pub use storm::*;
pub use test_handler::{Call, Script, TestError, TestHandler};

/// Makes a test of each case. Takes an expression that makes a new, empty [`Harness`] in an async function, as an `Option`: with
/// `None` the test is skipped, which the harness has said aloud.
#[macro_export]
macro_rules! inbox_conformance {
    ($harness:expr) => {
        $crate::inbox_conformance! { @cases $harness;
            a_message_is_stored_once_however_often_it_comes
            another_message_under_a_known_id_is_a_conflict_and_keeps_no_other_out
            an_id_of_another_scope_is_another_message
            a_message_of_an_aborted_transaction_is_not_there
            a_message_beyond_the_limits_is_refused_before_anything_is_written
            a_message_that_is_refused_is_not_stored
            each_handler_of_a_kind_gets_each_message_with_all_its_parts
            a_handler_that_fails_holds_up_no_other
            a_failed_message_is_handled_again_when_its_wait_is_over
            attempts_are_remembered_by_the_store
            since_when_a_message_fails_is_remembered
            an_ordered_handler_gets_the_messages_of_a_key_in_order
            a_failed_message_holds_its_key_for_its_ordered_handler_alone
            a_failed_message_holds_its_key_for_the_next_worker_too
            an_unordered_handler_is_not_held
            a_rejected_message_is_a_dead_letter_of_its_handler_alone
            a_message_whose_attempts_are_spent_is_a_dead_letter
            a_handler_that_panics_loses_nothing
            a_handler_that_hangs_is_given_up_and_its_neighbours_are_done
            what_is_left_untried_spends_no_attempt
            what_a_killed_worker_had_is_handled_after_its_lease
            what_a_stopped_worker_had_is_handled_at_once
            what_is_settled_under_a_stale_lease_settles_nothing
            a_message_that_kills_its_worker_is_a_dead_letter_in_the_end
            what_is_noted_under_a_stale_lease_is_not_noted
            a_transactional_handler_takes_effect_once
            what_a_transactional_handler_wrote_is_gone_unless_it_is_done
            what_a_transactional_handler_wrote_under_a_stale_lease_is_gone
            a_transactional_handler_that_is_called_again_takes_effect_once
            a_message_without_a_handler_is_kept_and_listed
            an_unrouted_message_is_handled_once_a_handler_is_there
            a_new_handler_catches_up_with_what_is_stored
            a_new_handler_catches_up_with_more_than_a_page
            dead_letters_are_listed_by_handler_filter_and_page
            a_replayed_message_goes_to_its_handler_alone_and_before_its_successors
            purged_dead_letters_are_gone
            payloads_are_erased_after_their_time_and_ids_are_remembered_longer
            nothing_unfinished_is_ever_erased
            what_waits_is_counted
            workers_share_the_shards
            nothing_is_lost_or_reordered_and_effects_are_exact_in_a_storm
        }
    };
    (@cases $harness:expr; $($case:ident)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                if let Some(harness) = $harness.await {
                    $crate::conformance::$case(&harness).await;
                }
            }
        )*
    };
}
