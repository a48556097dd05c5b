use std::fmt::Display;

/// A setting that a `build()` refuses: which field, its value, and the bound it breaks.
///
/// ```
/// use relaykit_pipeline_traits::InvalidSetting;
///
/// let error = InvalidSetting::new("batch_size", 0, "at least 1");
/// assert_eq!(error.to_string(), "batch_size is 0, but must be at least 1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, but must be {bound}")]
#[non_exhaustive]
pub struct InvalidSetting {
    /// The field, by the name of its setter.
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// What the value must be, as a phrase that follows "must be".
    pub bound: String,
}

impl InvalidSetting {
    /// Makes the error.
    pub fn new(field: &'static str, value: impl Display, bound: impl Into<String>) -> Self {
        Self { field, value: value.to_string(), bound: bound.into() }
    }
}
