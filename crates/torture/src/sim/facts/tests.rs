use super::*;

const NOW: Duration = Duration::from_secs(10);

/// Messages 1 and 2 of one key, in the store and read, and two processes.
struct Scene {
    facts: Facts,
    lives: [LifeFacts; 2],
    calls: Call,
}

impl Scene {
    fn new(ends_itself: bool) -> Self {
        let mut facts = Facts::new("test", 3, ends_itself);
        for id in [1, 2] {
            facts.stored(id, Some(0));
            facts.seen_at(id.cast_signed(), id);
        }
        Self { facts, lives: [LifeFacts::default(); 2], calls: 0 }
    }

    fn lend(&mut self, id: Id, life: Life) -> Call {
        self.calls += 1;
        self.facts.began(self.calls, id, life, &self.lives, NOW);
        self.calls
    }

    fn take(&mut self, call: Call, said: Said) {
        self.facts.took(call, said, &self.lives, NOW);
    }

    /// Lends it, and it is done; nobody has settled it yet.
    fn send(&mut self, id: Id, life: Life) {
        let call = self.lend(id, life);
        self.take(call, Said::Done);
        self.facts.said(call, Some(Said::Done));
    }

    fn settle(&mut self, id: Id, became: Became) {
        self.facts.settled(id.cast_signed(), became, NOW);
    }

    /// Sends and settles what was not handled, and judges.
    fn end(mut self, rest: &[Id]) -> Judgement {
        for id in rest {
            self.send(*id, 0);
            self.settle(*id, Became::Done);
        }
        self.facts.judge(&self.lives, 0, &[]).0
    }
}

#[test]
fn what_is_sent_and_settled_one_after_the_other_is_clean() {
    assert!(Scene::new(false).end(&[1, 2]).is_clean());
}

#[test]
fn what_is_lent_before_the_one_before_it_is_settled_is_reordered() {
    let mut scene = Scene::new(false);
    scene.send(1, 0);
    scene.send(2, 0);
    scene.settle(1, Became::Done);
    scene.settle(2, Became::Done);
    assert_eq!(scene.end(&[]).reordered, [2]);
}

#[test]
fn what_is_lent_after_it_was_settled_is_not_explained() {
    let mut scene = Scene::new(false);
    scene.send(1, 0);
    scene.settle(1, Became::Done);
    scene.lend(1, 1);
    assert_eq!(scene.end(&[2]).unexplained, [1, 2], "and 2 was lent beside it");
}

#[test]
fn two_have_a_message_at_a_time_only_if_the_first_stood_still() {
    for (frozen, unexplained) in [(None, vec![1]), (Some((NOW, NOW * 2)), vec![])] {
        let mut scene = Scene::new(false);
        let first = scene.lend(1, 0);
        scene.lives[0].frozen = frozen;
        scene.send(1, 1);
        scene.settle(1, Became::Done);
        scene.facts.given_up(first);
        assert_eq!(scene.end(&[2]).unexplained, unexplained);
    }
}

#[test]
fn what_was_done_once_is_done_again_only_after_a_crash() {
    for (killed, unexplained) in [(false, vec![1, 1]), (true, vec![])] {
        let mut scene = Scene::new(false);
        scene.send(1, 0);
        scene.lives[0].killed = killed;
        if killed {
            scene.facts.life(0, &What::Killed);
        }
        scene.send(1, 1);
        scene.settle(1, Became::Done);
        let mut judgement = scene.end(&[]);
        judgement.lost.clear();
        assert_eq!(judgement.unexplained, unexplained);
    }
}

#[test]
fn the_first_effect_of_a_message_after_one_of_a_later_message_is_reordered() {
    let mut scene = Scene::new(false);
    let late = scene.lend(1, 0);
    let other = scene.lend(2, 0);
    scene.take(other, Said::Done);
    scene.take(late, Said::Done);
    assert!(scene.end(&[]).reordered.contains(&1));
}

#[test]
fn what_is_settled_as_done_though_nobody_said_so_is_lost() {
    let mut scene = Scene::new(false);
    let call = scene.lend(1, 0);
    scene.facts.said(call, Some(Said::Again));
    scene.settle(1, Became::Done);
    assert!(scene.end(&[2]).lost.contains(&1));
}

#[test]
fn a_dead_letter_before_its_attempts_are_spent_is_lost() {
    for (became, lost) in
        [(Became::Exhausted(2), true), (Became::Exhausted(3), false), (Became::Rejected, true)]
    {
        let mut scene = Scene::new(false);
        for _ in 0..3 {
            let call = scene.lend(1, 0);
            scene.facts.said(call, Some(Said::Again));
        }
        scene.settle(1, became);
        scene.send(2, 0);
        scene.settle(2, Became::Done);
        let (judgement, _) = scene.facts.judge(&scene.lives, 0, &[1]);
        assert_eq!(judgement.lost.contains(&1), lost, "{became:?}");
    }
}

#[test]
fn what_vanishes_from_the_store_is_lost_and_what_stays_there_is_stuck() {
    let lost = Scene::new(false).end(&[1]);
    assert!(lost.lost.contains(&2));
    let mut scene = Scene::new(false);
    scene.send(1, 0);
    scene.settle(1, Became::Done);
    let (judgement, _) = scene.facts.judge(&scene.lives, 1, &[]);
    assert_eq!((judgement.lost, judgement.stuck), (vec![], vec![2]));
}

#[test]
fn a_phantom_is_what_nobody_stored() {
    let mut scene = Scene::new(false);
    scene.lend(7, 0);
    assert_eq!(scene.end(&[1, 2]).phantom, [7]);
}

#[test]
fn a_commit_whose_answer_was_lost_may_be_lent_again_and_never_takes_effect_again() {
    for (again, unexplained) in [(false, false), (true, true)] {
        let mut scene = Scene::new(true);
        let call = scene.lend(1, 0);
        scene.take(call, Said::Done);
        scene.settle(1, Became::Done);
        scene.facts.given_up(call);
        let repeated = scene.lend(1, 0);
        if again {
            scene.take(repeated, Said::Done);
        }
        scene.facts.said(repeated, Some(Said::Done));
        assert_eq!(scene.end(&[2]).unexplained.contains(&1), unexplained);
    }
}
