use std::collections::HashSet;
use std::num::NonZeroUsize;

use crate::message::{MAX_ELEMENTS_BYTES, Prepared, Request};

/// What a handler may put into one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) max_elements: NonZeroUsize,
    /// Whether a request names no user twice. The API does not say in which order it applies two changes of one
    /// user, so the second waits for the first.
    pub(super) each_user_once: bool,
    /// Whether the requests of a batch have nothing to do with each other, so that one that fails is no reason to
    /// hold the others back.
    pub(super) independent: bool,
}

/// Decides which messages share a request: those of the same flags, in order, within the limits.
///
/// Requests come in order of the first message of their flags. Messages that stand in none wait.
pub(super) fn plan<R: Request>(batch: &[Prepared<R>], rules: &Rules) -> Vec<Vec<usize>> {
    let mut groups: Vec<(&R::Flags, Vec<usize>)> = Vec::new();
    for (at, message) in batch.iter().enumerate() {
        match groups.iter_mut().find(|(flags, _)| *flags == message.flags()) {
            Some((_, members)) => members.push(at),
            None => groups.push((message.flags(), vec![at])),
        }
    }
    groups
        .into_iter()
        .flat_map(|(_, mut members)| {
            if rules.each_user_once {
                keep_first_of_each_user(batch, &mut members);
            }
            cut(batch, &members, rules.max_elements.get())
        })
        .collect()
}

/// Takes out each message that names a user of an earlier one, whether that one stays or not: what waits for a
/// message that waits, waits too.
fn keep_first_of_each_user<R: Request>(batch: &[Prepared<R>], members: &mut Vec<usize>) {
    let mut named = HashSet::new();
    members.retain(|&at| {
        let keys: HashSet<_> = batch[at].keys().collect();
        let free = named.is_disjoint(&keys);
        named.extend(keys);
        free
    });
}

/// Cuts the members into requests within the limits. A message is never cut, so one that has more elements than the
/// limit has a request of its own.
fn cut<R: Request>(batch: &[Prepared<R>], members: &[usize], max_elements: usize) -> Vec<Vec<usize>> {
    let mut requests: Vec<Vec<usize>> = Vec::new();
    let (mut elements, mut weight) = (0, 0);
    for &at in members {
        let message = &batch[at];
        elements += message.elements().len();
        weight += message.weight();
        match requests.last_mut() {
            Some(request) if elements <= max_elements && weight <= MAX_ELEMENTS_BYTES => request.push(at),
            _ => {
                requests.push(vec![at]);
                (elements, weight) = (message.elements().len(), message.weight());
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use relaykit_pipeline_traits::{ManualClock, Rng};

    use super::*;
    use crate::{EventTrack, Identity, ListUnsubscribe, Stamper, UserUpdate};

    fn rules(max_elements: usize) -> Rules {
        Rules {
            max_elements: NonZeroUsize::new(max_elements).unwrap(),
            each_user_once: true,
            independent: false,
        }
    }

    fn prepare<R: Request>(requests: Vec<R>) -> Vec<Prepared<R>> {
        let stamper = Stamper::new(ManualClock::new(), Rng::seeded(1));
        requests.into_iter().map(|request| request.prepare(&stamper).unwrap()).collect()
    }

    fn user(id: &str) -> UserUpdate {
        UserUpdate::new(Identity::user_id(id))
    }

    #[test]
    fn a_request_holds_no_more_than_the_limit() {
        let batch = prepare((0..5).map(|n| user(&n.to_string())).collect());
        assert_eq!(plan(&batch, &rules(2)), [vec![0, 1], vec![2, 3], vec![4]]);
        assert_eq!(plan(&batch, &rules(5)), [vec![0, 1, 2, 3, 4]]);
    }

    #[test]
    fn the_elements_of_a_request_fit_the_body_to_the_byte() {
        let empty = prepare(vec![user("a").field("x", "")])[0].weight();
        let half = MAX_ELEMENTS_BYTES / 2;
        let filled = |id, bytes: usize| user(id).field("x", "y".repeat(bytes - empty));
        let fits = prepare(vec![filled("a", half), filled("b", MAX_ELEMENTS_BYTES - half)]);
        assert_eq!(plan(&fits, &rules(10)), [vec![0, 1]]);
        let spills = prepare(vec![filled("a", half), filled("b", MAX_ELEMENTS_BYTES - half + 1)]);
        assert_eq!(plan(&spills, &rules(10)), [vec![0], vec![1]]);
    }

    #[test]
    fn the_second_change_of_a_user_waits_and_so_does_what_waits_for_it() {
        let batch = prepare(vec![
            user("a"),
            user("b").field("userId", "A").field("email", "X@y"),
            user(" a ").field("email", " x@Y "),
            UserUpdate::new(Identity::email("x@y")),
            user("c"),
        ]);
        // 2 waits for 0, and 3 for 1; ids keep their case, so 1 has nothing to do with 0.
        assert_eq!(plan(&batch, &rules(10)), [vec![0, 1, 4]]);
        let chain = prepare(vec![
            user("a"),
            UserUpdate::new(Identity::both("x@y", "a")),
            UserUpdate::new(Identity::email("x@y")),
        ]);
        assert_eq!(plan(&chain, &rules(10)), [vec![0]]);
    }

    #[test]
    fn events_of_one_user_share_a_request() {
        let batch = prepare(vec![EventTrack::new(Identity::user_id("a"), "x"); 3]);
        let events = Rules { each_user_once: false, ..rules(10) };
        assert_eq!(plan(&batch, &events), [vec![0, 1, 2]]);
    }

    #[test]
    fn each_set_of_flags_has_its_own_request() {
        let leave = |list| ListUnsubscribe::new(list).user(Identity::user_id("a"));
        let batch = prepare(vec![
            leave(1),
            leave(2),
            leave(1).channel_unsubscribe(true),
            leave(1).campaign_id(0),
            leave(2).user(Identity::user_id("b")),
            ListUnsubscribe::new(1).user(Identity::user_id("b")),
        ]);
        // 4 names a user of 1 and waits.
        assert_eq!(plan(&batch, &rules(10)), [vec![0, 5], vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn a_message_is_never_cut() {
        let many =
            (0..5).fold(ListUnsubscribe::new(1), |list, n| list.user(Identity::user_id(n.to_string())));
        let one = ListUnsubscribe::new(1).user(Identity::user_id("z"));
        let batch = prepare(vec![many, one]);
        assert_eq!(plan(&batch, &rules(2)), [vec![0], vec![1]]);
    }
}
