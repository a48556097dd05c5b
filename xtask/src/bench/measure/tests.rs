use super::super::line::Probe;
use super::*;

fn measurement(case: &str, value: f64, unit: &str) -> Measurement {
    Measurement { case: case.into(), value, unit: unit.into(), details: Map::new() }
}

fn ratio_line(better: Better, target: f64) -> Line {
    Line::ratio("line", Probe::Ours.case("ours"), Probe::Ours.case("bare"), better, target)
}

/// Measures a line with scripted values; returns the cases in the order they were run, too.
fn scripted(line: &Line, ours: &[f64], bare: &[f64]) -> (Result<LineResult, MeasureError>, Vec<String>) {
    let (mut ours, mut bare) = (ours.to_vec(), bare.to_vec());
    let rounds = u32::try_from(ours.len()).unwrap();
    let mut order = Vec::new();
    let result = measure(line, rounds, |case| {
        order.push(case.name.clone());
        let values = if case.name == "ours" { &mut ours } else { &mut bare };
        Ok(measurement(&case.name, values.remove(0), "items/s"))
    });
    (result, order)
}

#[test]
fn a_line_that_needs_few_rounds_is_measured_no_more_often() {
    let mut asked = 0;
    let line = Line::at_most("line", Probe::Ours.case("ours"), 1.0).at_most_rounds(2);
    let result = measure(&line, 5, |case| {
        asked += 1;
        Ok(measurement(&case.name, 1.0, "items/s"))
    });
    assert_eq!((result.unwrap().rounds, asked), (2, 2));
}

#[test]
fn ours_and_the_reference_take_turns() {
    let (_, order) = scripted(&ratio_line(Better::Higher, 0.5), &[1.0, 1.0], &[2.0, 2.0]);
    assert_eq!(order, ["ours", "bare", "ours", "bare"]);
}

#[test]
fn the_ratio_is_the_median_of_the_rounds_ratios() {
    // The medians are 20 and 40; the rounds' ratios are 0.25, 1.0 and 0.75.
    let (result, _) = scripted(&ratio_line(Better::Higher, 0.5), &[10.0, 20.0, 30.0], &[40.0, 20.0, 40.0]);
    let result = result.unwrap();
    let against = result.against.as_ref().unwrap();
    assert_eq!(against.ratio, Spread { median: 0.75, min: 0.25, max: 1.0 });
    assert_eq!(result.ours.value, Spread { median: 20.0, min: 10.0, max: 30.0 });
    assert_eq!(against.reference.value, Spread { median: 40.0, min: 20.0, max: 40.0 });
    assert_eq!((result.rounds, result.unit.as_str()), (3, "items/s"));
}

#[test]
fn a_target_is_met_by_the_ratio_in_the_lines_direction() {
    let met = |better, target| scripted(&ratio_line(better, target), &[30.0], &[40.0]).0.unwrap().met();
    assert!(met(Better::Higher, 0.75));
    assert!(!met(Better::Higher, 0.8));
    assert!(met(Better::Lower, 1.0));
    assert!(!met(Better::Lower, 0.7));
}

#[test]
fn an_absolute_line_is_judged_by_its_value() {
    let met = |value: f64| {
        let line = Line::at_most("calls", Probe::Ours.case("ours"), 19.0);
        let (result, order) = scripted(&line, &[value], &[]);
        let result = result.unwrap();
        assert_eq!(order, ["ours"]);
        assert_eq!(result.against, None);
        result.met()
    };
    assert!(met(19.0));
    assert!(!met(20.0));
}

#[test]
fn different_units_do_not_compare() {
    let error = measure(&ratio_line(Better::Higher, 1.0), 1, |case| {
        Ok(measurement(&case.name, 1.0, if case.name == "ours" { "items/s" } else { "ns" }))
    });
    let message = error.unwrap_err().to_string();
    assert_eq!(message, "ours is measured in items/s, its reference bare in ns");
}

#[test]
fn a_reference_of_zero_has_no_ratio() {
    let (result, _) = scripted(&ratio_line(Better::Higher, 1.0), &[1.0], &[0.0]);
    assert!(matches!(result, Err(MeasureError::ZeroReference { reference }) if reference == "bare"));
}

#[test]
fn no_rounds_are_an_error() {
    let (result, _) = scripted(&ratio_line(Better::Higher, 1.0), &[], &[]);
    assert!(matches!(result, Err(MeasureError::NoRounds)));
}

#[test]
fn a_probe_that_fails_ends_its_line() {
    let result = measure(&ratio_line(Better::Higher, 1.0), 5, |case| {
        Err(ProbeError::Unbuilt { case: case.name.clone() })
    });
    assert!(matches!(result, Err(MeasureError::Probe(ProbeError::Unbuilt { case })) if case == "ours"));
}
