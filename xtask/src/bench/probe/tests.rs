use std::error::Error;

use super::*;

/// Makes a probe of a shell script; `$1` is `measure`, `$2` the case.
fn script(script: &str) -> Program {
    Program { path: "sh".into(), args: ["-c", script, "probe"].map(Into::into).into() }
}

#[test]
fn a_probe_is_asked_to_measure_its_case() {
    let program = script(r#"printf '{"case":"%s","value":2.5,"unit":"%s","p99":7}\n' "$2" "$1""#);
    let measurement = program.measure("channel/64", &[]).unwrap();
    let details = Map::from_iter([("p99".to_owned(), Value::from(7))]);
    let expected = Measurement { case: "channel/64".into(), value: 2.5, unit: "measure".into(), details };
    assert_eq!(measurement, expected);
}

#[test]
fn a_failing_probe_is_reported_with_what_it_said() {
    let error = script("echo 'out of memory' >&2; exit 3").measure("channel/64", &[]).unwrap_err();
    let message = error.to_string();
    assert_eq!(message, "the probe of channel/64 failed with exit status: 3; it said: out of memory");
}

#[test]
fn a_probe_that_cannot_start_is_reported_with_its_cause() {
    let error = Program::new("/no/such/probe".into()).measure("channel/1", &[]).unwrap_err();
    assert_eq!(error.to_string(), "could not start the probe of channel/1");
    assert!(error.source().is_some());
}

#[test]
fn an_answer_is_one_json_object() {
    let two = "{\"case\":\"a\",\"value\":1,\"unit\":\"ns\"}\n{\"case\":\"a\",\"value\":1,\"unit\":\"ns\"}\n";
    for stdout in ["", "fast\n", "{\"case\":\"a\"}\n", two] {
        assert!(matches!(read("a", stdout), Err(ProbeError::Unreadable { .. })), "{stdout:?}");
    }
    assert!(read("a", "\n{\"case\":\"a\",\"value\":1,\"unit\":\"ns\"}\n").is_ok());
}

#[test]
fn an_answer_to_another_question_is_refused() {
    let error = read("a", "{\"case\":\"b\",\"value\":1,\"unit\":\"ns\"}").unwrap_err();
    assert_eq!(error.to_string(), "asked for a, the probe measured b");
}

#[test]
fn a_negative_value_is_refused() {
    let error = read("a", "{\"case\":\"a\",\"value\":-1.5,\"unit\":\"ns\"}").unwrap_err();
    assert_eq!(error.to_string(), "the probe of a measured -1.5; a value is finite and at least 0");
}

#[test]
fn a_peer_is_built_outside_our_workspace() {
    let args = build_args(Probe::Peer("batch-aint-one"), Path::new("/repo"), Path::new("/target"));
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
    let manifest = ["--manifest-path", "/repo/xtask/peers/batch-aint-one/Cargo.toml"];
    assert!(args.windows(2).any(|pair| pair == manifest), "{args:?}");
    let target = ["--target-dir", "/target/peers/batch-aint-one"];
    assert!(args.windows(2).any(|pair| pair == target), "{args:?}");
}

#[test]
fn a_case_without_a_probe_is_an_error() {
    let probes = Probes { programs: BTreeMap::new(), variables: Vec::new() };
    let error = probes.measure(&Probe::Ours.case("channel/1")).unwrap_err();
    assert!(matches!(error, ProbeError::Unbuilt { case } if case == "channel/1"));
}
