use std::collections::BTreeMap;

use relaykit_pipeline_traits::ManualClock;

use super::super::leases::Permit;
use super::super::memory::MemoryLeaseStore;
use super::*;
use crate::Shards;

const LEASE: Duration = Duration::from_secs(30);

/// A store whose calls get lost, or late, on the way there or back.
#[derive(Debug, Clone)]
struct FaultyStore {
    store: MemoryLeaseStore,
    clock: ManualClock,
    chance: Arc<Mutex<Chance>>,
}

#[derive(Debug)]
struct Chance {
    rng: Rng,
    faults: f64,
    /// Calls that have failed for their caller, and will take effect yet.
    pending: Vec<Pending>,
}

#[derive(Debug)]
enum Pending {
    Heartbeat(Instance),
    Take(Instance, Vec<Shard>),
    GiveBack(Instance, Vec<Lease>),
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    None,
    RequestLost,
    ReplyLost,
    Slow { before: Duration, after: Duration },
    EffectLate,
}

impl FaultyStore {
    fn new(shards: u16, seed: u64, faults: f64) -> (Self, ManualClock) {
        let clock = ManualClock::new();
        let store = MemoryLeaseStore::new(Shards::new(shards).unwrap(), clock.clone());
        let chance = Chance { rng: Rng::seeded(seed), faults, pending: Vec::new() };
        (Self { store, clock: clock.clone(), chance: Arc::new(Mutex::new(chance)) }, clock)
    }

    fn fault(&self) -> Fault {
        let mut chance = self.chance.lock().unwrap();
        let faults = chance.faults;
        if !chance.rng.chance(faults) {
            return Fault::None;
        }
        let mut wait = || Duration::from_millis(chance.rng.below(40_000));
        let (before, after) = (wait(), wait());
        match chance.rng.below(4) {
            0 => Fault::RequestLost,
            1 => Fault::ReplyLost,
            2 => Fault::Slow { before, after },
            _ => Fault::EffectLate,
        }
    }

    async fn through<T>(
        &self,
        late: Pending,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let lost = || Err(StoreError::Timeout { op: "test", limit: LEASE });
        match self.fault() {
            Fault::None => call.await,
            Fault::RequestLost => lost(),
            Fault::ReplyLost => {
                call.await?;
                lost()
            }
            Fault::Slow { before, after } => {
                self.clock.advance(before);
                let reply = call.await;
                self.clock.advance(after);
                reply
            }
            Fault::EffectLate => {
                self.chance.lock().unwrap().pending.push(late);
                lost()
            }
        }
    }

    /// Lets one of the late calls take effect.
    async fn catch_up(&self) {
        let late = {
            let mut chance = self.chance.lock().unwrap();
            let count = chance.pending.len();
            if count == 0 {
                return;
            }
            let index = usize::try_from(chance.rng.below(count as u64)).unwrap();
            chance.pending.swap_remove(index)
        };
        match late {
            Pending::Heartbeat(instance) => drop(self.store.heartbeat(instance, LEASE).await),
            Pending::Take(instance, shards) => drop(self.store.take(instance, LEASE, &shards).await),
            Pending::GiveBack(instance, leases) => drop(self.store.give_back(instance, &leases).await),
        }
    }
}

impl LeaseStore for FaultyStore {
    async fn heartbeat(&self, instance: Instance, lease: Duration) -> Result<View, StoreError> {
        self.through(Pending::Heartbeat(instance), self.store.heartbeat(instance, lease)).await
    }

    async fn take(
        &self,
        instance: Instance,
        lease: Duration,
        shards: &[Shard],
    ) -> Result<Vec<Lease>, StoreError> {
        let late = Pending::Take(instance, shards.to_vec());
        self.through(late, self.store.take(instance, lease, shards)).await
    }

    async fn give_back(&self, instance: Instance, leases: &[Lease]) -> Result<(), StoreError> {
        let late = Pending::GiveBack(instance, leases.to_vec());
        self.through(late, self.store.give_back(instance, leases)).await
    }

    async fn leave(&self, instance: Instance) -> Result<(), StoreError> {
        self.store.leave(instance).await
    }
}

fn keeper<S: LeaseStore + Clone>(store: &S, clock: &ManualClock, seed: u64) -> LeaseKeeper<S> {
    LeaseKeeper::builder(store.clone(), clock.clone()).lease(LEASE).rng(Rng::seeded(seed)).build().unwrap()
}

/// One member of a simulated deployment, with the work it has under way.
struct Member {
    keeper: LeaseKeeper<FaultyStore>,
    work: Vec<Permit>,
}

/// Fails if two members may work on one shard, or a token did not grow with a change of owner.
fn check(members: &[Member], owners: &mut BTreeMap<Shard, (Instance, i64)>, seed: u64) {
    let mut now = BTreeMap::new();
    for member in members {
        let instance = member.keeper.instance();
        let usable = member.keeper.leases().held();
        let working = member.work.iter().filter(|permit| permit.remaining() > Duration::ZERO);
        let working = working.map(|permit| Lease { shard: permit.shard(), token: permit.token() });
        for lease in usable.into_iter().chain(working) {
            let other = now.insert(lease.shard, (instance, lease.token));
            assert!(
                other.is_none_or(|(other, token)| other == instance && token == lease.token),
                "seed {seed}: {instance} and {other:?} hold shard {}",
                lease.shard
            );
            let (owner, token) = owners.insert(lease.shard, (instance, lease.token)).unwrap_or((instance, 0));
            assert!(token <= lease.token, "seed {seed}: token {token} came before {}", lease.token);
            assert!(owner == instance || token < lease.token, "seed {seed}: one token, two owners");
        }
    }
}

async fn storm(seed: u64) -> u32 {
    let (store, clock) = FaultyStore::new(8, seed, 0.4);
    let mut rng = Rng::seeded(seed ^ 0x5eed);
    let mut members: Vec<Member> = Vec::new();
    let mut owners = BTreeMap::new();
    let mut worked = 0;
    for step in 0..300 {
        let who = usize::try_from(rng.below(members.len().max(1) as u64)).unwrap();
        match rng.below(20) {
            0 if members.len() < 4 => {
                members.push(Member { keeper: keeper(&store, &clock, seed + step), work: Vec::new() });
            }
            // Killed: what it holds runs out, and late calls of it may come yet.
            1 if !members.is_empty() => drop(members.swap_remove(who)),
            2..=8 if !members.is_empty() => {
                let _ = members[who].keeper.run_once().await;
            }
            9..=11 if !members.is_empty() => {
                let member = &mut members[who];
                let shard = Shard::new(u16::try_from(rng.below(8)).unwrap());
                if let Some(permit) = member.keeper.leases().enter(shard) {
                    worked += 1;
                    member.work.push(permit);
                }
            }
            12..=13 if !members.is_empty() && !members[who].work.is_empty() => {
                let index = usize::try_from(rng.below(members[who].work.len() as u64)).unwrap();
                drop(members[who].work.swap_remove(index));
            }
            14 => store.catch_up().await,
            _ => clock.advance(Duration::from_millis(rng.below(8_000))),
        }
        check(&members, &mut owners, seed);
    }
    worked
}

#[tokio::test]
async fn two_never_hold_one_shard_whatever_is_lost_or_late() {
    let mut worked = 0;
    for seed in 0..400 {
        worked += storm(seed).await;
    }
    assert!(worked > 400, "the storm let nobody work: {worked}");
}

fn counts(keepers: &[LeaseKeeper<MemoryLeaseStore>]) -> Vec<usize> {
    keepers.iter().map(|keeper| keeper.leases().held().len()).collect()
}

async fn round(keepers: &[LeaseKeeper<MemoryLeaseStore>]) {
    for keeper in keepers {
        keeper.run_once().await.unwrap();
    }
}

fn memory(shards: u16) -> (MemoryLeaseStore, ManualClock) {
    let clock = ManualClock::new();
    (MemoryLeaseStore::new(Shards::new(shards).unwrap(), clock.clone()), clock)
}

#[tokio::test]
async fn shares_are_fair_when_members_come_and_go() {
    let (store, clock) = memory(64);
    let mut keepers = vec![keeper(&store, &clock, 1)];
    round(&keepers).await;
    assert_eq!(counts(&keepers), [64]);
    keepers.push(keeper(&store, &clock, 2));
    keepers.push(keeper(&store, &clock, 3));
    for _ in 0..3 {
        round(&keepers).await;
    }
    let mut shares = counts(&keepers);
    shares.sort_unstable();
    assert_eq!(shares, [21, 21, 22]);
    // Nothing moves any more.
    let before: Vec<_> = keepers.iter().map(|keeper| keeper.leases().held()).collect();
    round(&keepers).await;
    assert_eq!(before, keepers.iter().map(|keeper| keeper.leases().held()).collect::<Vec<_>>());
    assert_eq!(keepers.pop().unwrap().stop().await, 0);
    round(&keepers).await;
    assert_eq!(counts(&keepers), [32, 32]);
}

#[tokio::test]
async fn the_shards_of_a_killed_member_are_taken_after_its_lease_and_not_before() {
    let (store, clock) = memory(4);
    let keepers = vec![keeper(&store, &clock, 1), keeper(&store, &clock, 2)];
    for _ in 0..2 {
        round(&keepers).await;
    }
    assert_eq!(counts(&keepers), [2, 2]);
    for _ in 0..3 {
        clock.advance(LEASE / 3);
        keepers[0].run_once().await.unwrap();
        assert_eq!(counts(&keepers)[0], 2);
    }
    assert_eq!(counts(&keepers), [2, 0], "a killed member would not believe in its leases any more");
    clock.advance(Duration::from_millis(1));
    keepers[0].run_once().await.unwrap();
    assert_eq!(counts(&keepers), [4, 0]);
    let leases = keepers[0].leases();
    let inherited = leases.held().into_iter().filter(|lease| leases.is_inherited(*lease)).count();
    assert_eq!(inherited, 2, "it knows which were the killed member's");
}

#[tokio::test]
async fn a_paused_member_finds_its_token_stale() {
    let (store, clock) = memory(1);
    let paused = keeper(&store, &clock, 1);
    paused.run_once().await.unwrap();
    let permit = paused.leases().enter(Shard::new(0)).unwrap();
    clock.advance(LEASE + Duration::from_millis(1));
    assert_eq!(permit.remaining(), Duration::ZERO);
    let other = keeper(&store, &clock, 2);
    other.run_once().await.unwrap();
    assert!(other.leases().token(Shard::new(0)).unwrap() > permit.token());
    paused.run_once().await.unwrap();
    assert_eq!(paused.leases().token(Shard::new(0)), None);
    assert_eq!(permit.remaining(), Duration::ZERO);
}

#[tokio::test]
async fn a_stop_waits_for_work_and_then_hands_the_shard_over_at_once() {
    let (store, clock) = memory(1);
    let (stopping, other) = (Arc::new(keeper(&store, &clock, 1)), keeper(&store, &clock, 2));
    stopping.run_once().await.unwrap();
    let permit = stopping.leases().enter(Shard::new(0)).unwrap();
    let stop = tokio::spawn({
        let stopping = Arc::clone(&stopping);
        async move { stopping.stop().await }
    });
    clock.until_sleepers(1).await;
    assert!(stopping.leases().enter(Shard::new(0)).is_none(), "no new work begins");
    other.run_once().await.unwrap();
    assert_eq!(other.leases().held(), []);
    // The lease is kept up while the work goes on.
    clock.advance(LEASE / 3);
    clock.until_sleepers(1).await;
    assert!(permit.remaining() > LEASE / 2, "{:?}", permit.remaining());
    drop(permit);
    assert_eq!(stop.await.unwrap(), 0);
    other.run_once().await.unwrap();
    let lease = Lease { shard: Shard::new(0), token: 2 };
    assert_eq!(other.leases().held(), [lease]);
    assert!(!other.leases().is_inherited(lease));
}

#[tokio::test]
async fn a_stop_gives_up_on_work_that_does_not_end_and_says_so() {
    let (store, clock) = memory(1);
    let stopping =
        Arc::new(LeaseKeeper::builder(store, clock.clone()).drain(Duration::from_secs(5)).build().unwrap());
    stopping.run_once().await.unwrap();
    let _permit = stopping.leases().enter(Shard::new(0)).unwrap();
    let stop = tokio::spawn({
        let stopping = Arc::clone(&stopping);
        async move { stopping.stop().await }
    });
    clock.until_sleepers(1).await;
    clock.advance(Duration::from_secs(5));
    assert_eq!(stop.await.unwrap(), 1);
}

#[tokio::test]
async fn a_run_renews_three_times_in_a_lease_and_stops_when_asked() {
    let (store, clock) = memory(4);
    let running = Arc::new(keeper(&store, &clock, 1));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let run = tokio::spawn({
        let running = Arc::clone(&running);
        async move { running.run(async { drop(stopped.await) }).await }
    });
    let mut passed = Duration::ZERO;
    while passed < LEASE * 5 {
        clock.until_sleepers(1).await;
        passed += clock.advance_to_next_sleeper().unwrap();
        tokio::task::yield_now().await;
        assert_eq!(running.leases().held().len(), 4);
        assert!(running.leases().remaining(Shard::new(0)) > LEASE / 3);
    }
    clock.until_sleepers(1).await;
    stop.send(()).unwrap();
    assert_eq!(run.await.unwrap(), 0);
    let other = keeper(&store, &clock, 2);
    other.run_once().await.unwrap();
    assert_eq!(other.leases().held().len(), 4);
}

#[tokio::test]
async fn who_waits_for_changes_learns_of_them() {
    let (store, clock) = memory(2);
    let keeper = keeper(&store, &clock, 1);
    let mut changes = keeper.leases().changes();
    keeper.run_once().await.unwrap();
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    keeper.run_once().await.unwrap();
    assert!(!changes.has_changed().unwrap(), "a renewal changes nothing");
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let (store, clock) = memory(1);
    let builder = || LeaseKeeper::builder(store.clone(), clock.clone());
    let margin = builder().lease(LEASE).margin(LEASE).build().unwrap_err();
    assert_eq!(margin.to_string(), "margin is 30s, but must be at most half of the lease of 30s");
    assert_eq!(builder().lease(Duration::ZERO).build().unwrap_err().field, "lease");
}
