//! Decides from one reply what became of each message of the request.
//!
//! A reply counts, and names the users that failed by list; it does not say which elements those are. The rules:
//!
//! - a message is taken only if nothing in the reply leaves doubt: each failure is accounted for, and the counts are
//!   those of the messages;
//! - a message is rejected only if a list names all messages of its user, or its event name;
//! - everything else is looked at in smaller company, in the end alone, where every failure is its own.

mod reply;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use relaykit_pipeline_traits::Verdict;

use crate::message::{IdentityKey, IdentitySpace};
use crate::reason::FailedKey;
use crate::{DeliveryError, Doubt, Reason, SubscriberFailure};

pub(crate) use reply::Reply;

/// One element of a request: by which names its user goes, and the name of the event if it is one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) keys: &'a [IdentityKey],
    pub(crate) event_name: Option<&'a str>,
}

/// How a call counts what it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counting {
    /// Every element counts.
    Each,
    /// A user who is named several times may count once.
    Users,
    /// As [`Users`](Self::Users), and users that the project does not know are passed over without a word, as asked.
    KnownUsers,
}

/// Judges the messages of a request, each a list of its elements, by the reply.
pub(crate) fn reconcile(
    messages: &[Vec<Unit<'_>>],
    counting: Counting,
    reply: &Reply,
) -> Vec<Verdict<(), DeliveryError>> {
    let units: Vec<Unit<'_>> = messages.iter().flatten().copied().collect();
    let findings = Findings::of(&units, reply);
    if messages.len() == 1 {
        return vec![findings.judge_alone(&units, counting, reply)];
    }
    let doubt = findings.doubt(&units, counting, reply);
    let mut first = 0;
    let mut verdicts = Vec::with_capacity(messages.len());
    for message in messages {
        verdicts.push(findings.judge(first..first + message.len(), doubt));
        first += message.len();
    }
    verdicts
}

/// What the lists of a reply say about the elements of the request.
struct Findings {
    /// Why each element failed, if it did for sure.
    failed: Vec<Option<Reason>>,
    /// How many of those failed by the name of their event.
    disallowed: usize,
    /// Which elements a list may mean, without saying which of several.
    unclear: Vec<bool>,
    /// How many failures the unclear elements hold; `None` if even that is unclear.
    unclear_failures: Option<u64>,
    /// Failures in known lists that match no element.
    unmatched: Vec<Reason>,
    /// Failures that this crate cannot read.
    unrecognised: Vec<Reason>,
}

/// The elements that an entry of a list may mean, and how often the list has it.
struct Claim<'a> {
    units: &'a [usize],
    times: usize,
    reason: &'a Reason,
}

impl Findings {
    fn of(units: &[Unit<'_>], reply: &Reply) -> Self {
        let mut findings = Self {
            failed: vec![None; units.len()],
            disallowed: 0,
            unclear: vec![false; units.len()],
            unclear_failures: Some(0),
            unmatched: Vec::new(),
            unrecognised: reply.unrecognised(),
        };
        findings.match_names(units, reply);
        let index = index(units);
        let claims = findings.claims(&index, reply);
        findings.settle(&claims);
        findings
    }

    fn match_names(&mut self, units: &[Unit<'_>], reply: &Reply) {
        for name in &reply.disallowed_event_names {
            let mut matched = false;
            for (unit, failed) in units.iter().zip(&mut self.failed) {
                if unit.event_name == Some(name.as_str()) {
                    matched = true;
                    *failed = Some(Reason::DisallowedEventName);
                }
            }
            if !matched {
                self.unrecognised.push(Reason::Unrecognised {
                    list: "disallowedEventNames".to_owned(),
                    key: FailedKey::new(name),
                });
            }
        }
        self.disallowed = self.failed.iter().flatten().count();
    }

    fn claims<'a>(
        &mut self,
        index: &'a BTreeMap<IdentityKey, Vec<usize>>,
        reply: &'a Reply,
    ) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        for list in &reply.lists {
            for (key, times) in list.count() {
                if list.deprecated && times <= reply.times_in_current_lists(&key) {
                    // A second copy of what a current list says with a better reason.
                    continue;
                }
                match find(index, &key) {
                    Some(units) => claims.push(Claim { units, times, reason: &list.reason }),
                    None => self.unmatched.push(list.reason.clone()),
                }
            }
        }
        claims
    }

    fn settle(&mut self, claims: &[Claim<'_>]) {
        // Sure failures first: what one list leaves open another may settle.
        for claim in claims {
            if claim.units.len() == 1 || claim.units.len() == claim.times {
                for &unit in claim.units {
                    self.failed[unit].get_or_insert_with(|| claim.reason.clone());
                }
            }
        }
        for claim in claims {
            if claim.units.iter().all(|&unit| self.failed[unit].is_some()) {
                continue;
            }
            let overlaps = claim.units.iter().any(|&unit| self.unclear[unit] || self.failed[unit].is_some());
            if overlaps || claim.times > claim.units.len() {
                self.unclear_failures = None;
            }
            self.unclear_failures = self.unclear_failures.map(|sum| sum + claim.times as u64);
            for &unit in claim.units {
                self.unclear[unit] = self.failed[unit].is_none();
            }
        }
    }

    /// Returns what forbids to take the elements for delivered that no list names.
    fn doubt(&self, units: &[Unit<'_>], counting: Counting, reply: &Reply) -> Option<Doubt> {
        if !self.unmatched.is_empty() {
            Some(Doubt::UnmatchedKey)
        } else if !self.unrecognised.is_empty() {
            Some(Doubt::UnknownList)
        } else if self.counts_fit(units, counting, reply) {
            None
        } else {
            Some(Doubt::Counts)
        }
    }

    fn counts_fit(&self, units: &[Unit<'_>], counting: Counting, reply: &Reply) -> bool {
        let (Some(success), Some(fail), Some(unclear)) =
            (reply.success_count, reply.fail_count, self.unclear_failures)
        else {
            return false;
        };
        let failed = self.failed.iter().flatten().count() as u64 + unclear;
        let Some(most) = (units.len() as u64).checked_sub(failed) else {
            return false;
        };
        let least = match counting {
            Counting::Each => most,
            Counting::Users => most - self.repeated(units).min(most),
            Counting::KnownUsers => 0,
        };
        // The description does not say whether a disallowed event is among those counted as failed. Either way
        // the successes are all the others.
        (fail == failed || fail + self.disallowed as u64 == failed) && (least..=most).contains(&success)
    }

    /// Counts the elements not known to have failed whose user an earlier element names.
    fn repeated(&self, units: &[Unit<'_>]) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        let mut repeated = 0;
        for (unit, _) in units.iter().zip(&self.failed).filter(|(_, failed)| failed.is_none()) {
            // The loop must insert every key, so no short circuit.
            let known = unit.keys.iter().filter(|key| !seen.insert(*key)).count();
            repeated += u64::from(known > 0);
        }
        repeated
    }

    /// Judges a message among others, by its elements.
    fn judge(&self, units: std::ops::Range<usize>, doubt: Option<Doubt>) -> Verdict<(), DeliveryError> {
        let failures = self.failures(units.clone());
        if !failures.is_empty() {
            return reject(failures);
        }
        let doubt = if self.unclear[units].contains(&true) { Some(Doubt::WhichOfSeveral) } else { doubt };
        match doubt {
            Some(doubt) => Verdict::Isolate(DeliveryError::Ambiguous { doubt }),
            None => Verdict::Done(()),
        }
    }

    /// Judges the only message of a request: every failure in the reply is its own.
    fn judge_alone(
        &self,
        units: &[Unit<'_>],
        counting: Counting,
        reply: &Reply,
    ) -> Verdict<(), DeliveryError> {
        let mut failures = self.failures(0..units.len());
        let whose = (units.len() == 1).then_some(0);
        if self.unclear.contains(&true) {
            failures.extend(
                self.unclear_reasons(units, reply).map(|reason| SubscriberFailure { index: whose, reason }),
            );
        }
        let strays = self.unmatched.iter().chain(&self.unrecognised);
        failures.extend(strays.map(|reason| SubscriberFailure { index: whose, reason: reason.clone() }));
        if failures.is_empty() && reply.fail_count.is_some_and(|count| count > 0) {
            failures.push(SubscriberFailure { index: whose, reason: Reason::Unexplained });
        }
        if !failures.is_empty() {
            reject(failures)
        } else if self.counts_fit(units, counting, reply) {
            Verdict::Done(())
        } else {
            Verdict::Retry { after: None, error: DeliveryError::Ambiguous { doubt: Doubt::Counts } }
        }
    }

    fn failures(&self, units: std::ops::Range<usize>) -> Vec<SubscriberFailure> {
        self.failed[units]
            .iter()
            .enumerate()
            .filter_map(|(index, reason)| {
                Some(SubscriberFailure { index: Some(index), reason: reason.clone()? })
            })
            .collect()
    }

    /// Returns the reasons of the lists that name an unclear element.
    fn unclear_reasons<'a>(
        &'a self,
        units: &[Unit<'_>],
        reply: &'a Reply,
    ) -> impl Iterator<Item = Reason> + 'a {
        let index = index(units);
        reply
            .lists
            .iter()
            .filter(move |list| {
                list.count().keys().any(|key| {
                    find(&index, key).is_some_and(|units| units.iter().any(|&unit| self.unclear[unit]))
                })
            })
            .map(|list| list.reason.clone())
    }
}

/// Dead, unless every failure is one inside the API.
fn reject(failures: Vec<SubscriberFailure>) -> Verdict<(), DeliveryError> {
    let lasting = failures.iter().find(|failure| !failure.reason.is_transient());
    let reason = lasting.or(failures.first()).map_or(Reason::Unexplained, |failure| failure.reason.clone());
    let transient = reason.is_transient();
    let error = DeliveryError::Rejected { reason, failures: Arc::from(failures) };
    if transient { Verdict::Retry { after: None, error } } else { Verdict::Dead(error) }
}

fn index(units: &[Unit<'_>]) -> BTreeMap<IdentityKey, Vec<usize>> {
    let mut index = BTreeMap::<IdentityKey, Vec<usize>>::new();
    for (at, unit) in units.iter().enumerate() {
        for key in unit.keys {
            let elements = index.entry(key.clone()).or_default();
            if elements.last() != Some(&at) {
                elements.push(at);
            }
        }
    }
    index
}

/// Finds the elements that a failed key means: in its own space, else in the other, where a project uses addresses
/// as ids.
fn find<'a>(index: &'a BTreeMap<IdentityKey, Vec<usize>>, key: &IdentityKey) -> Option<&'a [usize]> {
    let other = match key.space() {
        IdentitySpace::Email => IdentitySpace::UserId,
        IdentitySpace::UserId => IdentitySpace::Email,
    };
    index.get(key).or_else(|| index.get(&IdentityKey::new(other, key.as_str()))).map(Vec::as_slice)
}
