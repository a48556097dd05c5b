use serde_json::{Map, Value, json};

use super::line::Better;
use super::measure::{LineResult, Side};

/// Writes a result as one JSON object; `reference` and `ratio` are null on an absolute line.
pub(super) fn object(result: &LineResult) -> Value {
    let against = result.against.as_ref();
    json!({
        "name": result.name,
        "ours": result.ours.value.median,
        "reference": against.map(|against| against.reference.value.median),
        "ratio": against.map(|against| against.ratio.median),
        "ratio_min": against.map(|against| against.ratio.min),
        "ratio_max": against.map(|against| against.ratio.max),
        "target": result.target,
        "higher_is_better": result.better == Better::Higher,
        "met": result.met(),
        "unit": result.unit,
        "rounds": result.rounds,
        "details": { "ours": details(Some(&result.ours)), "reference": details(against.map(|a| &a.reference)) },
    })
}

fn details(side: Option<&Side>) -> Option<&Map<String, Value>> {
    side.map(|side| &side.details)
}

#[cfg(test)]
mod tests {
    use super::super::measure::Against;
    use super::super::stats::Spread;
    use super::*;

    fn side(value: f64) -> Side {
        let details = Map::from_iter([("items".to_owned(), Value::from(1000))]);
        Side { value: Spread { median: value, min: value, max: value }, details }
    }

    fn result(against: Option<Against>) -> LineResult {
        LineResult {
            name: "send/1".into(),
            unit: "items/s".into(),
            rounds: 5,
            ours: side(5.0),
            against,
            target: 0.4,
            better: Better::Higher,
        }
    }

    #[test]
    fn a_ratio_line_tells_both_sides_and_whether_the_target_is_met() {
        let ratio = Spread { median: 0.5, min: 0.25, max: 0.75 };
        let object = object(&result(Some(Against { reference: side(10.0), ratio })));
        let expected = json!({
            "name": "send/1", "ours": 5.0, "reference": 10.0,
            "ratio": 0.5, "ratio_min": 0.25, "ratio_max": 0.75,
            "target": 0.4, "higher_is_better": true, "met": true,
            "unit": "items/s", "rounds": 5,
            "details": { "ours": { "items": 1000 }, "reference": { "items": 1000 } },
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn an_absolute_line_has_null_for_reference_and_ratio() {
        let object = object(&LineResult { better: Better::Lower, ..result(None) });
        assert!(object["reference"].is_null() && object["ratio"].is_null());
        assert_eq!((&object["met"], &object["higher_is_better"]), (&json!(false), &json!(false)));
    }
}
