use std::fmt::Write as _;

use relaykit_pipeline_traits::{MessageId, OrderingKey};
use rusqlite::types::Value;

use crate::message::hex;
use crate::{DeadFilter, DeadReason};

impl DeadFilter {
    /// Returns the filter as five parameters; a condition that is not set is null: the place behind which to read, a JSON list
    /// of ids in hexadecimal digits, the kind, the key, and the reason.
    #[must_use]
    pub fn sqlite_parameters(&self) -> [Value; 5] {
        let text = |text: Option<&str>| text.map_or(Value::Null, |text| Value::Text(text.to_owned()));
        [
            Value::Integer(self.after.map_or(i64::MIN, |seq| seq.0)),
            self.ids.as_deref().map_or(Value::Null, |ids| Value::Text(id_list(ids))),
            text(self.kind.as_deref()),
            text(self.key.as_ref().map(OrderingKey::as_str)),
            text(self.reason.map(DeadReason::as_str)),
        ]
    }
}

/// Writes ids as a JSON list of texts in hexadecimal digits, for `unhex(value)` of `json_each`.
///
/// # Panics
///
/// Never: a text takes everything.
#[must_use]
pub fn id_list(ids: &[MessageId]) -> String {
    let mut list = String::from("[");
    for (index, id) in ids.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(list, "{comma}\"{}\"", hex(id.as_bytes())).expect("a text takes everything");
    }
    list.push(']');
    list
}
