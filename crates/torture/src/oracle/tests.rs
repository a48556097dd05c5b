use super::*;
use crate::history::Left;

const PROMISES: Promises = Promises { ordered: true, unsettled: 2, successors_wait: false };

fn offered(id: Id) -> Event {
    Event::Offered { id, key: 0 }
}

fn acknowledged(id: Id) -> Event {
    Event::Acknowledged { id }
}

fn done(id: Id) -> Event {
    Event::Lent { id, key: 0, said: Said::Done }
}

fn again(id: Id) -> Event {
    Event::Lent { id, key: 0, said: Said::Again }
}

fn ended() -> Event {
    Event::Ended { left: Left::default() }
}

/// The items are offered and acknowledged, then this happens, and all is worked off.
fn judged(items: &[Id], then: &[Event]) -> Judgement {
    let pushed = items.iter().flat_map(|id| [offered(*id), acknowledged(*id)]);
    let history: Vec<_> =
        std::iter::once(Event::Opening).chain(pushed).chain(then.iter().cloned()).chain([ended()]).collect();
    judge(&history, PROMISES)
}

#[test]
fn a_history_in_which_everything_is_handled_once_in_order_is_clean() {
    let judgement = judged(&[1, 2], &[done(1), done(2), Event::Stopped { unsettled: false }]);
    assert_eq!(judgement, Judgement::default());
    assert!(judgement.is_clean());
}

#[test]
fn an_acknowledged_item_that_nobody_sees_again_is_lost() {
    let judgement = judged(&[1, 2], &[done(1), Event::Killed, Event::Opening]);
    assert_eq!(judgement, Judgement { lost: vec![2], ..Judgement::default() });
    assert!(!judgement.is_clean());
}

#[test]
fn an_item_that_was_to_come_again_and_never_did_is_lost() {
    let judgement = judged(&[1], &[again(1), Event::Stopped { unsettled: false }]);
    assert_eq!(judgement, Judgement { lost: vec![1], ..Judgement::default() });
}

#[test]
fn an_item_whose_push_was_cut_off_may_be_there_or_not() {
    let history = [Event::Opening, offered(1), offered(2), Event::Killed, Event::Opening, done(2), ended()];
    assert!(judge(&history, PROMISES).is_clean());
}

#[test]
fn a_dead_letter_is_not_lost() {
    let dead = Event::Lent { id: 1, key: 0, said: Said::Dead };
    assert!(judged(&[1, 2], &[dead, Event::Found { id: 1 }, Event::Found { id: 2 }]).is_clean());
}

#[test]
fn an_item_that_nobody_offered_is_a_phantom() {
    assert_eq!(judged(&[1], &[done(1), done(7)]).phantom, [7]);
}

#[test]
fn an_item_that_was_handed_back_and_is_handled_all_the_same_is_a_phantom() {
    let history = [Event::Opening, offered(1), Event::Refused { id: 1 }, done(1), ended()];
    assert_eq!(judge(&history, PROMISES).phantom, [1]);
}

#[test]
fn an_item_with_other_bytes_is_a_phantom() {
    assert_eq!(judged(&[1], &[done(1), Event::Wrong { id: 1 }]).phantom, [1]);
}

#[test]
fn an_item_behind_a_later_one_of_its_key_is_reordered() {
    assert_eq!(judged(&[1, 2, 3], &[done(1), done(3), done(2)]).reordered, [2]);
    let other_key = Event::Lent { id: 3, key: 9, said: Said::Done };
    assert_eq!(judged(&[1, 2, 3], &[done(1), other_key, done(2)]).reordered, [0; 0]);
}

#[test]
fn an_item_that_overtakes_one_that_waits_for_its_retry_is_reordered() {
    assert_eq!(judged(&[1, 2], &[again(1), done(2), done(1)]).reordered, [2]);
    assert!(judged(&[1, 2], &[again(1), done(1), done(2)]).is_clean());
}

#[test]
fn a_repeat_after_a_kill_keeps_the_order_and_is_explained_by_it() {
    let judgement =
        judged(&[1, 2, 3], &[done(1), done(2), done(3), Event::Killed, Event::Opening, done(2), done(3)]);
    assert_eq!(judgement.duplicates, BTreeMap::from([(Window::KilledBeforeSettled, 2)]));
    assert!(judgement.is_clean());
}

#[test]
fn a_repeat_without_a_kill_is_unexplained() {
    assert_eq!(judged(&[1], &[done(1), done(1)]).unexplained, [1]);
}

#[test]
fn a_repeat_after_a_clean_stop_is_unexplained() {
    let stopped = Event::Stopped { unsettled: false };
    assert_eq!(judged(&[1], &[done(1), stopped, Event::Opening, done(1)]).unexplained, [1]);
}

#[test]
fn a_repeat_after_a_stop_on_a_failing_disk_is_explained_by_that() {
    let stopped = Event::Stopped { unsettled: true };
    let judgement = judged(&[1], &[done(1), stopped, Event::Opening, done(1)]);
    assert_eq!(judgement.duplicates, BTreeMap::from([(Window::StoppedOnAFailingDisk, 1)]));
    assert!(judgement.is_clean());
}

#[test]
fn a_repeat_of_what_was_settled_long_before_the_kill_is_unexplained() {
    let kill = [Event::Killed, Event::Opening];
    let events = [vec![done(1), done(2), done(3)], kill.to_vec(), vec![done(1)]].concat();
    assert_eq!(judged(&[1, 2, 3], &events).unexplained, [1], "two at most were not settled");
}

#[test]
fn a_repeat_of_what_the_disk_did_not_take_long_before_the_kill_is_explained_by_that() {
    let fault = |error: &str| Event::Fault { error: error.to_owned() };
    let with = |before: Event, after: Event| {
        let events = [done(1), before, done(2), after, done(3), done(4), Event::Killed, Event::Opening];
        judged(&[1, 2, 3, 4], &[&events[..], &[done(1), done(2)]].concat())
    };
    let (full, mood) =
        (fault("Storage { error: \"the disk is full\" }"), fault("Process { error: \"a mood\" }"));
    assert_eq!(
        with(mood.clone(), full.clone()).duplicates,
        BTreeMap::from([(Window::EndedBeforeSettledAgain, 2)])
    );
    assert_eq!(with(full.clone(), mood.clone()).unexplained, [2], "it was handled after the disk had failed");
    assert_eq!(with(mood.clone(), mood).unexplained, [1, 2]);
    let all = [done(1), done(2), done(3), full, done(4), done(5), Event::Killed, Event::Opening];
    let judgement = judged(&[1, 2, 3, 4, 5], &[&all[..], &[done(1), done(2), done(3)]].concat());
    assert_eq!(judgement.unexplained, [3], "two at most were not settled");
}

/// Several processes at once, of which each has its say; a later item of a key waits until the one before it is settled.
fn judged_together(items: &[Id], then: &[(usize, Event)]) -> Judgement {
    let offered = items.iter().map(|id| (0, offered(*id)));
    let told = offered.chain(then.iter().cloned()).chain([(0, ended())]);
    let history: Vec<_> = told.flat_map(|(life, event)| [Event::By { life }, event]).collect();
    judge(&history, Promises { successors_wait: true, ..PROMISES })
}

#[test]
fn a_repeat_by_another_process_is_explained_by_what_became_of_the_first_one() {
    for (end, window) in [
        (Event::Killed, Window::KilledBeforeSettled),
        (Event::Stalled, Window::Stalled),
        (Event::Overtaken, Window::Overtaken),
    ] {
        let judgement =
            judged_together(&[1, 2], &[(1, done(1)), (1, end.clone()), (2, done(1)), (2, done(2))]);
        assert_eq!(judgement.duplicates, BTreeMap::from([(window, 1)]));
        assert!(judgement.is_clean(), "{judgement:?}");
        let judgement = judged_together(&[1, 2], &[(1, done(1)), (3, end), (2, done(1)), (2, done(2))]);
        assert_eq!(judgement.unexplained, [1], "that was another process");
    }
}

#[test]
fn a_process_may_learn_later_than_others_that_it_has_lost_what_it_had() {
    assert!(judged_together(&[1], &[(1, done(1)), (2, done(1)), (1, Event::Overtaken)]).is_clean());
    let itself = judged_together(&[1], &[(1, done(1)), (1, done(1)), (1, Event::Overtaken)]);
    assert_eq!(itself.unexplained, [1], "it had not lost it when it repeated it");
}

#[test]
fn what_a_process_handled_last_of_a_key_may_come_again_if_it_says_that_it_lost_or_left_something() {
    let of = |id, key| Event::Offered { id, key };
    let handled = |life, id, key| (life, Event::Lent { id, key, said: Said::Done });
    let offers = [(0, of(1, 1)), (0, of(2, 1)), (0, of(3, 2)), (0, of(4, 2)), (0, of(5, 2))];
    let others = [handled(1, 3, 2), handled(1, 4, 2), handled(1, 5, 2)];
    for (end, window) in [
        (Event::Overtaken, Some(Window::Overtaken)),
        (Event::Stopped { unsettled: true }, Some(Window::StoppedOnAFailingDisk)),
        (Event::Stopped { unsettled: false }, None),
    ] {
        let judged = |before: &[(usize, Event)], again: &[(usize, Event)]| {
            let end = [(1, end.clone())];
            let told = offers.iter().chain(before).chain(&others).chain(&end).chain(again);
            judged_together(&[], &told.cloned().collect::<Vec<_>>())
        };
        let last = judged(&[handled(1, 1, 1)], &[handled(2, 1, 1), handled(2, 2, 1)]);
        assert_eq!(last.duplicates, window.map(|window| (window, 1)).into_iter().collect());
        assert_eq!(last.is_clean(), window.is_some(), "{last:?}");
        // The second was handled behind it, so the first was settled.
        let settled = judged(&[handled(1, 1, 1), handled(1, 2, 1)], &[handled(2, 1, 1), handled(2, 2, 1)]);
        assert_eq!(settled.unexplained[0], 1);
    }
}

#[test]
fn a_process_that_stood_still_may_go_on_with_what_others_have_handled_and_no_longer() {
    let events = [(1, Event::Stalled), (2, done(1)), (2, done(2)), (1, done(1))];
    let judgement = judged_together(&[1, 2], &events);
    assert_eq!(judgement.duplicates, BTreeMap::from([(Window::Stalled, 1)]));
    assert!(judgement.is_clean(), "{judgement:?}");
    // What it says then goes nowhere.
    let again = [&events[..3], &[(1, again(1)), (2, done(3))]].concat();
    assert!(judged_together(&[1, 2, 3], &again).is_clean());
    let long_after = [&events[..3], &[(1, done(3)), (1, done(4)), (1, done(1))]].concat();
    assert_eq!(judged_together(&[1, 2, 3, 4], &long_after).unexplained, [1]);
}

#[test]
fn a_repeat_of_what_was_not_waited_for_is_explained_once() {
    let events = [(1, done(1)), (1, Event::GivenUp { id: 1 }), (1, done(1))];
    let judgement = judged_together(&[1], &events);
    assert_eq!(judgement.duplicates, BTreeMap::from([(Window::GivenUp, 1)]));
    assert!(judgement.is_clean(), "{judgement:?}");
    assert_eq!(judged_together(&[1], &[&events[..], &[(1, done(1))]].concat()).unexplained, [1]);
    let with_a_retry = [&events[..2], &[(1, again(1)), (1, done(1))]].concat();
    assert!(judged_together(&[1], &with_a_retry).is_clean());
}

#[test]
fn a_repeat_behind_a_newer_item_of_its_key_is_reordered_where_successors_wait() {
    let events = [(1, done(1)), (1, done(2)), (1, Event::Killed), (2, done(1))];
    let judgement = judged_together(&[1, 2], &events);
    assert_eq!((judgement.reordered, judgement.unexplained), (vec![1], vec![]));
}

#[test]
fn what_is_known_in_the_end_as_never_committed_is_a_phantom_if_it_was_handled() {
    let judgement = judged_together(
        &[1, 2],
        &[(1, done(1)), (0, Event::Refused { id: 1 }), (0, Event::Refused { id: 2 })],
    );
    assert_eq!((judgement.phantom, judgement.lost), (vec![1], vec![]));
}

#[test]
fn an_item_that_is_still_in_the_file_when_the_time_is_up_is_stuck() {
    let left = Left { stored: 1, ..Left::default() };
    let history = [Event::Opening, offered(1), acknowledged(1), Event::Ended { left }];
    let judgement = judge(&history, PROMISES);
    assert_eq!((judgement.stuck, judgement.lost), (vec![1], vec![]));
}

#[test]
fn what_is_not_given_back_is_a_leak() {
    let left =
        Left { in_flight: 1, claims: 2, side_files: 1, damaged: true, idle_sessions: 1, ..Left::default() };
    let judgement = judge(&[Event::Opening, Event::Ended { left }], PROMISES);
    assert_eq!(judgement.leaks.len(), 5, "{:?}", judgement.leaks);
    assert_eq!(judge(&[Event::Opening], PROMISES).leaks, ["the end was never reached"]);
}

#[test]
fn a_complaint_names_each_kind_with_some_ids() {
    let judgement = judged(&[1, 2], &[done(2), done(2)]);
    assert_eq!(judgement.complaint(), "1 lost (1); 1 unexplained duplicates (2)");
}

#[test]
fn effects_are_there_once_for_what_was_acknowledged_in_the_order_of_each_key() {
    let effects = |ids: &[Id]| Event::Effects { ids: ids.to_vec() };
    let judged = |ids: &[Id]| judged(&[1, 2], &[done(1), done(2), effects(ids)]);
    assert!(judged(&[1, 2]).is_clean());
    assert_eq!(judged(&[1]), Judgement { effects: vec![2], ..Judgement::default() });
    assert_eq!(judged(&[1, 2, 2]), Judgement { effects: vec![2], ..Judgement::default() });
    assert_eq!(judged(&[2, 1]), Judgement { reordered: vec![1], ..Judgement::default() });
    assert_eq!(judged(&[1, 2, 3]), Judgement { phantom: vec![3], ..Judgement::default() });
}

#[test]
fn a_call_that_blocks_for_longer_than_its_timeouts_is_a_leak() {
    assert_eq!(judged(&[1], &[done(1), Event::Blocked { millis: 9_000 }]).leaks.len(), 1);
}
