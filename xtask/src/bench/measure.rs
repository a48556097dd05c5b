use serde_json::{Map, Value};

use super::line::{Better, Case, Line};
use super::probe::{Measurement, ProbeError};
use super::stats::Spread;

/// What a line measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LineResult {
    pub(super) name: String,
    pub(super) unit: String,
    pub(super) rounds: u32,
    pub(super) ours: Side,
    /// Absent on an absolute line.
    pub(super) against: Option<Against>,
    pub(super) target: f64,
    pub(super) better: Better,
}

/// What one side of a line measured.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Side {
    pub(super) value: Spread,
    /// Further keys of the probe's last answer.
    pub(super) details: Map<String, Value>,
}

/// The reference, and how we compare with it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Against {
    pub(super) reference: Side,
    /// The ratios ours/reference of each round.
    pub(super) ratio: Spread,
}

/// Why a line has no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error("a line needs at least one round")]
    NoRounds,
    #[error("{ours} is measured in {ours_unit}, its reference {reference} in {reference_unit}")]
    Units { ours: String, ours_unit: String, reference: String, reference_unit: String },
    #[error("the reference {reference} measured 0, so there is no ratio")]
    ZeroReference { reference: String },
}

/// Measures a line: ours and its reference take turns, so that a slow minute of the machine meets both.
///
/// # Errors
///
/// A case cannot be measured, the two sides do not compare, or `rounds` is 0.
pub(super) fn measure(
    line: &Line,
    rounds: u32,
    mut probe: impl FnMut(&Case) -> Result<Measurement, ProbeError>,
) -> Result<LineResult, MeasureError> {
    let mut ours = Vec::new();
    let mut references = Vec::new();
    let rounds = rounds.min(line.most_rounds.unwrap_or(rounds));
    for _ in 0..rounds {
        ours.push(probe(&line.ours)?);
        if let Some(reference) = &line.reference {
            references.push(probe(reference)?);
        }
    }
    let unit = ours.last().ok_or(MeasureError::NoRounds)?.unit.clone();
    let against = line.reference.as_ref().map(|_| Against::of(&ours, &references)).transpose()?;
    Ok(LineResult {
        name: line.name.clone(),
        unit,
        rounds,
        ours: Side::of(&ours)?,
        against,
        target: line.target,
        better: line.better,
    })
}

impl LineResult {
    /// Decides whether the target is met: by the ratio, or by the value of an absolute line.
    pub(super) fn met(&self) -> bool {
        let judged = self.against.as_ref().map_or(self.ours.value, |against| against.ratio);
        self.better.is_met(judged.median, self.target)
    }
}

impl Side {
    fn of(measurements: &[Measurement]) -> Result<Self, MeasureError> {
        let values: Vec<_> = measurements.iter().map(|measurement| measurement.value).collect();
        let value = Spread::of(&values).ok_or(MeasureError::NoRounds)?;
        let details = measurements.last().map(|last| last.details.clone()).unwrap_or_default();
        Ok(Self { value, details })
    }
}

impl Against {
    fn of(ours: &[Measurement], references: &[Measurement]) -> Result<Self, MeasureError> {
        let ratios: Vec<_> = ours
            .iter()
            .zip(references)
            .map(|(ours, reference)| ratio(ours, reference))
            .collect::<Result<_, _>>()?;
        let ratio = Spread::of(&ratios).ok_or(MeasureError::NoRounds)?;
        Ok(Self { reference: Side::of(references)?, ratio })
    }
}

fn ratio(ours: &Measurement, reference: &Measurement) -> Result<f64, MeasureError> {
    if ours.unit != reference.unit {
        return Err(MeasureError::Units {
            ours: ours.case.clone(),
            ours_unit: ours.unit.clone(),
            reference: reference.case.clone(),
            reference_unit: reference.unit.clone(),
        });
    }
    // The probe's values are finite and not negative.
    if reference.value <= 0.0 {
        return Err(MeasureError::ZeroReference { reference: reference.case.clone() });
    }
    Ok(ours.value / reference.value)
}

#[cfg(test)]
mod tests;
