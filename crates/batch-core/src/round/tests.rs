use relaykit_pipeline_traits::{GiveUp, MAX_FREE_ROUNDS};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Oops(ErrorClass);

impl Classify for Oops {
    fn class(&self) -> ErrorClass {
        self.0
    }

    fn retry_after(&self) -> Option<Duration> {
        Some(HINT)
    }
}

const HINT: Duration = Duration::from_secs(7);
const DELAY: Duration = Duration::from_secs(1);

/// Tries twice, a second apart or as the hint says.
#[derive(Debug)]
struct Twice;

impl RetryPolicy for Twice {
    fn decide(&self, failure: &Failure, _rng: &mut Rng) -> RetryDecision {
        if failure.attempt < 2 {
            RetryDecision::RetryAfter(failure.at_least(DELAY))
        } else {
            RetryDecision::GiveUp(GiveUp::attempts())
        }
    }
}

/// Where an item stands when it is judged.
#[derive(Debug, Clone, Copy)]
struct Place {
    alone: bool,
    may_split: bool,
    progress: bool,
    before: Attempts,
}

/// An item on which so many attempts were spent, and then so many free rounds.
fn after(spent: u32, free_rounds: u32) -> Attempts {
    let mut attempts = Attempts::default();
    let mut rng = Rng::seeded(1);
    for _ in 0..spent {
        let _ = attempts.failed(Failure::of_attempt(0), &Twice, &mut rng);
    }
    for _ in 0..free_rounds {
        let _ = attempts.spared(Failure::of_attempt(0), &Twice, &mut rng);
    }
    assert_eq!((attempts.spent(), attempts.free_rounds()), (spent, free_rounds));
    attempts
}

fn fresh() -> Attempts {
    after(0, 0)
}

/// No attempt is left after this one.
fn last() -> Attempts {
    after(1, 0)
}

/// Alone or in company, where splitting is allowed and where not.
fn places(before: Attempts) -> impl Iterator<Item = Place> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(move |(alone, may_split)| Place { alone, may_split, progress: false, before })
}

/// Decides, and tells the fate in a word or two beside the attempts spent and the free rounds.
fn judge(sentence: Sentence<u32, Oops>, place: Place) -> (String, u32, u32) {
    let round = Round {
        policy: &Twice,
        elapsed: Duration::ZERO,
        previous_delay: None,
        alone: place.alone,
        progress: place.progress,
        may_split: place.may_split,
    };
    let mut attempts = place.before;
    let fate = decide(sentence, &mut attempts, &round, &mut Rng::seeded(1));
    let told = match fate {
        Fate::Answer(Ok(output)) => format!("done {output}"),
        Fate::Answer(Err(cause)) => match cause {
            Cause::Dead(_) => "dead".to_owned(),
            Cause::Exhausted(_) => "exhausted".to_owned(),
            Cause::Refused(_) => "refused".to_owned(),
            Cause::NotIsolated(_) => "not isolated".to_owned(),
            other => other.to_string(),
        },
        Fate::Again(wait) => format!("again after {wait:?}"),
        Fate::Isolate => "isolate".to_owned(),
    };
    (told, attempts.spent() - place.before.spent(), attempts.free_rounds())
}

fn told(fate: &str, spent: u32, free_rounds: u32) -> (String, u32, u32) {
    (fate.to_owned(), spent, free_rounds)
}

fn oops(class: ErrorClass) -> Arc<Oops> {
    Arc::new(Oops(class))
}

fn retry(fault: Fault<Oops>) -> Sentence<u32, Oops> {
    Sentence::Retry { after: None, fault }
}

fn failed(class: ErrorClass) -> Sentence<u32, Oops> {
    retry(Fault::Error(oops(class)))
}

use ErrorClass::{Permanent, Throttled, Transient};

#[test]
fn a_handled_item_is_done_wherever_it_stands() {
    for place in places(fresh()).chain(places(last())) {
        assert_eq!(judge(Sentence::Done(5), place), told("done 5", 1, 0), "{place:?}");
    }
}

#[test]
fn a_dead_item_is_dead_wherever_it_stands_and_whatever_its_error_says() {
    for place in places(fresh()).chain(places(last())) {
        for class in [Transient, Throttled, Permanent] {
            assert_eq!(judge(Sentence::Dead(oops(class)), place), told("dead", 1, 0), "{place:?}");
        }
    }
}

#[test]
fn a_refused_item_is_handed_back_and_spends_nothing() {
    for place in places(fresh()).chain(places(last())) {
        assert_eq!(judge(Sentence::Refused(oops(Transient)), place), told("refused", 0, 0), "{place:?}");
    }
}

#[test]
fn an_item_not_judged_in_company_is_isolated_if_that_is_allowed() {
    for place in places(fresh()).chain(places(last())).filter(|place| !place.alone) {
        for class in [Transient, Throttled, Permanent] {
            let expected = if place.may_split { "isolate" } else { "not isolated" };
            assert_eq!(judge(Sentence::Isolate(oops(class)), place), told(expected, 0, 0), "{place:?}");
        }
    }
}

#[test]
fn an_item_not_judged_although_alone_is_decided_by_its_errors_class() {
    for place in places(fresh()).filter(|place| place.alone) {
        let judged = |class| judge(Sentence::Isolate(oops(class)), place);
        assert_eq!(judged(Permanent), told("dead", 1, 0));
        assert_eq!(judged(Transient), told("again after 7s", 1, 0));
        assert_eq!(judged(Throttled), told("again after 7s", 0, 1));
    }
    for place in places(last()).filter(|place| place.alone) {
        assert_eq!(judge(Sentence::Isolate(oops(Transient)), place), told("exhausted", 1, 0));
    }
}

#[test]
fn a_failed_item_is_tried_again_until_its_attempts_are_spent() {
    for class in [Transient, Permanent] {
        for place in places(fresh()) {
            assert_eq!(judge(failed(class), place), told("again after 1s", 1, 0), "{place:?}");
        }
        for place in places(last()) {
            assert_eq!(judge(failed(class), place), told("exhausted", 1, 0), "{place:?}");
        }
    }
}

#[test]
fn the_hint_of_a_verdict_reaches_the_policy() {
    for place in places(fresh()) {
        let sentence = Sentence::Retry { after: Some(HINT), fault: Fault::Error(oops(Transient)) };
        assert_eq!(judge(sentence, place), told("again after 7s", 1, 0));
    }
}

#[test]
fn throttled_and_untried_spend_nothing_until_there_were_too_many_free_rounds() {
    let sentences: [fn() -> Sentence<u32, Oops>; 2] = [|| failed(Throttled), || retry(Fault::Untried)];
    for sentence in sentences {
        for place in places(fresh()) {
            assert_eq!(judge(sentence(), place), told("again after 1s", 0, 1), "{place:?}");
            let before = after(0, MAX_FREE_ROUNDS - 1);
            assert_eq!(
                judge(sentence(), Place { before, ..place }),
                told("again after 1s", 0, MAX_FREE_ROUNDS)
            );
            let before = after(0, MAX_FREE_ROUNDS);
            assert_eq!(
                judge(sentence(), Place { before, ..place }),
                told("again after 1s", 1, MAX_FREE_ROUNDS)
            );
        }
    }
    let before = after(1, MAX_FREE_ROUNDS);
    for place in places(before) {
        assert_eq!(judge(failed(Throttled), place), told("exhausted", 1, MAX_FREE_ROUNDS));
        let untried = judge(retry(Fault::Untried), place);
        assert_eq!(untried, told("the handler never tried it", 1, MAX_FREE_ROUNDS));
    }
}

#[test]
fn a_real_failure_ends_the_row_of_free_rounds() {
    let before = after(0, 5);
    for place in places(before) {
        assert_eq!(judge(failed(Transient), place), told("again after 1s", 1, 0), "{place:?}");
    }
}

#[test]
fn an_item_left_untried_behind_others_that_were_decided_goes_on_at_once_and_for_free() {
    for free_rounds in [0, MAX_FREE_ROUNDS] {
        for place in places(after(9, free_rounds)) {
            let place = Place { progress: true, ..place };
            assert_eq!(judge(retry(Fault::Untried), place), told("again after 0ns", 0, free_rounds));
        }
    }
}

#[test]
fn a_breakdown_out_of_attempts_is_isolated_where_that_can_help() {
    let panicked = || retry(Fault::Panicked("oh no".into()));
    let wrong = || retry(Fault::WrongVerdicts { items: 3, verdicts: 2 });
    for place in places(fresh()) {
        assert_eq!(judge(panicked(), place), told("again after 1s", 1, 0), "{place:?}");
        assert_eq!(judge(wrong(), place), told("again after 1s", 1, 0), "{place:?}");
    }
    for place in places(last()) {
        if !place.alone && place.may_split {
            assert_eq!(judge(panicked(), place), told("isolate", 1, 0));
            assert_eq!(judge(wrong(), place), told("isolate", 1, 0));
        } else {
            assert_eq!(judge(panicked(), place), told("the handler panicked: oh no", 1, 0));
            assert_eq!(judge(wrong(), place), told("the handler gave 2 verdicts for 3 items", 1, 0));
        }
    }
}

#[test]
fn a_timeout_out_of_attempts_is_answered_and_not_multiplied() {
    for place in places(fresh()) {
        assert_eq!(judge(retry(Fault::TimedOut(HINT)), place), told("again after 1s", 1, 0));
    }
    for place in places(last()) {
        let expected = told("the handler took longer than 7s", 1, 0);
        assert_eq!(judge(retry(Fault::TimedOut(HINT)), place), expected, "{place:?}");
    }
}

#[test]
fn each_verdict_becomes_the_sentence_of_its_item() {
    let verdicts = vec![
        Verdict::Done(1),
        Verdict::Retry { after: Some(HINT), error: Oops(Transient) },
        Verdict::Dead(Oops(Permanent)),
        Verdict::Isolate(Oops(Transient)),
        Verdict::Untried,
    ];
    let mut sentences = sentences(Called::Outcome(BatchOutcome::Each(verdicts)), 5);
    assert!(sentences.progress());
    assert!(matches!(sentences.next(), Sentence::Done(1)));
    assert!(matches!(sentences.next(), Sentence::Retry { after: Some(HINT), fault: Fault::Error(_) }));
    assert!(matches!(sentences.next(), Sentence::Dead(_)));
    assert!(matches!(sentences.next(), Sentence::Isolate(_)));
    for _ in 0..2 {
        assert!(matches!(sentences.next(), Sentence::Retry { after: None, fault: Fault::Untried }));
    }
}

#[test]
fn an_outcome_for_the_batch_is_the_sentence_of_all_its_items() {
    let error = Oops(Transient);
    let each = |called: Called<u32, Oops>| {
        let mut sentences = sentences(called, 2);
        assert!(!sentences.progress());
        [sentences.next(), sentences.next()]
    };
    for sentence in each(Called::Outcome(BatchOutcome::RetryBatch { after: Some(HINT), error })) {
        assert!(matches!(sentence, Sentence::Retry { after: Some(HINT), fault: Fault::Error(_) }));
    }
    for sentence in each(Called::Outcome(BatchOutcome::Split(error))) {
        assert!(matches!(sentence, Sentence::Isolate(_)));
    }
    for sentence in each(Called::Outcome(BatchOutcome::Refused(error))) {
        assert!(matches!(sentence, Sentence::Refused(_)));
    }
    for sentence in each(Called::Panicked("oh no".into())) {
        assert!(matches!(sentence, Sentence::Retry { after: None, fault: Fault::Panicked(_) }));
    }
    for sentence in each(Called::TimedOut(HINT)) {
        assert!(matches!(sentence, Sentence::Retry { after: None, fault: Fault::TimedOut(HINT) }));
    }
}

#[test]
fn a_list_of_another_length_says_nothing_about_any_item() {
    for verdicts in [0, 1, 2, 4, 9] {
        let list = vec![Verdict::Done(0); verdicts];
        let mut sentences = sentences::<u32, Oops>(Called::Outcome(BatchOutcome::Each(list)), 3);
        assert!(!sentences.progress());
        for _ in 0..3 {
            let Sentence::Retry { fault: Fault::WrongVerdicts { items: 3, verdicts: given }, .. } =
                sentences.next()
            else {
                panic!("{verdicts} verdicts for 3 items");
            };
            assert_eq!(given, verdicts);
        }
    }
}
