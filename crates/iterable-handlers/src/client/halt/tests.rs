use relaykit_pipeline_traits::ManualClock;

use super::*;

const HALT: Duration = Duration::from_secs(30);
/// A second less.
const ALMOST: Duration = Duration::from_secs(29);
const TRACK: Endpoint = Endpoint::TrackEvents;

#[test]
fn a_refused_key_halts_all_endpoints_until_the_time_is_over() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    let began = clock.now();
    halts.admit(TRACK, &clock).unwrap().answered(401, Some(&IterableCode::BadApiKey));
    clock.advance(ALMOST);
    for endpoint in Endpoint::ALL {
        let why = halts.admit(endpoint, &clock).unwrap_err();
        assert_eq!((why.status, why.since), (401, began));
        assert_eq!(why.code, Some(IterableCode::BadApiKey));
        assert_eq!(why.retry_in, Duration::from_secs(1));
        assert!(halts.check(endpoint, &clock).is_err());
    }
    clock.advance(Duration::from_secs(1));
    assert!(halts.check(TRACK, &clock).is_ok());
}

#[test]
fn one_call_probes_and_its_success_ends_the_halt() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    halts.admit(TRACK, &clock).unwrap().answered(401, None);
    clock.advance(HALT);
    let probe = halts.admit(TRACK, &clock).unwrap();
    assert_eq!(halts.admit(Endpoint::GetLists, &clock).unwrap_err().retry_in, Duration::ZERO);
    probe.answered(200, None);
    let one = halts.admit(TRACK, &clock).unwrap();
    let two = halts.admit(TRACK, &clock).unwrap();
    assert!(!one.key_probe && !two.key_probe);
}

#[test]
fn a_probe_that_is_refused_halts_again_and_keeps_the_beginning() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    let began = clock.now();
    halts.admit(TRACK, &clock).unwrap().answered(401, None);
    clock.advance(HALT);
    halts.admit(TRACK, &clock).unwrap().answered(401, None);
    let why = halts.admit(TRACK, &clock).unwrap_err();
    assert_eq!((why.since, why.retry_in), (began, HALT));
}

#[test]
fn a_probe_without_answer_leaves_it_to_the_next_call() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    halts.admit(TRACK, &clock).unwrap().answered(401, None);
    clock.advance(HALT);
    drop(halts.admit(TRACK, &clock).unwrap());
    let probe = halts.admit(TRACK, &clock).unwrap();
    assert!(probe.key_probe);
    assert!(halts.admit(TRACK, &clock).is_err());
}

#[test]
fn a_403_halts_its_endpoint_alone() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    let forget = Endpoint::ForgetUser;
    halts.admit(forget, &clock).unwrap().answered(403, Some(&IterableCode::Forbidden));
    assert_eq!(halts.admit(forget, &clock).unwrap_err().status, 403);
    assert!(halts.admit(TRACK, &clock).is_ok());
    clock.advance(HALT);
    let probe = halts.admit(forget, &clock).unwrap();
    assert!(probe.endpoint_probe && !probe.key_probe);
    probe.answered(200, None);
    assert!(!halts.admit(forget, &clock).unwrap().endpoint_probe);
}

#[test]
fn a_call_refused_by_its_endpoint_gives_the_probe_of_the_key_back() {
    let (clock, halts) = (ManualClock::new(), Halts::new(HALT));
    let forget = Endpoint::ForgetUser;
    halts.admit(forget, &clock).unwrap().answered(401, None);
    clock.advance(HALT);
    // The probe of the key is answered 403: the key is known, the endpoint is not for it.
    halts.admit(forget, &clock).unwrap().answered(403, None);
    assert!(halts.admit(forget, &clock).is_err());
    assert!(!halts.admit(TRACK, &clock).unwrap().key_probe);
    // A key that is refused while an endpoint is halted, too: the endpoint's refusal takes no probe away.
    let running = halts.admit(TRACK, &clock).unwrap();
    running.answered(401, None);
    clock.advance(ALMOST);
    halts.endpoints[forget.index()]
        .lock()
        .halt(halts.key.lock().check(clock.monotonic()).unwrap_err(), clock.monotonic() + HALT);
    clock.advance(Duration::from_secs(1));
    assert!(halts.admit(forget, &clock).is_err());
    assert!(halts.admit(TRACK, &clock).unwrap().key_probe);
}

#[test]
fn forbidden_parameters_and_other_refusals_halt_nothing() {
    for (status, code) in [
        (403, Some(IterableCode::ForbiddenParamsError)),
        (400, Some(IterableCode::BadParams)),
        (404, None),
        (429, Some(IterableCode::RateLimitExceeded)),
        (500, None),
        (200, None),
    ] {
        assert_eq!(scope(status, code.as_ref()), None, "{status}");
    }
    assert_eq!(scope(403, None), Some(Scope::Endpoint));
    assert_eq!(scope(403, Some(&IterableCode::BadApiKey)), Some(Scope::Key));
}
