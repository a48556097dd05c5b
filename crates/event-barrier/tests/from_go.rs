use relaykit_event_barrier::*;
use relaykit_pipeline_traits::Monotonic;
use std::time::Duration;
fn at(ms: u64) -> Monotonic {
    Monotonic::from_origin(Duration::from_millis(ms))
}
#[test]
fn failed_scenario() {
    let (b, mut r) = Barrier::<&str>::builder().build().unwrap();
    let now = at(0);
    assert_eq!(b.peek(&"u"), None);
    for j in [1, 2] {
        b.enter(&"u", j, now).permit().unwrap().detach();
        assert_eq!(b.wait(&"u", j, now), Turn::Go);
    }
    assert_eq!(b.state_changed(&"u", 1, State::Failed, now), Change::Applied);
    assert_eq!(b.wait(&"u", 2, now), Turn::Wait { by: 1 });
    assert_eq!(b.size(), 1);
    println!("{b}");
    b.state_changed(&"u", 2, State::Waiting, now);
    assert_eq!(r.sync(now).applied, 1);
    assert_eq!(b.peek(&"u"), Some(1));
    let p = b.enter(&"u", 1, now).permit().unwrap();
    assert!(p.is_retry());
    assert_eq!(p.wait(now), Turn::Go);
    assert_eq!(p.settle(State::Succeeded, now), Change::Queued);
    assert!(matches!(b.enter(&"u", 2, now), Admission::Blocked { by: 1 }));
    let s = r.sync(now);
    assert_eq!((s.applied, s.opened), (1, vec!["u"]));
    assert!(b.enter(&"u", 2, now).is_accepted());
    assert_eq!(b.size(), 0);
}
#[test]
fn aborted_scenario() {
    let (b, mut r) = Barrier::<&str>::new(1);
    let now = at(0);
    b.enter(&"u", 1, now).permit().unwrap().settle(State::Failed, now);
    b.enter(&"u", 1, now).permit().unwrap().settle(State::Aborted, now);
    assert!(matches!(b.enter(&"u", 2, now), Admission::Blocked { by: 1 }));
    assert_eq!(r.sync(now).applied, 1);
    let p2 = b.enter(&"u", 2, now).permit().unwrap();
    assert!(matches!(b.enter(&"u", 3, now), Admission::Draining));
    p2.settle(State::Aborted, now);
    assert!(matches!(b.enter(&"u", 3, now), Admission::Draining));
    let s = r.sync(now);
    assert_eq!((s.applied, s.opened), (1, vec!["u"]));
    assert_eq!(r.sync(now).applied, 0);
    for j in 3..=6 {
        b.enter(&"u", j, now).permit().unwrap().detach();
    }
    assert_eq!(b.size(), 0);
}
