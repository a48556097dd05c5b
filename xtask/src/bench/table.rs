use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};

use super::line::Better;
use super::measure::LineResult;

const HEADER: [&str; 7] = ["line", "ours", "reference", "unit", "ratio (min-max)", "target", "met"];

/// Lays the results out for a terminal.
pub(super) fn table(results: &[LineResult]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(HEADER);
    for result in results {
        table.add_row(row(result));
    }
    for column in [1, 2, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(result: &LineResult) -> [String; 7] {
    let against = result.against.as_ref();
    let bound = match result.better {
        Better::Higher => "≥",
        Better::Lower => "≤",
    };
    [
        result.name.clone(),
        number(result.ours.value.median),
        against.map_or_else(String::new, |against| number(against.reference.value.median)),
        result.unit.clone(),
        against.map_or_else(String::new, |against| {
            let ratio = against.ratio;
            format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max)
        }),
        format!("{bound} {}", result.target),
        if result.met() { "yes" } else { "no" }.to_owned(),
    ]
}

/// Writes a value with as many decimals as its size deserves.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::super::measure::{Against, Side};
    use super::super::stats::Spread;
    use super::*;

    fn side(value: f64) -> Side {
        Side { value: Spread { median: value, min: value, max: value }, details: Map::new() }
    }

    #[test]
    fn a_ratio_line_shows_its_spread_and_bound() {
        let ratio = Spread { median: 0.5, min: 0.4, max: 0.65 };
        let result = LineResult {
            name: "send/1".into(),
            unit: "items/s".into(),
            rounds: 5,
            ours: side(6_250_000.0),
            against: Some(Against { reference: side(12_500_000.0), ratio }),
            target: 0.6,
            better: Better::Higher,
        };
        let expected = ["send/1", "6250000", "12500000", "items/s", "0.50 (0.40-0.65)", "≥ 0.6", "no"];
        assert_eq!(row(&result), expected);
        assert_eq!(table(&[result]).row_count(), 1);
    }

    #[test]
    fn an_absolute_line_leaves_the_comparison_empty() {
        let result = LineResult {
            name: "isolate-poison".into(),
            unit: "calls".into(),
            rounds: 2,
            ours: side(18.0),
            against: None,
            target: 19.0,
            better: Better::Lower,
        };
        assert_eq!(row(&result), ["isolate-poison", "18.0", "", "calls", "", "≤ 19", "yes"]);
    }
}
