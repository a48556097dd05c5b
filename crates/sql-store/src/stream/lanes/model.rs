use relaykit_pipeline_traits::Rng;

use super::super::open::Snapshot;
use super::tests::{SHARD, row, stored};
use super::*;

/// One shard, a store beside it, and everything that can happen between, in random order: rows that transactions add and commit
/// much later, pages that arrive late, sends that end late, or by themselves without an answer, leases that are about to be given back
/// and kept after all, or lost and taken anew, and operators who park, resume and skip.
#[test]
fn whatever_happens_in_between_the_order_of_each_key_is_kept_and_nothing_is_left() {
    for seed in 0..1_000 {
        let mut rng = Rng::seeded(seed);
        let mut world = World::new(&mut rng);
        for _ in 0..400 {
            world.step(&mut rng, false);
        }
        for _ in 0..4_000 {
            world.step(&mut rng, true);
        }
        assert!(
            world.rows.is_empty() && world.running.is_empty(),
            "seed {seed}: left {:?} {:?}",
            world.rows,
            world.lanes
        );
        world.assert_order(seed);
    }
}

/// When a row waits no more; 0 if it never waited.
type Wait = u64;

/// That of a row that waits for an operator.
const PARKED: Wait = 1_000_000;

fn moment(wait: Wait) -> Monotonic {
    Monotonic::default() + Duration::from_secs(wait)
}

struct World {
    lanes: Lanes,
    token: i64,
    held: bool,
    now: Wait,
    rows: BTreeMap<Seq, (OrderingKey, Wait)>,
    /// The transactions that run, by number, and what they have added.
    running: BTreeMap<u64, Vec<(Seq, OrderingKey)>>,
    next_number: u64,
    /// The highest number of those that have ended.
    ended: u64,
    next: i64,
    /// A page as it was read, not yet here.
    page: Option<Page>,
    /// What is on its way: the row, its key, under which token.
    sent: Vec<(Loaded, i64)>,
    /// What the store has, and the lanes do not know yet.
    settled: Vec<(Seq, OrderingKey, i64, End)>,
    taken: Vec<(OrderingKey, Seq)>,
    /// What was written as failed, and no operator has touched since.
    failed: HashSet<Seq>,
}

impl World {
    fn new(rng: &mut Rng) -> Self {
        let room = 2 + usize::try_from(rng.below(20)).unwrap();
        let lanes = Lanes::new(room, true);
        let (sent, settled, taken) = (Vec::new(), Vec::new(), Vec::new());
        let rows = BTreeMap::new();
        let running = BTreeMap::new();
        let (next_number, ended, next) = (1, 0, 1);
        Self {
            lanes,
            token: 7,
            held: true,
            now: 1,
            rows,
            running,
            next_number,
            ended,
            next,
            page: None,
            sent,
            settled,
            taken,
            failed: HashSet::new(),
        }
    }

    /// Goes on with a transaction, or begins one, or ends one. Transactions of one key wait for each other.
    fn write(&mut self, rng: &mut Rng, calm: bool) {
        let number = match self.running.keys().nth(usize::try_from(rng.below(3)).unwrap()) {
            Some(number) => *number,
            None if calm => return,
            None => {
                self.running.insert(self.next_number, Vec::new());
                self.next_number += 1;
                self.next_number - 1
            }
        };
        if calm || rng.chance(0.3) {
            self.ended = self.ended.max(number);
            let added = self.running.remove(&number).unwrap();
            if rng.chance(0.9) {
                self.rows.extend(added.into_iter().map(|(seq, key)| (seq, (key, 0))));
            }
            return;
        }
        for _ in 0..rng.below(4) {
            let key = OrderingKey::new(format!("k{}", rng.below(3))).unwrap();
            let locked = |(other, rows): (&u64, &Vec<(Seq, OrderingKey)>)| {
                *other != number && rows.iter().any(|(_, locked)| *locked == key)
            };
            if !self.running.iter().any(locked) {
                self.running.get_mut(&number).unwrap().push((Seq(self.next), key));
                self.next += 1;
            }
        }
    }

    /// Reads a page as a store does.
    fn read(&mut self, after: Seq, open: &OpenTransactions, limit: usize, rng: &mut Rng, calm: bool) -> Page {
        let next = self.ended + 1;
        let came = open.running().filter(|(number, _)| !self.running.contains_key(number));
        let came = came.chain(open.next().filter(|(number, _)| *number < next)).map(|(_, place)| place).min();
        let after = came.map_or(after, |came| after.min(came));
        let page = self.visible(after, limit);
        let running = self.running.keys().copied().filter(|number| *number < next).collect();
        let mark = (!page.rows.is_empty()).then(|| {
            // Others go on between the snapshot, the place that was given last, and the mark.
            self.write(rng, calm);
            let place = Seq(self.next - 1);
            self.write(rng, calm);
            let mark = self.next_number;
            self.next_number += 1;
            self.write(rng, calm);
            self.ended = self.ended.max(mark);
            (mark, place)
        });
        Page { snapshot: Snapshot { running, next, mark, from: came }, ..page }
    }

    fn visible(&self, after: Seq, limit: usize) -> Page {
        let held_by = |seq: Seq, key: &OrderingKey, after: Seq| {
            self.rows.range(..seq).any(|(place, (other, wait))| {
                other == key && *wait > 0 && (*wait > self.now || *place <= after)
            })
        };
        let eligible = self
            .rows
            .iter()
            .filter(|(seq, (key, wait))| **seq > after && *wait <= self.now && !held_by(**seq, key, after));
        let rows = eligible.take(limit).map(|(seq, (key, wait))| {
            let message = stored(seq.0).message;
            let builder = Message::builder(message.id(), "kind", message.occurred_at());
            let message = builder.ordering_key(key.as_str()).build().unwrap();
            // Every third is a suspect.
            let suspicion = if seq.0 % 3 == 0 { Suspicion::Company } else { Suspicion::Clear };
            Stored { row: row(seq.0), message, waited: *wait > 0, suspicion, ..stored(seq.0) }
        });
        let due = self
            .rows
            .iter()
            .find(|(seq, (key, wait))| *wait > 0 && *wait <= self.now && !held_by(**seq, key, Seq(0)));
        let due = due.map(|(seq, _)| row(seq.0)).into_iter().collect();
        Page { rows: rows.collect(), due, ..Page::default() }
    }

    /// Parks, resumes or skips the first row of a key; in the end whatever is parked is resumed.
    fn operate(&mut self, rng: &mut Rng, calm: bool) {
        let key = OrderingKey::new(format!("k{}", rng.below(3))).unwrap();
        let now = self.now;
        let mut rows = self.rows.iter_mut().filter(|(_, (other, _))| *other == key);
        let Some((seq, (_, wait))) = rows.next() else { return };
        self.failed.remove(seq);
        match rng.below(3) {
            _ if calm => *wait = if *wait == PARKED { now } else { *wait },
            0 => *wait = PARKED,
            1 => *wait = now,
            _ => {
                let seq = *seq;
                if let Some((_, (_, wait))) = rows.next()
                    && *wait == 0
                {
                    *wait = now;
                }
                self.rows.remove(&seq);
            }
        }
    }

    fn step(&mut self, rng: &mut Rng, calm: bool) {
        self.now += rng.below(3);
        let leases = if self.held { vec![Lease { shard: SHARD, token: self.token }] } else { Vec::new() };
        self.lanes.hold(&leases);
        self.lanes.waits_end(moment(self.now));
        match rng.below(15) {
            0 => self.write(rng, calm),
            // A settlement that was given up takes effect late: one that waits leaves.
            14 if !calm && rng.chance(0.2) => {
                let on_its_way = |seq: &Seq| self.sent.iter().any(|(loaded, _)| loaded.row.seq == *seq);
                let waits = |seq: &&Seq| self.failed.contains(seq) && !on_its_way(seq);
                let left = self.rows.keys().find(waits).copied();
                if let Some((seq, (key, _))) = left.and_then(|seq| self.rows.remove_entry(&seq)) {
                    self.taken.push((key, seq));
                }
            }
            13 if calm || rng.chance(0.2) => self.operate(rng, calm),
            1 => self.held = calm || !self.held || rng.chance(0.8),
            2 if !calm && self.sent.is_empty() && self.settled.is_empty() && rng.chance(0.1) => {
                self.token += 1;
            }
            3 | 4 => self.lanes.look_again(),
            5 => self.lanes.go_back(),
            6 | 7 if self.page.is_none() => {
                if let Some((from, open)) = self.lanes.next_page() {
                    self.page = Some(self.read(from[0].after, &open, 3, rng, calm));
                }
            }
            8 | 9 => {
                if let Some(page) = self.page.take() {
                    self.lanes.load(page, 3, Monotonic::default());
                }
            }
            10 => {
                let most = 1 + usize::try_from(rng.below(3)).unwrap();
                let held = self.held;
                let taken = match rng.below(3) {
                    0 => self.lanes.take_suspect(|_| held).into_iter().collect(),
                    _ => self.lanes.take(most, |_| held),
                };
                for loaded in taken {
                    self.sent.push((loaded, self.token));
                }
            }
            11 | 12 if !self.settled.is_empty() => {
                let at = usize::try_from(rng.below(self.settled.len() as u64)).unwrap();
                let (seq, key, token, end) = self.settled.swap_remove(at);
                self.lanes.end(row(seq.0), Some(&key), token, end);
            }
            _ if !self.sent.is_empty() => {
                let at = usize::try_from(rng.below(self.sent.len() as u64)).unwrap();
                let (loaded, token) = self.sent.swap_remove(at);
                let (seq, key) = (loaded.row.seq, loaded.key.clone().unwrap());
                let fails = !calm && rng.chance(0.3);
                let end = match self.rows.get_mut(&seq) {
                    Some((_, wait)) if fails => {
                        let until = self.now + rng.below(6);
                        // What was parked meanwhile stays so.
                        if *wait != PARKED {
                            *wait = until;
                            self.failed.insert(seq);
                        }
                        End::Waits(moment(until))
                    }
                    // It ended itself before and nobody was told, or it was skipped.
                    None if fails => End::ReadAgain,
                    there => {
                        // The store tells what waited, which may be since it was read.
                        let waits = there.is_none_or(|(_, wait)| *wait > 0 && !loaded.waited);
                        if self.rows.remove(&seq).is_some() {
                            self.taken.push((key.clone(), seq));
                        }
                        let unanswered = !calm && rng.chance(0.1);
                        if unanswered {
                            End::Back(Box::new(loaded))
                        } else if waits {
                            End::ReadAgain
                        } else {
                            End::Gone
                        }
                    }
                };
                self.settled.push((seq, key, token, end));
            }
            _ => {}
        }
    }

    fn assert_order(&self, seed: u64) {
        let mut high: HashMap<&OrderingKey, Seq> = HashMap::new();
        for (key, seq) in &self.taken {
            let before = high.insert(key, *seq);
            assert!(before.is_none_or(|before| before < *seq), "seed {seed}: {:?}", self.taken);
        }
    }
}
